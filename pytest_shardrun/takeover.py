"""What a dry shard takes over from others."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final, final

from pytest_shardrun.model import LEAST_SECONDS, Unit

from .conflicts import Answer, Conflicts
from .queues import LEAST_AHEAD, Part, Queue, Runner, State, without


@final
class TakeOver:
    """Finds and moves what a shard with nothing left can take.

    Whole units first, halves of a unit where nothing else is left, and never a part of a group.
    """

    def __init__(
        self,
        shards: Mapping[int, Runner],
        orphans: Queue,
        conflicts: Conflicts,
        *,
        steal: bool,
        measured: bool,
    ) -> None:
        self._shards: Final = shards
        #: Unsent tests that their own shard cannot run; whoever has them takes them over.
        self._orphans: Final = orphans
        self._conflicts: Final = conflicts
        self._steal: Final = steal
        self._measured: Final = measured
        #: By the identity of units whose setup the plan did not know.
        self._setups: Final[dict[int, float]] = {}
        #: Something was refused since its fixtures would take longer than it would help.
        self._too_dear = False

    def learn(self, unit: Unit, setup_seconds: float) -> None:
        """The first test of this unit in a process has told what its fixtures take."""
        self._setups[id(unit)] = max(setup_seconds, self._setups.get(id(unit), 0.0))

    def source(self, thief: Runner, revision: int) -> tuple[Queue, int] | None:
        """The queue from which this shard can take something, and how many tests at most.

        A shard that found nothing is not served again at the same revision.
        """
        if thief.dry_at == revision:
            return None
        self._too_dear = False
        if self._offers(self._orphans, self._orphans.count, thief):
            return self._orphans, self._orphans.count
        if self._steal:
            victims = [
                shard
                for shard in self._shards.values()
                if shard is not thief and shard.collected and shard.queue.parts
            ]
            victims.sort(key=lambda victim: victim.queue.seconds, reverse=True)
            for victim in victims:
                most = _spare(victim, thief)
                if self._offers(victim.queue, most, thief):
                    return victim.queue, most
        # What is too dear may turn out to pay when more is known; and what is sent elsewhere may be
        # in the way, which is no change of the revision.
        if not self._too_dear and not self._conflicts.is_active:
            thief.dry_at = revision
        return None

    def take(self, thief: Runner, revision: int) -> bool:
        """Move up to half of another queue's seconds, and at least something, to an empty one."""
        source = self.source(thief, revision)
        if source is None:
            return False
        queue, most = source
        enough = queue.seconds / 2
        taken: list[Part] = []
        passed: list[Part] = []
        seconds = 0.0
        while queue.parts:
            part = queue.pop()
            alone = not queue.parts and not passed
            positions = self._offer(queue, part, most, thief, alone=alone)
            gain = part.each_seconds * len(positions)
            if taken and seconds + gain > enough:
                passed.append(part)
                break
            if positions:
                taken.append(Part(part.unit, positions))
                seconds += gain
                most -= len(positions)
            if len(positions) < len(part):
                rest = without(part.unsent, set(positions))
                passed.append(Part(part.unit, rest, begun=part.begun))
        for part in reversed(passed):
            queue.append(part)
        for part in reversed(taken):
            thief.queue.append(part)
        return True

    def _offers(self, queue: Queue, most: int, thief: Runner) -> bool:
        alone = len(queue.parts) == 1
        return any(
            self._offer(queue, part, most, thief, alone=alone) for part in reversed(queue.parts)
        )

    def _offer(
        self, queue: Queue, part: Part, most: int, thief: Runner, *, alone: bool
    ) -> tuple[int, ...]:
        """What this shard can take of a part that is `alone` in its queue, or is not."""
        if most <= 0:
            return ()
        positions = self._takeable(queue, part, most, thief, alone=alone)
        if not positions or not self._conflicts.is_active:
            return positions
        # Only what it can be sent at once: the rest would wait there as it waits here.
        if self._conflicts.refuses(thief.number, part.unit):
            return ()
        if part.unit.divisible:
            return tuple(each for each in positions if self._is_free(thief, each))
        return positions if self._is_free(thief, positions[0]) else ()

    def _is_free(self, thief: Runner, position: int) -> bool:
        return self._conflicts.answer(thief.number, position) is not Answer.NO

    def _takeable(
        self, queue: Queue, part: Part, most: int, thief: Runner, *, alone: bool
    ) -> tuple[int, ...]:
        has_all = not thief.missing or thief.missing.isdisjoint(part.unsent)
        if part.unit.divisible:
            offered = part.unsent if has_all else without(part.unsent, thief.missing)
            if alone or part.begun:
                offered = self._end_of(queue, part, offered, thief)
            if len(offered) > most and not part.begun and self._setup_of(part) != 0:
                # The tests that would stay share fixtures with them.
                self._too_dear = True
                return ()
            return offered[-most:]
        if queue is not self._orphans:
            whole = has_all and not alone and not part.begun and len(part) <= most
            return part.unsent if whole else ()
        if has_all:
            return part.unsent
        if any(
            shard.can_run and shard.missing.isdisjoint(part.unsent)
            for shard in self._shards.values()
        ):
            return ()
        # Nobody has the whole group: better in pieces than not at all.
        return without(part.unsent, thief.missing)

    def _end_of(
        self, queue: Queue, part: Part, offered: tuple[int, ...], thief: Runner
    ) -> tuple[int, ...]:
        """The end of a unit, so that whoever has the rest is done at the same time."""
        setup = self._setup_of(part)
        if setup == 0:
            return offered[len(offered) // 2 :]
        if not part.begun or queue is self._orphans:
            # Half of it here and half of it there would set up its fixtures twice.
            return offered
        if setup is None:
            self._too_dear = True
            return ()
        pace = self._pace_of(queue, part, thief)
        count = math.ceil((len(offered) - setup / pace) / 2)
        if count <= 0:
            self._too_dear = True
            return ()
        return offered[-count:]

    def _setup_of(self, part: Part) -> float | None:
        """What the fixtures take that its tests share, as far as is known."""
        setup = part.unit.setup_seconds
        return self._setups.get(id(part.unit)) if setup is None else setup

    def _pace_of(self, queue: Queue, part: Part, thief: Runner) -> float:
        """What a test of this part takes, in seconds."""
        if self._measured:
            return part.each_seconds
        means = [shard.mean_seconds for shard in self._shards.values() if shard.queue is queue]
        mean = means[0] if means and means[0] is not None else thief.mean_seconds
        return part.each_seconds if mean is None else max(mean, LEAST_SECONDS)


def _spare(victim: Runner, thief: Runner) -> int:
    """How many unsent tests another shard can do without.

    A worker that has not been served yet keeps what it will be sent at once: it must not end up
    with less to do than the shard that came first.
    """
    if victim.state is not State.LIVING:
        return victim.queue.count
    due = min(len(thief.in_flight) + 1, LEAST_AHEAD) - len(victim.in_flight)
    return victim.queue.count - max(due, 0)
