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
    #: What one of its tests is expected to take.
    each_seconds: float = field(init=False)

    def __post_init__(self) -> None:
        self.each_seconds = self.unit.each_seconds

    def __len__(self) -> int:
        return len(self.positions) - self.start

    @property
    def unsent(self) -> tuple[int, ...]:
        return self.positions[self.start :] if self.start else self.positions

    @property
    def seconds(self) -> float:
        return self.each_seconds * (len(self.positions) - self.start)


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
        self._shrink(part, len(part))
        return part

    def send(self) -> tuple[int, Part]:
        """Take out the first test; it comes with the part that it belonged to."""
        part = self.parts[0]
        position = part.positions[part.start]
        part.start += 1
        part.begun = True
        if part.start == len(part.positions):
            self.parts.popleft()
        self.count -= 1
        self.seconds = self.seconds - part.each_seconds if self.count else 0.0
        return position, part

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

    def send_from(self, place: int, inner: int) -> tuple[int, Part]:
        """Take out a test that was found."""
        if place == inner == 0:
            return self.send()
        part = self.parts[place]
        unsent = part.unsent
        part.positions, part.start = unsent[:inner] + unsent[inner + 1 :], 0
        part.begun = True
        if not part:
            del self.parts[place]
        self._shrink(part, 1)
        return unsent[inner], part

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
        joined = Part(unit, positions + rest, begun=True)
        self.parts.appendleft(joined)
        self.count += len(positions)
        self.seconds += joined.each_seconds * len(positions)

    def clear(self) -> tuple[Part, ...]:
        parts = tuple(self.parts)
        self.parts.clear()
        self.count = 0
        self.seconds = 0.0
        return parts

    def positions(self) -> Iterator[int]:
        return itertools.chain.from_iterable(part.unsent for part in self.parts)

    def _shrink(self, part: Part, count: int) -> None:
        self.count -= count
        # What rounding leaves over must not outlive the tests.
        self.seconds = self.seconds - part.each_seconds * count if self.count else 0.0


@final
@dataclass(slots=True)
class Runner:
    """What the dispatcher knows of one shard."""

    number: int
    state: State = State.WAITING
    queue: Queue = field(default_factory=Queue)
    #: In the order of sending; None stands for a serial test's part.
    in_flight: dict[int, Part | None] = field(default_factory=dict)
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

    def send(self) -> int:
        """Put the first test of the queue in flight."""
        position, part = self.queue.send()
        self.in_flight[position] = part
        self.expected_seconds += part.each_seconds
        return position

    def send_from(self, place: int, inner: int) -> int:
        """Put a test in flight that was found in the queue."""
        position, part = self.queue.send_from(place, inner)
        self.in_flight[position] = part
        self.expected_seconds += part.each_seconds
        return position

    def settled(self, position: int) -> Part | None:
        """The part of a test that is in flight no more; KeyError if it was not."""
        part = self.in_flight.pop(position)
        # What rounding leaves over must not outlive the tests.
        if not self.in_flight:
            self.expected_seconds = 0.0
        elif part is not None:
            self.expected_seconds -= part.each_seconds
        return part

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
