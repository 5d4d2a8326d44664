"""Programs of one engine: compiled ahead by XLA, with the state passed from each to the next and never copied."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
import torch

from quire.backend.contract import Bucket, StepFunction
from quire.execution.parts import bucket_sizes, views
from quire_kernels_xla import bridge, tables
from quire_kernels_xla.tables import State

Check = Callable[[str], None]


@dataclass
class Session:
    """A device, the weights and the state that programs share.

    `compiled` off: operations run one by one, for comparison. `check` is shown the StableHLO text of each program
    before it is compiled, and raises what the device would refuse. `num_compiled` counts compilations.
    """

    device: Any
    tracer: bridge.Tracer
    weights: list[torch.Tensor]
    handles: State
    exact: bool
    compiled: bool
    check: Check
    num_compiled: int = 0
    state: Any = None
    arrays: list[jax.Array] = field(default_factory=list)

    def load(self, scratch: int) -> None:
        """Make the state, and copy the weights; their host bytes are given back, from now on they are handles."""
        shapes = jax.tree.map(lambda item: _like(item, self.device), self.handles)
        self.state = jax.jit(lambda: tables.fill(shapes, scratch), out_shardings=self._sharding)()
        for tensor in self.weights:
            self.arrays.append(jax.device_put(bridge.to_array(tensor), self.device))
            tensor.untyped_storage().resize_(0)

    def close(self) -> None:
        """Wait for what runs, then let go of everything on the device."""
        jax.block_until_ready(self.state)
        self.state, self.arrays = None, []

    def step(self, function: StepFunction, bucket: Bucket, max_query_len: int, max_seq_len: int) -> StepProgram:
        """Return a step function of `StepBuffers` as a program: it takes them on the host and changes the state."""
        sizes = bucket_sizes(bucket)
        packed = bridge.handle((sizes.packed_len(),), torch.int32)

        def run(weights: list[jax.Array], state: State, values: jax.Array) -> tuple[State, Any]:
            def body() -> Any:
                return function(views(packed, sizes, max_query_len, max_seq_len))

            return self._trace(body, weights, state, {id(packed): values})

        return StepProgram(self, self.compile(run, (1,), self.arrays, self.state, _like(packed, self.device)))

    def torch_program(self, function: Callable[..., Any], *inputs: torch.Tensor) -> Callable[..., Any]:
        """Return a function of the given handles, which may read and write the state, as a program of arrays."""

        def run(weights: list[jax.Array], state: State, *values: jax.Array) -> tuple[State, Any]:
            given = {id(item): value for item, value in zip(inputs, values, strict=True)}
            return self._trace(lambda: function(*inputs), weights, state, given)

        examples = [_like(item, self.device) for item in inputs]
        program = self.compile(run, (1,), self.arrays, self.state, *examples)

        def call(*values: np.ndarray) -> Any:
            self.state, found = program(self.arrays, self.state, *self._put(values))
            return found

        return call

    def state_program(self, change: Callable[..., State], shape: Sequence[int]) -> Callable[[np.ndarray], None]:
        """Return a program that changes the state by an int32 array of the given shape."""
        like = jax.ShapeDtypeStruct(tuple(shape), np.int32, sharding=self._sharding)
        program = self.compile(change, (0,), self.state, like)

        def call(values: np.ndarray) -> None:
            self.state = program(self.state, *self._put((values,)))

        return call

    def compile(self, function: Callable[..., Any], donated: tuple[int, ...], *examples: Any) -> Callable[..., Any]:
        """Compile a JAX function for arguments like `examples`, which need be no more than shapes; show it first."""
        if not self.compiled:
            return function
        lowered = jax.jit(function, donate_argnums=donated).lower(*examples)
        self.check(lowered.as_text())
        self.num_compiled += 1
        return lowered.compile(bridge.compiler_options(self.device))

    def _put(self, values: Sequence[np.ndarray]) -> list[jax.Array]:
        return [jax.device_put(value, self.device) for value in values]

    @property
    def _sharding(self) -> Any:
        return jax.sharding.SingleDeviceSharding(self.device)

    def _trace(
        self, body: Callable[[], Any], weights: list[jax.Array], state: State, given: dict[int, jax.Array]
    ) -> tuple[State, Any]:
        leaves, structure = jax.tree.flatten(state)
        places = [id(item) for item in jax.tree.leaves(self.handles)]
        named = {id(item): value for item, value in zip(self.weights, weights, strict=True)}
        found, after = self.tracer.run(body, dict(zip(places, leaves, strict=True)) | named | given, self.exact)
        return jax.tree.unflatten(structure, after[: len(leaves)]), found


class StepProgram:
    """A compiled step."""

    def __init__(self, session: Session, compiled: Callable[..., Any]) -> None:
        self._session = session
        self._compiled = compiled

    def __call__(self, buffers: Any, /) -> Any:
        """Begin a step on host `StepBuffers`, which may be written again at once; return its arrays to come."""
        session = self._session
        packed = jax.device_put(torch.cat(buffers[:8]).numpy(), session.device)
        session.state, outputs = self._compiled(session.arrays, session.state, packed)
        return outputs


def _like(item: torch.Tensor, device: Any) -> jax.ShapeDtypeStruct:
    sharding = jax.sharding.SingleDeviceSharding(device)
    return jax.ShapeDtypeStruct(tuple(item.shape), bridge.TO_JAX[item.dtype], sharding=sharding)
