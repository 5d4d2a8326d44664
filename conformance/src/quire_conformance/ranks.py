"""Collectives in several processes. `python -m quire_conformance.ranks NAME OPTIONS RANK SIZE STORE` is one of them.

Each rank says what it found as JSON on the last line of stdout.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quire_conformance.hygiene import child_environment

if TYPE_CHECKING:
    import torch

    from quire.backend.contract import Communicator
    from quire_conformance.target import Target

MARK = "quire-conformance-rank:"
TIMEOUT_S = 240
SHAPES = ((6,), (6, 5), (12, 6))
DTYPES = ("float32", "bfloat16", "int64")


@dataclass(frozen=True)
class RankReport:
    """One rank's findings: problems by collective, and collectives that wrote to their input."""

    rank: int
    size: int = 0
    error: str = ""
    problems: Mapping[str, list[str]] = field(default_factory=dict)
    written: tuple[str, ...] = ()


def run_ranks(target: Target, size: int) -> list[RankReport]:
    """Run all ranks at once and return their reports in order."""
    options = json.dumps(dict(target.settings.options))
    with tempfile.TemporaryDirectory() as folder:
        store = str(Path(folder) / "store")
        commands = [
            [sys.executable, "-m", "quire_conformance.ranks", target.name, options, str(rank), str(size), store]
            for rank in range(size)
        ]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": child_environment()}
        ranks: list[Any] = [subprocess.Popen(command, **pipes) for command in commands]  # type: ignore[call-overload]
        return [_report(rank, process) for rank, process in enumerate(ranks)]


def _report(rank: int, process: Any) -> RankReport:
    try:
        out, errors = process.communicate(timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return RankReport(rank, error=f"it hangs: no answer in {TIMEOUT_S} s")
    _, mark, found = out.partition(MARK)
    if not mark:
        return RankReport(rank, error=(errors.strip().splitlines() or [f"it ended with {process.returncode}"])[-1])
    return RankReport(**json.loads(found))


# -- one rank ----------------------------------------------------------------------------------------------------------


def inside(name: str, options: Mapping[str, str], rank: int, size: int, store: str) -> RankReport:
    """Be rank `rank` of `size`: open the backend there and try every collective."""
    import torch
    import torch.distributed

    from quire.backend.manager import open_backend, select

    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=size)
    backend = open_backend(select(name, options))
    device = backend.open_device(rank)
    communicator = backend.create_communicator(range(size), device)
    problems: dict[str, list[str]] = {name: [] for name in COLLECTIVES}
    written: list[str] = []
    for collective, inputs, found, right in _results(communicator, size, device.torch_device):
        if found.shape != right.shape or not torch.equal(found.cpu(), right):
            problems[collective].append(f"{list(right.shape)} {right.dtype}: {_brief(found)}, not {_brief(right)}")
        if not torch.equal(inputs.cpu(), _part(rank, tuple(inputs.shape), inputs.dtype)):
            written.append(collective)
    communicator.barrier()
    place = (communicator.rank, communicator.size)
    communicator.close()
    torch.distributed.destroy_process_group()
    return RankReport(*place, "", problems, tuple(dict.fromkeys(written)))


def _results(
    communicator: Communicator, size: int, device: torch.device
) -> Iterator[tuple[str, torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Yield collective, this rank's input afterwards, the result, and what is right."""
    import torch

    for shape in SHAPES:
        for dtype in (getattr(torch, name) for name in DTYPES):
            parts = [_part(rank, shape, dtype) for rank in range(size)]
            for name, (call, right) in COLLECTIVES.items():
                for dim in range(len(shape)) if name in ("all_gather", "reduce_scatter") else (0,):
                    if name == "reduce_scatter" and shape[dim] % size:
                        continue
                    mine = parts[communicator.rank].to(device, copy=True)
                    yield name, mine, call(communicator, mine, dim), right(parts, dim, communicator.rank)


def _part(rank: int, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """Return a rank's input: small integers, so that sums are exact in any dtype."""
    import torch

    count = 1
    for size in shape:
        count *= size
    return ((torch.arange(count) * (rank + 2)) % 17).reshape(shape).to(dtype)


def _sum(parts: list[torch.Tensor]) -> torch.Tensor:
    import torch

    return torch.stack(parts).sum(0).to(parts[0].dtype)


def _concatenate(parts: list[torch.Tensor], dim: int) -> torch.Tensor:
    import torch

    return torch.cat(parts, dim)


def _brief(tensor: torch.Tensor) -> str:
    return f"{tensor.flatten()[:4].tolist()}…"


Call = Callable[..., Any]
COLLECTIVES: Mapping[str, tuple[Call, Call]] = {
    "all_reduce": (lambda c, mine, dim: c.all_reduce(mine), lambda parts, dim, rank: _sum(parts)),
    "all_gather": (lambda c, mine, dim: c.all_gather(mine, dim), lambda parts, dim, rank: _concatenate(parts, dim)),
    "reduce_scatter": (
        lambda c, mine, dim: c.reduce_scatter(mine, dim),
        lambda parts, dim, rank: _sum(parts).chunk(len(parts), dim)[rank].contiguous(),
    ),
    "broadcast": (lambda c, mine, dim: c.broadcast(mine, c.size - 1), lambda parts, dim, rank: parts[-1]),
}

if __name__ == "__main__":
    backend_name, backend_options, own_rank, num_ranks, rendezvous = sys.argv[1:]
    report = inside(backend_name, json.loads(backend_options), int(own_rank), int(num_ranks), rendezvous)
    print(MARK + json.dumps(asdict(report)), flush=True)
