"""The block pool against a naive model: plain lists and dictionaries, searched from end to end."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from quire.scheduling.blocks import BlockPool


class NaivePool:
    def __init__(self, num_blocks, reserved):
        self.free = list(range(reserved, num_blocks))  # next to be given first
        self.owners = dict.fromkeys(range(reserved, num_blocks), 0)
        self.content = {}  # block → hash

    def allocate(self, count):
        blocks, self.free = self.free[:count], self.free[count:]
        for block in blocks:
            self.owners[block] = 1
            self.content.pop(block, None)
        return blocks

    def share(self, block):
        self.owners[block] += 1
        if block in self.free:
            self.free.remove(block)

    def release(self, blocks):
        for block in reversed(blocks):
            self.owners[block] -= 1
            if self.owners[block] == 0:
                self.free.insert(len(self.free) if block in self.content else 0, block)

    def find(self, block_hash):
        return next((block for block, held in self.content.items() if held == block_hash), None)


class BlockPoolMachine(RuleBasedStateMachine):
    """Sequences come, grow, share, are indexed and go, in any order."""

    @initialize(num_blocks=st.integers(1, 13), reserved=st.integers(0, 2))
    def open(self, num_blocks, reserved):
        self.pool = BlockPool(num_blocks + reserved, reserved)
        self.model = NaivePool(num_blocks + reserved, reserved)
        self.tables = []
        self.num_hashes = 0

    @rule(count=st.integers(0, 5))
    def allocate(self, count):
        count = min(count, len(self.model.free))
        blocks = self.pool.allocate(count)
        assert blocks == self.model.allocate(count)
        self.tables.append(blocks)

    @precondition(lambda self: self.tables)
    @rule(data=st.data(), count=st.integers(1, 3))
    def grow(self, data, count):
        table = data.draw(st.sampled_from(self.tables))
        count = min(count, len(self.model.free))
        blocks = self.pool.allocate(count)
        assert blocks == self.model.allocate(count)
        table += blocks

    @rule(data=st.data())
    def share_cached(self, data):
        """A new sequence begins with blocks that somebody cached, owned or not."""
        if self.model.content:
            blocks = data.draw(st.lists(st.sampled_from(sorted(self.model.content)), unique=True, max_size=4))
            self.pool.share(blocks)
            for block in blocks:
                self.model.share(block)
            self.tables.append(blocks)

    @precondition(lambda self: self.tables)
    @rule(data=st.data())
    def free(self, data):
        table = self.tables.pop(data.draw(st.integers(0, len(self.tables) - 1)))
        self.pool.free(table)
        self.model.release(table)

    @precondition(lambda self: any(self.tables))
    @rule(data=st.data(), is_known=st.booleans())
    def index(self, data, is_known):
        """Offer a block's content: new, or the same as another block's."""
        block = data.draw(st.sampled_from(sorted({block for table in self.tables for block in table})))
        self.num_hashes += not is_known
        block_hash = self.num_hashes.to_bytes(32, "big")
        self.pool.index(block, block_hash)
        if block not in self.model.content and self.model.find(block_hash) is None:
            self.model.content[block] = block_hash

    @precondition(lambda self: self.model.content)
    @rule(data=st.data())
    def forget(self, data):
        block = data.draw(st.sampled_from(sorted(self.model.content)))
        if self.model.owners[block]:
            self.pool.forget([block])
            del self.model.content[block]

    @rule()
    def reset(self):
        assert self.pool.reset_prefix_cache() == len(self.model.content)
        self.model.content.clear()

    @invariant()
    def agrees_with_the_model(self):
        if hasattr(self, "pool"):
            self.pool.check_integrity(self.tables)
            assert self.pool.num_free == len(self.model.free)
            assert self.pool.num_indexed == len(self.model.content)
            for block, block_hash in self.model.content.items():
                assert self.pool.match([block_hash]) == [block]


BlockPoolMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestBlockPoolMachine = BlockPoolMachine.TestCase
