"""Who is tried again, where, and why it had failed."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_shardrun.events import Reported
from pytest_shardrun.explanations import explain
from pytest_shardrun.model import Ending, EndingKind, Item, Plan, ShardPlan, Unit
from pytest_shardrun.notices import Blame
from pytest_shardrun.tries import plan_of, plan_of_rest


def positions_in(plan: Plan) -> list[int]:
    return [at for shard in plan.shards for at in shard.positions] + list(plan.serial)


@given(
    marks=st.lists(st.tuples(st.sampled_from([None, None, "g", "h"]), st.booleans()), min_size=1),
    shards=st.lists(st.integers(1, 9), unique=True, min_size=1, max_size=4),
    data=st.data(),
)
def test_each_test_is_tried_again_in_one_place_and_groups_stay_together(
    marks: list[tuple[str | None, bool]], shards: list[int], data: st.DataObject
) -> None:
    items = [
        Item(f"t{at}", ("t.py", at, f"t{at}"), group=group, serial=serial)
        for at, (group, serial) in enumerate(marks)
    ]
    positions = sorted(data.draw(st.sets(st.sampled_from(range(len(items))))))
    seconds = {at: data.draw(st.floats(0.0, 100.0)) for at in positions}

    plan = plan_of(positions, items, shards, seconds)

    assert sorted(positions_in(plan)) == positions
    assert {shard.number for shard in plan.shards} <= set(shards)
    assert all(items[at].serial for at in plan.serial)
    for name in ("g", "h"):
        homes = {
            shard.number
            for shard in plan.shards
            for at in shard.positions
            if items[at].group == name
        }
        assert len(homes) <= 1


@given(shares=st.lists(st.lists(st.integers(1, 3), max_size=4), min_size=1), data=st.data())
def test_the_rest_of_a_plan_is_that_plan_without_what_is_done(
    shares: list[list[int]], data: st.DataObject
) -> None:
    count = 0
    planned = []
    for number, sizes in enumerate(shares, start=1):
        units = []
        for size in sizes:
            units.append(Unit(tuple(range(count, count + size)), float(size)))
            count += size
        planned.append(ShardPlan(number, tuple(units)))
    serial = (count, count + 1)
    plan = Plan(tuple(planned), serial, "0f", measured=True)
    # Two of them the plan does not know.
    left = data.draw(st.frozensets(st.integers(0, count + 3)))

    rest = plan_of_rest(plan, left)

    assert sorted(positions_in(rest)) == sorted(left)
    for before, after in zip(plan.shards, rest.shards, strict=True):
        known = [at for at in after.positions if at < count]
        assert known == [at for at in before.positions if at in left]
    assert sum(shard.expected_seconds for shard in rest.shards) == pytest.approx(
        sum(len(shard.positions) for shard in rest.shards)
    )


def longrepr(message: str) -> dict[str, Any]:
    return {"reprcrash": {"path": "t.py", "lineno": 1, "message": message}, "reprtraceback": {}}


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (
            {"longrepr": longrepr("assert 1 == 2")},
            "AssertionError: assert 1 == 2",
        ),
        ({"longrepr": longrepr("ValueError: x")}, "ValueError: x"),
        ({"longrepr": longrepr("package.Error: x")}, "package.Error: x"),
        ({"longrepr": longrepr("Error")}, "Error"),
        ({"longrepr": " [XPASS(strict)] \n"}, "[XPASS(strict)]"),
        ({"longrepr": ["what", 1]}, "failed without a message"),
        (None, "failed without a message"),
    ],
)
def test_a_failure_is_explained_as_far_as_its_report_has_a_message(
    data: Any, expected: str
) -> None:
    passed = Reported(0, "setup", "passed", xfail=False, data={"longrepr": "no"})
    failed = Reported(0, "call", "failed", xfail=False, data=data)

    assert explain([passed, failed]) == expected


def test_a_death_is_explained_by_how_it_came() -> None:
    blame = Blame(Ending(EndingKind.CRASHED, "crashed with SIGSEGV"), "call", "the stacks")

    assert explain([], blame) == "crashed with SIGSEGV (call)"
