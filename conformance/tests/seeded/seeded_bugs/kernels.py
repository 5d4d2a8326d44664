"""Level 3: kernels that are wrong by a little."""

from __future__ import annotations

import time

import torch

from quire.ops import reference
from quire.ops.reference.precision import wide
from seeded_bugs.base import with_kernel

attend = reference.paged_attention


def _attention(change):
    """Return an attention backend whose arguments are changed first."""

    def kernel(query, key_cache, value_cache, batch, scale, window=None, soft_cap=None, sinks=None):
        given = {"query": query, "key_cache": key_cache, "value_cache": value_cache, "batch": batch, "scale": scale}
        return attend(**{**given, "window": window, "soft_cap": soft_cap, "sinks": sinks, **change(given, window)})

    return with_kernel("paged_attention", kernel)


def _shorter(batch, seq_lens):
    return {"batch": batch._replace(seq_lens=torch.where(seq_lens > 0, seq_lens, batch.seq_lens))}


def _without_last_block(given, window):
    batch, size = given["batch"], given["key_cache"].shape[2]
    decode = batch.query_start.diff() == 1
    return _shorter(batch, torch.where(decode, batch.seq_lens - (batch.seq_lens - 1) % size - 1, batch.seq_lens))


def _swapped_groups(given, window):
    query, heads = given["query"], given["key_cache"].shape[1]
    grouped = query.unflatten(1, (-1, heads)).transpose(1, 2)
    return {"query": grouped.flatten(1, 2)}


def _half(given, window):
    return {name: given[name].half() for name in ("key_cache", "value_cache")} | {"query": given["query"].half()}


def fp16_accumulation(query, **rest):
    return attend(**_half({"query": query, **rest}, None) | {k: v for k, v in rest.items() if "cache" not in k}).to(
        query.dtype
    )


MaskByOne = _attention(lambda given, window: _shorter(given["batch"], given["batch"].seq_lens - 1))
LastBlockIgnored = _attention(_without_last_block)
ScaleTwice = _attention(lambda given, window: {"scale": given["scale"] ** 2})
SoftCapDropped = _attention(lambda given, window: {"soft_cap": None})
WindowByOne = _attention(lambda given, window: {"window": None if window is None else window + 1})
SinksDropped = _attention(lambda given, window: {"sinks": None})
HeadGroupsSwapped = _attention(_swapped_groups)
ReadsPastTheEnd = _attention(lambda given, window: _shorter(given["batch"], given["batch"].seq_lens + 1))
Fp16Accumulation = with_kernel("paged_attention", fp16_accumulation)


def slot_by_one(key, value, key_cache, value_cache, slots):
    num_slots = key_cache.shape[0] * key_cache.shape[2]
    reference.kv_write(key, value, key_cache, value_cache, torch.where(slots >= 0, (slots + 1) % num_slots, slots))


def padding_written(key, value, key_cache, value_cache, slots):
    reference.kv_write(key, value, key_cache, value_cache, slots % (key_cache.shape[0] * key_cache.shape[2]))


def values_for_keys(key, value, key_cache, value_cache, slots):
    reference.kv_write(value, key, key_cache, value_cache, slots)


SlotByOne = with_kernel("kv_write", slot_by_one)
PaddingWritten = with_kernel("kv_write", padding_written)
ValuesForKeys = with_kernel("kv_write", values_for_keys)


def norm_without_eps(x, weight, eps):
    return reference.rms_norm(x, weight, 0.0)


def norm_that_writes(x, weight, eps):
    return x.copy_(reference.rms_norm(x, weight, eps))


def norm_in_float32(x, weight, eps):
    return reference.rms_norm(x, weight, eps).float()


NormWithoutEps = with_kernel("rms_norm", norm_without_eps)
NormThatWrites = with_kernel("rms_norm", norm_that_writes)
NormInFloat32 = with_kernel("rms_norm", norm_in_float32)


class SharedScratch:
    """Two calls at once share one buffer."""

    def __call__(self, x, weight, eps):
        self.x = x
        time.sleep(0.002)
        return reference.rms_norm(self.x, weight, eps)


