"""Quire's backend for Intel GPUs: Triton kernels on torch's device `xpu`, steps as graphs where torch has them."""
