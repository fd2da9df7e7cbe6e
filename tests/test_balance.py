"""What the plan and its outcome say about other plans."""

from __future__ import annotations

import pytest

from pytest_shardrun.model import Attempt, Item, Plan, ShardPlan, Status, Unit
from pytest_shardrun.notices import Planned, TestDone
from pytest_shardrun.planning.estimates import Durations
from pytest_shardrun.planning.outlook import Outlook, counts_to_show, enough, name_of, outlooks
from pytest_shardrun.planning.splitters import split_by_duration
from pytest_shardrun.reporting.balance import Balance, what_if


def item(nodeid: str, *, group: str | None = None, serial: bool = False) -> Item:
    return Item(nodeid, (nodeid.partition("::")[0], 0, nodeid), 0, group, serial)


def outlooks_of(seconds: dict[str, float], *counts: int, serial: str = "") -> list[Outlook]:
    items = [item(nodeid, serial=nodeid == serial) for nodeid in seconds]
    return outlooks(items, Durations(seconds), counts, splitter=split_by_duration, scope="auto")


def test_more_shards_take_less_time_until_one_test_takes_as_long_as_all_others() -> None:
    seconds = {f"a.py::test_{number}": 1.0 for number in range(8)} | {"b.py::long": 4.0}

    found = outlooks_of(seconds, 1, 2, 3, 6)

    assert [(each.seconds, each.bottleneck) for each in found] == [
        (12.0, ""),
        (6.0, ""),
        (4.0, "b.py::long"),
        (4.0, "b.py::long"),
    ]


def test_tests_that_run_alone_are_added_to_every_outlook() -> None:
    found = outlooks_of({"a.py::x": 2.0, "a.py::y": 2.0, "a.py::z": 5.0}, 1, 2, serial="a.py::z")

    assert [each.seconds for each in found] == [9.0, 7.0]


def test_the_shards_to_show_are_doubled_up_to_the_number_of_tests() -> None:
    assert counts_to_show(2, 100) == [1, 2, 4, 8, 16]
    assert counts_to_show(12, 100) == [1, 2, 4, 8, 12, 16]
    assert counts_to_show(2, 5) == [1, 2, 4]
    assert counts_to_show(2, 0) == [1]


def test_shards_are_enough_when_twice_as_many_save_less_than_a_tenth() -> None:
    found = [Outlook(1, 8.0, ""), Outlook(2, 4.0, ""), Outlook(4, 3.8, "x"), Outlook(8, 3.8, "x")]

    assert enough(found, 0.0) == found[1]
    assert enough(found, 100.0) == found[0]
    assert enough(found[:2], 0.0) is None


def test_the_table_says_from_where_on_more_shards_gain_little_and_why() -> None:
    found = outlooks_of({"a.py::long": 4.0, "a.py::x": 2.0, "a.py::y": 2.0}, 1, 2, 3)

    assert what_if(found, 1.0, 2) == [
        " shards  expected  speed-up",
        "      1      9.0s       1.0",
        "      2      5.0s       1.8  a.py::long",
        "      3      5.0s       1.8  a.py::long",
        "(with 1.0s to start and collect; tests that compute need a CPU each,",
        " of which there are 2 to use)",
        "more than 2 shards would gain little: a.py::long cannot be split",
    ]


@pytest.mark.parametrize(
    ("nodeids", "name"),
    [
        (["p/a.py::C::x", "p/a.py::C::y"], "p/a.py::C"),
        (["p/a.py::C::x", "p/a.py::y"], "p/a.py"),
        (["p/a.py::x", "p/b.py::x"], "p"),
        (["a.py::x"], "a.py::x"),
    ],
)
def test_a_unit_has_the_name_of_what_holds_it_together(nodeids: list[str], name: str) -> None:
    items = [item(nodeid) for nodeid in nodeids]

    assert name_of(Unit(tuple(range(len(items))), 1.0), items) == name


def balance_of(*shards: list[Unit], seconds: list[float], measured: bool = True) -> Balance:
    balance = Balance()
    items = tuple(item(f"a.py::test_{number}", group="g") for number in range(len(seconds)))
    plans = tuple(ShardPlan(number, tuple(units)) for number, units in enumerate(shards, 1))
    balance.note(Planned(items, Plan(plans, (), "0f", measured), [], []))
    for at, each in enumerate(seconds):
        balance.note(TestDone(Attempt(1, 1), at, items[at], Status.PASSED, each, ()))
    return balance


def test_the_planned_and_the_actual_spread_are_shown() -> None:
    balance = balance_of([Unit((0,), 2.0)], [Unit((1,), 2.2)], seconds=[2.0, 2.0])

    assert balance.lines([2.0, 2.5]) == [
        "balance: planned 2.0 to 2.2s of tests in a shard, actual 2.0 to 2.5s"
    ]


def test_nothing_is_planned_by_time_where_no_durations_are_known() -> None:
    balance = balance_of([Unit((0,), 1.0)], [Unit((1,), 1.0)], seconds=[2.0, 2.0], measured=False)

    assert balance.lines([2.0, 2.0]) == [
        "balance: planned by number, as no durations were known; actual 2.0s"
    ]


def test_what_splitting_the_longest_test_would_gain_is_said() -> None:
    balance = balance_of([Unit((0,), 6.0)], [Unit((1,), 2.0)], seconds=[6.0, 2.0])

    assert balance.lines([6.0, 2.0])[1:] == [
        "to gain: a.py::test_0 takes 6.0s, where a fair share of all tests is 4.0s; "
        "split in two, it would save about 2.0s"
    ]


def test_a_group_that_holds_up_the_run_is_named() -> None:
    group = Unit((0, 1), 6.0, divisible=False)
    balance = balance_of([group], [Unit((2,), 1.0)], seconds=[3.0, 3.0, 1.0])

    (line,) = balance.lines([6.0, 1.0])[1:]
    assert line.startswith("to gain: the group g takes 6.0s")


def test_a_single_shard_has_no_balance() -> None:
    assert balance_of([Unit((0,), 1.0)], seconds=[9.0]).lines([9.0]) == []


def test_a_plan_alone_shows_what_other_numbers_of_shards_would_take(
    pytester: pytest.Pytester,
) -> None:
    pytester.makepyfile(test_a="def test_a(): pass\ndef test_b(): pass\ndef test_c(): pass")
    (pytester.path / "d.json").write_text(
        '{"test_a.py::test_a": 30.0, "test_a.py::test_b": 15.0, "test_a.py::test_c": 15.0}'
    )

    done = pytester.runpytest_subprocess("--shards=2", "--shard-plan", "--shard-durations=d.json")

    done.stdout.re_match_lines(
        [
            "what other numbers of shards would take",
            " shards  expected  speed-up",
            r" +1 +6\d\.\ds +1\.0",
            r" +2 +3\d\.\ds +\d\.\d  test_a.py::test_a",
        ]
    )
