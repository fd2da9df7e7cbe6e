"""What each shard still has to run."""

from __future__ import annotations

import enum
import itertools
from collections import deque
from collections.abc import Callable, Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Final, final

from pytest_shardrun.model import Unit

#: A worker holds its last test until it knows the next one, so one in hand is too few.
LEAST_AHEAD: Final = 2


@final
class State(enum.IntEnum):
    """What is known of a shard's process; the serial tests prefer the lowest."""

    LIVING = 0
    STARTING = 1
    LOST = 2
    WAITING = 3
    GONE = 4


@final
@dataclass(slots=True)
class Part:
    """What a queue still holds of one unit."""

    unit: Unit
    positions: tuple[int, ...]
    start: int = 0
    #: A test of it was sent from this queue.
    begun: bool = False

    def __len__(self) -> int:
        return len(self.positions) - self.start

    @property
    def unsent(self) -> tuple[int, ...]:
        return self.positions[self.start :] if self.start else self.positions

    @property
    def seconds(self) -> float:
        return self.unit.each_seconds * len(self)


@final
@dataclass(slots=True)
class Queue:
    """Unsent tests in order, with their sums."""

    parts: deque[Part] = field(default_factory=deque)
    count: int = 0
    seconds: float = 0.0

    def append(self, part: Part) -> None:
        self.parts.append(part)
        self.count += len(part)
        self.seconds += part.seconds

    def pop(self) -> Part:
        part = self.parts.pop()
        self._shrink(part.unit, len(part))
        return part

    def send(self) -> tuple[int, Unit]:
        """Take out the first test."""
        part = self.parts[0]
        position = part.positions[part.start]
        part.start += 1
        part.begun = True
        if part.start == len(part.positions):
            self.parts.popleft()
        unit = part.unit
        self.count -= 1
        self.seconds = self.seconds - unit.each_seconds if self.count else 0.0
        return position, unit

    def find(
        self, refuses: Callable[[Unit], bool], accepts: Callable[[int], bool]
    ) -> tuple[int, int] | None:
        """Where the first test is that is accepted: the place of its part, and its own in there.

        A group is run in order, so only its next test counts.
        """
        for place, part in enumerate(self.parts):
            if refuses(part.unit):
                continue
            candidates = part.unsent if part.unit.divisible else part.unsent[:1]
            for inner, position in enumerate(candidates):
                if accepts(position):
                    return place, inner
        return None

    def send_from(self, place: int, inner: int) -> tuple[int, Unit]:
        """Take out a test that was found."""
        if place == inner == 0:
            return self.send()
        part = self.parts[place]
        unsent = part.unsent
        part.positions, part.start = unsent[:inner] + unsent[inner + 1 :], 0
        part.begun = True
        if not part:
            del self.parts[place]
        self._shrink(part.unit, 1)
        return unsent[inner], part.unit

    def put_back(self, unit: Unit, positions: tuple[int, ...]) -> None:
        """Return tests that were sent to the head, joined with the rest of their unit."""
        rest: tuple[int, ...] = ()
        # The rest of a group may be behind other tests, where it waited for a lock.
        searched = 1 if unit.divisible else len(self.parts)
        for place in range(min(searched, len(self.parts))):
            if self.parts[place].unit is unit:
                rest = self.parts[place].unsent
                del self.parts[place]
                break
        self.parts.appendleft(Part(unit, positions + rest, begun=True))
        self.count += len(positions)
        self.seconds += unit.each_seconds * len(positions)

    def clear(self) -> tuple[Part, ...]:
        parts = tuple(self.parts)
        self.parts.clear()
        self.count = 0
        self.seconds = 0.0
        return parts

    def positions(self) -> Iterator[int]:
        return itertools.chain.from_iterable(part.unsent for part in self.parts)

    def _shrink(self, unit: Unit, count: int) -> None:
        self.count -= count
        # What rounding leaves over must not outlive the tests.
        self.seconds = self.seconds - unit.each_seconds * count if self.count else 0.0


@final
@dataclass(slots=True)
class Runner:
    """What the dispatcher knows of one shard."""

    number: int
    state: State = State.WAITING
    queue: Queue = field(default_factory=Queue)
    #: In the order of sending; None stands for a serial test's unit.
    in_flight: dict[int, Unit | None] = field(default_factory=dict)
    #: What the tests in flight are expected to take, but for serial ones.
    expected_seconds: float = 0.0
    #: What its latest collection lacks; unknown and empty until it has joined once.
    missing: set[int] = field(default_factory=set)
    collected: bool = False
    #: It was said that it may finish.
    dismissed: bool = False
    told_more: bool = False
    mean_seconds: float | None = None
    #: The revision at which there was nothing to take over.
    dry_at: int = -1

    def sent(self, position: int, unit: Unit) -> None:
        self.in_flight[position] = unit
        self.expected_seconds += unit.each_seconds

    def settled(self, position: int) -> Unit | None:
        """The unit of a test that is in flight no more; KeyError if it was not."""
        unit = self.in_flight.pop(position)
        # What rounding leaves over must not outlive the tests.
        if not self.in_flight:
            self.expected_seconds = 0.0
        elif unit is not None:
            self.expected_seconds -= unit.each_seconds
        return unit

    @property
    def has_process(self) -> bool:
        return self.state in (State.LIVING, State.STARTING)

    @property
    def can_run(self) -> bool:
        """Whether tests can be sent to it, now or after its process has started."""
        return self.state is not State.GONE and not self.dismissed


def without(positions: tuple[int, ...], missing: AbstractSet[int]) -> tuple[int, ...]:
    if not missing:
        return positions
    return tuple(position for position in positions if position not in missing)
