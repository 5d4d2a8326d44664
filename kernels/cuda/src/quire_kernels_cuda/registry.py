"""Put the kernels in CUDA C++ into a kernel table, for the GPUs and layers that they were made for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from typing import Any

from quire.backend.contract import Kernel, KernelRegistrar, KernelRequest
from quire_kernels_triton.linear import Linear
from quire_kernels_triton.rotary import qkv_rope_write
from quire_kernels_triton.tuning import Target

PROVIDER = "cuda-c++"
FAMILY = "sm_90"
MAX_WEIGHTS = 10_000_000  # of gate and up together: timed with 6 million; far larger products are the vendor's
MULTIPLE = 64  # of hidden and intermediate size: a step of the inner axis, and a tile of outputs
HEAD_DIMS = (64, 128)


def register_kernels(table: KernelRegistrar, target: Target) -> None:
    """Register what can be compiled here; of what cannot, the table says why."""
    missing = missing_parts(target)
    function = fused(target) if not missing else _refused
    constraint = partial(reasons_against, missing)
    table.register(Kernel("between_attentions", PROVIDER, function, ("bfloat16",), constraint))


def missing_parts(target: Target) -> Sequence[str]:
    """Return why nothing can be compiled for the GPU that is here, or by what is installed."""
    if target.family != FAMILY:
        return (f"made for GPUs of {FAMILY}, not {target.family}",)
    if find_spec("cuda") is None or find_spec("cuda.bindings") is None:
        return ("cuda.bindings, which compiles it, is not installed: pip install cuda-bindings",)
    return ()


def fused(target: Target) -> Callable[..., Any]:
    """Return between_attentions; for numbers of tokens that do not pay, in steps of their own."""
    from quire_kernels_cuda.between_attentions import BetweenAttentions, Steps

    linear = Linear(target)
    steps = Steps(linear.linear, linear.norm_linear, partial(qkv_rope_write, launch=target.launch))
    return BetweenAttentions(target, steps)


def reasons_against(missing: Sequence[str], request: KernelRequest) -> Sequence[str]:
    """Return why the kernels cannot serve a layer."""
    given = request.attributes
    head_dim, hidden_size, intermediate_size = given["head_dim"], given["hidden_size"], given["intermediate_size"]
    weights = 2 * intermediate_size * hidden_size
    wrong = {
        f"activation {given['activation']} is not silu_and_mul": given["activation"] != "silu_and_mul",
        f"head_dim {head_dim} is not one of {HEAD_DIMS}": head_dim not in HEAD_DIMS,
        f"rotary_dim {given['rotary_dim']} is not head_dim {head_dim}": given["rotary_dim"] != head_dim,
        f"hidden_size {hidden_size} is no multiple of {MULTIPLE}": hidden_size % MULTIPLE,
        f"intermediate_size {intermediate_size} is no multiple of {MULTIPLE}": intermediate_size % MULTIPLE,
        f"kv_dtype {given['kv_dtype']} is not bfloat16": given["kv_dtype"] != "bfloat16",
        f"gate and up have {weights} weights, more than {MAX_WEIGHTS}": weights > MAX_WEIGHTS,
    }
    return (*missing, *(reason for reason, there in wrong.items() if there))


def _refused(*args: Any) -> Any:
    raise AssertionError("a kernel that cannot be compiled was chosen")
