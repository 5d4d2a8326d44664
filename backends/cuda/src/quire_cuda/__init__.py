"""Quire's backend for NVIDIA GPUs: Triton kernels, whole steps as CUDA graphs, memory mapped by region."""
