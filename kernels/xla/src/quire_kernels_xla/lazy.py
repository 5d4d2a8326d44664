"""The other runtime under the executor: torch_xla, whose tensors record what is done to them until a step is launched.

A step function runs on real tensors of the device, put in the places of handles, and `torch_xla.sync` compiles what was
recorded, or finds it compiled: the same shapes give the same recording. Kernels are the same JAX functions, lowered by
JAX and embedded as they are. So this module has a session and a device, and no kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import jax
import numpy as np
import torch
import torch_xla
import torch_xla.backends
import torch_xla.core.xla_model as xla_model
from torch_xla.core.xla_builder import computation_from_module_proto
from torch_xla.debug import metrics

from quire.backend.contract import Bucket, MemoryInfo, StepFunction
from quire.backend.host_device import HostDevice
from quire.backend.host_memory import host_memory
from quire.errors import ConfigError
from quire.execution.parts import bucket_sizes, views
from quire_kernels_xla import bridge
from quire_kernels_xla.device import find_device
from quire_kernels_xla.tables import State

Tensors = Mapping[int, torch.Tensor]


class LazyDevice(HostDevice):
    """One device of torch_xla's. What crosses by the contract's copies stays on the host, as with JAX."""

    torch_device: torch.device = None  # type: ignore[assignment]

    def __init__(self, device: torch.device, platform: str) -> None:
        self.lazy_device = device
        self._platform = platform
        self._emulated = platform == "cpu"
        self.name = f"torch_xla {platform} {device.index}{' (emulated on the host)' if self._emulated else ''}"

    def memory_info(self) -> MemoryInfo:
        """Return what is free on the chip; of the CPU device, on the host."""
        if self._emulated:
            return host_memory()
        info = xla_model.get_memory_info(self.lazy_device)
        return MemoryInfo(info["bytes_limit"] - info["bytes_used"], info["bytes_limit"])

    def seed(self, seed: int) -> None:
        """Do nothing: draws are keyed by each request's own seed."""

    def open_session(self, weights: list[torch.Tensor], handles: State, **settings: Any) -> LazySession:
        """Return a session; see `session.Session` for what it is given."""
        return LazySession(self.lazy_device, self._platform, weights, handles, **settings)


def open_device(platform: str, rank: int) -> LazyDevice:
    """Open device number `rank`. Raise RuntimeError as torch_xla does. The first decides the process's platform."""
    find_device("cpu", 0)  # JAX lowers kernels and runs none: it shall not take the chip
    device = torch_xla.device(rank)
    here = xla_model.xla_device_hw(device).lower()
    if here != platform:
        raise RuntimeError(f"this process has torch_xla's platform {here} already")
    return LazyDevice(device, platform)


class Computation(NamedTuple):
    """A lowered JAX function: its results are the leaves of `structure`."""

    code: Any
    structure: Any


