"""Kernels with static shapes in JAX, and the executor that compiles whole steps of the core's models with XLA."""
