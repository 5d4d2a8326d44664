"""Names of cached blocks: a chain of hashes over a sequence's full blocks.

A block's hash covers its tokens, the hash of the block before it, and through the root everything else that its keys
and values depend on or that may not be shared: the LoRA and the caller's cache salt. The hash is BLAKE2b with 256 bits,
so that no tenant can make a block that passes for another's. The chained-hash prefix cache is vLLM's (automatic prefix
caching).
"""

from __future__ import annotations

from hashlib import blake2b

from quire.scheduling.request import Request

HASH_BYTES = 32


def root_hash(lora_id: int, cache_salt: str) -> bytes:
    """Return the parent of a sequence's first block."""
    return blake2b(f"{lora_id}\0{cache_salt}".encode(), digest_size=HASH_BYTES).digest()


def extend_hashes(request: Request, num_blocks: int, block_size: int) -> list[bytes]:
    """Complete `request.block_hashes` up to its first `num_blocks` blocks, whose tokens must be known; return it.

    One call costs about 1 µs a new block; 96 bytes, a parent and 16 tokens, are one BLAKE2b compression.
    """
    hashes, tokens = request.block_hashes, request.token_ids
    if len(hashes) >= num_blocks:
        return hashes
    parent = hashes[-1] if hashes else root_hash(request.lora_id, request.cache_salt)
    for start in range(len(hashes) * block_size, num_blocks * block_size, block_size):
        parent = blake2b(parent + tokens[start : start + block_size].tobytes(), digest_size=HASH_BYTES).digest()
        hashes.append(parent)
    return hashes
