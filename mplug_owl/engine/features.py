"""What pictures and videos became, by their content: a picture shown again is not encoded again."""

import threading
from collections import OrderedDict

from torch import Tensor


class Features:
    """Rows of the abstractor up to a number of bytes; the ones unused for longest make room. Threads may share it."""

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self.bytes = 0
        self._rows: OrderedDict[bytes, Tensor] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._rows)

    def get(self, key: bytes) -> Tensor | None:
        with self._lock:
            rows = self._rows.get(key)
            if rows is not None:
                self._rows.move_to_end(key)
            return rows

    def put(self, key: bytes, rows: Tensor) -> None:
        """Keep rows, unless they are larger than all there is room for."""
        with self._lock:
            if key in self._rows or rows.nbytes > self.budget:
                return
            self._rows[key] = rows
            self.bytes += rows.nbytes
            while self.bytes > self.budget:
                _, oldest = self._rows.popitem(last=False)
                self.bytes -= oldest.nbytes
