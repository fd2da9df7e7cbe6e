"""Locks between shards and between runs, with real processes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import pytest

from pytest_shardrun.conflicts import Answer, Conflicts
from pytest_shardrun.locks import SLOTS, Locks
from pytest_shardrun.model import Lock, Need, Unit

ALONE: Final = frozenset([Lock("database")])
TOGETHER: Final = frozenset([Lock("database", shared=True)])
BOTH: Final = frozenset([Lock("database"), Lock("port")])


# Between runs


def runs(directory: Path, count: int) -> list[Locks]:
    # Two file locks on one file exclude each other within a process as well.
    return [Locks(directory / "locks") for _ in range(count)]


def test_one_run_has_a_lock_alone(tmp_path: Path) -> None:
    first, second = runs(tmp_path, 2)

    assert first.take(ALONE)
    assert not second.take(ALONE)
    first.free(["database"])
    assert second.take(ALONE)


def test_runs_share_a_lock_and_exclude_one_that_does_not(tmp_path: Path) -> None:
    first, second, third = runs(tmp_path, 3)

    assert first.take(TOGETHER)
    assert second.take(TOGETHER)
    assert not third.take(ALONE)
    first.free(["database"])
    assert not third.take(ALONE)
    second.free(["database"])
    assert third.take(ALONE)


def test_as_many_runs_share_a_lock_as_there_are_slots(tmp_path: Path) -> None:
    *sharing, late = runs(tmp_path, SLOTS + 1)

    assert all(each.take(TOGETHER) for each in sharing)
    assert not late.take(TOGETHER)


def test_who_waits_to_be_alone_is_served_before_who_comes_later_to_share(tmp_path: Path) -> None:
    first, waiting, late = runs(tmp_path, 3)
    assert first.take(TOGETHER)
    assert not waiting.take(ALONE)

    assert not late.take(TOGETHER)
    assert first.contended() == ["database"]
    first.free(["database"])
    assert waiting.take(ALONE)


def test_all_of_the_locks_are_taken_or_none(tmp_path: Path) -> None:
    first, second, third = runs(tmp_path, 3)
    assert first.take(frozenset([Lock("port")]))

    assert not second.take(BOTH)
    second.forget(BOTH)

    assert third.take(ALONE)


def test_a_killed_run_leaves_no_lock_behind(tmp_path: Path) -> None:
    program = """
import sys
from pathlib import Path
from pytest_shardrun.locks import Locks
from pytest_shardrun.model import Lock
locks = Locks(Path(sys.argv[1]))
assert locks.take(frozenset([Lock("database")]))
print(flush=True)
input()
"""
    holder = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path / "locks")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert holder.stdout is not None
    holder.stdout.readline()
    (run,) = runs(tmp_path, 1)
    assert not run.take(ALONE)

    holder.kill()
    holder.communicate()

    assert run.take(ALONE)


def test_a_directory_of_somebody_else_s_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "locks").mkdir(mode=0o777)
    (tmp_path / "locks").chmod(0o777)
    (run,) = runs(tmp_path, 1)

    with pytest.raises(PermissionError, match="can be written by somebody else"):
        run.take(ALONE)


# Within a run, in the pure core


def conflicts(*needs: Need, capacity: int = 4) -> Conflicts:
    return Conflicts(dict(enumerate(needs)), capacity)


def grant_all(of: Conflicts) -> None:
    for request in of.take_wishes():
        of.granted(request)


def test_a_lock_is_asked_for_once_and_given_back_when_nothing_needs_it() -> None:
    state = conflicts(Need(BOTH), Need(BOTH))
    assert state.answer(1, 0) is Answer.ASK

    state.ask_for(0)
    state.ask_for(1)
    assert state.take_wishes() == [BOTH]
    state.granted(BOTH)
    state.sent(1, 0)
    assert state.take_unused() == frozenset()
    assert state.answer(1, 1) is Answer.YES
    assert state.answer(2, 1) is Answer.NO
    state.settled(1, 0)

    assert state.take_unused() == {"database", "port"}
    assert state.answer(2, 1) is Answer.ASK


def test_a_lock_that_another_run_waits_for_is_not_used_again_before_it_was_given_back() -> None:
    state = conflicts(Need(ALONE), Need(ALONE))
    state.ask_for(0)
    grant_all(state)
    state.sent(1, 0)

    state.yield_to_others(["database", "unknown"])

    assert state.answer(1, 1) is Answer.NO
    state.settled(1, 0)
    assert state.take_unused() == {"database"}
    assert state.answer(1, 1) is Answer.ASK


def test_a_heavy_test_takes_the_place_of_others() -> None:
    state = conflicts(Need(weight=3), Need(weight=9), capacity=4)
    usual = 7
    state.sent(1, 0)
    state.sent(2, usual)

    assert state.answer(3, usual) is Answer.NO
    assert state.answer(2, usual) is Answer.YES
    assert state.refuses(3, Unit((0, usual), 1.0))
    state.settled(2, usual)
    assert state.answer(3, usual) is Answer.YES
    assert state.answer(3, 1) is Answer.NO
    state.forget(1)
    assert state.answer(3, 1) is Answer.YES


# As a user sees it

LOCKED: Final = """
import os
import pathlib
import time

