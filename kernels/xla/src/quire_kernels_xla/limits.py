"""Settings that static shapes bound."""

from __future__ import annotations

from collections.abc import Iterator

from quire.backend.contract import ConfigChange
from quire.config import EngineConfig
from quire_kernels_xla.buckets import BucketSizes


def keep_within(config: EngineConfig, sizes: BucketSizes) -> list[ConfigChange]:
    """Return the changes that keep an engine's steps within the largest bucket, each with its reason."""
    return list(_changes(config, sizes))


def _changes(config: EngineConfig, sizes: BucketSizes) -> Iterator[ConfigChange]:
    for name, largest in (("max_num_seqs", sizes.rows[-1]), ("max_num_batched_tokens", sizes.tokens[-1])):
        if getattr(config, name) > largest:
            yield ConfigChange(name, largest, f"programs are compiled for at most {largest}")
