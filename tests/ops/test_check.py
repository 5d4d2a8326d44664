"""The judge judged: kernels with one seeded bug each must be caught, right ones must pass."""

import pytest
import torch

from quire.ops import reference
from quire.ops.cases.attention import GARBAGE
from quire.ops.check import judge, judge_all
from quire.ops.reference import attention
from quire.ops.reference.attention import paged_attention


def caught(record, kernel, dtype="float32") -> list[str]:
    """Return the labels of the cases that a kernel fails."""
    return [verdict.case for verdict in judge_all(record, kernel, dtype) if not verdict.ok]


# -- wrong attention ------------------------------------------------------------------------------------------------


def window_is_one_too_long(query, key_cache, value_cache, batch, scale, window, soft_cap, sinks):
    window = None if window is None else window + 1
    return paged_attention(query, key_cache, value_cache, batch, scale, window, soft_cap, sinks)


def soft_cap_is_dropped(query, key_cache, value_cache, batch, scale, window, soft_cap, sinks):
    return paged_attention(query, key_cache, value_cache, batch, scale, window, None, sinks)


def sinks_are_dropped(query, key_cache, value_cache, batch, scale, window, soft_cap, sinks):
    return paged_attention(query, key_cache, value_cache, batch, scale, window, soft_cap, None)


def scale_is_forgotten(query, key_cache, value_cache, batch, scale, window, soft_cap, sinks):
    return paged_attention(query, key_cache, value_cache, batch, 1.0, window, soft_cap, sinks)


def heads_are_grouped_wrongly(query, key_cache, value_cache, batch, scale, window, soft_cap, sinks):
    num_kv_heads = key_cache.shape[1]
    order = torch.arange(query.shape[1]).view(-1, num_kv_heads).T.flatten()
    sinks = None if sinks is None else sinks[order]
    out = paged_attention(query[:, order], key_cache, value_cache, batch, scale, window, soft_cap, sinks)
    return out[:, order.argsort()]


def values_are_read_from_the_next_block(query, key_cache, value_cache, batch, scale, window, soft_cap, sinks):
    value_cache = value_cache.roll(1, dims=0)
    return paged_attention(query, key_cache, value_cache, batch, scale, window, soft_cap, sinks)


def layout_is_assumed(query, key_cache, value_cache, batch, scale, window, soft_cap, sinks):
    wrong = (cache.as_strided(cache.shape, torch.empty(cache.shape).stride()) for cache in (key_cache, value_cache))
    return paged_attention(query, *wrong, batch, scale, window, soft_cap, sinks)


