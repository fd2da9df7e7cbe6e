"""How planning, dispatch and the ledger grow with the suite."""

from __future__ import annotations

import gc
import random
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from pytest_shardrun.dispatch import Dispatcher
from pytest_shardrun.ledger import Entry, Ledger
from pytest_shardrun.model import Item, Plan, Status
from pytest_shardrun.planning.estimates import Durations
from pytest_shardrun.planning.splitters import make_plan, split_by_duration

SIZES: Final = (10_000, 50_000, 200_000)
SHARDS: Final = 8


@dataclass(frozen=True, slots=True)
class Growth:
    """The CPU seconds that the decisions of one run took."""

    tests: int
    planning: float
    #: Handing out every test and closing its entry in the ledger.
    running: float

    @property
    def seconds(self) -> float:
        return self.planning + self.running


def measure_growth(sizes: Sequence[int] = SIZES) -> list[Growth]:
    """Plan and run suites of these sizes without running a test."""
    return [_measure(size) for size in sizes]


def _measure(size: int) -> Growth:
    dice = random.Random(size)
    nodeids = [f"tests/test_{at // 100:04}.py::test_{at % 100}" for at in range(size)]
    items = [Item(nodeid, (nodeid.partition("::")[0], 0, "")) for nodeid in nodeids]
    durations = Durations({nodeid: dice.lognormvariate(-4, 1.5) for nodeid in nodeids})
    started = time.process_time()
    plan = make_plan(items, durations, shards=SHARDS, splitter=split_by_duration, scope="auto")
    planned = time.process_time()
    # As the controller does it.
    gc.freeze()
    _run(plan, [durations.seconds[nodeid] for nodeid in nodeids])
    done = time.process_time()
    gc.unfreeze()
    return Growth(size, planned - started, done - planned)


def _run(plan: Plan, seconds: Sequence[float]) -> None:
    """Let every shard run its tests, each in turn one test, as `Run` asks for them."""
    dispatcher = Dispatcher(plan, steal=True)
    ledger = Ledger()
    ledger.open(len(seconds))
    numbers = [shard.number for shard in plan.shards]
    hands: dict[int, deque[int]] = {number: deque() for number in numbers}
    for number in numbers:
        dispatcher.started(number)
        dispatcher.joined(number)
    at_work = numbers
    while at_work:
        for number in at_work:
            batch = dispatcher.next_batch(number)
            hand = hands[number]
            if batch is not None:
                hand.extend(batch.positions)
            if hand:
                position = hand.popleft()
                dispatcher.finished(number, position, seconds[position])
                ledger.close(position, Entry(Status.PASSED, number))
            elif dispatcher.may_finish(number):
                at_work = [each for each in at_work if each != number]
    assert not ledger.open_positions()
