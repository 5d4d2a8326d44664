"""Quire's backend for ACME's made-up chip."""
