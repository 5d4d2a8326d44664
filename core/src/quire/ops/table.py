"""The kernel table: who serves each op, and why not the others.

Resolved once while the model is built; a layer keeps the callable it is given. Nothing here runs in a step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain
from typing import Any, NamedTuple

from quire.backend.contract import Kernel, KernelRequest, WeightTransform
from quire.errors import BackendError, KernelError
from quire.ops.spec import Op

COMPOSED = "composed"


class PassedOver(NamedTuple):
    """A kernel that was not chosen, and why."""

    provider: str
    reasons: tuple[str, ...]


class Resolution(NamedTuple):
    """The kernel that serves a request. `transform`, if any, repacks the layer's weight at load time; a composite's is
    that of the part which has one."""

    request: KernelRequest
    provider: str
    function: Callable[..., Any]
    graph_safe: bool
    transform: WeightTransform | None
    passed_over: tuple[PassedOver, ...]


class KernelTable:
    """Kernels by op. `resolutions` remembers every answer given, for `quire backends --kernels` and reports."""

    def __init__(self, ops: Iterable[Op]) -> None:
        self.ops: Mapping[str, Op] = {op.name: op for op in ops}
        self.resolutions: list[Resolution] = []
        self._kernels: dict[str, list[Kernel]] = {name: [] for name in self.ops}
        self._transforms: dict[tuple[str, str], WeightTransform] = {}

    def register(self, kernel: Kernel) -> None:
        """Add a kernel. Raise BackendError on an op that does not exist or a provider that has one already."""
        self._check_op(kernel.op, kernel.provider)
        if any(other.provider == kernel.provider for other in self._kernels[kernel.op]):
            raise BackendError(f"{kernel.provider!r} registered a kernel for {kernel.op!r} twice")
        self._kernels[kernel.op].append(kernel)

    def register_transform(self, transform: WeightTransform) -> None:
        """Add load-time repacking. Raise BackendError on an op that does not exist."""
        self._check_op(transform.op, transform.provider)
        self._transforms[transform.op, transform.provider] = transform

    def bind(self, request: KernelRequest) -> Callable[..., Any]:
        """Return the callable that serves `request`. Raise KernelError with every kernel's reasons if none can."""
        return self.resolve(request).function

    def resolve(self, request: KernelRequest) -> Resolution:
        """Choose the kernel of highest priority that has no reason against it; a composite before the reference."""
        self._check_op(request.op, "a layer")
        passed_over: list[PassedOver] = []
        for kernel in self._candidates(request.op):
            if kernel.priority <= 0 and self.ops[request.op].compose is not None:
                break
            reasons = _reasons_against(kernel, request)
            if not reasons:
                return self._remember(_resolution(kernel, request, self._transforms, passed_over))
            passed_over.append(PassedOver(kernel.provider, reasons))
        return self._remember(self._compose(request, passed_over))

    def serves(self, request: KernelRequest) -> bool:
        """Say whether a kernel other than the reference serves the whole of `request`."""
        candidates = (kernel for kernel in self._candidates(request.op) if kernel.priority > 0)
        return any(not _reasons_against(kernel, request) for kernel in candidates)

    def providers(self, op: str) -> list[str]:
        """Return the providers of an op, best first."""
        return [kernel.provider for kernel in self._candidates(op)]

    def kernels(self) -> Iterator[Kernel]:
        """Yield every kernel."""
        return chain.from_iterable(self._kernels.values())

    def _candidates(self, op: str) -> list[Kernel]:
        return sorted(self._kernels[op], key=lambda kernel: -kernel.priority)

    def _compose(self, request: KernelRequest, passed_over: list[PassedOver]) -> Resolution:
        compose = self.ops[request.op].compose
        if compose is None:
            raise KernelError(_no_kernel(request, passed_over))
        parts: list[Resolution] = []

        def bind(part: KernelRequest) -> Callable[..., Any]:
            parts.append(self.resolve(part))
            return parts[-1].function

        function = compose(request, bind)
        safe = all(part.graph_safe for part in parts)
        transform = next((part.transform for part in parts if part.transform is not None), None)
        return Resolution(request, COMPOSED, function, safe, transform, tuple(passed_over))

    def _remember(self, resolution: Resolution) -> Resolution:
        self.resolutions.append(resolution)
        return resolution

    def _check_op(self, op: str, who: str) -> None:
        if op not in self.ops:
            raise BackendError(f"{who!r} names op {op!r}, which does not exist; ops are {', '.join(sorted(self.ops))}")


def _reasons_against(kernel: Kernel, request: KernelRequest) -> tuple[str, ...]:
    if request.dtype not in kernel.dtypes:
        return (f"serves {', '.join(kernel.dtypes)}, not {request.dtype}",)
    return tuple(kernel.constraint(request))


def _resolution(
    kernel: Kernel,
    request: KernelRequest,
    transforms: Mapping[tuple[str, str], WeightTransform],
    passed_over: list[PassedOver],
) -> Resolution:
    transform = transforms.get((kernel.op, kernel.provider))
    return Resolution(request, kernel.provider, kernel.function, kernel.graph_safe, transform, tuple(passed_over))


def _no_kernel(request: KernelRequest, passed_over: list[PassedOver]) -> str:
    why = "; ".join(f"{item.provider}: {', '.join(item.reasons)}" for item in passed_over) or "none is registered"
    return f"no kernel serves {request.op} in {request.dtype} with {dict(request.attributes)} ({why})"
