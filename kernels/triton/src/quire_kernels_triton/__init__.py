"""Triton kernels of Quire's ops for GPUs: NVIDIA (cuda), AMD (rocm), Intel (xpu).

`quire_kernels_triton.registry.register_kernels` puts them into a kernel table. Importing this package imports neither
triton nor torch.
"""
