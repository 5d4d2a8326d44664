"""The hash chain: equal exactly where tokens, history, LoRA, salt and generation are."""

import pytest

from quire.sampling import SamplingParams
from quire.scheduling.prefix import extend_hashes, root_hash
from quire.scheduling.request import Request

BLOCK_SIZE = 3


def chain(token_ids, **extras):
    request = Request("r", token_ids, SamplingParams(), arrival=0.0, seed=0, eos_token_ids=frozenset(), **extras)
    return extend_hashes(request, len(token_ids) // BLOCK_SIZE, BLOCK_SIZE)


def test_equal_sequences_have_equal_chains():
    assert chain([1, 2, 3, 4, 5, 6]) == chain([1, 2, 3, 4, 5, 6, 7])


def test_a_block_is_named_by_what_came_before_it():
    assert chain([1, 2, 3, 9, 9, 9])[1] != chain([1, 2, 4, 9, 9, 9])[1]


@pytest.mark.parametrize("extras", [{"lora_id": 1}, {"cache_salt": "tenant"}])
def test_other_circumstances_share_no_block(extras):
    assert not set(chain([1, 2, 3, 4, 5, 6])) & set(chain([1, 2, 3, 4, 5, 6], **extras))


def test_lora_and_salt_cannot_be_confused():
    assert root_hash(1, "2") != root_hash(12, "")


def test_a_chain_is_extended_where_it_ended():
    request = Request("r", range(9), SamplingParams(), arrival=0.0, seed=0, eos_token_ids=frozenset())
    first = list(extend_hashes(request, 1, BLOCK_SIZE))
    assert extend_hashes(request, 3, BLOCK_SIZE) == chain(list(range(9)))
    assert request.block_hashes[:1] == first
