"""What a step computes: of its last layer no more than is sampled from. A real decoder, by reference kernels."""

from __future__ import annotations

import json

import pytest
import torch

from quire.backend.contract import Kernel, KernelRequest
from quire.backend.host_device import HostDevice
from quire.backend.reference import register_reference_kernels
from quire.execution.inputs import Sizes, views
from quire.execution.parts import Rows, StepFunctions, StepKernels, TorchAllocator
from quire.execution.step import FEW_SAMPLED
from quire.models import loader, registry
from quire.models.context import ModelContext
from quire.ops import reference
from quire.ops.records import OPS
from quire.ops.table import KernelTable

CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 97, "hidden_size": 32,
    "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "max_position_embeddings": 64, "tie_word_embeddings": False,
}  # fmt: skip
BLOCK_SIZE, MAX_LEN, BROKEN_TOKEN = 16, 64, 96


class Step:
    """A decoder of two layers, rows of tokens, and the rows that each product of a step was given."""

    def __init__(self, path):
        (path / "config.json").write_text(json.dumps(CONFIG))
        self.products = []
        table = KernelTable(OPS)
        register_reference_kernels(table)
        table.register(Kernel("linear", "counting", self.linear, ("float32",)))
        spec = registry.read_spec(path)
        context = ModelContext(table, torch.float32, torch.device("cpu"), max_model_len=MAX_LEN, block_size=BLOCK_SIZE)
        self.model = registry.build(path, spec, context)
        loader.fill_dummy(self.model, 0)
        self.model._embedding._weight[BROKEN_TOKEN] = torch.nan
        shape = (8, spec.num_kv_heads, BLOCK_SIZE, spec.head_dim)
        caches = [(torch.zeros(shape), torch.zeros(shape)) for _ in range(spec.kv_layers)]
        self.rows = Rows(HostDevice(), TorchAllocator(torch.device("cpu")), 2, MAX_LEN, 4)
        self.rows.tokens[:] = torch.arange(MAX_LEN + 1)
        self.rows.blocks[:2] = torch.arange(8).view(2, 4)
        ops = ("gather_step", "select_rows", "draw_tokens")
        kernels = StepKernels(*(table.bind(KernelRequest(op, "float32")) for op in ops))
        self.functions = StepFunctions(self.model, caches, self.rows, BLOCK_SIZE, kernels)

    def linear(self, x, weight, bias=None):
        self.products.append(len(x))
        return reference.linear(x, weight, bias)

    def inputs(self, counts, sampled):
        """Return a step that begins `counts[r]` tokens of row r, and samples after the tokens `sampled`."""
        sizes = Sizes(sum(counts), len(counts), len(sampled))
        made = views(torch.zeros(sizes.packed_len(), dtype=torch.int32), sizes, max(counts), MAX_LEN)
        lens = torch.tensor(counts, dtype=torch.int32)
        made.positions[:] = torch.cat([torch.arange(count) for count in counts])
        made.token_rows[:] = torch.arange(len(counts)).repeat_interleave(lens)
        made.rows[:], made.seq_lens[:], made.query_start[1:] = torch.arange(len(counts)), lens, lens.cumsum(0)
        made.sample_index[:] = torch.tensor(sampled, dtype=torch.int32)
        made.sample_positions.fill_(MAX_LEN)
        return made


@pytest.fixture
def step(tmp_path):
    return Step(tmp_path)


@pytest.mark.parametrize(("counts", "sampled"), [([FEW_SAMPLED], [3]), ([40], [39]), ([23, 17], [22, 39, 0])])
def test_of_a_long_step_only_sampled_tokens_pass_the_last_layer(step, counts, sampled):
    inputs = step.inputs(counts, sampled)
    with torch.inference_mode():
        logits, finite = step.functions.logits(inputs)
        products, step.products = step.products, []
        expected, _ = step.functions.logits_of(inputs, step.functions.hidden(inputs))
    tokens, few = sum(counts), len(sampled)
    assert products == [tokens] * 5 + [few] * 4  # a layer is qkv, output, gate and up, down; then the head
    assert step.products == [tokens] * 8 + [few]
    torch.testing.assert_close(logits, expected)
    assert finite.all()


@pytest.mark.parametrize(("counts", "sampled"), [([1], [0]), ([FEW_SAMPLED - 1], [2]), ([3, 2], [2, 4])])
def test_a_short_step_is_computed_whole(step, counts, sampled):
    with torch.inference_mode():
        step.functions.logits(step.inputs(counts, sampled))
    assert step.products == [sum(counts)] * 8 + [len(sampled)]


def test_a_step_that_samples_nothing_ends_with_keys_and_values(step):
    with torch.inference_mode():
        step.functions.fill(step.inputs([40], []))
    assert step.products == [40] * 5


def test_an_unsound_state_is_seen_at_its_sample(step):
    step.rows.tokens[0, 5] = BROKEN_TOKEN
    with torch.inference_mode():
        chosen = step.functions.greedy(step.inputs([20, 20], [19, 39]))
    assert chosen.finite.tolist() == [False, True]