class LazySession:
    """What `session.Session` is on JAX: the weights and the state that steps share, and the programs of one engine.

    `check` is not asked: what torch_xla compiles is not shown before.
    """

    def __init__(
        self,
        device: torch.device,
        platform: str,
        weights: list[torch.Tensor],
        handles: State,
        exact: bool,
        compiled: bool,
        ahead: bool,
        check: Callable[[str], None],
    ) -> None:
        if not compiled:
            raise ConfigError("torch_xla runs no operation by itself, so not enforce_eager either; use runtime=jax")
        self.device, self.weights, self.handles = device, weights, handles
        self._platform, self._exact, self._ahead = platform, exact, ahead
        self._lowered: dict[Any, Computation] = {}
        self._compiled_before = _num_compiled()
        self._tensors: dict[int, torch.Tensor] = {}
        self.state: Any = None
        self.arrays: list[torch.Tensor] = []

    @property
    def num_compiled(self) -> int:
        return _num_compiled() - self._compiled_before

    def load(self, scratch: int) -> None:
        """Make the state, and copy the weights; their host bytes are given back, from now on they are handles."""
        with _plain():
            self._set_precision("highest" if self._exact else "default")
            zeros = [torch.zeros(item.shape, dtype=item.dtype, device=self.device) for item in self._leaves]
            self.state = jax.tree.unflatten(jax.tree.structure(self.handles), zeros)
            self.state.blocks[scratch] = -1
            self.arrays = [tensor.detach().to(self.device) for tensor in self.weights]
            torch_xla.sync(wait=True)
        places = [*self._leaves, *self.weights]
        self._tensors = {id(place): tensor for place, tensor in zip(places, [*zeros, *self.arrays], strict=True)}
        for tensor in self.weights:
            tensor.untyped_storage().resize_(0)

    def close(self) -> None:
        """Wait for what runs, then let go of everything on the device."""
        xla_model.wait_device_ops()
        self.state, self.arrays, self._tensors = None, [], {}

    def step(self, function: StepFunction, bucket: Bucket, max_query_len: int, max_seq_len: int) -> Callable[..., Any]:
        """Return a step function of `StepBuffers` as a program: it takes them on the host and changes the state."""
        sizes = bucket_sizes(bucket)
        packed = bridge.handle((sizes.packed_len(),), torch.int32)
        run = self.torch_program(lambda given: function(views(given, sizes, max_query_len, max_seq_len)), packed)
        return lambda buffers: run(torch.cat(buffers[:8]).numpy())

    def torch_program(self, function: Callable[..., Any], *inputs: torch.Tensor) -> Callable[..., Any]:
        """Return a function of the given handles, which may read and write the state, as a program of arrays."""

        def call(*values: np.ndarray) -> Any:
            with _plain():
                given = {id(item): self._put(value) for item, value in zip(inputs, values, strict=True)}
                with LazyHandles(self._tensors | given, self):
                    found = function(*inputs)
                torch_xla.sync()
            return found

        return self._warm(call, *inputs)

    def state_program(self, change: Callable[..., State], shape: Sequence[int]) -> Callable[[np.ndarray], None]:
        """Return a program that changes the state by an int32 array of the given shape."""
        leaves, structure = jax.tree.flatten(self.state)
        written: list[int] = []

        def changed(*values: jax.Array) -> list[jax.Array]:
            after = jax.tree.leaves(change(jax.tree.unflatten(structure, values[:-1]), values[-1]))
            written[:] = [at for at, (old, new) in enumerate(zip(values, after, strict=False)) if new is not old]
            return [after[at] for at in written]

        def call(values: np.ndarray) -> None:
            with _plain():
                found = self.embed(changed, *leaves, self._put(values))
                for at, value in zip(written, found, strict=True):
                    leaves[at].copy_(value)
                torch_xla.sync()

        return self._warm(call, bridge.handle(shape, torch.int32))

    def embed(self, kernel: Callable[..., Any], *tensors: torch.Tensor | None, **static: Any) -> Any:
        """Record a call of a JAX function on tensors of the device."""
        given = [tensor for tensor in tensors if tensor is not None]
        shapes = tuple(None if item is None else (tuple(item.shape), item.dtype) for item in tensors)
        key = (kernel, shapes, tuple(sorted(static.items())))
        if key not in self._lowered:
            self._lowered[key] = _lower(kernel, shapes, static, self._platform)
        lowered = self._lowered[key]
        found = torch_xla._XLAC._xla_user_computation(f"xla::{kernel.__name__}", given, lowered.code)
        return jax.tree.unflatten(lowered.structure, found)

    @property
    def _leaves(self) -> list[torch.Tensor]:
        return jax.tree.leaves(self.handles)

    @staticmethod
    def _set_precision(wanted: str) -> None:
        """Set the process's precision of float32 products, which is all that torch_xla has, unless it is so already."""
        if torch_xla.backends.get_mat_mul_precision() != wanted:
            torch_xla.backends.set_mat_mul_precision(wanted)

    def _put(self, values: np.ndarray) -> torch.Tensor:
        return bridge.to_host(values).to(self.device)

    def _warm(self, program: Callable[..., Any], *inputs: torch.Tensor) -> Callable[..., Any]:
        """Compile a program by running it on zeros, which is harmless as long as no request has a row."""
        if self._ahead:
            program(*(bridge.to_array(torch.zeros(item.shape, dtype=item.dtype)) for item in inputs))
        return program


class LazyHandles(bridge.Handles):
    """The places of handles, taken by tensors of the device; constants of the host go there too."""

    def __init__(self, tensors: Tensors, session: LazySession) -> None:
        super().__init__(tensors)
        self._session = session

    def kernel(self, kernel: Callable[..., Any], *tensors: torch.Tensor | None, **static: Any) -> Any:
        return self._session.embed(kernel, *tensors, **static)

    def constant(self, value: torch.Tensor) -> torch.Tensor:
        return value if value.device.type == "xla" else self._session._put(bridge.to_array(value))


def _lower(kernel: Callable[..., Any], shapes: Sequence[Any], static: Mapping[str, Any], platform: str) -> Computation:
    """Lower a JAX function for given shapes; None stays None."""
    structure: list[Any] = []

    def flat(*values: jax.Array) -> list[jax.Array]:
        left = iter(values)
        found = kernel(*(None if shape is None else next(left) for shape in shapes), **static)
        leaves, tree = jax.tree.flatten(found)
        structure[:] = [tree]
        return leaves

    examples = [jax.ShapeDtypeStruct(item[0], bridge.TO_JAX[item[1]]) for item in shapes if item is not None]
    with jax.default_matmul_precision("highest"):
        traced = jax.jit(flat, keep_unused=True).trace(*examples)
        module = traced.lower(lowering_platforms=(platform,)).compiler_ir("hlo")
    code = computation_from_module_proto(kernel.__name__, module.as_serialized_hlo_module_proto())
    return Computation(code, structure[0])


@contextmanager
def _plain() -> Iterator[None]:
    """Leave inference mode: its tensors may not be written outside of it, and these live on."""
    with torch.inference_mode(False), torch.no_grad():
        yield


def _num_compiled() -> int:
    return metrics.counter_value("UncachedCompile") or 0
