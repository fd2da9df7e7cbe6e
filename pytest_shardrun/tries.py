"""Failed tests that are tried again."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import final

from .explanations import explain
from .ledger import FAILED
from .model import UNKNOWN_SECONDS, Item, Plan, Retries, ShardPlan, Status, Unit
from .notices import TestDone
from .records import replace


@final
@dataclass(slots=True)
class _Pending:
    """A test that failed and has not been tried again."""

    tries: list[TestDone] = field(default_factory=list)
    #: The next try begins at this time at the earliest.
    due: float = 0.0


class Tries:
    """The failed tries of tests that have no final status yet."""

    def __init__(self, retries: Retries | None) -> None:
        self._retries = retries
        self._pending: dict[int, _Pending] = {}
        self._failed_first = 0
        #: Who is being tried again, with the number of tries before.
        self._round: dict[int, int] = {}
        #: Why no test is tried again, once that is so.
        self.refusal = ""

    def count(self, position: int) -> int:
        """How many tries of a test have failed."""
        pending = self._pending.get(position)
        return len(pending.tries) if pending is not None else 0

    def __len__(self) -> int:
        return len(self._pending)

    def keep(self, done: TestDone, tests: int, now: float) -> bool:
        """Whether another try follows this one, which is kept until then.

        ``tests`` is how many there are. When too many have failed, nothing is tried again.
        """
        retries = self._retries
        if retries is None or self.refusal or done.status not in FAILED:
            return False
        if done.number == 1:
            self._failed_first += 1
            most = retries.most_failures(tests)
            if self._failed_first > most:
                self.refusal = (
                    f"no failed test is tried again: more than {most:g} of {tests} have failed "
                    "(--shard-retry-max-failures)"
                )
                return False
        if done.number > retries.count or not re.search(
            retries.only, explain(done.reports, done.blame)
        ):
            return False
        pending = self._pending.setdefault(done.position, _Pending())
        pending.tries.append(done)
        pending.due = now + retries.delay * 2 ** (done.number - 1)
        return True

    def take(self, position: int) -> tuple[TestDone, ...]:
        """The failed tries of a test, which is not waiting any more."""
        pending = self._pending.pop(position, None)
        return tuple(pending.tries) if pending is not None else ()

    def last_tries(self) -> list[TestDone]:
        """The last failed try of each waiting test, in the order of collection."""
        return [self._pending[position].tries[-1] for position in sorted(self._pending)]

    def next_round(self) -> tuple[int, ...]:
        """Who is tried again next: all that failed once, together; later each by itself."""
        together = [at for at, pending in self._pending.items() if len(pending.tries) == 1]
        if together:
            return tuple(sorted(together))
        first = min(self._pending, key=lambda at: (self._pending[at].due, at), default=None)
        return () if first is None else (first,)

    def begin(self, positions: Sequence[int]) -> None:
        """These are being tried again."""
        self._round = {position: self.count(position) for position in positions}

    def unresolved(self) -> list[TestDone]:
        """The last tries of those that the round before could not try again."""
        return [
            self._pending[position].tries[-1]
            for position, count in self._round.items()
            if self.count(position) == count
        ]

    def due(self, positions: Sequence[int]) -> float:
        """When all of these may be tried again."""
        return max(self._pending[position].due for position in positions)

    def last(self, position: int) -> TestDone:
        """The last try of a waiting test."""
        return self._pending[position].tries[-1]

    def home(self, position: int) -> int:
        """The shard of the last try."""
        return self._pending[position].tries[-1].attempt.shard

    def seconds(self, position: int) -> float:
        """How long the last try took."""
        return self._pending[position].tries[-1].seconds


def concluded(done: TestDone, tries: tuple[TestDone, ...], retries: Retries | None) -> TestDone:
    """A test's last try with the failed ones; flaky ones fail where the user wants that."""
    earlier = tuple(each for each in tries if each is not done)
    if not earlier:
        return done
    refused = retries is not None and retries.flaky_fails and done.status not in FAILED
    status = Status.FAILED if refused else done.status
    return replace(done, earlier=earlier, status=status, is_refused=refused)


def plan_of_rest(plan: Plan, left: frozenset[int]) -> Plan:
    """The plan without the tests that are not left any more; tests it does not know come first."""
    shares = []
    known = set(plan.serial)
    for planned in plan.shards:
        units = []
        for unit in planned.units:
            known.update(unit.positions)
            positions = tuple(position for position in unit.positions if position in left)
            if positions:
                seconds = unit.expected_seconds * len(positions) / len(unit.positions)
                units.append(unit._replace(positions=positions, expected_seconds=seconds))
        shares.append(ShardPlan(planned.number, tuple(units)))
    unknown = [Unit((position,), UNKNOWN_SECONDS) for position in sorted(left - known)]
    shares[0] = replace(shares[0], units=(*unknown, *shares[0].units))
    serial = tuple(position for position in plan.serial if position in left)
    return replace(plan, shards=tuple(shares), serial=serial)


def plan_of(
    positions: Sequence[int],
    items: Sequence[Item],
    shards: Sequence[int],
    seconds: Mapping[int, float],
) -> Plan:
    """Spread tests over these shards by the seconds that each took; groups stay together."""
    groups: dict[object, list[int]] = {}
    for position in positions:
        if not items[position].serial:
            groups.setdefault(items[position].group or position, []).append(position)
    units = [
        Unit(tuple(group), sum(seconds[at] for at in group), divisible=len(group) == 1)
        for group in groups.values()
    ]
    shares: dict[int, list[Unit]] = {shard: [] for shard in shards}
    loads = dict.fromkeys(shards, 0.0)
    for unit in sorted(units, key=lambda unit: -unit.expected_seconds):
        # The number of tests decides where they took no time to speak of.
        shard = min(shards, key=lambda each: (round(loads[each], 1), len(shares[each])))
        shares[shard].append(unit)
        loads[shard] += unit.expected_seconds
    return Plan(
        tuple(
            ShardPlan(shard, tuple(sorted(share, key=lambda unit: unit.positions)))
            for shard, share in shares.items()
        ),
        tuple(position for position in positions if items[position].serial),
        digest="",
        measured=True,
    )
