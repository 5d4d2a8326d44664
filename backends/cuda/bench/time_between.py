"""What stands between two attentions, and attention of uneven rows: each launch alone, many in one graph, from cold
weights. Alone they look better than between one another (`time_steps`)."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from time_steps import decode_inputs, lens_after
from timing import median_us

from quire_kernels_cuda.between_attentions import Heads, ProductLaunch, Weights, add, gate, heads
from quire_kernels_cuda.registry import fused
from quire_kernels_triton.attention import PagedAttention
from quire_kernels_triton.tuning import DECODE_KINDS, DecodeSettings, detect

NUM_SETS = 12  # of weights, more than a second-level cache holds
NUM_TOKENS = (8, 64, 128, 192, 256)
HIDDEN_SIZE, INTERMEDIATE_SIZE, NUM_HEADS, NUM_KV_HEADS, HEAD_DIM = 1024, 3072, 16, 8, 128  # Qwen3-0.6B
NUM_BLOCKS, BLOCK_SIZE = 12000, 16
STEPS = (100, 200, 300, 400, 500, 600, 700)  # of nano-vllm's workload: 256 to 77 rows are left
TILES = ((128, 4, 2), (64, 4, 2), (32, 2, 3), (16, 2, 3))  # keys, warps, stages


def time_between() -> None:
    """Print microseconds of each product, started early, and of the four as they follow each other."""
    op = fused(detect(dependent=True))
    print("\nbetween attentions, us: o, gate and up, down, qkv, one after another")
    for num_tokens in NUM_TOKENS:
        sets = [_between_inputs(num_tokens) for _ in range(NUM_SETS)]
        launches = [_launches(op, given) for given in sets]
        alone = [median_us([calls[at] for calls in launches]) for at in range(4)]
        chain = median_us([partial(op, **given) for given in sets])
        print(f"  rows {num_tokens:3}: {', '.join(f'{took:.1f}' for took in alone)}; {chain:.1f}", flush=True)


def time_uneven() -> None:
    """Print microseconds of decode attention of the workload's rows, longest first, by settings; the first ships."""
    attend = PagedAttention(detect())
    shipped = attend._settings
    caches = [[_random(NUM_BLOCKS, NUM_KV_HEADS, BLOCK_SIZE, HEAD_DIM) for _ in range(2)] for _ in range(3)]
    print(f"\nattention of uneven rows, us by settings (tile, warps, stages): ships, {TILES}")
    for steps in STEPS:
        lens, texts = lens_after(steps), []
        batch = decode_inputs(lens, BLOCK_SIZE, NUM_BLOCKS, 4096)[2]
        query = _random(len(lens), NUM_HEADS, HEAD_DIM)
        for tile in (None, *TILES):
            given = DecodeSettings(*tile, programs_per_processor=1) if tile else None
            changes = dict.fromkeys(DECODE_KINDS, {HEAD_DIM: given}) if given else {}
            attend._settings = shipped._replace(**changes)
            calls = [partial(attend, query, *cache, batch, HEAD_DIM**-0.5) for cache in caches]
            texts.append(f"{median_us(calls, launches=24):.1f}")
        print(f"  rows {len(lens):3}: {', '.join(texts)}", flush=True)


def _launches(op: Any, given: dict[str, Any]) -> list[Any]:
    """Return the four launches of one set."""
    weights = Weights(*(given[f"{name}_weight"] for name in Weights._fields))
    kernels = op._kernels.get(op._variants(len(given["attended"]), weights, HEAD_DIM))
    output, gate_up, down, qkv = (ProductLaunch(*pair, True, 1e-6) for pair in zip(kernels, weights, strict=True))
    stream = add(output, given["attended"], given["residual"], given["mlp_norm"])
    hidden = gate(gate_up, stream)
    to = Heads(*(given.get(name) for name in Heads._fields))
    return [
        lambda: add(output, given["attended"], given["residual"], given["mlp_norm"]),
        lambda: gate(gate_up, stream),
        lambda: add(down, hidden, given["residual"], given["mlp_norm"]),
        lambda: heads(qkv, stream, to),
    ]


def _between_inputs(num_tokens: int) -> dict[str, Any]:
    width, out_features = NUM_HEADS * HEAD_DIM, (NUM_HEADS + 2 * NUM_KV_HEADS) * HEAD_DIM
    cache = (64, NUM_KV_HEADS, BLOCK_SIZE, HEAD_DIM)
    return {
        "attended": _random(num_tokens, width),
        "residual": _random(num_tokens, HIDDEN_SIZE),
        "output_weight": _random(HIDDEN_SIZE, width),
        "mlp_norm": _random(HIDDEN_SIZE),
        "gate_up_weight": _random(2 * INTERMEDIATE_SIZE, HIDDEN_SIZE),
        "down_weight": _random(HIDDEN_SIZE, INTERMEDIATE_SIZE),
        "activation": "silu_and_mul",
        "attention_norm": _random(HIDDEN_SIZE),
        "qkv_weight": _random(out_features, HIDDEN_SIZE),
        "qkv_bias": None,
        "eps": 1e-6,
        "positions": torch.arange(num_tokens, device="cuda"),
        "cos_sin": torch.randn(num_tokens, HEAD_DIM, device="cuda"),
        "q_norm": _random(HEAD_DIM),
        "k_norm": _random(HEAD_DIM),
        "key_cache": _random(*cache),
        "value_cache": _random(*cache),
        "slots": torch.randperm(64 * BLOCK_SIZE, device="cuda")[:num_tokens],
    }


def _random(*shape: int) -> torch.Tensor:
    return torch.randn(shape, device="cuda", dtype=torch.bfloat16)
