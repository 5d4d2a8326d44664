"""Launches of `fused_product.cu`: a product of a few hundred tokens, with what stands after it in a layer.

CUDA C++, because two things that it lives on are out of Triton's reach: blocks that add up their shares through one
another's shared memory (clusters), and weights on their way before the kernel ahead has ended. It is compiled here by
NVRTC, which comes with torch's CUDA builds, and kept where Triton keeps what it has compiled.
"""

from __future__ import annotations

import ctypes
import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from typing import Any, NamedTuple

import torch
from cuda.bindings import driver, nvrtc
from triton.runtime.cache import get_cache_manager

from quire.errors import BackendError

ARCHITECTURE = "sm_90a"
TOKENS = 64  # of a tile
INNER = 64  # inputs that a block takes at a time
THREADS = 288
MAX_STAGES = 8
HALF_SHARED_BYTES = 112 * 1024  # two blocks fit a multiprocessor
MOST_SHARED_BYTES = 200 * 1024
PREFER_SHARED_MEMORY = 100  # per cent


class Variant(NamedTuple):
    """What a kernel is compiled for: what ends it ("ADD", "GATE", "HEADS"), the outputs of a tile, the blocks that
    share one, those that share a tile of the weight, and whether a block has a multiprocessor to itself."""

    epilogue: str
    out: int
    splits: int
    peers: int
    alone: bool

    @property
    def stages(self) -> int:
        """Return how many tiles are on their way at once."""
        limit = MOST_SHARED_BYTES if self.alone else HALF_SHARED_BYTES
        return min(MAX_STAGES, (limit - self._sums_bytes) // self._stage_bytes)

    @property
    def shared_bytes(self) -> int:
        return self.stages * self._stage_bytes + self._sums_bytes

    @property
    def chunk(self) -> int:
        """Return how many rows of the weight one copy takes."""
        return self.out // max(self.peers, 2 if self.epilogue == "GATE" else 1)

    @property
    def _stage_bytes(self) -> int:
        return (TOKENS + self.out) * INNER * 2

    @property
    def _sums_bytes(self) -> int:
        return TOKENS * (self.out + 8) * 4 if self.splits > 1 else 0


class Arguments(ctypes.Structure):
    """As in the kernel's text, where they are explained."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in (
            "squares", "residual", "gain", "total", "gained", "squares_out", "out", "bias", "q_norm", "k_norm",
            "cos_sin", "positions", "slots", "key_cache", "value_cache",
        )),
        *((name, ctypes.c_int64) for name in (
            "key_block", "key_head", "key_slot", "value_block", "value_head", "value_slot",
        )),
        *((name, ctypes.c_int32) for name in (
            "num_tokens", "in_features", "out_stride", "square_parts", "num_heads", "num_kv_heads", "block_size",
            "cos_sin_stride",
        )),
        ("eps", ctypes.c_float),
    )  # fmt: skip


class LoadedKernel(NamedTuple):
    """A loaded variant."""

    variant: Variant
    function: Any

    def launch(
        self, x: torch.Tensor, weight: torch.Tensor, tiles: int, arguments: Arguments, starts_early: bool
    ) -> None:
        """Launch it on the current stream: `tiles` of outputs, of all rows of x."""
        variant = self.variant
        maps = [tensor_map(x, TOKENS), tensor_map(weight, variant.chunk)]
        pointers = [*(int(made.getPtr()) for made in maps), ctypes.addressof(arguments)]
        parameters = (ctypes.c_void_p * len(pointers))(*pointers)
        config = driver.CUlaunchConfig()
        config.gridDimX, config.gridDimY, config.gridDimZ = (
            variant.splits,
            tiles,
            blocks_of_tokens(len(x), variant.peers),
        )
        config.blockDimX, config.blockDimY, config.blockDimZ = THREADS, 1, 1
        config.sharedMemBytes = variant.shared_bytes
        config.hStream = torch.cuda.current_stream().cuda_stream
        config.attrs = [_cluster(variant.splits, variant.peers), *([_early()] if starts_early else [])]
        config.numAttrs = len(config.attrs)
        _call(driver.cuLaunchKernelEx, config, self.function, ctypes.addressof(parameters), 0)


class Kernels:
    """The variants, compiled and loaded once each."""

    def __init__(self) -> None:
        self._loaded: dict[Variant, LoadedKernel] = {}

    def get(self, variants: Sequence[Variant]) -> list[LoadedKernel]:
        """Return kernels; those that are not there are compiled side by side. Raise BackendError."""
        missing = [variant for variant in variants if variant not in self._loaded]
        if missing:
            with ThreadPoolExecutor(len(missing)) as pool:
                for variant, binary in zip(missing, pool.map(_binary, missing), strict=True):
                    self._loaded[variant] = _load(variant, binary)
        return [self._loaded[variant] for variant in variants]


def blocks_of_tokens(num_tokens: int, peers: int) -> int:
    """Return the tiles of tokens, filled up with empty ones until all have their peers."""
    return -(-num_tokens // (TOKENS * peers)) * peers


def tensor_map(tensor: torch.Tensor, rows: int) -> Any:
    """Return how the copy engine reads boxes of `rows` rows by INNER columns of a matrix."""
    height, width = tensor.shape
    return _call(
        driver.cuTensorMapEncodeTiled,
        driver.CUtensorMapDataType.CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
        2,
        tensor.data_ptr(),
        [driver.cuuint64_t(width), driver.cuuint64_t(height)],
        [driver.cuuint64_t(tensor.stride(0) * tensor.element_size())],
        [driver.cuuint32_t(INNER), driver.cuuint32_t(rows)],
        [driver.cuuint32_t(1), driver.cuuint32_t(1)],
        driver.CUtensorMapInterleave.CU_TENSOR_MAP_INTERLEAVE_NONE,
        driver.CUtensorMapSwizzle.CU_TENSOR_MAP_SWIZZLE_128B,
        driver.CUtensorMapL2promotion.CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
        driver.CUtensorMapFloatOOBfill.CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
    )


def _cluster(splits: int, peers: int) -> Any:
    attribute = driver.CUlaunchAttribute()
    attribute.id = driver.CUlaunchAttributeID.CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION
    attribute.value.clusterDim.x, attribute.value.clusterDim.y, attribute.value.clusterDim.z = splits, 1, peers
    return attribute


def _early() -> Any:
    attribute = driver.CUlaunchAttribute()
    attribute.id = driver.CUlaunchAttributeID.CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION
    attribute.value.programmaticStreamSerializationAllowed = 1
    return attribute


def source(variant: Variant) -> str:
    """Return the text that is compiled for a variant."""
    text = resources.files(__package__).joinpath("fused_product.cu").read_text()
    return multiply_source(variant.out) + text


def multiply_source(out: int) -> str:
    """Return `multiply`: wgmma of 64 rows of x by `out` rows of the weight, whose operands are counted out."""
    count = out // 2  # sums a thread has
    registers = ", ".join(f"%{at}" for at in range(count))
    operands = ", ".join(f'"+f"(sums[{at}])' for at in range(count))
    return (
        f"__device__ void multiply(float (&sums)[{count}], unsigned long long x, unsigned long long weight, bool add) "
        f'{{ asm volatile("{{.reg .pred add; setp.ne.b32 add, %{count + 2}, 0; wgmma.mma_async.sync.aligned.'
        f'm64n{out}k16.f32.bf16.bf16 {{{registers}}}, %{count}, %{count + 1}, add, 1, 1, 0, 0;}}"'
        f' : {operands} : "l"(x), "l"(weight), "r"(static_cast<int>(add))); }}\n'
    )


def compile_variant(variant: Variant) -> bytes:
    """Return a variant's machine code. Raise BackendError with the compiler's words."""
    program = _call(nvrtc.nvrtcCreateProgram, source(variant).encode(), b"fused_product.cu", 0, [], [])
    options = _options(variant)
    status, *_ = nvrtc.nvrtcCompileProgram(program, len(options), options)
    if int(status):
        log = bytearray(_call(nvrtc.nvrtcGetProgramLogSize, program))
        _call(nvrtc.nvrtcGetProgramLog, program, log)
        raise BackendError(f"fused_product.cu does not compile for {variant}: {log.decode()}")
    binary = bytearray(_call(nvrtc.nvrtcGetCUBINSize, program))
    _call(nvrtc.nvrtcGetCUBIN, program, binary)
    return bytes(binary)


def _options(variant: Variant) -> list[bytes]:
    macros = {
        "EPILOGUE": variant.epilogue,
        "OUT": variant.out,
        "SPLITS": variant.splits,
        "PEERS": variant.peers,
        "STAGES": variant.stages,
    }
    return [
        f"--gpu-architecture={ARCHITECTURE}".encode(),
        b"--std=c++17",
        b"-default-device",
        *(f"-D{name}={value}".encode() for name, value in macros.items()),
    ]


def _binary(variant: Variant) -> bytes:
    """Return a variant's machine code, from the cache if it was compiled before."""
    version = _call_all(nvrtc.nvrtcVersion)
    key = hashlib.sha256(f"{source(variant)} {_options(variant)} {version}".encode()).hexdigest()
    cached = get_cache_manager(key)
    path = cached.get_file("fused_product.cubin")
    if path is not None:
        with open(path, "rb") as file:  # noqa: PTH123
            return file.read()
    binary = compile_variant(variant)
    cached.put(binary, "fused_product.cubin", binary=True)
    return binary


def _load(variant: Variant, binary: bytes) -> LoadedKernel:
    module = _call(driver.cuModuleLoadData, binary)
    function = _call(driver.cuModuleGetFunction, module, b"fused_product")
    attributes = driver.CUfunction_attribute
    for attribute, value in (
        (attributes.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, variant.shared_bytes),
        (attributes.CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT, PREFER_SHARED_MEMORY),
    ):
        _call(driver.cuFuncSetAttribute, function, attribute, value)
    return LoadedKernel(variant, function)


def _call(function: Callable[..., tuple[Any, ...]], *arguments: Any) -> Any:
    """Call one of the driver's or the compiler's functions; return what it gives. Raise BackendError."""
    given = _call_all(function, *arguments)
    return given[0] if given else None


def _call_all(function: Callable[..., tuple[Any, ...]], *arguments: Any) -> tuple[Any, ...]:
    status, *given = function(*arguments)
    if int(status):
        raise BackendError(f"{function.__name__} failed: {status!r}")
    return tuple(given)
