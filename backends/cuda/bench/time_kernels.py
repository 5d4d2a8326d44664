"""How fast the kernels are, beside what the memory and the matrix units allow."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from timing import copies_for, median_us

from quire.ops.spec import AttentionBatch
from quire_kernels_triton.attention import PagedAttention
from quire_kernels_triton.linear import Linear
from quire_kernels_triton.sampling import Sample
from quire_kernels_triton.tuning import DECODE_KINDS, DecodeSettings, RaggedSettings, StreamSettings, detect

BF16, HEAD_DIM, BLOCK_SIZE = torch.bfloat16, 128, 16


def attention_inputs(
    num_rows: int, query_len: int, seq_len: int, heads: tuple[int, int], block_size: int, slot_major: bool = False
) -> dict[str, Any]:
    """Make rows of equal length over scattered blocks."""
    num_heads, num_kv_heads = heads
    blocks_a_row = -(-seq_len // block_size)
    shape = (2, num_rows * blocks_a_row, num_kv_heads, block_size, HEAD_DIM)
    if slot_major:
        shape = (*shape[:2], block_size, num_kv_heads, HEAD_DIM)
    slab = torch.randn(shape, device="cuda", dtype=BF16)
    slab = slab.transpose(2, 3) if slot_major else slab
    table = torch.randperm(num_rows * blocks_a_row, device="cuda").int().view(num_rows, blocks_a_row)
    starts = torch.arange(num_rows + 1, device="cuda", dtype=torch.int32) * query_len
    lens = torch.full((num_rows,), seq_len, device="cuda", dtype=torch.int32)
    slots = torch.zeros(num_rows * query_len, device="cuda", dtype=torch.int64)
    return {
        "query": torch.randn(num_rows * query_len, num_heads, HEAD_DIM, device="cuda", dtype=BF16),
        "key_cache": slab[0],
        "value_cache": slab[1],
        "batch": AttentionBatch(starts, lens, table, slots, query_len, seq_len),
        "scale": HEAD_DIM**-0.5,
    }


def time_decode(copy_gbs: float) -> None:
    """Print achieved bandwidth of decode attention, and the best settings among a few."""
    attend = PagedAttention(detect())
    kept = attend._settings
    print("\ndecode attention, GB/s (share of copy); best of settings")
    shapes = [(1, 1024), (1, 16384), (8, 4096), (64, 1024), (256, 600), (256, 2048), (4, 65536)]
    for heads in ((16, 8), (32, 8), (64, 8)):
        for num_rows, seq_len in shapes:
            inputs = attention_inputs(num_rows, 1, seq_len, heads, BLOCK_SIZE)
            num_bytes = 2 * num_rows * seq_len * heads[1] * HEAD_DIM * 2
            sets = [attention_inputs(num_rows, 1, seq_len, heads, BLOCK_SIZE) for _ in range(copies_for(num_bytes) - 1)]
            calls = [partial(attend, **given) for given in (inputs, *sets)]
            attend._settings = kept
            first, times = _try(calls), {}
            for settings in decode_candidates(heads == (32, 8)):
                attend._settings = kept._replace(**dict.fromkeys(DECODE_KINDS, {HEAD_DIM: settings}))
                times[settings] = _try(calls)
            best = min(times, key=times.__getitem__)
            print(
                f"  heads {heads} rows {num_rows} len {seq_len}: ships {first:.1f} us {num_bytes / first / 1e3:5.0f} "
                f"({num_bytes / first / 1e3 / copy_gbs:4.0%}); best {times[best]:7.1f} us "
                f"({num_bytes / times[best] / 1e3 / copy_gbs:4.0%}) {tuple(best)}",
                flush=True,
            )
    attend._settings = kept


def decode_candidates(many: bool) -> Iterator[DecodeSettings]:
    """Yield settings to try."""
    for tile, num_warps, num_stages in ((64, 2, 3), (32, 2, 5), (32, 1, 3), (32, 1, 5)):
        yield DecodeSettings(tile, num_warps, num_stages)
    if many:
        for tile, num_warps, num_stages in ((32, 4, 3), (64, 4, 3), (128, 4, 3)):
            yield DecodeSettings(tile, num_warps, num_stages)
        for programs in (2, 8):
            yield DecodeSettings(32, 2, 5, programs_per_processor=programs)
        yield DecodeSettings(32, 2, 5, min_chunk=64)


def time_layouts() -> None:
    """Print decode and prefill attention over block sizes and layouts."""
    attend = PagedAttention(detect())
    print("\nattention by layout: rows 64 len 2048 decode, one prompt of 4096; heads (32, 8)")
    for block_size in (16, 32, 64, 128):
        for slot_major in (False, True):
            sets = [attention_inputs(64, 1, 2048, (32, 8), block_size, slot_major) for _ in range(2)]
            decode = _try([partial(attend, **given) for given in sets])
            prompt = attention_inputs(1, 4096, 4096, (32, 8), block_size, slot_major)
            prefill = _try([partial(attend, **prompt)])
            kind = "slot-major" if slot_major else "head-major"
            print(f"  block {block_size:3} {kind}: decode {decode:7.1f} us, prefill {prefill:7.1f} us", flush=True)


def time_prefill(peak_tflops: float) -> None:
    """Print the matrix rate of prefill attention, and the best settings among a few."""
    attend = PagedAttention(detect())
    kept = attend._settings
    print("\nprefill attention, TFLOP/s of causal work (share of matmul); best of settings")
    for heads in ((16, 8), (32, 8), (64, 8)):
        for num_rows, seq_len in ((1, 1024), (4, 1024), (1, 4096), (1, 16384)):
            inputs = attention_inputs(num_rows, seq_len, seq_len, heads, BLOCK_SIZE)
            flops = 4 * num_rows * heads[0] * HEAD_DIM * seq_len * (seq_len + 1) / 2
            times = {}
            for settings in ragged_candidates():
                attend._settings = kept._replace(ragged={HEAD_DIM: settings})
                times[settings] = _try([partial(attend, **inputs)])
            best = min(times, key=times.__getitem__)
            first = times[kept.ragged[HEAD_DIM]]
            print(
                f"  heads {heads} rows {num_rows} len {seq_len:5}: shipped {first:8.1f} us {flops / first / 1e6:5.0f} "
                f"({flops / first / 1e6 / peak_tflops:4.0%}); best {times[best]:8.1f} us "
                f"({flops / times[best] / 1e6 / peak_tflops:4.0%}) {tuple(best)}",
                flush=True,
            )
    attend._settings = kept


def ragged_candidates() -> Iterator[RaggedSettings]:
    """Yield settings to try; the first is the one that ships."""
    from quire_kernels_triton.tuning import settings_for

    yield settings_for(detect().family).ragged[HEAD_DIM]
    for rows, tile, num_warps, num_stages in (
        (64, 64, 4, 3), (64, 64, 4, 5), (128, 64, 8, 3), (128, 128, 8, 3), (128, 128, 8, 5), (128, 32, 4, 5),
        (64, 128, 4, 3),
    ):  # fmt: skip
        yield RaggedSettings(rows, tile, num_warps, num_stages)


LINEARS = {
    "0.6B qkv": (1024, 4096), "0.6B o": (2048, 1024), "0.6B gate_up": (1024, 6144), "0.6B down": (3072, 1024),
    "0.6B head": (1024, 151936), "8B qkv": (4096, 6144), "8B o": (4096, 4096), "8B gate_up": (4096, 28672),
    "8B down": (14336, 4096), "8B head": (4096, 128256),
}  # fmt: skip


def time_linear(copy_gbs: float) -> None:
    """Print linear for few tokens beside torch's: microseconds, and the share of the copy bandwidth."""
    print("\nlinear: us ours / torch's (ours' share of copy)")
    for name, (in_features, out_features) in LINEARS.items():
        num_bytes = 2 * in_features * out_features
        weights = [
            torch.randn(out_features, in_features, device="cuda", dtype=BF16) for _ in range(copies_for(num_bytes))
        ]
        texts = []
        for num_tokens in (1, 2, 4, 8, 16):
            x = torch.randn(num_tokens, in_features, device="cuda", dtype=BF16)
            linear = Linear(detect())
            ours = _try([partial(linear.linear, x, weight) for weight in weights])
            torchs = _try([partial(torch.nn.functional.linear, x, weight) for weight in weights])
            texts.append(f"{num_tokens}: {ours:.1f}/{torchs:.1f} ({num_bytes / ours / 1e3 / copy_gbs:.0%})")
        print(f"  {name:13} {'  '.join(texts)}", flush=True)


