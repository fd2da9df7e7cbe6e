"""Files of durations that people share: small, calm, and in proportion."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from pytest_shardrun.planning.durations import read_durations, update_durations
from pytest_shardrun.planning.estimates import Durations, Rest
from pytest_shardrun.planning.formats import Format, parse, render, updated


def measured(**modules: list[float]) -> dict[str, float]:
    return {
        f"{module}.py::test_{number}": seconds
        for module, values in modules.items()
        for number, seconds in enumerate(values)
    }


def compact(old: Durations, seconds: dict[str, float], *, whole: bool = True) -> Durations:
    collected = list(seconds) if whole else None
    return updated(old, Durations(seconds), Format.COMPACT, collected)


def test_a_module_is_a_sum_and_only_tests_that_matter_are_named() -> None:
    new = compact(Durations(), measured(a=[0.01, 0.012, 0.008, 2.0], b=[1.0, 1.1]))

    assert new.rests == {"a.py": Rest(3, 0.03), "b.py": Rest(2, 2.1)}
    assert new.seconds == {"a.py::test_3": 2.0}


def test_a_compact_file_says_what_tests_are_expected_to_take() -> None:
    seconds = measured(a=[0.01, 0.012, 0.008, 2.0], b=[1.0, 1.1])

    format, read = parse(render(compact(Durations(), seconds), Format.COMPACT))

    assert format is Format.COMPACT
    expected = [0.01, 0.01, 0.01, 2.0, 1.05, 1.05]
    assert read.estimate(list(seconds)) == pytest.approx(expected)
    assert all(read.known(nodeid) for nodeid in seconds)
    assert not read.known("c.py::test_0")


@pytest.mark.parametrize("machine", [0.3, 1.0, 4.0])
def test_another_run_on_another_machine_does_not_change_a_compact_file(machine: float) -> None:
    dice = random.Random(5)
    seconds = {
        f"test_{module}.py::test_{test}": dice.lognormvariate(-3, 1)
        for module in range(20)
        for test in range(30)
    }
    old = compact(Durations(), seconds)

    again = {nodeid: value * machine * dice.uniform(0.9, 1.1) for nodeid, value in seconds.items()}
    new = compact(old, again)

    lines = render(old, Format.COMPACT).splitlines()
    changed = set(render(new, Format.COMPACT).splitlines()) ^ set(lines)
    assert len(changed) < len(lines) / 10


def test_a_part_of_a_suite_leaves_the_rest_of_a_compact_file_alone() -> None:
    old = compact(Durations(), measured(a=[0.1] * 10, b=[0.5] * 4))

    new = compact(old, measured(a=[0.1]), whole=False)

    assert new == old


def test_a_test_that_became_slow_is_named_and_one_that_vanished_is_not() -> None:
    old = compact(Durations(), measured(a=[0.1, 0.1, 0.1, 3.0]))

    new = compact(old, measured(a=[5.0, 0.1, 0.1]))

    assert new.seconds == {"a.py::test_0": 5.0}
    assert new.rests == {"a.py": Rest(2, 0.2)}


def test_a_compact_file_is_sorted_with_an_entry_on_each_line() -> None:
    text = render(
        Durations({"b.py::x": 1.5}, {"b.py": 0.25}, {"b.py": Rest(2, 0.5), "a.py": Rest(1, 0.1)}),
        Format.COMPACT,
    )

    assert text == (
        '{"version": 2,\n'
        '"modules": {\n"a.py": [1, 0.1],\n"b.py": [2, 0.5]},\n'
        '"setups": {\n"b.py": 0.25},\n'
        '"tests": {\n"b.py::x": 1.5}}\n'
    )


@pytest.mark.parametrize(
    "content",
    [
        {"version": 2, "tests": {}},
        {"version": 2, "modules": {}},
        {"version": 2, "modules": {"a.py": [1]}, "tests": {}},
        {"version": 2, "modules": {"a.py": ["1", 1]}, "tests": {}},
        {"version": True, "durations": {}},
    ],
)
def test_what_is_no_file_of_durations_is_refused(content: object) -> None:
    with pytest.raises(ValueError, match=r"no object|no count|not known"):
        parse(json.dumps(content))


def test_sums_that_cannot_be_are_left_out() -> None:
    text = '{"version": 2, "modules": {"a.py": [0, 1], "b.py": [1, -1], "c.py": [1, NaN], '
    text += f'"d.py": [1, 1{"0" * 400}], "e.py": [2, 1]' + '}, "tests": {}}'

    assert parse(text)[1].rests == {"e.py": Rest(2, 1)}


def test_a_committed_file_is_compact_and_nothing_stays_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "durations.json"
    complaints: list[str] = []

    update_durations(path, measured(a=[1.0]), complain=complaints.append, committed=True)

    assert parse(path.read_text())[0] is Format.COMPACT
    assert [each.name for each in tmp_path.iterdir()] == ["durations.json"]
    assert not complaints


def test_a_file_of_pytest_split_stays_one(tmp_path: Path) -> None:
    path = tmp_path / ".test_durations"
    path.write_text('{"a.py::test_0": 2, "a.py::test_1": 0.5}')

    update_durations(path, measured(a=[1.0]), complain=pytest.fail, committed=True)

    assert json.loads(path.read_text()) == {"a.py::test_0": 1.5, "a.py::test_1": 0.5}


def test_modules_that_are_gone_are_forgotten_after_a_whole_run(tmp_path: Path) -> None:
    path = tmp_path / "durations.json"
    (tmp_path / "a.py").touch()
    update_durations(path, measured(a=[1.0], b=[1.0]), complain=pytest.fail, committed=True)

    again = measured(a=[1.0])
    update_durations(
        path, again, complain=pytest.fail, committed=True, collected=list(again), root=tmp_path
    )

    assert read_durations(path, complain=pytest.fail).rests == {"a.py": Rest(1, 1.0)}


def test_what_this_machine_does_not_know_is_taken_from_others_at_its_own_speed() -> None:
    own = Durations({f"a.py::test_{number}": 0.2 for number in range(5)})
    others = Durations(
        {f"a.py::test_{number}": 0.1 for number in range(5)} | {"b.py::test_0": 3.0}, {"b.py": 1.0}
    )

    both = own.filled_up(others, [*own.seconds, "b.py::test_0", "c.py::test_0"])

    assert both.seconds == {**own.seconds, "b.py::test_0": 6.0}
    assert both.setups == {"b.py": 2.0}
