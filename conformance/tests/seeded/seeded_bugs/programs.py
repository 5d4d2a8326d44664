"""Levels 5 and 6: programs that remember, hooks in a step, collectives that forget a rank."""

from __future__ import annotations

from dataclasses import replace

from quire.backend.contract import Bucket, ShapeMode
from quire.backend.defaults import GlooCommunicator
from quire.backend.hookspecs import hookimpl
from quire.backend.reference import HostDevice
from seeded_bugs.base import Seeded


class Buckets:
    """A sound builder: the function itself, for decode batches of 1, 2, 4, … rows."""

    def buckets(self, max_tokens, max_rows):
        limit = min(max_tokens, max_rows)
        return [Bucket(2**power, 2**power, True) for power in range(limit.bit_length())]

    def build(self, step_fn, bucket, example):
        return step_fn


class CapturesInputs(Buckets):
    """A graph that replays the lengths that it was captured with."""

    def build(self, step_fn, bucket, example):
        seq_lens = example.seq_lens.clone()
        return lambda buffers: step_fn(buffers._replace(seq_lens=seq_lens))


class BuildsEveryTime(Buckets):
    def build(self, step_fn, bucket, example):
        def program(buffers):
            self.build(step_fn, bucket, buffers)
            return step_fn(buffers)

        return program


def _with_builder(make):
    class WithBuilder(Seeded):
        @hookimpl
        def quire_describe(self, selection):
            return replace(super().quire_describe(selection), shapes=ShapeMode.BUCKETED)

        @hookimpl
        def quire_create_program_builder(self, device):
            return make()

    return WithBuilder


SoundBuckets = _with_builder(Buckets)
StaleGraphInput = _with_builder(CapturesInputs)
RebuildsPrograms = _with_builder(BuildsEveryTime)


class HookInStep(Seeded):
    @hookimpl
    def quire_collect_metrics(self):
        return {"reads": 1.0}

    @hookimpl
    def quire_open_device(self, selection, rank):
        backend = self

        class Chatty(HostDevice):
            def to_host(self, source):
                backend.quire_collect_metrics()
                return super().to_host(source)

        return Chatty()


def _with_communicator(make):
    class WithCommunicator(Seeded):
        @hookimpl
        def quire_create_communicator(self, group, device):
            return make(group)

    return WithCommunicator


class ForgetsLastRank(GlooCommunicator):
    def all_reduce(self, tensor):
        total = super().all_reduce(tensor)
        return total - tensor if self.rank == self.size - 1 else total


class GathersBackwards(GlooCommunicator):
    def all_gather(self, tensor, dim):
        import torch

        return torch.cat(super().all_gather(tensor, dim).chunk(self.size, dim)[::-1], dim)


class ReducesInPlace(GlooCommunicator):
    def all_reduce(self, tensor):
        return tensor.copy_(super().all_reduce(tensor))


class SameShardForAll(GlooCommunicator):
    def reduce_scatter(self, tensor, dim):
        return self.all_reduce(tensor).chunk(self.size, dim)[0].contiguous()


LastRankForgotten = _with_communicator(ForgetsLastRank)
GatherBackwards = _with_communicator(GathersBackwards)
CollectiveWritesInput = _with_communicator(ReducesInPlace)
ScatterSameShard = _with_communicator(SameShardForAll)
