"""ACME's kernels, in plain torch."""

import torch


def kv_write(key, value, key_cache, value_cache, slots):
    real = (slots >= 0).nonzero().flatten()
    block_size = key_cache.shape[2]
    blocks, offsets = slots[real] // block_size, slots[real] % block_size
    key_cache[blocks, :, offsets] = key[real].to(key_cache.dtype)
    value_cache[blocks, :, offsets] = value[real].to(value_cache.dtype)


def paged_attention(query, key_cache, value_cache, batch, scale, window=None, soft_cap=None, sinks=None):
    out = query.new_zeros(query.shape)
    starts, block_size = batch.query_start.tolist(), key_cache.shape[2]
    for row, seq_len in enumerate(batch.seq_lens.tolist()):
        first, last = starts[row], starts[row + 1]
        if first == last or seq_len == 0:
            continue
        blocks = batch.block_table[row, : -(-seq_len // block_size)].long()
        keys, values = (
            item[blocks].transpose(0, 1).flatten(1, 2)[:, :seq_len].float() for item in (key_cache, value_cache)
        )
        group = query.shape[1] // keys.shape[0]
        scores = torch.einsum("nhd,hsd->hns", query[first:last].float(), keys.repeat_interleave(group, 0)) * scale
        at = torch.arange(seq_len - (last - first), seq_len)
        scores = scores.masked_fill(torch.arange(seq_len) > at[:, None], float("-inf"))
        attended = torch.einsum("hns,hsd->nhd", scores.softmax(-1), values.repeat_interleave(group, 0))
        out[first:last] = attended.to(query.dtype)
    return out


def transpose(weight, request):
    return weight.t().contiguous()


def linear(x, weight, bias=None):
    product = x @ weight
    return product if bias is None else product + bias
