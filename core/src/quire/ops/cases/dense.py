"""Inputs of embedding, linear, norm_linear, moe and the gated activations."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from quire.backend.contract import KernelRequest
from quire.ops.cases.norms import EPS
from quire.ops.cases.source import Source
from quire.ops.spec import OpCase


def embedding_cases(dtype: str, seed: int) -> Iterator[OpCase]:
    """Yield lookups in tables of 1, 97 and 513 rows; the first and the last row are among them."""
    source = Source(dtype, seed)
    for num_tokens, vocab_size, hidden_size in ((1, 1, 8), (7, 97, 80), (33, 513, 31)):
        request = KernelRequest("embedding", dtype, {"vocab_size": vocab_size, "hidden_size": hidden_size})
        ids = torch.cat((torch.tensor([vocab_size - 1, 0]), source.integers(vocab_size, num_tokens)))[:num_tokens]
        inputs = {"ids": ids, "weight": source.normal(vocab_size, hidden_size)}
        yield OpCase(f"T={num_tokens} V={vocab_size} H={hidden_size}", request, inputs)


def linear_cases(dtype: str, seed: int) -> Iterator[OpCase]:
    """Yield products with T, K, N of 1, primes, multiples of 64 and not, with and without bias."""
    source = Source(dtype, seed)
    shapes = ((1, 1, 1), (1, 64, 128), (1, 131, 67), (7, 80, 96), (17, 257, 33), (64, 128, 192), (33, 1024, 31))
    for index, (num_tokens, in_features, out_features) in enumerate(shapes):
        for bias in (False, True) if index % 2 else (False,):
            attributes = {"in_features": in_features, "out_features": out_features, "bias": bias}
            inputs = {
                "x": source.normal(num_tokens, in_features),
                "weight": source.normal(out_features, in_features, scale=in_features**-0.5),
                "bias": source.normal(out_features) if bias else None,
            }
            label = f"T={num_tokens} K={in_features} N={out_features}{' bias' if bias else ''}"
            yield OpCase(label, KernelRequest("linear", dtype, attributes), inputs)


def norm_linear_cases(dtype: str, seed: int) -> Iterator[OpCase]:
    """Yield one, few and many tokens, with and without residual, bias and each activation."""
    source = Source(dtype, seed)
    for num_tokens, in_features, out_features, residual, bias, activation in (
        (1, 1, 2, False, False, None),
        (1, 128, 96, True, False, None),
        (1, 131, 66, True, True, "silu_and_mul"),
        (1, 80, 64, False, False, "gelu_tanh_and_mul"),
        (7, 80, 33, True, True, None),
        (5, 256, 62, True, True, "gelu_and_mul"),
        (33, 64, 128, True, False, "silu_and_mul"),
    ):
        attributes = {
            "in_features": in_features,
            "out_features": out_features,
            "bias": bias,
            "activation": activation,
        }
        inputs = {
            "x": source.normal(num_tokens, in_features),
            "residual": source.normal(num_tokens, in_features, scale=10.0) if residual else None,
            "norm_weight": 1 + source.normal(in_features),
            "eps": EPS,
            "weight": source.normal(out_features, in_features, scale=in_features**-0.5),
            "bias": source.normal(out_features) if bias else None,
            "activation": activation,
        }
        named = (("residual", residual), ("bias", bias), (str(activation), activation))
        extras = "".join(f" {name}" for name, there in named if there)
        label = f"T={num_tokens} K={in_features} N={out_features}{extras}"
        yield OpCase(label, KernelRequest("norm_linear", dtype, attributes), inputs)


def moe_cases(dtype: str, seed: int) -> Iterator[OpCase]:
    """Yield mixtures of 1, 5 and 8 experts; in some, experts have no token, or one has them all."""
    source = Source(dtype, seed)
    shapes = ((1, 1, 1, 16, 24), (1, 8, 2, 32, 48), (7, 5, 2, 64, 31), (33, 8, 3, 48, 64), (19, 8, 1, 32, 32))
    for num_tokens, num_experts, top_k, hidden_size, intermediate_size in shapes:
        attributes = {
            "num_experts": num_experts,
            "top_k": top_k,
            "hidden_size": hidden_size,
            "intermediate_size": intermediate_size,
        }
        used = 1 if top_k == 1 else num_experts - (num_experts > top_k)  # at times an expert without tokens
        experts = torch.stack([source.distinct(used, top_k) for _ in range(num_tokens)])
        inputs = {
            "x": source.normal(num_tokens, hidden_size),
            "weights": source.normal(num_tokens, top_k, dtype=torch.float32).softmax(-1),
            "experts": experts,
            "gate_up": source.normal(num_experts, 2 * intermediate_size, hidden_size, scale=hidden_size**-0.5),
            "down": source.normal(num_experts, hidden_size, intermediate_size, scale=intermediate_size**-0.5),
        }
        label = f"T={num_tokens} E={num_experts} k={top_k} H={hidden_size} I={intermediate_size}"
        yield OpCase(label, KernelRequest("moe", dtype, attributes), inputs)


def gated_cases(op: str) -> Callable[[str, int], Iterator[OpCase]]:
    """Return the cases of a gated activation; inputs reach ±12, where the gates saturate."""

    def cases(dtype: str, seed: int) -> Iterator[OpCase]:
        source = Source(dtype, seed)
        for num_tokens, intermediate_size in ((1, 1), (1, 127), (7, 96), (33, 31), (5, 1024)):
            request = KernelRequest(op, dtype, {"intermediate_size": intermediate_size})
            inputs = {"x": source.normal(num_tokens, 2 * intermediate_size, scale=3.0)}
            yield OpCase(f"T={num_tokens} I={intermediate_size}", request, inputs)

    return cases
