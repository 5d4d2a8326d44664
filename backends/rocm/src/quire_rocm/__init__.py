"""Quire's backend for AMD GPUs: Triton kernels, whole steps as HIP graphs, regions of memory."""
