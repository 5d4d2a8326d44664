"""What a step computes: of a prompt's last layer no more than is sampled from."""

from __future__ import annotations

import pytest
import torch

from quire.execution.inputs import Sizes, views
from quire.execution.step import FEW_SAMPLED, StepFunctions, StepKernels


class Model:
    """Gives each token its id as hidden state, and keeps what it was asked for."""

    logits_dtype = torch.float32

    def __init__(self):
        self.wanted = []

    def forward(self, input_ids, positions, caches, batch, wanted=None):
        self.wanted.append(wanted)
        hidden = input_ids.float()[:, None]
        return hidden if wanted is None else hidden[wanted]

    def logits(self, hidden):
        return torch.nn.functional.one_hot(hidden[:, 0].long(), 100).float()


def gather(tokens, blocks, token_rows, positions, rows, block_size, num_blocks):
    return tokens[token_rows, positions], positions, positions, blocks[rows]


def select(hidden, index):
    return hidden[index], hidden[index].isfinite().all(-1)


class Rows:
    tokens = torch.arange(100, dtype=torch.int32)[None].clone()
    blocks = torch.zeros(1, 7, dtype=torch.int32)


def step_of(num_tokens, sampled):
    sizes = Sizes(num_tokens, 1, len(sampled))
    inputs = views(torch.zeros(sizes.packed_len(), dtype=torch.int32), sizes, num_tokens, 99)
    inputs.positions.copy_(torch.arange(num_tokens))
    inputs.sample_index.copy_(torch.tensor(sampled))
    inputs.sample_positions.fill_(99)
    return inputs


@pytest.fixture
def model():
    return Model()


@pytest.fixture
def steps(model):
    return StepFunctions(model, [], Rows(), 16, StepKernels(gather, select, None))


@pytest.mark.parametrize(("num_tokens", "sampled"), [(FEW_SAMPLED, [3]), (40, [39]), (40, [5, 39, 0])])
def test_of_a_long_step_only_sampled_tokens_pass_the_last_layer(model, steps, num_tokens, sampled):
    chosen = steps.greedy(step_of(num_tokens, sampled))
    assert [wanted.tolist() for wanted in model.wanted] == [sampled]
    assert chosen.token_ids.tolist() == sampled
    assert chosen.finite.all()


@pytest.mark.parametrize(("num_tokens", "sampled"), [(1, [0]), (FEW_SAMPLED - 1, [2]), (5, [4, 1])])
def test_a_short_step_is_computed_whole(model, steps, num_tokens, sampled):
    assert steps.greedy(step_of(num_tokens, sampled)).token_ids.tolist() == sampled
    assert model.wanted == [None]


def test_a_step_that_samples_nothing_ends_with_keys_and_values(model, steps):
    steps.fill(step_of(40, []))
    assert [len(wanted) for wanted in model.wanted] == [0]


def test_an_unsound_state_is_seen_at_its_sample(model, steps):
    forward = model.forward

    def broken(*args):
        hidden = forward(*args)
        return torch.where(hidden == 7, torch.nan, hidden)

    model.forward = broken
    model.logits = lambda hidden: torch.zeros(len(hidden), 100)
    assert steps.greedy(step_of(40, [3, 7, 39])).finite.tolist() == [True, False, True]
