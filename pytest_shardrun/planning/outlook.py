"""What other numbers of shards would gain."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import fsum
from typing import Final, final

from pytest_shardrun.model import Item, Plan, Unit
from pytest_shardrun.planning.estimates import Durations
from pytest_shardrun.planning.scopes import TOLERANCE, class_of, module_of
from pytest_shardrun.planning.splitters import LEAST_SECONDS, Splitter, make_plan

from ..records import record

#: Twice the shards are not worth it where they save less than this share.
WORTHWHILE: Final = 0.1


@final
@record
class Outlook:
    """What is expected of a number of shards."""

    shards: int
    #: Of the busiest shard's tests and of those that run alone afterwards.
    seconds: float
    #: What cannot be split and takes as long as the busiest shard, if there is such a thing.
    bottleneck: str


def outlooks(
    items: Sequence[Item],
    durations: Durations,
    counts: Sequence[int],
    *,
    splitter: Splitter,
    scope: str,
) -> list[Outlook]:
    """The tests spread over each of these numbers of shards."""
    estimates = durations.estimate([item.nodeid for item in items])
    seconds = [max(estimate, LEAST_SECONDS) for estimate in estimates]
    found = []
    for count in counts:
        plan = make_plan(items, durations, shards=count, splitter=splitter, scope=scope)
        found.append(_outlook(plan, count, items, seconds))
    return found


def counts_to_show(asked: int, tests: int) -> list[int]:
    """1, 2, 4, … and the number that was asked for, as far as there are tests for so many."""
    doubled = [1 << power for power in range(7)]
    most = max(16, 2 * asked)
    return sorted({count for count in (*doubled, asked) if count <= min(most, max(tests, 1))})


def enough(found: Sequence[Outlook], start: float) -> Outlook | None:
    """The first from which on a further step saves too little, with `start` seconds before tests.

    None where every step is worth it.
    """
    for each, following in pairwise(found):
        if start + following.seconds > (1 - WORTHWHILE) * (start + each.seconds):
            return each
    return None


def name_of(unit: Unit, items: Sequence[Item]) -> str:
    """What holds the tests of a unit together: a test, class, module, package or group."""
    tests = [items[position] for position in unit.positions]
    if tests[0].group is not None:
        return f"the group {tests[0].group}"
    if len(tests) == 1:
        return tests[0].nodeid
    for naming in (class_of, module_of):
        names = {naming(test.nodeid) for test in tests}
        if len(names) == 1:
            return names.pop()
    return module_of(tests[0].nodeid).rpartition("/")[0] or "all modules of the rootdir"


def _outlook(plan: Plan, count: int, items: Sequence[Item], seconds: Sequence[float]) -> Outlook:
    alone = fsum([seconds[position] for position in plan.serial])
    busiest = max(plan.shards, key=lambda shard: shard.expected_seconds, default=None)
    if busiest is None or not busiest.units:
        return Outlook(count, alone, "")
    whole = busiest.expected_seconds
    longest, name = max(
        _longest_part(unit, items, seconds) for shard in plan.shards for unit in shard.units
    )
    limits = count > 1 and longest * TOLERANCE >= whole
    return Outlook(count, whole + alone, name if limits else "")


def _longest_part(unit: Unit, items: Sequence[Item], seconds: Sequence[float]) -> tuple[float, str]:
    if not unit.divisible:
        return unit.whole_seconds, name_of(unit, items)
    longest = max(unit.positions, key=seconds.__getitem__)
    return seconds[longest], items[longest].nodeid
