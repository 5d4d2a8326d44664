"""A language model of 12 million parameters that travels as a Python package.

Quire's examples and tests use it wherever the statistics of real text matter: speculation, quantization, perplexity.
It is found by the name `demo` through the entry-point group `quire.models`. MODEL_CARD.md, beside this file, says
what it learned from, how well, and what it cannot do.
"""

from pathlib import Path

__version__ = "0.1.0"

_PACKAGE = Path(__file__).parent


def path() -> Path:
    """Return the folder that holds the model: an ordinary Hugging Face model directory."""
    return _PACKAGE / "model"


def held_out_text() -> str:
    """Return 18 kB of Python's documentation that the model was not trained on, cleaned as its training text was."""
    return (_PACKAGE / "held_out.txt").read_text(encoding="utf-8")