def time_stream(copy_gbs: float) -> None:
    """Print one-token linear under a few settings, and with the norm and gate fused."""
    print("\nlinear of one token by settings (out, inner, warps): us")
    for name in ("0.6B qkv", "0.6B down", "0.6B gate_up", "8B o", "8B gate_up"):
        in_features, out_features = LINEARS[name]
        count = copies_for(2 * in_features * out_features)
        weights = [torch.randn(out_features, in_features, device="cuda", dtype=BF16) for _ in range(count)]
        x, gain = (torch.randn(1, in_features, device="cuda", dtype=BF16) for _ in range(2))
        linear = Linear(detect())
        kept, texts = linear._settings, []
        for out, inner, num_warps in ((4, 1024, 4), (8, 512, 4), (2, 1024, 4), (4, 512, 2), (8, 1024, 8), (16, 256, 4)):
            linear._settings = kept._replace(stream=StreamSettings(out, inner, num_warps))
            took = _try([partial(linear.linear, x, weight) for weight in weights])
            texts.append(f"{(out, inner, num_warps)} {took:.1f}")
        linear._settings = kept
        gate = "silu_and_mul" if "gate_up" in name else None
        fused = _try([partial(linear.norm_linear, x, x, gain[0], 1e-6, weight, None, gate) for weight in weights])
        print(f"  {name:13} {'  '.join(texts)}  fused {fused:.1f}", flush=True)


