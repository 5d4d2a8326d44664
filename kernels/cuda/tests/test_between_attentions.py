"""What the four products of between_attentions are given: with torch in the place of their kernels, the op is right."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

pytest.importorskip("triton")
pytest.importorskip("cuda.bindings", reason="cuda-bindings is not here")

from quire.ops.check import judge
from quire.ops.records import OPS
from quire.ops.reference import linear, norm_linear, qkv_rope_write
from quire_kernels_cuda import between_attentions, registry
from quire_kernels_triton.tuning import Target

(OP,) = (op for op in OPS if op.name == "between_attentions")
HOPPER = Target("sm_90", 132)
CASES = [
    case
    for case in OP.cases("float32", 0)
    if len(case.inputs["attended"]) > 1 and case.request.attributes["head_dim"] in registry.HEAD_DIMS
]


def add(product, eps, num_tokens, in_features, residual, gain, total, gained, squares_out, out_stride):
    total.copy_(residual + product)
    gained.copy_(total * gain)
    squares_out.copy_(total.square().view(num_tokens, -1, 64).sum(-1))
    assert out_stride == total.shape[1]


def gate(product, eps, num_tokens, in_features, squares, square_parts, out, out_stride):
    left, right = normed(product, squares, eps, in_features).chunk(2, dim=1)
    out.copy_(functional.silu(left) * right)
    assert (out_stride, square_parts) == (out.shape[1], squares.shape[1])


def heads(product, eps, num_tokens, in_features, squares, square_parts, out, bias, **given):
    qkv = normed(product, squares, eps, in_features) + (0 if bias is None else bias)
    names = ("positions", "cos_sin", "q_norm", "k_norm", "key_cache", "value_cache", "slots")
    asked = {name: given.pop(name) for name in names}
    out.copy_(qkv_rope_write(qkv, eps=eps, **asked))
    caches = asked["key_cache"], asked["value_cache"]
    strides = [given.pop(f"{kind}_{axis}") for kind in ("key", "value") for axis in ("block", "head", "slot")]
    assert strides == [stride for cache in caches for stride in cache.stride()[:3]]
    num_kv_heads, block_size, head_dim = caches[0].shape[1:]
    assert given == {
        "num_heads": out.shape[1],
        "num_kv_heads": num_kv_heads,
        "block_size": block_size,
        "cos_sin_stride": head_dim,
        "out_stride": out.shape[1] * head_dim,
    }


def normed(product, squares, eps, in_features):
    return product * torch.rsqrt(squares.sum(1, keepdim=True) / in_features + eps)


def launched(self, x, **fields):
    end = {"ADD": add, "GATE": gate, "HEADS": heads}[self.kernel.epilogue]
    end(x @ self.weight.T, self.eps, len(x), x.shape[1], **fields)


@pytest.fixture
def op(monkeypatch):
    def refuse(*args):
        raise AssertionError("a number of tokens that fits was served in steps")

    steps = between_attentions.Steps(refuse, refuse, refuse)
    monkeypatch.setattr(between_attentions.Kernels, "get", lambda self, variants: variants)
    monkeypatch.setattr(between_attentions.ProductLaunch, "__call__", launched)
    return between_attentions.BetweenAttentions(HOPPER, steps)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.label)
def test_each_is_given_what_the_op_says(op, case):
    verdict = judge(OP, case, op)
    assert verdict.ok, verdict


@pytest.mark.parametrize("case", list(OP.cases("float32", 0)), ids=lambda case: case.label)
def test_in_steps_it_is_right_too(monkeypatch, case):
    monkeypatch.setattr(between_attentions, "MIN_TOKENS", 1000)
    steps = between_attentions.Steps(linear, norm_linear, qkv_rope_write)
    verdict = judge(OP, case, between_attentions.BetweenAttentions(HOPPER, steps))
    assert verdict.ok, verdict


def test_one_token_and_very_many_are_served_in_steps(op):
    for num_tokens in (1, 257):
        with pytest.raises(AssertionError, match="served in steps"):
            op(torch.empty(num_tokens, 8), *[None] * 14, torch.empty(1, 1, 1, 64), None, None)
