"""The seats of the device batch: one numpy column for each counter, one entry for each row.

A decode step touches every running request; here that is a handful of array operations instead of a Python loop. The
scheduler owns the table; a row belongs to one request from `take` to `release`.
"""

from __future__ import annotations

import numpy as np

from quire.scheduling.request import NO_ROW, Request


class RowTable:
    """Counters of seated requests, int32 `[num_rows]`; `pooling`, bool, marks rows that want no tokens.

    `length`: tokens known or sampled in flight. `computed`: positions planned so far; `computed ≤ length`.
    `capacity`: slots of the row's blocks; `computed ≤ capacity`. `end`: positions that will ever be computed: the
    last token of the longest output is sampled and never computed.
    """

    def __init__(self, num_rows: int) -> None:
        self.num_rows = num_rows
        self.length = np.zeros(num_rows, np.int32)
        self.computed = np.zeros(num_rows, np.int32)
        self.capacity = np.zeros(num_rows, np.int32)
        self.end = np.zeros(num_rows, np.int32)
        self.pooling = np.zeros(num_rows, np.bool_)
        self._free = list(range(num_rows - 1, -1, -1))

    @property
    def num_free(self) -> int:
        return len(self._free)

    def take(self, request: Request) -> int:
        """Seat a request; its counters start from what the host knows and nothing computed."""
        row = self._free.pop()
        request.rows, request.row = self, row
        self.length[row] = request.num_tokens
        self.end[row] = request.max_length - 1
        self.pooling[row] = bool(request.pooling)
        self.computed[row] = self.capacity[row] = 0
        return row

    def release(self, request: Request) -> int:
        """Give the row back and return its id."""
        row = request.row
        request.rows, request.row = None, NO_ROW
        self._free.append(row)
        return row
