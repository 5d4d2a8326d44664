"""Checkpoint: the tensors of a folder of safetensors files, read one at a time through memory maps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from safetensors import SafetensorError, safe_open

from quire.errors import ModelError
from quire.models.checkpoint_config import read_json

INDEX = "model.safetensors.index.json"
MAPPED_BYTES = 64 << 20
"""A file is opened anew after so many bytes were read from it: what is mapped counts as the process's memory."""
PICKLES = ("*.bin", "*.pt", "*.pth")


class TensorSource(Protocol):
    """Tensors by name, read one at a time."""

    path: Path

    @property
    def names(self) -> frozenset[str]: ...

    def shape(self, name: str) -> tuple[int, ...]: ...

    def read(self, name: str) -> torch.Tensor:
        """Return a tensor, to be copied from. Raise ModelError if the file is damaged."""
        ...


class OpenFile:
    """A safetensors file. Mappings that hold much are given up: else, when all is read, files count beside weights."""

    def __init__(self, path: Path, mapped_bytes: int = MAPPED_BYTES) -> None:
        self._path = path
        self._mapped_bytes = mapped_bytes
        self._file = _open(path)
        self._read_bytes = 0

    def names(self) -> list[str]:
        """Return the names of its tensors."""
        return list(self._file.keys())

    def shape(self, name: str) -> tuple[int, ...]:
        """Return a tensor's shape, without reading it."""
        return tuple(self._file.get_slice(name).get_shape())

    def read(self, name: str) -> torch.Tensor:
        """Return a tensor, backed by the file. Raise SafetensorError."""
        if self._read_bytes > self._mapped_bytes:
            self.close()  # a tensor that is still held keeps the mapping
            self._file, self._read_bytes = _open(self._path), 0
        tensor: torch.Tensor = self._file.get_tensor(name)
        self._read_bytes += tensor.nbytes
        return tensor

    def close(self) -> None:
        """Let go of the file."""
        self._file.__exit__(None, None, None)


class Stored(NamedTuple):
    """A tensor's open file, and its name there."""

    file: OpenFile
    name: str


class Checkpoint:
    """Open files of one checkpoint. `names` are its tensors. Open it with `open_checkpoint`."""

    def __init__(self, path: Path, tensors: Mapping[str, Stored]) -> None:
        self.path = path
        self._tensors = tensors

    @property
    def names(self) -> frozenset[str]:
        return frozenset(self._tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return a tensor's shape, without reading it."""
        file, stored_name = self._tensors[name]
        return file.shape(stored_name)

    def read(self, name: str) -> torch.Tensor:
        """Return a tensor, backed by the file: to be copied from. Raise ModelError if the file is damaged."""
        file, stored_name = self._tensors[name]
        try:
            return file.read(stored_name)
        except SafetensorError as error:
            raise ModelError(f"{self.path}: tensor {name} cannot be read ({error}); download it again") from error


@contextmanager
def open_checkpoint(path: Path, body: str = "") -> Iterator[Checkpoint]:
    """Open every safetensors file of a model folder. `body` is what the names of all but the head begin with; where a
    checkpoint of the body alone (embedding models) leaves it out, it is put before its names.

    Raise ModelError when there is none, a shard is missing, a file is cut off, or weights are only there as pickles.
    """
    with ExitStack() as stack:
        stored = {}
        for file in _find_files(path):
            opened = stack.enter_context(closing(OpenFile(file)))
            stored.update({name: Stored(opened, name) for name in opened.names()})
        bare = not any(name.startswith(body) for name in stored)
        yield Checkpoint(path, {f"{body}{name}": tensor for name, tensor in stored.items()} if bare else stored)


def _find_files(path: Path) -> list[Path]:
    """Return the safetensors files that hold the weights. Raise ModelError as `open_checkpoint` does."""
    if (path / INDEX).exists():
        return _indexed_files(path)
    if (path / "model.safetensors").exists():
        return [path / "model.safetensors"]
    files = sorted(path.glob("*.safetensors"))
    if not files:
        raise ModelError(_no_weights(path))
    return files


def _indexed_files(path: Path) -> list[Path]:
    shards = sorted(set(read_json(path / INDEX).get("weight_map", {}).values()))
    missing = [name for name in shards if not (path / name).exists()]
    if missing:
        raise ModelError(
            f"{path} lacks {len(missing)} of {len(shards)} shards that {INDEX} names ({', '.join(missing[:3])}); "
            "download the model again"
        )
    return [path / name for name in shards]


def _open(file: Path) -> Any:
    try:
        return safe_open(file, framework="pt")
    except (SafetensorError, OSError) as error:
        raise ModelError(_damaged(file, error)) from error


def _damaged(file: Path, error: Exception) -> str:
    return f"{file} is cut off or no safetensors file ({error}); download it again"


def _no_weights(path: Path) -> str:
    pickles = sorted(file.name for pattern in PICKLES for file in path.glob(pattern))
    if not pickles:
        return f"{path} holds no *.safetensors; give a folder with weights, or use load_format=dummy"
    return (
        f"{path} holds its weights only as pickles ({', '.join(pickles[:3])}), which can run code when they are read. "
        "Convert them where you trust them: AutoModelForCausalLM.from_pretrained(PATH).save_pretrained(NEW_PATH)"
    )
