"""How memory is divided: weights, workspace, KV blocks. Plain arithmetic, shared by the executor and `quire plan`.

No device is asked: the same inputs give the same block count in a plan and in the engine that follows it.
"""

from __future__ import annotations

from typing import NamedTuple

from quire.backend.contract import BackendCaps, KVConstraints, MemoryModel
from quire.config import EngineConfig
from quire.errors import CapacityError, ConfigError
from quire.models.spec import ModelSpec

DTYPE_BYTES = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2, "float8_e4m3fn": 1, "int8": 1}
FLOAT_BYTES = 4  # logits are always float32
INDEX_BYTES = 4
SAMPLING_BYTES = 3 * 4 + 4 + 8  # of a row: temperature, top_p, min_p; top_k; seed


class Formats(NamedTuple):
    """What is settled before memory is divided. dtypes by torch's names; lengths in tokens."""

    dtype: str
    kv_dtype: str
    block_size: int
    max_model_len: int


class Footprint(NamedTuple):
    """Bytes of the weights, the most that passing tensors take in a step of the full token budget, and the most that
    kernels keep for themselves."""

    weights_bytes: int
    activations_bytes: int
    scratch_bytes: int = 0


class MemoryPlan(NamedTuple):
    """Bytes by region, and what they buy. `workspace_bytes` last as long as the engine, `activations_bytes` a step.
    Of the workspace, `scratch_bytes` are the kernels' own. The process itself is not in it: see `quire plan`."""

    dtype: str
    kv_dtype: str
    weights_bytes: int
    workspace_bytes: int
    scratch_bytes: int
    activations_bytes: int
    block_bytes: int
    block_size: int
    num_blocks: int
    reserved_blocks: int
    max_model_len: int
    budget_bytes: int

    @property
    def formats(self) -> Formats:
        return Formats(self.dtype, self.kv_dtype, self.block_size, self.max_model_len)

    @property
    def kv_bytes(self) -> int:
        return self.num_blocks * self.block_bytes

    @property
    def total_bytes(self) -> int:
        return self.weights_bytes + self.workspace_bytes + self.activations_bytes + self.kv_bytes

    @property
    def kv_tokens(self) -> int:
        """Tokens that the cache holds."""
        return (self.num_blocks - self.reserved_blocks) * self.block_size

    @property
    def max_concurrency(self) -> float:
        """How many requests of the full context fit at once."""
        return self.kv_tokens / self.max_model_len


def choose_formats(config: EngineConfig, spec: ModelSpec, caps: BackendCaps, kv: KVConstraints) -> Formats:
    """Return what the model will run in. Raise ConfigError on what the backend or the model does not have."""
    dtype = choose_dtype(config.dtype, spec.dtype, caps.dtypes)
    return Formats(
        dtype,
        choose_dtype(config.kv_dtype, dtype, kv.dtypes, "kv_dtype"),
        choose_block_size(config.block_size, kv.block_sizes),
        choose_max_model_len(config.max_model_len, spec.max_model_len),
    )


def plan_memory(
    config: EngineConfig,
    spec: ModelSpec,
    caps: BackendCaps,
    kv: KVConstraints,
    memory_bytes: int,
    footprint: Footprint | None = None,
) -> MemoryPlan:
    """Divide `memory_bytes` (of which `memory_utilization` may be used, unless `config.memory_bytes` says exactly).

    Without a `footprint` it is estimated from the model's numbers.
    Raise CapacityError when one request of the full context would not fit, saying how much is missing.
    """
    formats = choose_formats(config, spec, caps, kv)
    weights, activations, scratch = footprint or estimate_footprint(config, spec, formats)
    workspace = workspace_bytes(config, formats) + scratch
    block_bytes = formats.block_size * spec.kv_bytes_per_token(DTYPE_BYTES[formats.kv_dtype])
    budget = config.memory_bytes or int(memory_bytes * config.memory_utilization)
    wanted = _blocks_wanted(config, formats) + kv.reserved_blocks
    affordable = (budget - weights - workspace - activations) // block_bytes
    # Host memory is shared with everything else: take no more of it than the rows could ever fill.
    sized = min(affordable, wanted) if caps.memory is MemoryModel.UNIFIED else affordable
    plan = MemoryPlan(
        formats.dtype,
        formats.kv_dtype,
        weights,
        workspace,
        scratch,
        activations,
        block_bytes,
        formats.block_size,
        config.num_blocks or max(sized, 0),
        kv.reserved_blocks,
        formats.max_model_len,
        budget,
    )
    _check_fits(plan, config)
    return plan


