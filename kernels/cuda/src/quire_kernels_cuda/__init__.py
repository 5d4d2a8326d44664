"""Kernels of Quire in CUDA C++: what is out of Triton's reach. `registry.register_kernels` puts them into a table."""