def time_sample() -> None:
    """Print the sampler's time for every kind of row."""
    sample = Sample(detect())
    print("\nsample, us: greedy / drawn / top_k 50 / top_p 0.95 / top_k 20 and top_p 0.95 / min_p 0.05; torch argmax")
    for num_rows in (1, 16, 256):
        for scale in (1.0, 4.0):
            logits = torch.randn(num_rows, 151936, device="cuda") * scale
            kinds = ((0.0, 0, 1.0, 0.0), (0.6, 0, 1.0, 0.0), (0.6, 50, 1.0, 0.0), (0.6, 0, 0.95, 0.0),
                     (0.6, 20, 0.95, 0.0), (0.6, 0, 1.0, 0.05))  # fmt: skip
            times = [_try([_sample_call(sample, logits, *kind)]) for kind in kinds]
            argmax = _try([partial(torch.argmax, logits, -1)])
            texts = " / ".join(f"{time:.0f}" for time in times)
            print(f"  rows {num_rows:3} spread {scale}: {texts}; {argmax:.0f}", flush=True)


def time_draw() -> None:
    """Print what drawing at a temperature takes by settings; the first ships. One warp a program needs no barriers."""
    sample = Sample(detect())
    shipped = sample._settings
    print("\ndraw, us by settings (tile, warps, programs a processor)")
    for num_rows in (1, 16, 64, 128, 256):
        logits, texts = torch.randn(num_rows, 151936, device="cuda").bfloat16(), []
        for tile, num_warps, programs in (
            (shipped.tile, shipped.num_warps, shipped.programs_per_processor),
            (512, 1, 16), (512, 2, 8), (256, 1, 16), (256, 1, 32), (1024, 2, 8), (1024, 4, 8),
        ):  # fmt: skip
            sample._settings = shipped._replace(tile=tile, num_warps=num_warps, programs_per_processor=programs)
            took = _try([_sample_call(sample, logits, 0.6, 0, 1.0, 0.0)])
            texts.append(f"{(tile, num_warps, programs)} {took:.1f}")
        print(f"  rows {num_rows:3}: {'  '.join(texts)}", flush=True)


def _sample_call(
    sample: Sample, logits: torch.Tensor, temperature: float, top_k: int, top_p: float, min_p: float
) -> Callable[[], Any]:
    def column(value: float, dtype: torch.dtype) -> torch.Tensor:
        return torch.full((len(logits),), value, dtype=dtype, device="cuda")

    given = (
        column(temperature, torch.float32), column(top_k, torch.int32), column(top_p, torch.float32),
        column(min_p, torch.float32), torch.arange(len(logits), device="cuda"), column(100, torch.int64),
    )  # fmt: skip
    return lambda: sample.sample(logits, *given)


def _try(calls: list[Callable[[], Any]]) -> float:
    """Return the time of one call, or infinity where the settings do not fit the device."""
    try:
        return median_us(calls)
    except Exception as error:  # out of shared memory or registers: this setting is none
        print(f"    ({type(error).__name__}: {str(error)[:100]})")
        return float("inf")
