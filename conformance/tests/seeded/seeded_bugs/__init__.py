"""Backends with one bug each, derived from the reference backend: the suite must catch every one."""
