"""From layer to layer in one op, where a backend has it whole and the model has no more than it."""

from __future__ import annotations

from typing import Any

import pytest

from quire.backend.contract import Kernel, WeightTransform
from quire.ops import reference
from quire.ops.table import KernelTable

from .checkpoints import NATIVE, expected_logits, prompt, relative_error
from .harness import Runner

TOLERANCE = 1e-4
PLAIN = {
    "llama",
    "llama with one head",
    "llama tied",
    "mistral",
    "mistral with a window",
    "phi 3",
    "phi 3 with a window and partial rotation",
    "qwen 2",
    "qwen 2 with windows above",
    "qwen 3",
    "smollm 3",
}


class Whole:
    """A backend's kernel of between_attentions that counts its calls."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, *args: Any) -> Any:
        self.calls += 1
        return reference.between_attentions(*args)

    @property
    def kernel(self) -> Kernel:
        return Kernel("between_attentions", "test", self, ("float32",))


def test_with_it_logits_are_still_those_of_transformers(native):
    tokens, runner = prompt(29), native.runner(kernels=[Whole().kernel])
    found = [runner.logits([tokens[start:end]])[0] for start, end in ((0, 20), (20, 21), (21, 29))]
    expected = expected_logits(native.model, tokens)
    for logits, rows in zip(found, expected.split([20, 1, 8]), strict=True):
        assert relative_error(logits, rows) < TOLERANCE


@pytest.mark.parametrize("name", sorted(NATIVE))
def test_it_serves_every_way_between_plain_layers_and_no_other(name, write):
    whole = Whole()
    runner = write(*NATIVE[name]).runner(kernels=[whole.kernel])
    runner.logits([prompt(5)])
    ways = runner.spec.kv_layers - 1 if name in PLAIN else 0
    assert whole.calls == (1 if name == "qwen 3 moe" else ways)  # which has one layer without experts


def test_where_its_weights_are_repacked_layers_are_computed_one_by_one(write, monkeypatch):
    whole, register = Whole(), KernelTable.register

    def with_transform(table, kernel):
        register(table, kernel)
        if kernel.provider == "test":
            table.register_transform(WeightTransform("linear", "reference", lambda weight, request: weight))

    monkeypatch.setattr(KernelTable, "register", with_transform)
    Runner(write(*NATIVE["llama"]).path, kernels=[whole.kernel]).logits([prompt(5)])
    assert whole.calls == 0
