"""The plugin contract, API 1.0: the types that a backend and the core exchange.

Versioned apart from the engine. A backend states the API it was built for in its manifest (`API = (1, 0)`); the core
loads it when the major numbers are equal and the backend's minor is not newer. Importing this module costs no torch,
so manifests and tools may use it. `hookspecs.py` holds the hooks, one by one.

Ownership: the core owns block ids, reference counts, hashes and rows. The backend owns all bytes: weights, the KV
slab, graph pools, workspaces, compiled artifacts, communicators.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

if TYPE_CHECKING:
    import torch

    from quire.config import EngineConfig
    from quire.models.spec import ModelSpec
    from quire.plan import StepPlan, StepResult

API_VERSION: tuple[int, int] = (1, 0)
BACKEND_GROUP = "quire.backends"
KERNEL_GROUP = "quire.kernels"


# -- discovery ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Found:
    """The hardware is here and the runtime that drives it can be imported. The highest `score` wins a free choice:
    accelerators say 100, a tuned CPU 50, a fallback 10, and 0 means "only when named"."""

    score: int
    facts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Absent:
    """The backend cannot run here: one sentence why, and what to type or install, if anything helps."""

    reason: str
    remedy: str = ""


class Manifest(Protocol):
    """A stdlib-only module named by an entry point in group `quire.backends`."""

    API: tuple[int, int]
    PLUGIN: str
    """`"package.module:attribute"` (or `"package.module"`) of the plugin: a module, an object, or a class that is made
    without arguments. Imported only when it is chosen."""

    def probe(self) -> Found | Absent: ...


class KernelManifest(Manifest, Protocol):
    """The same, in group `quire.kernels`, for kernels that are added to somebody else's backend. Its plugin may have
    `quire_register_kernels` and `quire_register_weight_transforms` and no other hook."""

    BACKENDS: tuple[str, ...]
    """Names of the backends that it is for; empty or not there: any."""


@dataclass(frozen=True, slots=True)
class Selection:
    """The chosen backend: its name, what its probe saw, why it was chosen, and the user's options for it."""

    name: str
    facts: Mapping[str, str] = field(default_factory=dict)
    reason: str = ""
    options: Mapping[str, str] = field(default_factory=dict)


# -- capabilities ------------------------------------------------------------------------------------------------


class MemoryModel(StrEnum):
    UNIFIED = "unified"  # the device computes in host memory
    DISCRETE = "discrete"


class ShapeMode(StrEnum):
    DYNAMIC = "dynamic"  # any number of tokens and rows
    BUCKETED = "bucketed"  # any, but padded to buckets where a program exists
    STATIC = "static"  # only buckets; a new shape would compile


class GraphLevel(StrEnum):
    NONE = "none"
    STEP = "step"  # a whole step is captured or compiled as one program


@dataclass(frozen=True, slots=True)
class ScheduleConstraints:
    """Device limits as data that the scheduler obeys. Empty buckets mean: any size."""

    mix_prefill_decode: bool = True
    max_prefill_requests: int | None = None
    chunk_multiple: int = 1
    token_buckets: tuple[int, ...] = ()
    row_buckets: tuple[int, ...] = ()


FEATURES: Mapping[str, str] = MappingProxyType(
    {
        "chunked_prefill": "level 4: a prompt computed in chunks gives the tokens of the whole prompt",
        "prefix_cache": "level 4: a cache hit gives the tokens of a cold run",
        "block_copy": "level 2: block copies reach every layer, and nothing else changes",
        "sliding_window": "level 3: paged_attention with a window",
        "soft_cap": "level 3: paged_attention with a soft cap",
        "sinks": "level 3: paged_attention with attention sinks",
        "logprobs": "level 4: logprobs equal log_softmax of the logits",
        "penalties": "level 4: penalties equal the reference sampler's",
        "moe": "level 3: moe against its reference",
        "speculation": "level 4: drafts change no token",
        "sleep": "level 2: suspended regions come back byte for byte",
    }
)
"""Every feature a backend may claim, and the conformance level that proves it. A claim makes those tests mandatory."""


@dataclass(frozen=True, slots=True)
class BackendCaps:
    """What a backend claims. dtype names are torch's (`"float32"`, `"bfloat16"`); the first of each is the default."""

    device_type: str  # torch's name of the device, e.g. "cpu"
    dtypes: tuple[str, ...]
    kv_dtypes: tuple[str, ...]
    memory: MemoryModel
    shapes: ShapeMode
    graphs: GraphLevel
    max_in_flight: int  # steps submitted and not collected; 1 = no overlap, 2 = host work hidden
    features: frozenset[str]
    deterministic: bool  # same plan, same bits
    schedule: ScheduleConstraints = ScheduleConstraints()

    def __post_init__(self) -> None:
        unknown = self.features - FEATURES.keys()
        if unknown:
            raise ValueError(f"unknown features {sorted(unknown)}; the contract knows {sorted(FEATURES)}")


