"""Quire: LLM inference and serving whose hardware is a plugin."""

__version__ = "0.1.0"
