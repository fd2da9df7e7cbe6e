"""How many attempts may live at the same time."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from typing import Final, final

from .shards import Shard

#: Nobody has measured how many attempts the machine has memory for.
UNKNOWN_ROOM: Final = 1 << 30


@final
class Berths:
    """The queue of shards that wait for their turn, and what there is room for."""

    def __init__(
        self, shards: Mapping[int, Shard], jobs: int, waiting: Iterable[int], *, one_first: bool
    ) -> None:
        self._shards: Final = shards
        self._jobs: Final = jobs
        self._waiting: Final = deque(waiting)
        self._one_first = one_first
        #: How many more attempts the machine has memory for.
        self._room = UNKNOWN_ROOM

    @property
    def are_awaited(self) -> bool:
        """Whether a shard waits for its turn."""
        return bool(self._waiting)

    @property
    def lack_room(self) -> bool:
        """Whether a shard waits for memory alone."""
        return self._has_turn and self._room <= 0 and self._working() > 0

    @property
    def are_empty(self) -> bool:
        """Whether no attempt lives."""
        return all(shard.life is None for shard in self._shards.values())

    def measured(self, room: int) -> None:
        """The machine has memory for so many more attempts; one may always live."""
        self._room = room

    def open(self) -> bool:
        """Let others begin beside the first one; False where they could already."""
        was_closed, self._one_first = self._one_first, False
        return was_closed

    def queue(self, shards: Iterable[int]) -> None:
        """Let these wait for their turn, too."""
        self._waiting.extend(shards)

    def queue_first(self, shard: int) -> None:
        """Let this one wait, and be the next."""
        self._waiting.appendleft(shard)

    def dismiss_queue(self) -> None:
        """Nobody waits any more."""
        self._waiting.clear()

    def next(self) -> Shard | None:
        """Take the shard from the queue that may begin now, if there is one."""
        if not self._has_turn or (self._one_first and self._working()) or not self.has_memory:
            return None
        return self._shards[self._waiting.popleft()]

    def take(self, shard: Shard) -> int:
        """Give a shard that begins an attempt its slot.

        It is the one that it had, unless somebody took it in between.
        """
        self._room -= 1
        taken = {other.slot for other in self._shards.values() if other.life is not None}
        if shard.slot is None or shard.slot in taken:
            shard.slot = min(set(range(len(taken) + 1)) - taken)
        return shard.slot

    @property
    def has_memory(self) -> bool:
        """Whether the machine has memory for one more."""
        return self._room > 0 or not self._working()

    @property
    def _has_turn(self) -> bool:
        return self.are_awaited and self._working() < self._jobs

    def _working(self) -> int:
        return sum(
            shard.life is not None and not shard.life.only_keeps for shard in self._shards.values()
        )
