"""Finding the tests that make another one fail."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_shardrun.commands.bisect import wanted_arguments, without_paths
from pytest_shardrun.minimising import minimise


@given(count=st.integers(1, 60), data=st.data())
def test_what_is_found_does_it_and_nothing_of_it_can_be_left_out(
    count: int, data: st.DataObject
) -> None:
    things = list(range(count))
    # Any of these sets is enough.
    enough = data.draw(
        st.lists(st.frozensets(st.sampled_from(things), max_size=4), min_size=1, max_size=3)
    )

    def does_it(part: Sequence[int]) -> bool:
        return any(each <= set(part) for each in enough)

    found = minimise(things, does_it)

    assert does_it(found)
    assert found == sorted(found)
    if len(found) > 1:
        assert not any(does_it(found[:at] + found[at + 1 :]) for at in range(len(found)))


def test_one_thing_of_many_is_found_by_halving() -> None:
    asked = []

    def does_it(part: Sequence[int]) -> bool:
        asked.append(part)
        return 700 in part

    assert minimise(range(1000), does_it) == [700]
    assert len(asked) <= 20


def test_arguments_that_would_get_in_the_way_are_left_out() -> None:
    given = ["tests", "--shards", "4", "-x", "-k", "a", "--maxfail", "2", "--junitxml=a", "--lf"]

    assert wanted_arguments(given) == ["tests", "-k", "a"]


def test_a_command_has_node_ids_in_place_of_paths(tmp_path: Path) -> None:
    (tmp_path / "tests").mkdir()
    given = ["tests", "-k", "tests", "tests::test_a", "-p", "no:randomly", "--color=no"]

    assert without_paths(given, tmp_path) == ["-k", "tests", "-p", "no:randomly", "--color=no"]


PROGRAM: Final = "import sys; from pytest_shardrun.cli import main; sys.exit(main())"


def bisect(*arguments: str, directory: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, "bisect", *arguments],
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


SUITE: Final = """
import os
import pytest

STATE = set()

@pytest.mark.parametrize("number", range(3))
def test_other(number):
    pass

def test_one_half():
    STATE.add("one")

def test_other_half():
    STATE.add("other")

def test_victim():
    if STATE == {"one", "other"}:
        FAIL

def test_broken():
    assert 0
"""


@pytest.mark.parametrize("fail", ["assert 0", "os._exit(3)"])
def test_the_tests_that_make_another_one_fail_are_named_with_the_command(
    fail: str, pytester: pytest.Pytester
) -> None:
    path = pytester.makepyfile(test_it=SUITE.replace("FAIL", fail))
    pytester.runpytest_subprocess("--shards=1", "-p", "no:randomly")

    done = bisect("last", "test_it.py::test_victim", directory=path.parent)

    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert "had run 5 tests in the process" in lines[0]
    assert "  1: alone: passes" in lines
    assert "  2: after all 5: fails" in lines
    needed = ["  test_it.py::test_one_half", "  test_it.py::test_other_half"]
    at = lines.index("test_it.py::test_victim fails after 2 tests:")
    assert lines[at + 1 : at + 3] == needed
    command = lines[-1].split()
    assert command[0] == "pytest"
    again = pytester.runpytest_subprocess(*command[1:])
    assert again.ret != 0


def test_a_test_that_fails_alone_needs_no_other(pytester: pytest.Pytester) -> None:
    path = pytester.makepyfile(test_it=SUITE.replace("FAIL", "assert 0"))
    pytester.runpytest_subprocess("--shards=2", "--shard-steal=no")

    done = bisect("last", "test_it.py::test_broken", directory=path.parent)

    assert done.returncode == 0, done.stderr
    assert "test_it.py::test_broken fails alone" in done.stdout


REFUSED: Final = (
    (["last", "test_it.py::test_one_half"], "did not fail in run"),
    (["last", "test_it.py::test_unknown"], "was not run in run"),
    (["1999", "test_it.py::test_broken"], "run 1999 is not among the remembered runs"),
)


def test_what_cannot_be_bisected_is_refused(pytester: pytest.Pytester) -> None:
    path = pytester.makepyfile(test_it=SUITE.replace("FAIL", "assert 0"))
    pytester.runpytest_subprocess("--shards=1")

    for arguments, sentence in REFUSED:
        done = bisect(*arguments, directory=path.parent)

        assert done.returncode == 4
        assert sentence in done.stderr


def test_without_a_run_there_is_nothing_to_bisect(tmp_path: Path) -> None:
    done = bisect("last", "test_it.py::test_a", directory=tmp_path)

    assert done.returncode == 4
    assert "no run is remembered in" in done.stderr
