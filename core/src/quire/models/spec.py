"""The numbers of a model that everything but its layers needs: sizing, planning, admission. No torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """Shape of a decoder. `kv_layers` counts layers that own KV; `dtype` is the checkpoint's, by torch's name."""

    architecture: str
    num_layers: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    max_model_len: int
    dtype: str
    num_parameters: int  # tied weights once
    windows: tuple[int | None, ...]  # per layer: sliding window in tokens
    soft_cap: float | None = None
    sinks: bool = False
    num_experts: int = 0
    eos_token_ids: tuple[int, ...] = ()

    @property
    def kv_layers(self) -> int:
        return self.num_layers

    def kv_bytes_per_token(self, dtype_bytes: int) -> int:
        """Return the bytes of one token's keys and values over all layers."""
        return 2 * self.kv_layers * self.num_kv_heads * self.head_dim * dtype_bytes
