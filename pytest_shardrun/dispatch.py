"""Which shard is sent which tests, and when."""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from typing import Final, NamedTuple, final

from pytest_shardrun.model import UNKNOWN_SECONDS, Plan, Unit

from .conflicts import Answer, Conflicts, Request
from .queues import LEAST_AHEAD, Part, Queue, Runner, State, without
from .records import record
from .takeover import TakeOver

MOST_AHEAD: Final = 256
SECONDS_AHEAD: Final = 0.1
#: Tests that together take less than this are not worth waiting for the next batch: it takes
#: longer to come than another shard would need for them.
SECONDS_OF_A_TRIP: Final = 0.005
#: How many of a shard's latest tests its mean of seconds remembers, roughly.
MEMORY: Final = 8


# A tuple is made in a third of the time of a frozen dataclass, and there may be one for each test.
class Batch(NamedTuple):
    """What a worker is sent in one go."""

    #: Empty where there is only to say that nothing else is foreseen.
    positions: tuple[int, ...]
    #: False: nothing else is foreseen, so the last test need not wait for a next one.
    more: bool


@final
@record
class _Reach:
    """Who can run what at one revision; who runs the serial tests, and what nobody can run."""

    revision: int
    #: How many shards can be sent tests now.
    living: int
    #: Each host's unsent serial tests, in the order in which the hosts have their turn.
    hosts: dict[int, deque[int]]
    stranded_serial: tuple[int, ...]
    stranded_orphans: tuple[int, ...]


