"""The ppc64le backend with emulated kernels, for the conformance suite: all of it but where its libraries run."""
