"""Who runs: the requests that hold a row, and the steps that are under way with them."""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from itertools import compress
from operator import attrgetter
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from quire.plan import Bools, Int32s
from quire.scheduling.request import Request


class Order(NamedTuple):
    """Running requests as parallel sequences; made anew when who runs changes, else shared by plan after plan."""

    requests: list[Request]
    rows: npt.NDArray[np.intp]
    plan_rows: Int32s
    buffers: list[array[int]]  # their token_ids
    ones: Int32s
    trues: Bools

    @classmethod
    def of(cls, requests: list[Request]) -> Order:
        count = len(requests)
        rows = np.array([request.row for request in requests], np.intp)
        buffers = [request.token_ids for request in requests]
        return cls(requests, rows, rows.astype(np.int32), buffers, np.ones(count, np.int32), np.ones(count, np.bool_))

    def select(self, mask: Bools) -> Order:
        """Return those where `mask` [num_requests] is true, in the same order."""
        chosen = mask.tolist()
        requests, buffers = list(compress(self.requests, chosen)), list(compress(self.buffers, chosen))
        count = len(requests)
        return Order(requests, self.rows[mask], self.plan_rows[mask], buffers, self.ones[:count], self.trues[:count])


NO_ORDER = Order.of([])
_num_tokens = attrgetter("num_tokens")


@dataclass(slots=True)
class StepRecord:
    """Whose tokens a step's result will hold: first the decodes, then the chunks, as in the plan."""

    decodes: Order
    finals: list[Request]  # decodes whose token is the last that they may have
    chunks: list[Request]
    is_stale: bool = False  # somebody has finished or lost the row since


class Roster:
    """Running requests and steps under way. A request that leaves makes those steps stale: their results are sorted
    out when they come. `num_pooling` counts running requests that want a hidden state instead of tokens."""

    def __init__(self) -> None:
        self.running: dict[str, Request] = {}
        self.under_way: dict[int, StepRecord] = {}
        self.num_pooling = 0
        self._order: Order | None = NO_ORDER
        self._freed_rows: list[int] = []

    def __len__(self) -> int:
        return len(self.running)

    @property
    def order(self) -> Order:
        """The running requests, longest first: kernels that share out rows in this order end with the short ones, so
        that no processor is left alone with a long one (LPT, Graham 1969). Decoding keeps the order: all grow alike.
        """
        if self._order is None:
            self._order = Order.of(sorted(self.running.values(), key=_num_tokens, reverse=True))
        return self._order

    def join(self, request: Request) -> None:
        self.running[request.request_id] = request
        self.num_pooling += bool(request.pooling)
        self._order = None

    def leave(self, request: Request, freed_row: int) -> None:
        del self.running[request.request_id]
        self.num_pooling -= bool(request.pooling)
        self._freed_rows.append(freed_row)
        self._order = None
        for record in self.under_way.values():
            record.is_stale = True

    def take_freed_rows(self) -> tuple[int, ...]:
        """Return the rows freed since the last call, for the next plan to say so."""
        freed = tuple(self._freed_rows)
        self._freed_rows.clear()
        return freed