def workspace_bytes(config: EngineConfig, formats: Formats) -> int:
    """Return what the executor keeps: the rows' tokens, block tables and sampling state, and the inputs of a step."""
    tokens, rows, seats = config.max_num_batched_tokens, config.max_num_seqs, config.max_num_seqs + 1
    entries = formats.max_model_len + 1 + -(-formats.max_model_len // formats.block_size)
    inputs = 2 * tokens + 6 * rows + 1
    return (seats * entries + inputs) * INDEX_BYTES + seats * SAMPLING_BYTES


def estimate_footprint(config: EngineConfig, spec: ModelSpec, formats: Formats) -> Footprint:
    """Return roughly what a decoder takes, for engines that do not run the core's layers."""
    size = DTYPE_BYTES[formats.dtype]
    tokens, rows = config.max_num_batched_tokens, config.max_num_seqs
    attention = (2 * spec.num_heads + 2 * spec.num_kv_heads) * spec.head_dim  # qkv, and attention's output
    widest = max(3 * spec.intermediate_size, attention)  # gate and up, and their product
    activations = tokens * (3 * spec.hidden_size + widest) * size
    logits = 2 * min(rows, tokens) * spec.vocab_size * FLOAT_BYTES
    return Footprint(spec.num_parameters * size, activations + logits)


def choose_dtype(asked: str, default: str, supported: tuple[str, ...], field: str = "dtype") -> str:
    """Return the dtype to use: what was asked, or the default where supported, or the backend's first.

    Raise ConfigError when something was asked that the backend does not have.
    """
    if asked != "auto":
        if asked not in supported:
            row = field.replace("_", " ") + "s"
            raise ConfigError(
                f"{field} {asked!r} is not supported here; supported: {', '.join(supported)}; row {row!r} of "
                "`quire capabilities` shows which backends have it"
            )
        return asked
    return default if default in supported else supported[0]


def choose_block_size(asked: int | None, supported: tuple[int, ...]) -> int:
    """Return the KV block size in tokens. Raise ConfigError on one that the backend does not have."""
    if asked is None:
        return supported[0]
    if asked not in supported:
        raise ConfigError(f"block_size {asked} is not supported here; supported: {', '.join(map(str, supported))}")
    return asked


def choose_max_model_len(asked: int | None, trained: int) -> int:
    """Return the longest context in tokens. Raise ConfigError above what the model has positions for."""
    if asked is not None and asked > trained:
        raise ConfigError(f"max_model_len {asked} is more than the model's {trained}; lower it to {trained} or less")
    return asked or trained


def _blocks_wanted(config: EngineConfig, formats: Formats) -> int:
    return config.max_num_seqs * -(-formats.max_model_len // formats.block_size)


def _check_fits(plan: MemoryPlan, config: EngineConfig) -> None:
    missing_blocks = plan.reserved_blocks + -(-plan.max_model_len // plan.block_size) - plan.num_blocks
    if missing_blocks <= 0:
        return
    over = 0 if config.num_blocks else plan.total_bytes - plan.budget_bytes
    missing = max(missing_blocks * plan.block_bytes + over, missing_blocks * plan.block_bytes)
    shorter = f"Lower max_model_len to {plan.kv_tokens}, or" if plan.kv_tokens > 0 else "Lower"
    raise CapacityError(
        f"one request of {plan.max_model_len} tokens does not fit: {_mib(missing)} are missing "
        f"(of {_mib(plan.budget_bytes)}: weights {_mib(plan.weights_bytes)}, workspace {_mib(plan.workspace_bytes)}, "
        f"activations {_mib(plan.activations_bytes)}, left for KV {_mib(plan.kv_bytes)}). "
        f"{shorter} max_num_batched_tokens ({config.max_num_batched_tokens}) or max_num_seqs ({config.max_num_seqs}), "
        "or give more memory"
    )


def _mib(num_bytes: int) -> str:
    mib = num_bytes / 2**20
    return f"{mib:,.0f} MiB" if mib >= 10 else f"{mib:.1f} MiB"
