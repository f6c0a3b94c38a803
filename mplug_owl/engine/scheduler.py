"""Who waits, who runs, and in which slot: the queue in order of arrival, memory, and reuse of earlier conversations.

Slots that answer come first, then those whose prompt is being read, then those left by finished conversations, so the
engine always works on neighbouring slots. A finished conversation stays in its slot until the slot is needed: whoever
comes with the same beginning - the same ids, the same pictures, the same rotary stretch - does not compute it again.
It moves slots of the cache about and runs no model.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor

from mplug_owl.engine.cache import SlotCache
from mplug_owl.engine.request import Listener, Medium, Request
from mplug_owl.engine.sampling import Draw

ROUND = 128  # capacities are multiples of it, so that the cache is seldom made anew


@dataclass(eq=False)
class Task:
    """A request on its way."""

    request: Request
    listener: Listener
    draw: Draw
    alpha: float | None
    need: int
    """Positions it may come to hold."""
    most: int
    """Tokens it may generate."""
    stop_ids: frozenset[int]
    aborted: bool = False
    reused: int = 0
    generated: int = 0
    rows: dict[int, Tensor] = field(default_factory=dict)
    """What fills its media, by their number."""

    def missing(self, length: int) -> list[tuple[int, Medium]]:
        """The media that must still be encoded, when so many positions are in the cache."""
        media = enumerate(self.request.media)
        return [(number, medium) for number, medium in media if medium.end > length and number not in self.rows]


class Mark(NamedTuple):
    """A medium in what a slot holds."""

    start: int
    key: bytes


class Slot:
    """What lies in one slot of the cache: the ids behind its first `length` keys, and who runs on it."""

    def __init__(self) -> None:
        self.ids: list[int] = []
        self.media: list[Mark] = []
        self.alpha: float | None = None
        self.length = 0
        self.task: Task | None = None
        self.used = 0

    def take(self, task: Task, common: int) -> None:
        self.ids = list(task.request.ids)
        self.media = [Mark(medium.start, medium.key) for medium in task.request.media]
        self.alpha, self.length, self.task, task.reused = task.alpha, common, task, common

    def cut(self, length: int) -> None:
        """Forget what lies behind `length`."""
        self.length = min(self.length, length)
        del self.ids[self.length :]

    def common(self, task: Task) -> int:
        """How many positions of a task are here already; never all, for its last one must give the next token."""
        if self.alpha != task.alpha:
            return 0
        wanted = task.request.ids
        length = shared(self.ids, wanted, min(self.length, len(wanted) - 1))
        theirs = [Mark(medium.start, medium.key) for medium in task.request.media]
        for number, mark in enumerate(theirs):
            if mark.start < length and self.media[number : number + 1] != [mark]:
                return mark.start
        return length


def shared(one: Sequence[int], other: Sequence[int], most: int) -> int:
    """The length of the common beginning of two lists, at most `most`."""
    low, high = 0, most
    while low < high:  # comparing slices is so fast that halving beats going through
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


class Scheduler:
    def __init__(self, cache: SlotCache, memory: int, most_slots: int) -> None:
        self.cache = cache
        self.positions = memory // cache.bytes_per_position
        """How many positions fit into the memory, over all slots."""
        self.most_slots = most_slots
        self.queue: deque[Task] = deque()
        self.slots: list[Slot] = []
        self.answering = 0
        self.active = 0
        self.clock = 0

    @property
    def idle(self) -> bool:
        return not self.active and not self.queue

    def admit(self) -> None:
        """Give slots to those who wait, in order of arrival, as long as memory lasts."""
        while self.queue and self.make_room(self.queue[0].need):
            self.place(self.queue.popleft())

    def make_room(self, need: int) -> bool:
        """See to a slot more of the length needed; False where it must wait for others to finish."""
        needs = [need, *(slot.task.need for slot in self.slots[: self.active] if slot.task)]
        count = len(needs)
        if count <= self.cache.slots and need <= self.cache.capacity:
            return True
        least = -(-max(needs) // ROUND) * ROUND
        least = min(least, self.positions)
        capacity = max(least, self.cache.capacity)
        if count * capacity > self.positions:  # what finished conversations left behind is in the way
            capacity = least
        slots = min(self.most_slots, self.positions // capacity, max(count, 2 * self.cache.slots))
        if count > slots:
            return False
        self.cache.reshape(slots, capacity)
        self.slots = (self.slots + [Slot() for _ in range(slots - len(self.slots))])[:slots]
        for slot in self.slots[self.active :]:
            slot.cut(capacity)
        return True

    def place(self, task: Task) -> None:
        donor, common = self.donor(task)
        index = self.vacant()
        if donor is not None:
            left = self.slots[donor].length - common
            if donor >= self.active and (left <= common or index == donor):
                index = donor  # continues where it stopped; nothing of worth is overwritten
            else:
                self.cache.copy(donor, index, common)
        self.slots[index].take(task, common)
        self.swap(index, self.active)
        self.active += 1

    def donor(self, task: Task) -> tuple[int | None, int]:
        """The slot with the longest beginning of a task, and its length."""
        best, length = None, 0
        for index, slot in enumerate(self.slots):
            if slot.length > length and (common := slot.common(task)) > length:
                best, length = index, common
        return best, length

    def vacant(self) -> int:
        """The slot that is missed least: an empty one, else the one left longest ago."""
        return min(
            range(self.active, len(self.slots)),
            key=lambda index: (self.slots[index].length > 0, self.slots[index].used),
        )

    def swap(self, one: int, other: int) -> None:
        if one != other:
            a, b = self.slots[one], self.slots[other]
            self.cache.swap(one, other, a.length, b.length)
            self.slots[one], self.slots[other] = b, a

    def promote(self, slot: Slot) -> None:
        """The prompt of a slot has been read: it answers from now on."""
        self.swap(self.slots.index(slot), self.answering)
        self.answering += 1

    def release(self, slot: Slot) -> None:
        """A task is over; what its slot holds stays until the slot is needed."""
        index = self.slots.index(slot)
        if index < self.answering:
            self.answering -= 1
            self.swap(index, self.answering)
            index = self.answering
        self.active -= 1
        self.swap(index, self.active)
        slot.task = None
        slot.cut(slot.length)
        self.clock += 1
        slot.used = self.clock

    def reset(self) -> list[Task]:
        """Forget everything; returns whoever ran or waited."""
        tasks = [slot.task for slot in self.slots[: self.active] if slot.task] + list(self.queue)
        self.queue.clear()
        self.slots, self.answering, self.active = [], 0, 0
        self.cache.reshape(0, 0)
        return tasks
