"""From a model's name to its folder, and from the folder to weights that sit in the layers.

One tensor at a time: allocate a parameter, copy its parts out of the memory-mapped files (casting on the way), check
that they are finite, hand it to its layer, go on. So memory peaks at the weights and one tensor.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from quire.errors import ModelError
from quire.models.checkpoint import TensorSource
from quire.models.context import DecoderModel, Parameter
from quire.models.resolve import resolve_path

__all__ = ["Progress", "fill_dummy", "load_weights", "resolve_path", "show_progress"]

NOISE_PERIOD = 1_048_583
"""Dummy weights repeat after so many: copying is ten times as fast as drawing. Prime, so that rows do not line up."""

Progress = Callable[[int, int], None]
"""Told after each parameter: how many weights are loaded, and how many there are."""


def load_weights(model: DecoderModel, path: Path, progress: Progress | None = None) -> None:
    """Fill every parameter of the model from the safetensors files of a folder.

    Raise ModelError, naming tensors, when files are missing or cut off, names or shapes do not match, or a weight is
    NaN or infinite in the model's dtype.
    """
    parameters = list(model.parameters())
    total, done = sum(map(_numel, parameters)), 0
    with model.open_weights(path) as checkpoint:
        _check_names(parameters, checkpoint, model.ignored_tensors)
        for parameter in parameters:
            parameter.install(_load(parameter, checkpoint))
            done += _numel(parameter)
            if progress is not None:
                progress(done, total)


def fill_dummy(model: DecoderModel, seed: int) -> None:
    """Fill every parameter with seeded uniform noise of a scale that keeps activations sensible, made on its device.

    For measuring speed and memory without a download. The same seed gives the same weights on the same device.
    """
    for parameter in model.parameters():
        tensor = parameter.allocate(parameter.shape, parameter.dtype)
        _fill_noise(tensor, parameter, seed)
        parameter.install(tensor)


@contextmanager
def show_progress(label: str = "loading weights") -> Iterator[Progress]:
    """Show a progress bar, if stderr is a terminal, until the end; yields the callback that moves it."""
    from rich.console import Console
    from rich.progress import Progress as Bars

    console = Console(stderr=True)
    with Bars(console=console, transient=True, disable=not console.is_terminal) as bars:
        task = bars.add_task(label)
        yield lambda done, total: bars.update(task, completed=done, total=total)


def _fill_noise(tensor: torch.Tensor, parameter: Parameter, seed: int) -> None:
    name = parameter.sources[0].name
    generator = torch.Generator(tensor.device).manual_seed(zlib.crc32(f"{seed} {name}".encode()))
    reach = parameter.std * 3**0.5
    weights = tensor.view(-1)
    filled = min(NOISE_PERIOD, len(weights))
    weights[:filled].uniform_(parameter.center - reach, parameter.center + reach, generator=generator)
    while filled < len(weights):
        added = min(filled, len(weights) - filled)
        weights[filled : filled + added] = weights[:added]
        filled += added


def _load(parameter: Parameter, checkpoint: TensorSource) -> torch.Tensor:
    tensor = parameter.allocate(parameter.shape, parameter.dtype)
    for source in parameter.sources:
        target = tensor[source.place]
        _check_shape(source.name, checkpoint.shape(source.name), tuple(target.shape), checkpoint.path)
        found = checkpoint.read(source.name)
        _check_dtype(source.name, found.dtype, target.dtype, checkpoint.path)
        target.copy_(found)
        _check_finite(source.name, target, checkpoint.path)
    return tensor.add_(parameter.offset) if parameter.offset else tensor


def _check_names(parameters: list[Parameter], checkpoint: TensorSource, ignored: tuple[str, ...]) -> None:
    wanted = {source.name for parameter in parameters for source in parameter.sources}
    missing = sorted(wanted - checkpoint.names)
    if missing:
        raise ModelError(f"{checkpoint.path} lacks {_some(missing)}; does config.json belong to these weights?")
    left = (name for name in checkpoint.names - wanted if not any(part in name for part in ignored))
    unexpected = sorted(left)
    if unexpected:
        raise ModelError(
            f"{checkpoint.path} holds {_some(unexpected)}, which this architecture does not have; "
            "does config.json belong to these weights?"
        )


def _check_shape(name: str, found: tuple[int, ...], wanted: tuple[int, ...], path: Path) -> None:
    if found != wanted:
        raise ModelError(f"{path}: tensor {name} has shape {list(found)}; by config.json it must be {list(wanted)}")


def _check_dtype(name: str, found: torch.dtype, wanted: torch.dtype, path: Path) -> None:
    # Integers and eight-bit floats are codes that need a scale: as plain numbers they would load, and mean nothing.
    if wanted.is_floating_point and not (found.is_floating_point and found.itemsize > 1):
        raise ModelError(
            f"{path}: tensor {name} holds {found}, which looks quantized and is not supported yet; use a checkpoint in "
            "float32, bfloat16 or float16"
        )


def _check_finite(name: str, tensor: torch.Tensor, path: Path) -> None:
    # The extremes tell: Inf is one, and NaN spreads to both. 8 ms for 16M bfloat16 weights; isfinite().all() takes 112
    # (2 cores of a Zen 4, 2026-11).
    if not torch.isfinite(torch.stack(tensor.aminmax())).all():
        raise ModelError(
            f"{path}: tensor {name} holds NaN or Inf in {tensor.dtype}; the file is damaged, or its values need a "
            "wider dtype (try dtype=float32)"
        )


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:4])
    return f"{len(names)} tensor{'s' * (len(names) > 1)} ({shown}{', …' if len(names) > 4 else ''})"


def _numel(parameter: Parameter) -> int:
    return math.prod(parameter.shape)