def padding_is_multiplied_by_zero(query, key_cache, value_cache, batch, scale, window, soft_cap, sinks):
    """Read whole blocks and weigh what lies past the end with 0: right until a NaN lies there."""
    block_size = key_cache.shape[2]
    whole = batch._replace(seq_lens=-(-batch.seq_lens // block_size) * block_size)
    out = paged_attention(query, key_cache, value_cache, batch, scale, window, soft_cap, sinks)
    for row, seq_len in enumerate(whole.seq_lens.tolist()):
        blocks = batch.block_table[row, : seq_len // block_size].long()
        start, end = batch.query_start[row : row + 2].tolist()
        out[start:end] += 0 * value_cache[blocks].sum().to(out.dtype)
    return out


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize(
    ("kernel", "some"),
    [
        (window_is_one_too_long, "window of 7"),
        (soft_cap_is_dropped, "soft cap"),
        (sinks_are_dropped, "sinks"),
        (scale_is_forgotten, "decode"),
        (heads_are_grouped_wrongly, "decode, groups of 4"),
        (values_are_read_from_the_next_block, "decode"),
        (layout_is_assumed, "slot-major"),
        (padding_is_multiplied_by_zero, "decode"),
    ],
)
def test_wrong_attention_is_caught_in_every_dtype(op, kernel, some, dtype):
    assert some in caught(op("paged_attention"), kernel, dtype)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_mask_that_ends_one_key_late_is_caught(op, monkeypatch, dtype):
    right = attention._visible

    def late(positions, seq_len, window):
        return right(positions, seq_len, window) | right((positions + 1).clamp(max=seq_len - 1), seq_len, window)

    record = op("paged_attention")
    cases = [case for case in record.cases(dtype, 0) if case.label in ("prefill", "chunk", "mixed", "long")]
    with monkeypatch.context() as patch:
        patch.setattr(attention, "_visible", late)
        outputs = [paged_attention(**case.inputs) for case in cases]
    verdicts = [judge(record, case, returns(output)) for case, output in zip(cases, outputs, strict=True)]
    assert [verdict.ok for verdict in verdicts] == [False] * 4


def returns(output):
    return lambda **inputs: output


def test_a_kernel_that_touches_garbage_block_ids_fails(op):
    def reads_the_whole_table(batch, **inputs):
        inputs["key_cache"][batch.block_table.long()]
        return paged_attention(batch=batch, **inputs)

    case = next(op("paged_attention").cases("float32", 0))
    assert (case.inputs["batch"].block_table == GARBAGE).any()
    with pytest.raises(IndexError):
        judge(op("paged_attention"), case, reads_the_whole_table)


# -- wrong precision ------------------------------------------------------------------------------------------------


def naive_sum(products: torch.Tensor) -> torch.Tensor:
    """Sum the last axis one by one in the products' dtype."""
    return products.cumsum(-1, dtype=products.dtype)[..., -1]


def half_precision_attention(query, key_cache, value_cache, batch, scale, window, soft_cap, sinks):
    half = (tensor.half() for tensor in (query, key_cache, value_cache))
    return paged_attention(*half, batch, scale, window, soft_cap, sinks).to(query.dtype)


def half_precision_linear(x, weight, bias):
    out = torch.zeros(x.shape[0], weight.shape[0], dtype=torch.float16)
    for k in range(x.shape[1]):
        out += x[:, k, None].half() * weight[:, k].half()
    return (out if bias is None else out + bias.half()).to(x.dtype)


def narrow_norm(x, weight, eps):
    """Square and average in the input's dtype."""
    mean = torch.zeros_like(x[..., :1])
    for k in range(x.shape[-1]):
        mean += x[..., k, None] * x[..., k, None]
    return x * torch.rsqrt(mean / x.shape[-1] + eps) * weight


def test_half_precision_inside_a_float32_kernel_is_caught(op):
    assert len(caught(op("paged_attention"), half_precision_attention)) >= 20
    assert caught(op("linear"), half_precision_linear)


def test_accumulation_in_the_narrow_dtype_is_caught(op):
    assert "T=33 K=1024 N=31" in " ".join(caught(op("linear"), half_precision_linear, "float16"))
    assert "33x1000 weight bfloat16" in caught(op("rms_norm"), narrow_norm, "bfloat16")


# -- wrong other ops ------------------------------------------------------------------------------------------------


def rope_in_the_other_order(query, key, positions, cos_sin):
    def shuffle(x):
        half = cos_sin.shape[-1] // 2
        rotated = x[..., : 2 * half].unflatten(-1, (half, 2)).transpose(-1, -2).flatten(-2)
        return torch.cat((rotated, x[..., 2 * half :]), dim=-1)

    return reference.rope(shuffle(query), shuffle(key), positions, cos_sin)


def eps_is_forgotten(x, weight, eps):
    return reference.rms_norm(x, weight, 0.0)


def padding_is_written(key, value, key_cache, value_cache, slots):
    reference.kv_write(key, value, key_cache, value_cache, slots.clamp(min=0))


def slot_is_off_by_one(key, value, key_cache, value_cache, slots):
    num_slots = key_cache.shape[0] * key_cache.shape[2]
    reference.kv_write(key, value, key_cache, value_cache, torch.where(slots < 0, slots, (slots + 1) % num_slots))


def only_keys_are_copied(key_cache, value_cache, pairs):
    reference.block_copy(key_cache, value_cache.clone(), pairs)


def tanh_gelu(x):
    return reference.gelu_tanh_and_mul(x)


def gate_and_up_are_swapped(x):
    return reference.silu_and_mul(x.roll(x.shape[-1] // 2, dims=-1))


def weights_are_ignored(x, weights, experts, gate_up, down):
    return reference.moe(x, torch.ones_like(weights), experts, gate_up, down)


def frequency_counts_once(logits, prompt_mask, output_counts, presence, frequency, repetition):
    return reference.apply_penalties(logits, prompt_mask, output_counts.clamp(max=1), presence, frequency, repetition)


def top_p_is_ignored(logits, temperature, top_k, top_p, min_p, seeds, positions):
    return reference.sample(logits, temperature, top_k, torch.ones_like(top_p), min_p, seeds, positions)


def position_is_ignored(logits, temperature, top_k, top_p, min_p, seeds, positions):
    return reference.sample(logits, temperature, top_k, top_p, min_p, seeds, positions * 0)


def the_last_of_equals_wins(logits, temperature, top_k, top_p, min_p, seeds, positions):
    tokens = reference.sample(logits, temperature, top_k, top_p, min_p, seeds, positions)
    last = logits.shape[1] - 1 - logits.flip(-1).argmax(-1)
    return torch.where(temperature == 0, last, tokens)


@pytest.mark.parametrize(
    ("name", "kernel"),
    [
        ("rope", rope_in_the_other_order),
        ("rms_norm", eps_is_forgotten),
        ("kv_write", padding_is_written),
        ("kv_write", slot_is_off_by_one),
        ("block_copy", only_keys_are_copied),
        ("gelu_and_mul", tanh_gelu),
        ("silu_and_mul", gate_and_up_are_swapped),
        ("moe", weights_are_ignored),
        ("apply_penalties", frequency_counts_once),
        ("sample", top_p_is_ignored),
        ("sample", position_is_ignored),
        ("sample", the_last_of_equals_wins),
    ],
)
def test_one_seeded_bug_is_caught(op, name, kernel):
    assert caught(op(name), kernel)


# -- what the judge sees besides numbers ------------------------------------------------------------------------------


def first_case(record, dtype="float32"):
    return next(record.cases(dtype, 0))


def test_a_wrong_shape_dtype_or_count_of_outputs_is_named(op):
    record = op("add_rms_norm")
    case = first_case(record)

    def verdict(change):
        return judge(record, case, lambda **inputs: change(*reference.add_rms_norm(**inputs)))

    assert "torch.float64, not" in verdict(lambda normed, total: (normed.double(), total)).note
    assert "output 1 is [1]" in verdict(lambda normed, total: (normed, total[0])).note
    assert "gave ['output 0'], not" in verdict(lambda normed, total: normed).note
    assert not verdict(lambda normed, total: normed).ok


def test_a_kernel_may_use_up_scratch_but_write_nothing_else(op):
    record = op("apply_penalties")
    case = list(record.cases("float32", 0))[2]

    def in_place(logits, **inputs):
        return logits.copy_(reference.apply_penalties(logits, **inputs))

    def clears_counts(output_counts, **inputs):
        out = reference.apply_penalties(output_counts=output_counts, **inputs)
        output_counts.zero_()
        return out

    assert judge(record, case, in_place).ok
    assert judge(record, case, clears_counts).note == "wrote to argument output_counts"


def test_writing_to_the_batch_is_seen(op):
    def moves_a_row(batch, **inputs):
        out = paged_attention(batch=batch, **inputs)
        batch.seq_lens.add_(1)
        return out

    verdict = judge(op("paged_attention"), first_case(op("paged_attention")), moves_a_row)
    assert verdict.note == "wrote to argument batch.seq_lens"


def test_a_case_can_be_judged_again(op):
    record = op("kv_write")
    case = first_case(record)
    assert judge(record, case, reference.kv_write).ok
    assert case.inputs["key_cache"].isnan().all()
    assert judge(record, case, reference.kv_write).ok


def test_inputs_keep_their_strides(op):
    seen = {}

    def spy(query, key_cache, **inputs):
        seen.update(query=query.stride(), key_cache=key_cache.stride())
        return paged_attention(query=query, key_cache=key_cache, **inputs)

    for case in op("paged_attention").cases("float32", 0):
        judge(op("paged_attention"), case, spy)
        assert seen == {name: case.inputs[name].stride() for name in seen}


def test_one_output_of_nan_is_infinitely_wrong(op):
    def spoils(x, weight, eps):
        out = reference.rms_norm(x, weight, eps)
        out[0, 0] = float("nan")
        return out

    assert judge(op("rms_norm"), first_case(op("rms_norm")), spoils).ratio == float("inf")


def test_another_right_kernel_passes(op, monkeypatch):
    """One token at a time instead of a tile: rounding differs, the result is as right."""
    monkeypatch.setattr(attention, "QUERY_TILE", 1)
    assert caught(op("paged_attention"), paged_attention) == []


def test_a_profiles_bound_overrides_the_records(op):
    record, case = op("rms_norm"), first_case(op("rms_norm"))

    def slightly_off(**inputs):
        return reference.rms_norm(**inputs) * (1 + 5 * 2**-23)

    assert not judge(record, case, slightly_off).ok
    assert judge(record, case, slightly_off, ratio=100.0).ok


def test_a_verdict_reads_as_a_line(op):
    line = str(judge(op("rms_norm"), first_case(op("rms_norm")), reference.rms_norm))
    assert line.startswith("ok: rms_norm [1x1 weight float32] float32: error")
