"""paged_attention: which of the two kernels runs, and how it is launched."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from quire.ops.spec import AttentionBatch
from quire_kernels_triton.attention_decode import decode_kernel
from quire_kernels_triton.attention_ragged import ragged_kernel
from quire_kernels_triton.tuning import DECODE_KINDS, DecodeSettings, RaggedSettings, Target, settings_for
from quire_kernels_triton.workspace import Counters

MIN_ROWS = 16  # the least that a matrix product takes
MAX_SPLITS = 64
LONG_ROW = 128  # queries a row, from which on wider tiles pay although more of them is masked
LINE_BYTES = 128  # of a second-level cache
TRITON_DTYPES = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}


class PagedAttention:
    """The op as a callable for one GPU."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._settings = settings_for(target.family)
        self._counters = Counters()

    def __call__(
        self,
        query: torch.Tensor,
        key_cache: torch.Tensor,
        value_cache: torch.Tensor,
        batch: AttentionBatch,
        scale: float,
        window: int | None = None,
        soft_cap: float | None = None,
        sinks: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return attention [T, Hq, D]; tokens that belong to no row are left unwritten."""
        out = torch.empty(query.shape, dtype=query.dtype, device=query.device)
        if not len(query):
            return out
        if scale < 0:  # the kernels take the largest score before they scale it
            query, scale = -query, -scale
        shared = (query, key_cache, value_cache, out, batch.query_start, batch.seq_lens, batch.block_table)
        scalars = (scale, soft_cap or 0.0, window or 0)
        options = _options(query, key_cache, window, soft_cap, sinks)
        sinks = batch.seq_lens if sinks is None else sinks
        if batch.max_query_len == 1:
            self._decode(shared, sinks, scalars, options, batch.max_seq_len)
        else:
            self._ragged(shared, sinks, scalars, options)
        return out

    def _ragged(self, shared: tuple, sinks: torch.Tensor, scalars: tuple, options: dict) -> None:
        query, key_cache, *_, seq_lens, _ = shared
        kind = self._settings.long if len(query) >= LONG_ROW * len(seq_lens) else self._settings.ragged
        settings = fit_ragged(kind[options["DIMS"]], options)
        num_tiles = len(query) // (settings.rows // options["GROUP"]) + len(seq_lens)
        ragged_kernel[(num_tiles, key_cache.shape[1])](
            *shared, sinks, len(seq_lens), num_tiles, *scalars, *_strides(*shared),
            **options, SEQS=pad_rows(len(seq_lens)), ROWS=settings.rows, TILE=settings.tile, STAGES=settings.num_stages,
            num_warps=settings.num_warps, num_stages=settings.num_stages, **self._target.launch(len(query)),
        )  # fmt: skip

    def _decode(self, shared: tuple, sinks: torch.Tensor, scalars: tuple, options: dict, max_seq_len: int) -> None:
        query, key_cache, *_, seq_lens, _ = shared
        group, num_rows, num_kv_heads = options["GROUP"], len(seq_lens), key_cache.shape[1]
        settings, splits = self._split(options, num_rows * num_kv_heads, max_seq_len)
        padded, min_chunk = triton.next_power_of_2(group), max(settings.min_chunk, settings.tile)
        num_parts = num_rows * num_kv_heads * splits * padded if splits > 1 else 0
        part_maximum, part_total, part_acc = (
            torch.empty(num_parts * width, dtype=torch.float32, device=query.device)
            for width in (1, 1, options["DIMS"])
        )
        counters = self._counters.take(query.device, num_rows * num_kv_heads)
        decode_kernel[(num_kv_heads, num_rows, splits)](
            *shared, sinks, part_acc, part_maximum, part_total, counters, *scalars, splits, *_strides(*shared),
            **options, ROWS=max(MIN_ROWS, padded), GROUP_PADDED=padded, TILE=settings.tile,
            MAX_SPLITS=MAX_SPLITS if splits > 1 else 1,
            BATCH=max(1, min(MAX_SPLITS, 4096 // (padded * options["DIMS"]))),
            MIN_CHUNK=min_chunk, AHEAD=min_chunk, LINES=_lines_a_head(key_cache), STAGES=settings.num_stages,
            num_warps=settings.num_warps, num_stages=settings.num_stages, **self._target.launch(len(query)),
        )  # fmt: skip

    def _split(self, options: dict, num_pairs: int, max_seq_len: int) -> tuple[DecodeSettings, int]:
        """Return the settings, and over how many programs at most a row's keys are split."""
        for kind in DECODE_KINDS:
            settings = fit_decode(getattr(self._settings, kind)[options["DIMS"]], options)
            splits = self._num_splits(settings, num_pairs, max_seq_len)
            if splits == 1:
                break
        return settings, splits

    def _num_splits(self, settings: DecodeSettings, num_pairs: int, max_seq_len: int) -> int:
        few = 2 * num_pairs <= self._target.num_processors
        programs = (few and settings.programs_for_few) or settings.programs_per_processor
        wanted = triton.cdiv(self._target.num_processors * programs, num_pairs)
        useful = triton.cdiv(max_seq_len, max(settings.min_chunk, settings.tile))
        return max(1, min(wanted, useful, MAX_SPLITS))


def _lines_a_head(cache: torch.Tensor) -> int:
    """Return how many lines of the second-level cache a head's key takes, rounded up to a power of two."""
    return triton.next_power_of_2(triton.cdiv(cache.shape[3] * cache.element_size(), LINE_BYTES))


def pad_rows(num_rows: int) -> int:
    """Return a power of two from few values, for each is a kernel to compile."""
    return next((size for size in (16, 256) if num_rows <= size), triton.next_power_of_2(num_rows))


def fit_ragged(settings: RaggedSettings, options: dict) -> RaggedSettings:
    """Widen the tile of queries to one token's group; in float32, where no matrix units serve, take smaller tiles."""
    rows = max(MIN_ROWS, triton.next_power_of_2(options["GROUP"]), settings.rows)
    if options["COMPUTE"] is not tl.float32:
        return settings._replace(rows=rows)
    narrow = max(MIN_ROWS, triton.next_power_of_2(options["GROUP"]), rows // 4)
    return settings._replace(rows=narrow, **_float32_tile(options["DIMS"]), num_stages=1)


def fit_decode(settings: DecodeSettings, options: dict) -> DecodeSettings:
    """Take smaller tiles in float32."""
    if options["COMPUTE"] is not tl.float32:
        return settings
    return settings._replace(**_float32_tile(options["DIMS"]), num_stages=2)


def _float32_tile(dims: int) -> dict[str, int]:
    """Return a tile of keys and the warps that hold its operands in registers without spilling."""
    return {"tile": 32 if dims <= 64 else 16, "num_warps": 4 if dims <= 128 else 8}


def compute_dtype(query: torch.dtype, cache: torch.dtype) -> tl.dtype:
    """Return the dtype of the matrix products: the wider of both; 8-bit caches are widened to the query's."""
    wider = query if cache.itemsize == 1 else torch.promote_types(query, cache)
    return TRITON_DTYPES[wider]


def _options(
    query: torch.Tensor,
    key_cache: torch.Tensor,
    window: int | None,
    soft_cap: float | None,
    sinks: torch.Tensor | None,
) -> dict:
    head_dim = query.shape[2]
    compute = compute_dtype(query.dtype, key_cache.dtype)
    return {
        "GROUP": query.shape[1] // key_cache.shape[1],
        "HEAD_DIM": head_dim,
        "DIMS": max(16, triton.next_power_of_2(head_dim)),
        "BLOCK_SIZE": key_cache.shape[2],
        "WINDOW": window is not None,
        "SOFT_CAP": soft_cap is not None,
        "SINKS": sinks is not None,
        "COMPUTE": compute,
    }


def _strides(
    query: torch.Tensor,
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
    out: torch.Tensor,
    query_start: torch.Tensor,
    seq_lens: torch.Tensor,
    block_table: torch.Tensor,
) -> tuple[int, ...]:
    return (
        query.stride(0), query.stride(1), out.stride(0), block_table.stride(0),
        *key_cache.stride()[:3], *value_cache.stride()[:3],
    )  # fmt: skip
