"""The seam between torch and XLA's runtime: the one module that knows torchax, so that another may take its place.

Three things cross it. Values are copied (`to_array`, `to_host`). A kernel, which is a JAX function, is called with
torch tensors (`call`). And a torch function is run as a JAX function of its tensors (`Tracer.run`), which XLA compiles:
its tensors are *handles*, torch tensors whose bytes nobody reads, in whose places the program's own arrays are put
while it is traced. So the core's models and step functions run as they are.

Nothing has 64 bits on the device: integers and words are 32 bits wide, which every chip has.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch.overrides import TorchFunctionMode, handle_torch_function, has_torch_function
from torch.utils import _pytree
from torch.utils._mode_utils import no_dispatch

from quire_kernels_xla import sampling

NARROWER = {torch.int64: torch.int32, torch.float64: torch.float32}
TO_JAX = {
    torch.float32: jnp.float32,
    torch.bfloat16: jnp.bfloat16,
    torch.float16: jnp.float16,
    torch.int64: jnp.int32,
    torch.int32: jnp.int32,
    torch.bool: jnp.bool_,
}
CPU_OPTIONS = {"xla_backend_optimization_level": 0}  # the CPU device is for checking programs, not for speed
TELEMETRY = "ENABLE_RUNTIME_UPTIME_TELEMETRY"
Arrays = Mapping[int, jax.Array]


def to_array(tensor: torch.Tensor) -> np.ndarray:
    """Return a copy of a host tensor as numpy's; 64-bit integers are cut to 32."""
    values = tensor.detach().clone(memory_format=torch.contiguous_format)
    if values.dtype is torch.bfloat16:  # numpy has none of its own: the bits travel as integers
        return values.view(torch.int16).numpy().view(jnp.bfloat16)
    return values.numpy().astype(TO_JAX[values.dtype], copy=False)


def to_host(array: jax.Array | np.ndarray | torch.Tensor) -> torch.Tensor:
    """Wait for an array, or a tensor of whatever device, and copy it into a host tensor."""
    if isinstance(array, torch.Tensor):
        return array.cpu()
    values = np.asarray(array)
    if values.dtype == jnp.bfloat16:
        return torch.from_numpy(values.view(np.int16).copy()).view(torch.bfloat16)
    return torch.from_numpy(values.copy())


def handle(shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
    """Return a tensor without bytes, for a program's array to take its place."""
    return torch.empty(tuple(shape), dtype=dtype, device="meta")


def call(
    find_device: Callable[[], Any], kernel: Callable[..., Any], *tensors: torch.Tensor | None, **static: Any
) -> Any:
    """Call a kernel with torch tensors: within a program that is being traced as part of it, otherwise at once."""
    given = tuple(tensor for tensor in tensors if tensor is not None)
    if has_torch_function(given):
        return handle_torch_function(call, given, find_device, kernel, *tensors, **static)
    device = find_device()
    arrays = [None if tensor is None else jax.device_put(to_array(tensor), device) for tensor in tensors]
    compiled = jax.jit(kernel, static_argnames=tuple(static), compiler_options=compiler_options(device))
    with jax.default_matmul_precision("highest"):
        found = compiled(*arrays, **static)
    return jax.tree.map(to_host, found)


def compiler_options(device: Any) -> dict[str, Any] | None:
    """Return what XLA's compiler is told for a device."""
    return CPU_OPTIONS if device.platform == "cpu" else None


class Tracer:
    """Runs torch functions on arrays, traced ones among them."""

    def __init__(self) -> None:
        self._environment = _import_torchax()

    def run(self, function: Callable[[], Any], arrays: Arrays, exact: bool) -> tuple[Any, list[jax.Array]]:
        """Call `function` with arrays in the places of handles, by the handles' `id`.

        Returns what it returns, as arrays, and the arrays in the order of `arrays` after what it wrote. `exact`:
        float32 products keep all their bits, also on chips that would take fewer.
        """
        environment = self._environment
        # In inference mode torch hands composite operations on whole, of which torchax knows only the parts.
        with _quiet(), torch.inference_mode(False), torch.no_grad():
            tensors = {key: environment.j2t_iso(array) for key, array in arrays.items()}
            precision = jax.default_matmul_precision("highest" if exact else "default")
            with precision, environment, TracedHandles(tensors, environment):
                found = function()
        return environment.t2j_iso(found), [tensor.jax() for tensor in tensors.values()]


class Handles(TorchFunctionMode):
    """Puts a program's tensors in the places of handles, and 32 bits in the place of 64, in every call of torch.

    A runtime says how it calls a kernel, and what it takes for a tensor of the host (`kernel`, `constant`).
    """

    def __init__(self, tensors: Mapping[int, torch.Tensor]) -> None:
        super().__init__()
        self._tensors = tensors

    def kernel(self, kernel: Callable[..., Any], *tensors: torch.Tensor | None, **static: Any) -> Any:
        """Call a JAX function with the program's tensors."""
        raise NotImplementedError

    def constant(self, value: torch.Tensor) -> torch.Tensor:
        """Return the program's tensor for one that is no handle."""
        raise NotImplementedError

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        args, kwargs = _pytree.tree_map(self._replace, (tuple(args), dict(kwargs or {})))
        if func is call:
            return self.kernel(*args[1:], **kwargs)
        if func is torch.promote_types:  # of dtypes, not of tensors; torchax would look for tensors
            with no_dispatch(), torch._C.DisableTorchFunction():
                return func(*args)
        if func is torch.Tensor.long:
            return args[0].to(torch.int32)
        if func is torch.Tensor.argmax:  # torchax would reduce pairs, see `sampling.argmax`
            return self.kernel(sampling.argmax, args[0])
        return func(*args, **kwargs)

    def _replace(self, value: Any) -> Any:
        if isinstance(value, torch.dtype):
            return NARROWER.get(value, value)
        if type(value) not in (torch.Tensor, torch.nn.Parameter):
            return value
        known = self._tensors.get(id(value))
        return self.constant(value) if known is None else known


class TracedHandles(Handles):
    """Those of torchax: arrays that JAX traces."""

    def __init__(self, tensors: Mapping[int, torch.Tensor], environment: Any) -> None:
        super().__init__(tensors)
        self._environment = environment

    def kernel(self, kernel: Callable[..., Any], *tensors: torch.Tensor | None, **static: Any) -> Any:
        arrays = self._environment.t2j_iso(tensors)
        return self._environment.j2t_iso(kernel(*arrays, **static))

    def constant(self, value: torch.Tensor) -> Any:
        return self._environment.j2t_iso(jnp.asarray(to_array(value)))


def _import_torchax() -> Any:
    """Return an environment of torchax's; what importing it changes in the process is put back."""
    before, fast_path = os.environ.get(TELEMETRY), torch.backends.mha.get_fastpath_enabled()
    from torchax.tensor import Environment

    torch.backends.mha.set_fastpath_enabled(fast_path)
    if before is None:
        os.environ.pop(TELEMETRY, None)
    return Environment()


@contextmanager
def _quiet() -> Iterator[None]:
    """Let torchax ask for 64 bits where it knows no better: it is given 32, and that is meant."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Explicitly requested dtype")
        yield
