"""`quire replay`: make the decisions of a recorded run again, without a device."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from quire.errors import QuireError


def replay(
    file: Annotated[Path, typer.Argument(help="A recording, written by --record.", exists=True, dir_okay=False)],
) -> None:
    """Replay a recording's arrivals through the scheduler and compare every plan; exit code 1 where one differs."""
    from quire.scheduling.replay import replay as replay_recording

    report = replay_recording(file)
    print(f"{report.num_requests} requests, {report.num_steps} steps, plan hash {report.plan_hash}")
    if report.divergence is not None:
        raise QuireError(f"{file} was decided otherwise: {report.divergence}")
    print("every plan is the recorded one")