@final
class Dispatcher:
    """Hands out the tests of a plan to shards that ask.

    After `finished` ask for that shard's next batch; when it has nothing in flight any more, and
    after every other call, ask for everyone's, and who may finish.
    """

    def __init__(self, plan: Plan, *, steal: bool, conflicts: Conflicts | None = None) -> None:
        self.conflicts: Final = Conflicts({}, 1) if conflicts is None else conflicts
        self._steal: Final = steal
        self._measured: Final = plan.measured
        self._shards: Final[dict[int, Runner]] = {}
        for planned in plan.shards:
            shard = self._shards[planned.number] = Runner(planned.number)
            for unit in planned.units:
                if unit.positions:
                    shard.queue.append(Part(unit, unit.positions))
        #: Unsent tests that their own shard cannot run; whoever has them takes them over.
        self._orphans: Final = Queue()
        self._takeover: Final = TakeOver(
            self._shards, self._orphans, self.conflicts, steal=steal, measured=plan.measured
        )
        self._stranded: Final[list[int]] = []
        self._serial: dict[int, None] = dict.fromkeys(plan.serial)
        #: The shard that has serial tests in flight, and then nothing but those.
        self._serial_host: int | None = None
        self._unsent = sum(shard.queue.count for shard in self._shards.values())
        self._remaining = self._unsent + len(self._serial)
        self._usual_seconds: Final = (
            sum(shard.queue.seconds for shard in self._shards.values()) / self._unsent
            if self._unsent
            else UNKNOWN_SECONDS
        )
        self._stopped = False
        #: Counts what can make work available to a shard that found none before, or turn work
        #: into stranded work. Sending and taking over do neither, so they don't count.
        self._revision = 0
        self._reach: _Reach | None = None

    def started(self, shard: int) -> None:
        """A process of this shard was started: it will join or be lost.

        Without this the shard counts as waiting for a place to run, and for its sake shards that
        ran dry are dismissed, which could have helped it.
        """
        starting = self._shard(shard)
        assert starting.state is not State.GONE, shard
        starting.state = State.STARTING
        self._revision += 1

    def joined(
        self, shard: int, missing: AbstractSet[int] = frozenset(), extra: Sequence[int] = ()
    ) -> None:
        """A process of this shard has collected and can be sent tests.

        It lacks `missing`, of all positions known so far; nobody had `extra` before.
        """
        newcomer = self._shard(shard)
        assert newcomer.state is not State.GONE, shard
        assert not newcomer.in_flight, shard
        newcomer.state = State.LIVING
        newcomer.collected = True
        newcomer.missing = set(missing)
        if missing:
            self._give_away_missing(newcomer)
        if extra:
            unit = Unit(tuple(extra), self._usual_seconds * len(extra))
            queue = newcomer.queue if newcomer.can_run else self._orphans
            queue.append(Part(unit, unit.positions))
            self._unsent += len(extra)
            self._remaining += len(extra)
            for other in self._shards.values():
                if other is not newcomer and other.collected:
                    other.missing.update(extra)
        self._revision += 1

    def next_batch(self, shard: int) -> Batch | None:
        """What to send to this shard now, or None for nothing new to say."""
        asking = self._shards.get(shard)
        if asking is None or asking.state is not State.LIVING or asking.dismissed or self._stopped:
            return None
        positions = self._send(asking)
        more = self._has_more(asking)
        if not positions and (more or not asking.told_more or not asking.in_flight):
            return None
        asking.told_more = more
        return Batch(positions, more)

    def finished(
        self, shard: int, position: int, seconds: float, setup_seconds: float = 0.0
    ) -> None:
        """This shard has run a test; KeyError if it was not in flight there.

        The seconds are its own, without those of fixtures that it shares with others.
        """
        runner = self._shards[shard]
        part = runner.settled(position)
        if part is not None and part.unit.setup_seconds is None:
            self._takeover.learn(part.unit, setup_seconds)
        if self.conflicts.is_active:
            self.conflicts.settled(shard, position)
            self._revision += 1
        self._remaining -= 1
        if runner.mean_seconds is None:
            runner.mean_seconds = seconds
        else:
            runner.mean_seconds += (seconds - runner.mean_seconds) / MEMORY
        if not runner.in_flight and self._serial_host == shard:
            self._serial_host = None

    def lost(self, shard: int, blamed: int | None) -> None:
        """This shard's process is gone: what it has not finished returns to the head of its queue.

        The blamed test is settled. The shard gets nothing before it has joined again.
        """
        loser = self._shard(shard)
        if blamed is not None and blamed in loser.in_flight:
            loser.settled(blamed)
            self._remaining -= 1
        self.conflicts.forget(shard)
        self._take_back(loser)
        if loser.state is not State.GONE:
            loser.state = State.LOST
        self._revision += 1

    def give_up(self, shard: int) -> None:
        """No process will ever run for this shard again: others take over its tests, if they may.

        Idempotent.
        """
        gone = self._shard(shard)
        self.conflicts.forget(shard)
        self._take_back(gone)
        gone.state = State.GONE
        for part in gone.queue.clear():
            if self._steal:
                self._orphans.append(Part(part.unit, part.unsent))
            else:
                self._stranded.extend(part.unsent)
                self._unsent -= len(part)
        self._revision += 1

    def left(self, shard: int) -> None:
        """This shard's process has ended in good order; it never gets work again. Idempotent."""
        self.give_up(shard)

    def granted(self, request: Request) -> None:
        """The run holds these locks now: ask for everyone's next batch."""
        self.conflicts.granted(request)
        self._revision += 1

    def refused(self, request: Request) -> None:
        """Another run holds some of these locks: ask for everyone's next batch."""
        self.conflicts.refused(request)
        self._revision += 1

    def stop(self) -> None:
        """Nothing more is handed out, and nobody is told anything more."""
        self._stopped = True

    def may_finish(self, shard: int) -> bool:
        """Whether nothing is in flight there and nothing will come for it.

        True is final: whether or not it has a process, this shard gets nothing from then on.
        """
        idle = self._shard(shard)
        if not idle.can_run:
            return True
        if idle.in_flight:
            return False
        if not self._stopped:
            if idle.queue.parts or self._can_take_over(idle):
                return False
            if idle.has_process and self._place_is_awaited():
                if self._must_stay_for_serial(idle):
                    return False
            elif self._survey().hosts.get(shard) or (idle.has_process and self._may_be_needed()):
                return False
        idle.dismissed = True
        self._revision += 1
        return True

    def stranded(self) -> tuple[int, ...]:
        """The unsent tests that no shard can run any more."""
        reach = self._survey()
        return tuple(sorted((*self._stranded, *reach.stranded_orphans, *reach.stranded_serial)))

    def unfinished(self, shard: int) -> tuple[int, ...]:
        """The tests in flight there, then those in its queue; serial ones once they were sent."""
        known = self._shards.get(shard)
        return () if known is None else (*known.in_flight, *known.queue.positions())

    def homes(self) -> dict[int, int]:
        """The shard of each unfinished test that has one."""
        return {position: number for number in self._shards for position in self.unfinished(number)}

    def has_in_flight(self, shard: int) -> bool:
        """Whether a test was sent to this shard that it has not finished."""
        known = self._shards.get(shard)
        return known is not None and bool(known.in_flight)

    def may_wait(self, shard: int) -> bool:
        """Whether this shard has so little in flight that it may be waiting for more."""
        known = self._shards.get(shard)
        return known is None or len(known.in_flight) <= LEAST_AHEAD

    def is_in_flight(self, shard: int, position: int) -> bool:
        """Whether this test was sent to this shard and is not finished."""
        known = self._shards.get(shard)
        return known is not None and position in known.in_flight

    def next_to_begin(self, shard: int) -> int | None:
        """The test that this shard could begin with what it was sent, if it runs none."""
        known = self._shards.get(shard)
        if known is None or (known.told_more and len(known.in_flight) < LEAST_AHEAD):
            return None
        return next(iter(known.in_flight), None)

    def remaining(self) -> int:
        """How many tests are neither finished nor settled, wherever they are."""
        return self._remaining

    def _shard(self, number: int) -> Runner:
        if number not in self._shards:
            self._shards[number] = Runner(number)
        return self._shards[number]

    def _send(self, shard: Runner) -> tuple[int, ...]:
        ahead = len(shard.in_flight)
        # Refilled when half empty: tiny tests travel in batches.
        if (
            ahead >= LEAST_AHEAD
            and ahead > self._wanted(shard) // 2
            and not self._is_short_of_work(shard, SECONDS_OF_A_TRIP / 2)
        ):
            return ()
        if self._serial_host is None and (positions := self._send_parallel(shard)):
            return positions
        return self._send_serial(shard)

    def _wanted(self, shard: Runner) -> int:
        """How many tests should be in flight at a shard."""
        mean = shard.mean_seconds
        if mean is None or mean * LEAST_AHEAD >= SECONDS_AHEAD:
            return LEAST_AHEAD
        wanted = math.ceil(SECONDS_AHEAD / max(mean, SECONDS_AHEAD / MOST_AHEAD))
        # What is sent cannot be taken over, so the tail would get out of balance.
        share = self._unsent // (2 * self._survey().living)
        return max(LEAST_AHEAD, min(wanted, share))

    def _is_short_of_work(self, shard: Runner, seconds: float) -> bool:
        """Whether what is in flight there is known to take less time than this."""
        return self._measured and shard.expected_seconds < seconds

    def _send_parallel(self, shard: Runner) -> tuple[int, ...]:
        positions: list[int] = []
        is_contended = self.conflicts.is_active
        wanted = self._wanted(shard)
        while (ahead := len(shard.in_flight)) < wanted or (
            ahead < MOST_AHEAD and self._is_short_of_work(shard, SECONDS_OF_A_TRIP)
        ):
            # A slow test behind many quick ones should stay where others can take it over.
            if ahead >= LEAST_AHEAD and self._measured and shard.expected_seconds >= SECONDS_AHEAD:
                break
            if is_contended:
                position = self._send_free(shard)
                if position is None:
                    break
            elif shard.queue.parts or self._takeover.take(shard, self._revision):
                position = shard.send()
            else:
                break
            positions.append(position)
        self._unsent -= len(positions)
        return tuple(positions)

    def _send_free(self, shard: Runner) -> int | None:
        """Send the first test that is in conflict with none that is in flight elsewhere."""
        found = self._find_free(shard)
        if found is None and self._takeover.take(shard, self._revision):
            found = self._find_free(shard)
        if found is None:
            return None
        place, inner = found
        if not self._may_send(shard, shard.queue.parts[place].unsent[inner]):
            return None
        position = shard.send_from(place, inner)
        self.conflicts.sent(shard.number, position)
        return position

    def _find_free(self, shard: Runner) -> tuple[int, int] | None:
        conflicts, number = self.conflicts, shard.number
        return shard.queue.find(
            lambda unit: conflicts.refuses(number, unit),
            lambda position: conflicts.answer(number, position) is not Answer.NO,
        )

    def _may_send(self, shard: Runner, position: int) -> bool:
        """Whether a test can be sent at once; where only its locks are to be got, asks for them."""
        answer = self.conflicts.answer(shard.number, position)
        if answer is Answer.ASK:
            # Most often they are granted at once, so the order of tests is kept.
            self.conflicts.ask_for(position)
        return answer is Answer.YES

    def _send_serial(self, shard: Runner) -> tuple[int, ...]:
        positions: list[int] = []
        share = self._serial_turn(shard)
        while share and len(shard.in_flight) < LEAST_AHEAD:
            if self.conflicts.is_active and not self._may_send(shard, share[0]):
                break
            position = share.popleft()
            del self._serial[position]
            shard.in_flight[position] = None
            if self.conflicts.is_active:
                self.conflicts.sent(shard.number, position)
            self._serial_host = shard.number
            positions.append(position)
        return tuple(positions)

    def _has_more(self, shard: Runner) -> bool:
        if self._serial_host is None:
            own = bool(shard.queue.parts)
            if own and self.conflicts.is_active:
                own = self._find_free(shard) is not None
            return own or self._can_take_over(shard)
        if self._serial_host != shard.number:
            return False
        share = self._serial_turn(shard)
        if not share or not self.conflicts.is_active:
            return bool(share)
        return self.conflicts.answer(shard.number, share[0]) is not Answer.NO

    def _can_take_over(self, thief: Runner) -> bool:
        return self._takeover.source(thief, self._revision) is not None

    def _give_away_missing(self, shard: Runner) -> None:
        """Part with the tests that this shard turned out to lack, and with groups of such tests."""
        for part in shard.queue.clear():
            lacks = tuple(position for position in part.unsent if position in shard.missing)
            if not lacks:
                shard.queue.append(part)
            elif not part.unit.divisible:
                self._orphans.append(Part(part.unit, part.unsent))
            else:
                self._orphans.append(Part(part.unit, lacks))
                if rest := without(part.unsent, shard.missing):
                    shard.queue.append(Part(part.unit, rest))

    def _take_back(self, shard: Runner) -> None:
        """Return what is in flight at a process that is gone."""
        if self._serial_host == shard.number:
            self._serial = dict.fromkeys((*shard.in_flight, *self._serial))
            self._serial_host = None
        else:
            self._unsent += len(shard.in_flight)
            runs = [
                (unit, tuple(position for position, _ in run))
                for unit, run in itertools.groupby(shard.in_flight.items(), _unit_of)
            ]
            for unit, positions in reversed(runs):
                assert unit is not None
                shard.queue.put_back(unit, positions)
        shard.in_flight.clear()
        shard.expected_seconds = 0.0

    def _survey(self) -> _Reach:
        if self._reach is not None and self._reach.revision == self._revision:
            return self._reach
        runners = [shard for shard in self._shards.values() if shard.can_run]
        runners.sort(key=lambda shard: (shard.state, shard.number))
        hosts: dict[int, deque[int]] = {}
        serial = tuple(self._serial)
        for shard in runners:
            share = without(serial, shard.missing)
            if share:
                hosts[shard.number] = deque(share)
                serial = tuple(position for position in serial if position in shard.missing)
        orphans = set(self._orphans.positions())
        for shard in runners:
            orphans &= shard.missing
        living = sum(shard.state is State.LIVING for shard in runners)
        self._reach = _Reach(self._revision, living, hosts, serial, tuple(orphans))
        return self._reach

    def _serial_turn(self, shard: Runner) -> deque[int]:
        """The serial tests that this shard may be sent now."""
        closed: deque[int] = deque()
        if (
            not self._serial
            or self._serial_host not in (None, shard.number)
            or (self._serial_host is None and shard.in_flight)
            or self._unsent_somewhere()
        ):
            return closed
        hosts = self._survey().hosts
        if next((number for number, share in hosts.items() if share), None) != shard.number:
            return closed
        for other in self._shards.values():
            # A later host stays, idle: it has serial tests that this one lacks.
            idle = not other.in_flight and hosts.get(other.number)
            if other is not shard and other.has_process and not idle:
                return closed
        return hosts[shard.number]

    def _unsent_somewhere(self) -> bool:
        """Whether a test that is not serial waits in a queue from which it can be sent."""
        return self._unsent > len(self._survey().stranded_orphans)

    def _may_be_needed(self) -> bool:
        """Whether a shard without work could get some when a process is lost or joins."""
        if self._steal:
            return self._unsent_somewhere() or (
                self._serial_host is None
                and any(shard.in_flight for shard in self._shards.values())
            )
        return any(
            shard.can_run and shard.state is not State.LIVING and shard.queue.parts
            for shard in self._shards.values()
        )

    def _must_stay_for_serial(self, host: Runner) -> bool:
        """Whether serial tests need this shard although another could use its place meanwhile."""
        share = set(self._survey().hosts.get(host.number, ()))
        for shard in self._shards.values():
            if shard is not host and shard.can_run:
                share &= shard.missing
        # Unless somebody else can still make room, even the only host has to go.
        return bool(share) and any(
            shard.has_process
            and shard.can_run
            and (shard.in_flight or not self._survey().hosts.get(shard.number))
            for shard in self._shards.values()
            if shard is not host
        )

    def _place_is_awaited(self) -> bool:
        """Whether a shard with work waits for its turn, which may need another's place."""
        awaited = sum(
            shard.can_run
            and not shard.has_process
            and bool(shard.queue.parts or self._can_take_over(shard))
            for shard in self._shards.values()
        )
        leaving = sum(shard.dismissed and shard.has_process for shard in self._shards.values())
        return awaited > leaving


def _unit_of(sent: tuple[int, Part | None]) -> Unit | None:
    part = sent[1]
    return None if part is None else part.unit