# -- memory ------------------------------------------------------------------------------------------------------


class MemoryInfo(NamedTuple):
    """Bytes that an allocation could still get, and the device's whole."""

    free_bytes: int
    total_bytes: int


class HostRead(Protocol):
    """A device→host copy under way."""

    def wait(self) -> torch.Tensor:
        """Block until the copy is done and return the host tensor."""
        ...


@runtime_checkable
class Device(Protocol):
    """One opened device. Work that it is given runs in order."""

    name: str  # for people, e.g. the processor's name and thread count
    torch_device: torch.device

    def synchronize(self) -> None: ...
    def memory_info(self) -> MemoryInfo: ...
    def seed(self, seed: int) -> None: ...

    def host_buffer(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """Return host memory that `to_device` can copy from without blocking (pinned, where that exists)."""
        ...

    def to_device(self, source: torch.Tensor, target: torch.Tensor) -> None:
        """Copy a host buffer into a device tensor, in order with later work; may return before it is done."""
        ...

    def to_host(self, source: torch.Tensor) -> HostRead:
        """Begin copying a device tensor to the host, after the work given so far."""
        ...


class KVLayout(NamedTuple):
    """Physical order of the KV slab's axes, slowest first, of `("kv", "block", "head", "slot", "dim")`.

    Kernels are always given *canonical strided views* `[num_blocks, num_kv_heads, block_size, head_dim]` of the key
    and of the value cache; the layout only decides the strides.
    """

    order: tuple[str, str, str, str, str]


HEAD_MAJOR = KVLayout(("kv", "block", "head", "slot", "dim"))
SLOT_MAJOR = KVLayout(("kv", "block", "slot", "head", "dim"))
BLOCK_FIRST = KVLayout(("block", "kv", "head", "slot", "dim"))


@dataclass(frozen=True, slots=True)
class KVConstraints:
    """What the KV cache may look like; the first of each tuple is preferred."""

    block_sizes: tuple[int, ...]
    layouts: tuple[KVLayout, ...] = (HEAD_MAJOR,)
    dtypes: tuple[str, ...] = ("float32",)
    alignment_bytes: int = 64
    reserved_blocks: int = 0  # block ids 0 … n-1 that requests never get, e.g. one for padding to write to


@runtime_checkable
class Allocator(Protocol):
    """Gives tagged regions: `"weights"`, `"kv"`, `"workspace"`."""

    def allocate(self, tag: str, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor: ...
    def used_bytes(self, tag: str) -> int: ...

    def suspend(self, tag: str, keep: bool) -> int:
        """Give the region's memory back (`keep`: save its bytes first); return the bytes freed. Tensors stay valid
        objects but must not be read until `resume`."""
        ...

    def resume(self, tag: str) -> None: ...
    def release(self, tag: str) -> None: ...


# -- kernels -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class KernelRequest:
    """What a layer asks of an op while the model is built: dtype names and the attributes that kernels may limit
    (e.g. `head_dim`, `num_heads`, `num_kv_heads`, `window`, `soft_cap`, `sinks`, `in_features`, `out_features`)."""

    op: str
    dtype: str
    attributes: Mapping[str, Any] = field(default_factory=dict)


def _accept(request: KernelRequest) -> Sequence[str]:
    return ()


@dataclass(frozen=True, slots=True)
class Kernel:
    """One implementation of one op. `constraint` returns the reasons why it cannot serve a request (none: it can).
    Among those that can, the highest `priority` wins; the reference has 0, a backend 100, extra kernels 200."""

    op: str
    provider: str
    function: Callable[..., Any]
    dtypes: tuple[str, ...]
    constraint: Callable[[KernelRequest], Sequence[str]] = _accept
    priority: int = 100
    graph_safe: bool = True  # may be captured: no host read, no allocation that depends on data
    workspace_bytes: int = 0  # the most it keeps for itself; kernels of one provider are taken to share it
    lean: bool = False  # allocates nothing but outputs, and those where it can in place of the op's `scratch`


@dataclass(frozen=True, slots=True)
class WeightTransform:
    """Load-time repacking for the kernel of the same op and provider: `function(weight, request)` returns whatever
    that kernel takes in the weight's place. It may use up the weight's memory, unless the request's attributes say
    `tied`: then another layer reads the weight too."""

    op: str
    provider: str
    function: Callable[[Any, KernelRequest], Any]


class KernelRegistrar(Protocol):
    """The table as backends see it."""

    def register(self, kernel: Kernel) -> None: ...
    def register_transform(self, transform: WeightTransform) -> None: ...


# -- programs ----------------------------------------------------------------------------------------------------


class Bucket(NamedTuple):
    """The padded size of a step: tokens computed, rows scheduled. `decode` promises one token in every row."""

    num_tokens: int
    num_rows: int
    decode: bool


StepFunction = Callable[[Any], Any]
"""Takes the step's device buffers, whose addresses never change for a bucket, and returns its output tensors."""


class Program(Protocol):
    """A step function made ready for one bucket."""

    def __call__(self, buffers: Any, /) -> Any: ...


@runtime_checkable
class ProgramBuilder(Protocol):
    def buckets(self, max_tokens: int, max_rows: int) -> Sequence[Bucket]:
        """Buckets worth building, smallest first; a step that fits none runs `step_fn` unpadded, unless shapes are
        static, when it must not occur."""
        ...

    def build(self, step_fn: StepFunction, bucket: Bucket, example: Any) -> Program:
        """Return a program: the function itself, a captured graph, or one compiled ahead."""
        ...


# -- execution ---------------------------------------------------------------------------------------------------


class ExecutorFacts(NamedTuple):
    """What the engine must know before it can schedule."""

    num_blocks: int  # ids 0 … num_blocks-1, reserved ones included
    block_size: int
    reserved_blocks: int
    max_rows: int
    max_model_len: int
    schedule: ScheduleConstraints
    max_in_flight: int


@dataclass(frozen=True, slots=True)
class ExecutorContext:
    """What an executor is built from. `table` is a `quire.ops.table.KernelTable`, empty
    for a backend that brings its own executor and registers no kernels."""

    config: EngineConfig
    spec: ModelSpec
    selection: Selection
    caps: BackendCaps
    device: Device
    hooks: Any
    table: Any
    changes: tuple[ConfigChange, ...] = ()
    """What was changed in the user's config, and why."""


@runtime_checkable
class Executor(Protocol):
    """Runs plans. `submit` and `collect` are called by one thread; results come in the order of submission."""

    def start(self) -> ExecutorFacts:
        """Load weights, size and allocate the KV cache, build programs. Raise CapacityError, ModelError."""
        ...

    def submit(self, plan: StepPlan) -> Any:
        """Begin a step and return a ticket; may return before the device is done."""
        ...

    def collect(self, ticket: Any) -> StepResult:
        """Wait for that step."""
        ...

    def read_kv(self, layer: int, block_ids: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return keys and values as `[block, head, slot, dim]` on the host: for the conformance suite and debugging."""
        ...

    def memory_report(self) -> Mapping[str, int]:
        """Bytes by region: weights, kv, workspace; and activations, what a step of the full token budget takes, where
        that is known. May run such a step to find out: not to be called while others wait."""
        ...

    def stop(self) -> None: ...


@runtime_checkable
class Communicator(Protocol):
    """Collectives within one group of ranks."""

    rank: int
    size: int

    def all_reduce(self, tensor: torch.Tensor) -> torch.Tensor: ...
    def all_gather(self, tensor: torch.Tensor, dim: int) -> torch.Tensor: ...
    def reduce_scatter(self, tensor: torch.Tensor, dim: int) -> torch.Tensor: ...
    def broadcast(self, tensor: torch.Tensor, source: int) -> torch.Tensor: ...
    def barrier(self) -> None: ...
    def close(self) -> None: ...


# -- configuration and conformance ---------------------------------------------------------------------------------


class ConfigChange(NamedTuple):
    """One field that a backend needs otherwise, and why; the core applies, prints and freezes it."""

    field: str
    value: Any
    reason: str


ConfigPatch = Sequence[ConfigChange]


class ExpectedFailure(NamedTuple):
    """A test that is known to fail: strict, so that it is an error when it passes."""

    test_id: str
    reason: str
    issue: str


@dataclass(frozen=True, slots=True)
class ConformanceProfile:
    """What the suite holds the backend to. `error_ratio` bounds a kernel's error against the fp64 reference, as a
    multiple of the error of the reference run in the kernel's own dtype; ops not named use their record's bound."""

    levels: tuple[int, ...] = (0, 1, 2, 3, 4)
    support: str = "runs on hardware here"
    error_ratio: Mapping[str, float] = field(default_factory=dict)
    expected_failures: tuple[ExpectedFailure, ...] = ()
