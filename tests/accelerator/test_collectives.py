"""Collectives by one of torch's backends: what each rank is given, along any axis."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from quire.backend.accelerator.collectives import DeviceCommunicator
from quire.errors import BackendError


def test_two_ranks_agree_and_their_inputs_are_left_alone(tmp_path):
    script = str(Path(__file__).with_name("collective_rank.py"))
    commands = [[sys.executable, script, str(rank), f"file://{tmp_path}/meet"] for rank in (0, 1)]
    ranks = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for command in commands]
    first, second = (json.loads(rank.communicate(timeout=240)[0]) for rank in ranks)
    gathered = [[0.0, 1.0, 0.0, 2.0], [2.0, 3.0, 4.0, 6.0]]
    copied, reduced = [[1.0, 3.0], [5.0, 7.0]], [[0.0, 3.0], [6.0, 9.0]]
    inputs = [[0.0, 1.0], [2.0, 3.0]], [[0.0, 2.0], [4.0, 6.0]]
    assert first == [gathered, [[0.0], [6.0]], copied, reduced, inputs[0], inputs[0]]
    assert second == [gathered, [[3.0], [9.0]], copied, reduced, inputs[1], inputs[1]]


def test_ranks_without_a_process_group_are_refused_with_what_to_call():
    with pytest.raises(BackendError, match="call init_process_group before opening ranks"):
        DeviceCommunicator([0, 1], torch.device("cpu"), "gloo")
