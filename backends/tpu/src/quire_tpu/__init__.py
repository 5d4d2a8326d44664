"""Quire's backend for TPUs: the core's models as programs of static shapes, compiled ahead by XLA."""
