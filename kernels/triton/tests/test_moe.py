"""moe: pairs aligned to blocks of one expert, and the same sums however they are blocked."""

from __future__ import annotations

import pytest
import torch

from quire.ops import reference
from quire_kernels_triton.moe import PLACED_AT_ONCE, MixtureOfExperts, fit_experts
from quire_kernels_triton.tuning import EXPERT_ROWS, Target, settings_for


def chosen(num_tokens, num_experts, top_k, seed=0):
    scores = torch.rand(num_tokens, num_experts, generator=torch.Generator().manual_seed(seed))
    return scores.topk(top_k).indices


def inputs(experts, num_experts, hidden_size=48, intermediate_size=24, dtype=torch.float16):
    generator = torch.Generator().manual_seed(1)

    def normal(*shape):
        return torch.randn(shape, generator=generator) * shape[-1] ** -0.25

    return {
        "x": normal(len(experts), hidden_size).to(dtype),
        "weights": normal(*experts.shape).softmax(-1),
        "experts": experts,
        "gate_up": normal(num_experts, 2 * intermediate_size, hidden_size).to(dtype),
        "down": normal(num_experts, hidden_size, intermediate_size).to(dtype),
    }


def slots_by_block(blocks, rows):
    """Return every used block's expert and pairs."""
    used = [(index, count) for index, count in enumerate(blocks.rows.tolist()) if count]
    return [
        (int(blocks.expert[index]), blocks.pair_of_slot[index * rows : index * rows + count].tolist())
        for index, count in used
    ]


@pytest.mark.parametrize(("num_tokens", "num_experts", "top_k"), [(17, 1, 1), (40, 5, 3), (9, 60, 4), (1500, 7, 3)])
def test_every_pair_stands_once_in_a_block_of_its_expert(target, num_tokens, num_experts, top_k):
    experts = chosen(num_tokens, num_experts, top_k)
    assert (experts.numel() > PLACED_AT_ONCE) == (num_tokens == 1500)
    found = slots_by_block(MixtureOfExperts(target)._align(experts, num_experts, 16), 16)
    assert sorted(pair for _, pairs in found for pair in pairs) == list(range(experts.numel()))
    assert all(int(experts.flatten()[pair]) == expert for expert, pairs in found for pair in pairs)


def test_an_experts_blocks_are_full_but_for_the_last(target):
    experts = torch.tensor([[3]] * 37 + [[0]] * 3)
    found = slots_by_block(MixtureOfExperts(target)._align(experts, 5, 16), 16)
    assert [(expert, len(pairs)) for expert, pairs in found] == [(0, 3), (3, 16), (3, 16), (3, 5)]


@pytest.mark.parametrize("rows", EXPERT_ROWS)
def test_blocks_of_every_size_give_the_references_sums(target, rows):
    given = inputs(chosen(19, 6, 2), 6)
    compute = MixtureOfExperts(target)
    compute._settings = {EXPERT_ROWS[0]: compute._settings[rows]._replace(out=32, inner=32)}
    torch.testing.assert_close(compute(**given), reference.moe(**given), rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("num_tokens", [1, 4, 8, 9])
def test_few_tokens_that_share_an_expert_are_right(target, num_tokens):
    given = inputs(torch.tensor([[2, 0]]).expand(num_tokens, 2), 3)
    torch.testing.assert_close(MixtureOfExperts(target)(**given), reference.moe(**given), rtol=1e-2, atol=1e-2)


def test_a_token_of_nan_spoils_no_other(target):
    given = inputs(chosen(12, 4, 2), 4)
    expected = reference.moe(**given)
    given["x"][5] = float("nan")
    out = MixtureOfExperts(target)(**given)
    others = [row for row in range(12) if row != 5]
    assert out[5].isnan().all()
    torch.testing.assert_close(out[others], expected[others], rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize(("num_pairs", "rows"), [(8, 16), (2048, 16), (4096, 32), (1 << 16, 128), (1 << 20, 128)])
def test_blocks_are_as_large_as_experts_have_pairs_on_average(num_pairs, rows):
    settings = settings_for("sm_90").experts
    assert fit_experts(settings, num_pairs, 128, torch.bfloat16).rows == rows


def test_offsets_of_experts_past_32_bits_are_found():
    given = inputs(torch.tensor([[2], [0]]), 3)
    far = (1 << 30) + 64
    space = torch.empty(2 * far + given["gate_up"][0].numel(), dtype=torch.float16)
    given["gate_up"] = space.as_strided(given["gate_up"].shape, (far, *given["gate_up"].stride()[1:])).copy_(
        given["gate_up"]
    )
    out = MixtureOfExperts(Target("interpreter", 4))(**given)
    torch.testing.assert_close(out, reference.moe(**given), rtol=1e-2, atol=1e-2)
