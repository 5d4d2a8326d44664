"""The hooks of xpu."""

from __future__ import annotations

import importlib
import importlib.util
from typing import TYPE_CHECKING

import torch

from quire.backend.accelerator.graphs import GraphApi
from quire.backend.contract import BackendCaps, Device, Selection
from quire.backend.hookspecs import hookimpl
from quire.errors import BackendError
from quire_kernels_triton.gpu_backend import GpuBackend, Platform, check_choice
from quire_xpu.manifest import SUPPORT

if TYPE_CHECKING:
    from quire_kernels_triton.tuning import Target

EXTENSION = "intel_extension_for_pytorch"
SMALL = 16  # Xe cores of a small GPU


def find_platform() -> Platform:
    """Return what this torch offers on Intel's GPUs: graphs and collectives are not in every build."""
    graph = getattr(torch.xpu, "XPUGraph", None)
    collectives = "xccl" if torch.distributed.is_available() and torch.distributed.is_xccl_available() else None
    return Platform("xpu", torch.xpu, GraphApi(torch.xpu, graph) if graph is not None else None, collectives)


class XpuBackend(GpuBackend):
    """The backend. Option `ipex` ("off" or "on"): import Intel's extension for torch, which replaces ops of torch's.

    `target` is given where the GPU cannot be asked: by tests.
    """

    options = {"ipex": "on: import intel-extension-for-pytorch, which replaces ops of torch's (default: off)"}

    def __init__(self, platform: Platform | None = None, target: Target | None = None) -> None:
        super().__init__(platform or find_platform(), SUPPORT)
        self._target = target

    @hookimpl
    def quire_describe(self, selection: Selection) -> BackendCaps:
        """Say what the kernels can do. Raise ConfigError on an option or a value that does not exist."""
        check_choice(selection, "ipex", ("off", "on"))
        return super().quire_describe(selection)

    @hookimpl
    def quire_open_device(self, selection: Selection, rank: int) -> Device:
        """Open GPU number `rank`. Raise BackendError where the extension is wanted and cannot be imported."""
        if check_choice(selection, "ipex", ("off", "on")) == "on":
            import_extension()
        return super().quire_open_device(selection, rank)

    def find_target(self) -> Target:
        """Return the number of compute units of the current GPU; where there is none, that of a small one."""
        from quire_kernels_triton.tuning import Target

        if self._target is not None:
            return self._target
        found = torch.xpu.get_device_properties() if torch.xpu.is_available() else None
        return Target("xpu", found.gpu_subslice_count if found is not None else SMALL)

    @hookimpl
    def quire_collect_env(self) -> dict[str, str]:
        """Return versions, the GPUs that torch sees, and how steps and collectives run."""
        runtime, platform = self.platform.runtime, self.platform
        gpus = [runtime.get_device_name(index) for index in range(runtime.device_count())]
        return {
            "torch": torch.__version__,
            "torch's SYCL": str(getattr(torch.version, "xpu", None)),
            "GPUs": ", ".join(gpus) or "none",
            "graphs": "captured" if platform.graphs else f"none: torch {torch.__version__} has no torch.xpu.XPUGraph",
            "collectives": platform.collectives or "gloo, through the host: this torch is built without XCCL",
            EXTENSION: "installed" if importlib.util.find_spec(EXTENSION) else "not installed",
            "support": SUPPORT,
        }


def import_extension() -> None:
    """Import Intel's extension for torch. Raise BackendError saying why it cannot be."""
    try:
        importlib.import_module(EXTENSION)
    except (Exception, SystemExit) as error:  # it is tied to one torch, and fails in strange ways with another
        why = " ".join(str(error).split()) or type(error).__name__
        raise BackendError(
            f"ipex=on, but {EXTENSION} cannot be imported with torch {torch.__version__}: {why}; leave ipex off: "
            "torch's own device xpu needs no extension"
        ) from error
