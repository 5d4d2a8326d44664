"""Servers that several tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .harness import Running, local_engine, serving


@pytest.fixture(scope="module")
def null() -> Iterator[Running]:
    """The null backend: random tokens, at once."""
    with serving(local_engine()) as running:
        yield running
        running.check_rest()


@pytest.fixture(scope="module")
def demo() -> Iterator[Running]:
    """The demo model on the best backend here."""
    with serving(local_engine(None), trust_request_chat_template=True) as running:
        yield running
        running.check_rest()
