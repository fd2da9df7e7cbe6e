"""Plans: what stays together, what is spread, and what never changes a plan."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_shardrun.model import Item, Plan, Unit
from pytest_shardrun.planning.estimates import Durations
from pytest_shardrun.planning.scopes import (
    SCOPES,
    TOLERANCE,
    class_of,
    module_of,
    scope_key,
    spread,
    units_of,
)
from pytest_shardrun.planning.splitters import (
    BUILT_IN,
    Splitter,
    make_plan,
    split_by_duration,
)


def item(
    nodeid: str,
    *,
    occurrence: int = 0,
    group: str | None = None,
    serial: bool = False,
    scope: str = "",
) -> Item:
    return Item(nodeid, (module_of(nodeid), 0, nodeid), occurrence, group, serial, scope=scope)


def plan_of(
    items: Sequence[Item],
    seconds: Mapping[str, float] | None = None,
    *,
    shards: int,
    split: str = "duration",
    scope: str = "auto",
) -> Plan:
    return make_plan(
        items, Durations(seconds or {}), shards=shards, splitter=BUILT_IN[split], scope=scope
    )


def nodeids_by_shard(plan: Plan, items: Sequence[Item]) -> list[list[str]]:
    return [[items[position].nodeid for position in shard.positions] for shard in plan.shards]


def suite(**tests: float | Sequence[float]) -> dict[str, float]:
    """Seconds by node id for modules of so many tests."""
    return {
        f"{module}.py::test_{number:02}": seconds
        for module, durations in tests.items()
        for number, seconds in enumerate(
            [durations] if isinstance(durations, int | float) else durations
        )
    }


@st.composite
def collections(draw: st.DrawFn) -> list[Item]:
    """Any collection: classes, parameters, groups, serial tests, node ids that occur twice."""
    nodeids = draw(
        st.lists(
            st.builds(
                "{}/test_{}.py::{}test_{}".format,
                st.sampled_from(["a", "a/b", "c[1]"]),
                st.integers(0, 3),
                st.sampled_from(["", "", "One::", "One::Inner::", "Two::"]),
                st.sampled_from(["x", "y", "z[1]", "z[a::b]", "z[[]"]),
            ),
            max_size=40,
        )
    )
    occurrences: Counter[str] = Counter()
    items = []
    for nodeid in nodeids:
        group = draw(st.sampled_from([None, None, None, "database", "a/test_0.py"]))
        serial = draw(st.sampled_from([False, False, False, True]))
        items.append(item(nodeid, occurrence=occurrences[nodeid], group=group, serial=serial))
        occurrences[nodeid] += 1
    return items


def durations_of(items: Sequence[Item]) -> st.SearchStrategy[dict[str, float]]:
    nodeids = sorted({item.nodeid for item in items})
    if not nodeids:
        return st.just({})
    return st.dictionaries(st.sampled_from(nodeids), st.floats(0, 100))


@pytest.mark.parametrize(
    ("nodeid", "module", "klass"),
    [
        ("test_a.py::test_x", "test_a.py", "test_a.py"),
        ("test_a.py::One::test_x", "test_a.py", "test_a.py::One"),
        ("test_a.py::One::Inner::test_x", "test_a.py", "test_a.py::One::Inner"),
        ("test_a.py::test_x[a::b]", "test_a.py", "test_a.py"),
        ("test_a.py::One::test_x[a::b[c]::d]", "test_a.py", "test_a.py::One"),
        ("test_a.py::One::test_x[]]", "test_a.py", "test_a.py::One"),
        ("d[1]/test_a[2].py::One::test_x", "d[1]/test_a[2].py", "d[1]/test_a[2].py::One"),
        ("d[1]/test_a.py::test_x[a::b]", "d[1]/test_a.py", "d[1]/test_a.py"),
        ("README.md", "README.md", "README.md"),
        ("a.py::a.function", "a.py", "a.py"),
    ],
)
def test_a_node_id_tells_its_module_and_its_class(nodeid: str, module: str, klass: str) -> None:
    assert (module_of(nodeid), class_of(nodeid)) == (module, klass)


@pytest.mark.parametrize(
    ("scope", "together"),
    [
        ("test", ["0", "1", "2", "3", "4", "5"]),
        ("group", ["0", "1", "2", "3", "4", "5"]),
        ("class", ["0", "1 2", "3", "4", "5"]),
        ("module", ["0 1 2 3", "4", "5"]),
        ("package", ["0 1 2 3 4", "5"]),
    ],
)
def test_a_scope_keeps_its_tests_together(scope: str, together: list[str]) -> None:
    items = [
        item("a/test_a.py::test_x"),
        item("a/test_a.py::One::test_x[1]"),
        item("a/test_a.py::One::test_x[2]"),
        item("a/test_a.py::One::Inner::test_x"),
        item("a/test_b.py::test_x"),
        item("a/b/test_b.py::test_x"),
    ]

    units = units_of(items, range(6), [1.0] * 6, scope=scope, shards=2)

    assert [" ".join(map(str, unit.positions)) for unit in units] == together
    assert {unit.divisible for unit in units} == {scope in ("test", "group")}


@pytest.mark.parametrize("scope", SCOPES)
def test_a_group_is_one_indivisible_unit_in_every_scope(scope: str) -> None:
    items = [
        item("test_a.py::test_x", group="database"),
        item("test_a.py::test_y"),
        item("test_b.py::One::test_x", group="database"),
    ]

    units = units_of(items, range(3), [1.0, 2.0, 4.0], scope=scope, shards=3)

    assert Unit((0, 2), 5.0, divisible=False) in units
    assert len(units) == 2


def test_a_group_is_not_mixed_up_with_a_module_of_its_name() -> None:
    items = [item("test_a.py::test_x"), item("test_b.py::test_x", group="test_a.py")]

    units = units_of(items, range(2), [1.0] * 2, scope="module", shards=2)

    assert len(units) == 2


def test_an_unknown_scope_is_answered_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="no scope 'modul': there are auto, test, class, module"):
        units_of([item("a.py::x")], [0], [1.0], scope="modul", shards=1)


def test_modules_stay_whole_where_whole_modules_balance() -> None:
    seconds = suite(a=[3.0, 3.0], b=[1.0] * 6, c=[2.0] * 3)

    plan = plan_of(list(map(item, seconds)), seconds, shards=3)

    assert [len(shard.units) for shard in plan.shards] == [1, 1, 1]
    assert [shard.expected_seconds for shard in plan.shards] == [6.0, 6.0, 6.0]


def test_a_module_that_is_more_than_a_fair_share_is_cut() -> None:
    seconds = suite(big=[1.0] * 30, small=[1.0] * 5, tiny=[1.0] * 5)

    plan = plan_of(list(map(item, seconds)), seconds, shards=4)

    assert [shard.expected_seconds for shard in plan.shards] == [10.0] * 4
    assert sum("big" in str(tests) for tests in nodeids_by_shard(plan, [*map(item, seconds)])) == 3


def test_classes_stay_whole_in_a_module_that_is_cut() -> None:
    items = [
        item(f"test_a.py::Class{number}::test_{letter}")
        for number in range(4)
        for letter in "abcde"
    ]

    plan = plan_of(items, shards=4)

    assert [{class_of(items[at].nodeid) for at in shard.positions} for shard in plan.shards] == [
        {f"test_a.py::Class{number}"} for number in range(4)
    ]


def test_tests_without_shared_fixtures_are_cut_before_those_that_share_some() -> None:
    seconds = suite(a=[1.0] * 6, b=[1.0] * 6, c=[1.0] * 6)
    items = [item(nodeid, scope="" if nodeid < "b" else "module") for nodeid in seconds]

    plan = plan_of(items, seconds, shards=2)

    shares = [{module_of(nodeid) for nodeid in share} for share in nodeids_by_shard(plan, items)]
    assert [shard.expected_seconds for shard in plan.shards] == [9.0, 9.0]
    assert [sorted(share - {"a.py"}) for share in shares] == [["b.py"], ["c.py"]]


def test_tests_share_the_fixtures_of_their_class_module_or_package() -> None:
    nodeids = ["p/a.py::C::x", "p/a.py::C::y", "p/a.py::D::x", "p/b.py::x", "p/b.py::y"]

    def parts(scope: str) -> list[list[str]]:
        items = [item(nodeid, scope=scope) for nodeid in nodeids]
        units = units_of(items, range(5), [1.0] * 5, scope="auto", shards=1)
        return [[nodeids[position] for position in unit.positions] for unit in units]

    assert parts("class") == [nodeids[:2], nodeids[2:3], nodeids[3:]]
    assert parts("module") == parts("") == [nodeids[:3], nodeids[3:]]
    assert parts("package") == [nodeids]


def test_what_shared_fixtures_take_counts_once_for_each_part() -> None:
    nodeids = [f"{name}.py::test_{number}" for name in "abc" for number in range(2)]
    items = [item(nodeid, scope="module") for nodeid in nodeids]
    durations = Durations(
        dict.fromkeys(nodeids, 0.1), setups={"a.py": 4.0, "b.py": 2.0, "c.py": 2.0}
    )

    plan = make_plan(items, durations, shards=2, splitter=split_by_duration, scope="auto")

    assert nodeids_by_shard(plan, items) == [nodeids[:2], nodeids[2:]]
    assert [round(shard.expected_seconds, 3) for shard in plan.shards] == [4.2, 4.4]
    assert [unit.setup_seconds for unit in plan.shards[1].units] == [2.0, 2.0]


def test_tests_that_share_a_package_s_fixture_stay_with_the_others_of_their_only_module() -> None:
    items = [
        item("p/test_a.py::test_0"),
        item("p/test_a.py::test_1", scope="package"),
        item("p/test_a.py::test_2"),
        item("q/test_a.py::test_0", scope="package"),
        item("q/test_a.py::test_1"),
        item("q/test_b.py::test_0", scope="package"),
    ]

    plan = plan_of(items, shards=1)

    assert [unit.positions for unit in plan.shards[0].units] == [(0, 1, 2), (3,), (4,), (5,)]


def test_few_tests_in_one_file_are_spread_over_all_shards() -> None:
    items = [item(f"test_a.py::test_{number}") for number in range(5)]

    plan = plan_of(items, shards=4)

    assert sorted(len(shard.positions) for shard in plan.shards) == [1, 1, 1, 2]


def test_every_shard_has_work_even_where_one_test_takes_longer_than_all_others() -> None:
    seconds = suite(long=100.0, short=[0.1] * 9)

    plan = plan_of(list(map(item, seconds)), seconds, shards=4)

    assert [len(shard.positions) for shard in plan.shards] == [1, 3, 3, 3]


def test_a_plan_has_no_more_shards_than_tests() -> None:
    plan = plan_of([item("a.py::x"), item("b.py::x")], shards=5)

    assert [(shard.number, shard.positions) for shard in plan.shards] == [(1, (0,)), (2, (1,))]


def test_a_plan_for_nothing_has_no_shards() -> None:
    plan = plan_of([], shards=3)

    assert (plan.shards, plan.serial, plan.measured) == ((), (), False)


def test_serial_tests_belong_to_no_shard_but_need_one() -> None:
    items = [item("b.py::x", serial=True), item("a.py::x", serial=True, group="g")]

    plan = plan_of(items, shards=3)

    assert plan.serial == (0, 1)
    assert [shard.positions for shard in plan.shards] == [()]


def test_tests_of_a_module_run_in_the_order_of_collection_even_where_it_was_cut() -> None:
    names = random.Random(1).sample(range(100), 100)
    items = [item(f"test_a.py::test_{name:03}") for name in names]

    plan = plan_of(items, shards=3)

    for shard in plan.shards:
        assert [unit.positions for unit in shard.units] == [tuple(sorted(shard.positions))]


@pytest.mark.parametrize(
    ("seconds", "measured"),
    [({}, False), ({"a.py::x": 1.0}, True), ({"gone.py::x": 1.0}, False)],
)
def test_a_plan_is_measured_when_half_of_the_durations_are_known(
    seconds: dict[str, float], measured: bool
) -> None:
    plan = plan_of([item("a.py::x"), item("a.py::y")], seconds, shards=2)

    assert plan.measured is measured


def test_tests_that_take_no_measurable_time_are_spread_like_others() -> None:
    seconds = suite(a=1.0, b=1.1, **{f"quick{number}": [0.0] * 40 for number in range(10)})

    plan = plan_of(list(map(item, seconds)), seconds, shards=2)

    assert all(shard.expected_seconds >= 1.0 for shard in plan.shards)
    assert sum(shard.expected_seconds for shard in plan.shards) == pytest.approx(2.5)
    assert all(len(shard.positions) > 100 for shard in plan.shards)


def test_counting_makes_shards_of_equal_numbers_whatever_they_take() -> None:
    seconds = suite(a=[100.0] * 4, b=[1.0] * 8, c=[0.1] * 12)

    plan = plan_of(list(map(item, seconds)), seconds, shards=2, split="count")

    assert [len(shard.positions) for shard in plan.shards] == [12, 12]
    assert sum(shard.expected_seconds for shard in plan.shards) == pytest.approx(409.2)


def test_splitting_by_module_never_takes_a_module_apart() -> None:
    seconds = suite(a=[1.0] * 20, b=[1.0] * 3, c=[1.0] * 3)
    items = list(map(item, seconds))

    plan = plan_of(items, seconds, shards=2, split="module", scope="test")

    assert [{module_of(nodeid) for nodeid in tests} for tests in nodeids_by_shard(plan, items)] == [
        {"a.py"},
        {"b.py", "c.py"},
    ]


def test_hashing_keeps_the_number_of_a_shard_with_empty_ones_before_it() -> None:
    items = [item("a.py::x")]

    plan = plan_of(items, shards=6, split="hash")

    # The SHA-256 of its node id is 3 modulo 6.
    assert [shard.number for shard in plan.shards] == [1, 2, 3, 4]
    assert [shard.positions for shard in plan.shards] == [(), (), (), (0,)]


def test_the_digest_is_the_same_on_every_machine_and_in_every_release() -> None:
    seconds = suite(a=[1.0, 2.0], b=[3.0])

    plan = plan_of([*map(item, seconds), item("s\udcff.py::x", serial=True)], seconds, shards=2)

    assert plan.digest == "32ebd7bb5b0e57a7"


def test_the_digest_tells_plans_apart() -> None:
    seconds = suite(a=[1.0, 2.0], b=[3.0], c=[4.0])
    items = list(map(item, seconds))

    plans = [
        plan_of(items, seconds, shards=2),
        plan_of(items, seconds, shards=3),
        plan_of(items[1:], seconds, shards=2),
        plan_of([*items[1:], item("a.py::test_00", serial=True)], seconds, shards=2),
    ]

    assert len({plan.digest for plan in plans}) == 4


def forgetful(units: Sequence[Unit], items: Sequence[Item], shards: int, /) -> list[list[Unit]]:
    return [list(units[1:])]


def repetitive(units: Sequence[Unit], items: Sequence[Item], shards: int, /) -> list[list[Unit]]:
    return [list(units), list(units)]


def inventive(units: Sequence[Unit], items: Sequence[Item], shards: int, /) -> list[list[Unit]]:
    return [[*units, Unit((99,), 1.0)]]


def generous(units: Sequence[Unit], items: Sequence[Item], shards: int, /) -> list[list[Unit]]:
    return [[unit] for unit in units]


@pytest.mark.parametrize(
    ("splitter", "complaint"),
    [
        (forgetful, r"put a\.py::x into a shard 0 times, not once"),
        (repetitive, r"put a\.py::x into a shard 2 times, not once"),
        (inventive, r"made up the positions \[99\]"),
        (generous, "made 3 shards where 2 were asked for"),
    ],
)
def test_a_splitter_that_loses_or_invents_tests_is_refused(
    splitter: Splitter, complaint: str
) -> None:
    items = [item("a.py::x"), item("b.py::x"), item("c.py::x")]

    with pytest.raises(ValueError, match=complaint):
        make_plan(items, Durations(), shards=2, splitter=splitter, scope="module")


@settings(deadline=None)
@given(
    data=st.data(),
    items=collections(),
    shards=st.integers(1, 9),
    split=st.sampled_from(sorted(BUILT_IN)),
    scope=st.sampled_from(SCOPES),
)
def test_a_plan_is_complete_and_ordered_and_independent_of_the_order_of_collection(
    data: st.DataObject, items: list[Item], shards: int, split: str, scope: str
) -> None:
    seconds = data.draw(durations_of(items))
    shuffled = data.draw(st.permutations(items))

    plan = plan_of(items, seconds, shards=shards, split=split, scope=scope)
    other = plan_of(shuffled, seconds, shards=shards, split=split, scope=scope)

    placed = [position for shard in plan.shards for position in shard.positions]
    assert sorted([*placed, *plan.serial]) == list(range(len(items)))
    assert [items[position] for position in plan.serial] == [item for item in items if item.serial]
    assert [shard.number for shard in plan.shards] == list(range(1, len(plan.shards) + 1))
    assert len(plan.shards) <= shards
    assert bool(plan.shards) == bool(items)
    for shard in plan.shards:
        assert all(list(unit.positions) == sorted(unit.positions) for unit in shard.units)
        first = [unit.positions[0] for unit in shard.units]
        assert first == sorted(first)

    assert other.digest == plan.digest
    for mine, theirs in zip(plan.shards, other.shards, strict=True):
        assert {items[at] for at in mine.positions} == {shuffled[at] for at in theirs.positions}
        assert mine.expected_seconds == pytest.approx(theirs.expected_seconds)


@settings(deadline=None)
@given(
    data=st.data(),
    items=collections(),
    shards=st.integers(1, 9),
    split=st.sampled_from(sorted(BUILT_IN)),
    scope=st.sampled_from(SCOPES),
)
def test_what_a_scope_or_a_group_ties_together_is_in_one_shard(
    data: st.DataObject, items: list[Item], shards: int, split: str, scope: str
) -> None:
    seconds = data.draw(durations_of(items))

    plan = plan_of(items, seconds, shards=shards, split=split, scope=scope)

    tie = "test" if scope == "auto" else scope
    homes: dict[str, set[int]] = {}
    for shard in plan.shards:
        for position in shard.positions:
            homes.setdefault(scope_key(items[position], tie), set()).add(shard.number)
    assert all(len(numbers) == 1 for numbers in homes.values())


@settings(deadline=None)
@given(items=collections(), shards=st.integers(1, 9), data=st.data())
def test_automatic_scope_gives_every_shard_work(
    items: list[Item], shards: int, data: st.DataObject
) -> None:
    seconds = data.draw(durations_of(items))

    plan = plan_of(items, seconds, shards=shards)

    parallel = [item for item in items if not item.serial]
    pieces = len({scope_key(item, "test") for item in parallel})
    assert len(plan.shards) == max(min(shards, pieces), min(len(items), 1))
    assert not parallel or all(shard.positions for shard in plan.shards)


@settings(deadline=None)
@given(
    modules=st.lists(st.lists(st.floats(0.01, 1.0), min_size=1, max_size=40), min_size=1),
    shards=st.integers(1, 8),
)
def test_automatic_scope_is_within_two_percent_of_the_best_where_tests_are_short(
    modules: list[list[float]], shards: int
) -> None:
    seconds = suite(**{f"m{number}": module for number, module in enumerate(modules)})
    # One more module makes all tests short in comparison.
    filler = shards * max(seconds.values()) / (TOLERANCE - 1)
    seconds |= {f"filler.py::test_{number}": filler / 100 for number in range(100)}
    fair = sum(seconds.values()) / shards
    longest = max(seconds.values())

    plan = plan_of(list(map(item, seconds)), seconds, shards=shards)

    busiest = max(shard.expected_seconds for shard in plan.shards)
    if longest <= (TOLERANCE - 1) * fair:
        assert busiest <= TOLERANCE * fair * (1 + 1e-6)
    else:
        assert busiest <= fair + longest


@given(weights=st.lists(st.floats(0, 10), min_size=1, max_size=7), shards=st.integers(1, 3))
def test_spreading_is_within_four_thirds_of_the_best_there_is(
    weights: list[float], shards: int
) -> None:
    best = min(
        max(
            sum(weight for weight, home in zip(weights, homes, strict=True) if home == shard)
            for shard in range(shards)
        )
        for homes in product(range(shards), repeat=len(weights))
    )

    shares = spread(weights, shards)

    assert sorted(index for share in shares for index in share) == list(range(len(weights)))
    assert all(shares)
    assert max(sum(weights[index] for index in share) for share in shares) <= 4 / 3 * best + 1e-9


def test_spreading_exchanges_where_heaviest_first_is_not_enough() -> None:
    # Heaviest first gives 3 + 2 + 2 against 3 + 2.
    shares = spread([3.0, 3.0, 2.0, 2.0, 2.0], 2)

    assert sorted(map(sorted, shares)) == [[0, 1], [2, 3, 4]]


@settings(deadline=None)
@given(
    items=collections(),
    added=collections(),
    shards=st.integers(1, 9),
    scope=st.sampled_from(SCOPES),
)
def test_hashing_never_moves_a_test_when_others_come(
    items: list[Item], added: list[Item], shards: int, scope: str
) -> None:
    known = {(item.nodeid, item.occurrence) for item in items}
    more = [*items, *(item for item in added if (item.nodeid, item.occurrence) not in known)]

    before = plan_of(items, shards=shards, split="hash", scope=scope)
    after = plan_of(more, shards=shards, split="hash", scope=scope)

    home = {more[at]: shard.number for shard in after.shards for at in shard.positions}
    for shard in before.shards:
        assert {home[items[at]] for at in shard.positions} <= {shard.number}


@pytest.mark.parametrize("shuffle", [False, True])
def test_fifty_thousand_tests_are_planned_in_no_time(shuffle: bool) -> None:
    items = [
        item(f"tests/test_{number % 500:03}.py::Class{number % 7}::test[{number}]")
        for number in range(50_000)
    ]
    chance = random.Random(1)
    seconds = {item.nodeid: chance.lognormvariate(-4, 2) for item in items}
    if shuffle:
        chance.shuffle(items)

    start = time.process_time()
    plan = make_plan(items, Durations(seconds), shards=16, splitter=split_by_duration, scope="auto")
    took = time.process_time() - start

    # A quarter of a second of CPU time; what this refuses is quadratic.
    assert took < 5
    expected = [shard.expected_seconds for shard in plan.shards]
    assert max(expected) <= TOLERANCE * sum(expected) / len(expected)