import pytest

LOG = pathlib.Path(os.environ["LOG"])

def note(word):
    with LOG.open("a") as file:
        print(word, os.getpid(), file=file)

@pytest.mark.shard_lock("database", "port")
@pytest.mark.parametrize("number", range(4))
def test_alone(number):
    note("begin")
    time.sleep(0.05)
    note("end")

@pytest.mark.parametrize("number", range(4))
def test_free(number):
    note("free")

@pytest.mark.shard_lock("database")
def test_alone_too():
    note("begin")
    time.sleep(0.05)
    note("end")
"""


def pairs(log: Path) -> Sequence[tuple[list[str], list[str]]]:
    words = [line.split() for line in log.read_text().splitlines()]
    locked = [word for word in words if word[0] != "free"]
    return list(zip(locked[::2], locked[1::2], strict=True))


def test_tests_with_a_lock_run_one_after_the_other_in_all_shards_of_all_runs(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = pytester.path / "log"
    monkeypatch.setenv("LOG", str(log))
    monkeypatch.setenv("SHARDRUN_LOCKS", str(pytester.path / "locks"))
    pytester.makepyfile(LOCKED)
    command = [sys.executable, "-m", "pytest", "--shards", "3", "-p", "no:cacheprovider"]
    options = ["--strict-markers", f"--basetemp={pytester.path / 'other'}"]

    other = subprocess.Popen([*command, *options], stdout=subprocess.PIPE, text=True)
    result = pytester.runpytest_subprocess("--shards", "3", "-p", "no:cacheprovider")
    output, _ = other.communicate(timeout=60)

    result.assert_outcomes(passed=9)
    assert other.returncode == 0, output
    assert len(pairs(log)) == 10
    for begin, end in pairs(log):
        assert (begin[0], end[0]) == ("begin", "end")
        assert begin[1] == end[1]


@pytest.mark.parametrize(
    ("mark", "sentence"),
    [
        ("shard_lock", "shard_lock takes names, and shared=True where tests may have them"),
        ("shard_lock(1)", "together, not 1: give it like shard_lock('database')"),
        ("shard_weight(0)", "shard_weight takes a whole number of at least 1, not 0"),
        ("shard_weight", "not nothing: give it like shard_weight(2)"),
    ],
)
def test_a_mark_that_says_nothing_possible_is_refused(
    mark: str, sentence: str, pytester: pytest.Pytester
) -> None:
    pytester.makepyfile(f"import pytest\n\n@pytest.mark.{mark}\ndef test_it(): pass\n")

    result = pytester.runpytest_subprocess("--shards", "2")

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"*test_it: *{sentence}*"])