class ThreadUnsafe(with_kernel("rms_norm", None)):  # type: ignore[misc, arg-type]
    kernels = {"rms_norm": SharedScratch()}


def interleaved_rope(query, key, positions, cos_sin):
    half = cos_sin.shape[1] // 2
    order = torch.arange(2 * half).view(2, half).T.flatten()
    shuffled = [torch.cat((x[..., order], x[..., 2 * half :]), -1) for x in (query, key)]
    return reference.rope(*shuffled, positions, cos_sin)


def moe_without_last_choice(x, weights, experts, gate_up, down):
    kept = weights.clone()
    kept[:, 1:] = kept[:, 1:] * 0
    return reference.moe(x, kept, experts, gate_up, down)


def linear_in_half(x, weight, bias=None):
    return reference.linear(x.half(), weight.half(), None if bias is None else bias.half()).to(x.dtype)


InterleavedRope = with_kernel("rope", interleaved_rope)
MoeWithoutLastChoice = with_kernel("moe", moe_without_last_choice)
BiasDropped = with_kernel("linear", lambda x, weight, bias=None: reference.linear(x, weight, None))
LinearInHalf = with_kernel("linear", linear_in_half)
GeluForSilu = with_kernel("silu_and_mul", reference.gelu_and_mul)
CopiesKeysOnly = with_kernel("block_copy", lambda key_cache, value_cache, pairs: _copy_keys(key_cache, pairs))


def _copy_keys(key_cache, pairs):
    key_cache[pairs[:, 1]] = key_cache[pairs[:, 0]]


def _sampler(draw):
    """Return a sampling backend whose draw gets the arguments by name."""

    def kernel(logits, temperature, top_k, top_p, min_p, seeds, positions):
        filters = {"top_k": top_k, "top_p": top_p, "min_p": min_p}
        return draw({"logits": logits, "temperature": temperature, **filters, "seeds": seeds, "positions": positions})

    return with_kernel("sample", kernel)


def last_of_equals(given):
    logits = given["logits"]
    greedy = logits.shape[1] - 1 - logits.flip(-1).argmax(-1)
    return torch.where(given["temperature"] > 0, reference.sample(**given), greedy)


def unseeded(given):
    noise = -torch.empty_like(given["logits"]).exponential_().log()
    drawn = (given["logits"] / given["temperature"].clamp(min=1e-6)[:, None] + noise).argmax(-1)
    return torch.where(given["temperature"] > 0, drawn, reference.sample(**given))


def by_batch_index(given):
    seeds = given["seeds"]
    return reference.sample(**{**given, "seeds": seeds + torch.arange(len(seeds), device=seeds.device)})


def one_more_of_top_k(given):
    top_k = given["top_k"]
    return reference.sample(**{**given, "top_k": torch.where(top_k > 0, top_k + 1, top_k)})


def sign_blind(logits, prompt_mask, output_counts, presence, frequency, repetition):
    rewarded = reference.apply_penalties(
        logits.abs(), prompt_mask, output_counts, 0 * presence, 0 * frequency, repetition
    )
    once = torch.ones_like(repetition)
    return reference.apply_penalties(rewarded * logits.sign(), prompt_mask, output_counts, presence, frequency, once)


LastOfEquals = _sampler(last_of_equals)
UnseededSampler = _sampler(unseeded)
RngByBatchIndex = _sampler(by_batch_index)
OneMoreOfTopK = _sampler(one_more_of_top_k)
SignBlindPenalties = with_kernel("apply_penalties", sign_blind)


def silent_fallback(query, *rest, window=None, **more):
    return attend(query, *rest, window=window, **more) if window is not None else _own(query, *rest, **more)


def _own(query, key_cache, value_cache, batch, scale, soft_cap=None, sinks=None):
    return torch.zeros_like(query, dtype=wide(query.dtype)).to(query.dtype)


SilentFallback = with_kernel("paged_attention", silent_fallback)
