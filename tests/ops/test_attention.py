"""Paged attention against dense attention: torch's SDPA with explicit masks, and transformers' eager functions."""

from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional
from transformers.models.gemma2 import modeling_gemma2
from transformers.models.gpt_oss import modeling_gpt_oss

from quire.ops import reference
from quire.ops.cases.attention import CHUNK, DECODE, MIXED, PREFILL, AttentionShape, Row, attention_case
from quire.ops.spec import OpCase

ROWS = {"decode": DECODE, "prefill": PREFILL, "chunk": CHUNK, "mixed": MIXED}


def make(source, **shape) -> OpCase:
    return attention_case("", AttentionShape(**shape), "float32", source)


def dense_rows(case: OpCase):
    """Yield each row as dense query, key, value [1, heads, tokens, D], its mask [n, seq_len] and its output's range."""
    inputs, batch = case.inputs, case.inputs["batch"]
    for row, seq_len in enumerate(batch.seq_lens.tolist()):
        start, end = batch.query_start[row : row + 2].tolist()
        block_size = inputs["key_cache"].shape[2]
        slots = [
            (int(batch.block_table[row, position // block_size]), position % block_size) for position in range(seq_len)
        ]
        if start == end or not seq_len:
            continue
        key, value = (
            torch.stack([inputs[name][block, :, offset] for block, offset in slots], dim=1)[None]
            for name in ("key_cache", "value_cache")
        )
        position = torch.arange(seq_len - (end - start), seq_len)[:, None]
        mask = torch.arange(seq_len) <= position
        if inputs["window"] is not None:
            mask &= torch.arange(seq_len) > position - inputs["window"]
        yield inputs["query"][start:end].transpose(0, 1)[None], key, value, mask, slice(start, end)


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("heads", [(1, 1), (4, 4), (8, 2), (7, 1)])
@pytest.mark.parametrize("head_dim", [16, 80, 256])
def test_it_is_dense_attention_row_by_row(source, rows, heads, head_dim):
    case = make(source, rows=ROWS[rows], num_heads=heads[0], num_kv_heads=heads[1], head_dim=head_dim)
    out = reference.paged_attention(**case.inputs)
    for query, key, value, mask, where in dense_rows(case):
        expected = functional.scaled_dot_product_attention(query, key, value, mask, enable_gqa=True)
        torch.testing.assert_close(out[where], expected[0].transpose(0, 1), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("window", [1, 2, 7, 16, 100])
@pytest.mark.parametrize("rows", ROWS)
def test_a_window_sees_its_last_keys_only(source, rows, window):
    case = make(source, rows=ROWS[rows], window=window)
    out = reference.paged_attention(**case.inputs)
    for query, key, value, mask, where in dense_rows(case):
        expected = functional.scaled_dot_product_attention(query, key, value, mask, enable_gqa=True)
        torch.testing.assert_close(out[where], expected[0].transpose(0, 1), rtol=1e-5, atol=1e-5)


def test_a_window_of_one_returns_the_tokens_own_value(source):
    case = make(source, rows=(Row(5, 9),), num_heads=2, num_kv_heads=2, window=1)
    *_, (_, _, value, _, _) = dense_rows(case)
    torch.testing.assert_close(reference.paged_attention(**case.inputs), value[0, :, 4:].transpose(0, 1))


def additive(mask):
    return torch.zeros(mask.shape).masked_fill(~mask, float("-inf"))


@pytest.mark.parametrize("rows", ROWS)
def test_soft_cap_is_gemmas(source, rows):
    case = make(source, rows=ROWS[rows], num_heads=8, num_kv_heads=2, soft_cap=2.0)
    out = reference.paged_attention(**case.inputs)
    module = SimpleNamespace(num_key_value_groups=4, training=False)
    for query, key, value, mask, where in dense_rows(case):
        expected, _ = modeling_gemma2.eager_attention_forward(
            module, query, key, value, additive(mask), scaling=case.inputs["scale"], softcap=2.0
        )
        torch.testing.assert_close(out[where], expected[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rows", ROWS)
def test_sinks_are_gpt_osss(source, rows):
    case = make(source, rows=ROWS[rows], num_heads=7, num_kv_heads=1, sinks=True, window=7)
    out = reference.paged_attention(**case.inputs)
    module = SimpleNamespace(num_key_value_groups=7, training=False, sinks=case.inputs["sinks"])
    for query, key, value, mask, where in dense_rows(case):
        expected, _ = modeling_gpt_oss.eager_attention_forward(
            module, query, key, value, additive(mask), scaling=case.inputs["scale"]
        )
        torch.testing.assert_close(out[where], expected[0], rtol=1e-5, atol=1e-5)


def test_a_prompt_in_chunks_and_token_by_token_gives_what_it_gives_whole(source):
    whole = make(source, rows=(Row(37, 37),), window=7, soft_cap=2.0, sinks=True)
    expected = reference.paged_attention(**whole.inputs)
    batch, query = whole.inputs["batch"], whole.inputs["query"]
    for start, end in ((0, 1), (0, 16), (16, 33), (33, 36), (36, 37)):
        part = batch._replace(
            query_start=torch.tensor([0, end - start], dtype=torch.int32),
            seq_lens=torch.tensor([end], dtype=torch.int32),
        )
        actual = reference.paged_attention(**{**whole.inputs, "query": query[start:end], "batch": part})
        torch.testing.assert_close(actual, expected[start:end], rtol=1e-5, atol=1e-6)


def test_prompts_longer_than_a_tile_of_queries_are_whole(source):
    case = make(source, rows=(Row(300, 311),), num_heads=2, num_kv_heads=1, head_dim=16)
    out = reference.paged_attention(**case.inputs)
    ((query, key, value, mask, _),) = dense_rows(case)
    expected = functional.scaled_dot_product_attention(query, key, value, mask, enable_gqa=True)
    torch.testing.assert_close(out, expected[0].transpose(0, 1), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kv_dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_narrow_dtypes_are_rounded_once_at_the_end(source, dtype, kv_dtype):
    inputs = make(source, rows=MIXED).inputs
    narrow = {
        **inputs,
        "query": inputs["query"].to(dtype),
        "key_cache": inputs["key_cache"].to(kv_dtype),
        "value_cache": inputs["value_cache"].to(kv_dtype),
    }
    wide = {name: item.double() if torch.is_tensor(item) else item for name, item in narrow.items()}
    actual, expected = reference.paged_attention(**narrow), reference.paged_attention(**wide)
    assert actual.dtype == dtype
    torch.testing.assert_close(actual.double(), expected, rtol=torch.finfo(dtype).eps * 0.51, atol=1e-5)


def test_rows_do_not_touch_each_other(source):
    case = make(source, rows=(Row(1, 40), Row(9, 9)))
    out = reference.paged_attention(**case.inputs)
    batch = case.inputs["batch"]
    case.inputs["key_cache"][batch.block_table[1, 0]] = float("nan")
    poisoned = reference.paged_attention(**case.inputs)
    assert torch.equal(poisoned[:1], out[:1])
    assert poisoned[1:].isnan().any()


def test_tokens_of_no_row_come_out_as_zeros(source):
    case = make(source, rows=(Row(3, 9), Row(0, 0), Row(1, 0)), padding=2)
    out = reference.paged_attention(**case.inputs)
    assert (out[3:] == 0).all()
    assert out[:3].all()
