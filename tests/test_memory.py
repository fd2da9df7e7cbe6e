"""Limits on memory, with real processes and the cgroups of this machine."""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from pytest_shardrun.executors import memory
from pytest_shardrun.model import Policy
from pytest_shardrun.run import Run

pytestmark = pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="needs Linux")

MEGABYTE: Final = 1 << 20

HUNGRY: Final = """
import pytest

def test_before():
    pass

def test_that_takes_too_much():
    bytearray(1 << 30)

def test_after():
    pass
"""

#: An executor that finds no place to make a cgroup.
WITHOUT_CGROUPS: Final = """
from pytest_shardrun.executors.subprocess import SubprocessExecutor

def pytest_shardrun_executors():
    return {"subprocess": lambda run_id: SubprocessExecutor(run_id, cgroups=())}
"""


@pytest.fixture
def cgroup(tmp_path: Path) -> Iterator[memory.ControlGroup]:
    limit = memory.open_limit(256 * MEGABYTE, f"shardrun-{tmp_path.name}", memory.own_cgroups())
    if not isinstance(limit, memory.ControlGroup):
        pytest.skip("this process may not make a cgroup")
    yield limit
    limit.close()


def take(size: int) -> subprocess.Popen[bytes]:
    """A process that takes so many bytes when it is told to."""
    program = f"input(); print(len(bytearray(b'x' * {size})))"
    return subprocess.Popen(
        [sys.executable, "-S", "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )


def test_a_cgroup_ends_what_takes_more_than_its_limit(cgroup: memory.ControlGroup) -> None:
    modest, hungry = take(MEGABYTE), take(512 * MEGABYTE)
    for process in (modest, hungry):
        cgroup.enter(process.pid)
    assert sorted(cgroup.members()) == sorted([modest.pid, hungry.pid])

    modest.communicate(b"\n", timeout=60)
    assert not cgroup.has_struck()
    hungry.communicate(b"\n", timeout=60)

    assert modest.returncode == 0
    assert hungry.returncode == -9
    assert cgroup.has_struck()
    cgroup.close()
    assert not cgroup.directory.exists()


def test_a_place_where_no_cgroup_can_be_made_leaves_the_address_space(tmp_path: Path) -> None:
    limit = memory.open_limit(512 * MEGABYTE, "shardrun", [tmp_path / "missing"])
    assert isinstance(limit, memory.AddressSpace)

    process = take(1024 * MEGABYTE)
    limit.enter(process.pid)
    process.communicate(b"\n", timeout=60)

    assert process.returncode == 1


def test_without_a_limit_there_is_no_limit() -> None:
    limit = memory.open_limit(None, "shardrun", memory.own_cgroups())

    assert isinstance(limit, memory.Unlimited)
    assert limit.members() == []


def test_a_limit_on_a_process_that_is_gone_is_no_harm() -> None:
    process = subprocess.Popen([sys.executable, "-S", "-c", ""])
    process.wait()

    memory.AddressSpace(MEGABYTE).enter(process.pid)


def test_there_is_memory_for_some_attempts_but_not_for_any_number() -> None:
    available = memory.available_bytes()

    assert available is not None
    assert memory.room_for_attempts(available // 2) in (1, 2, 3)
    assert memory.room_for_attempts(available * 4) == 0
    assert memory.room_for_attempts(None) >= 1


@pytest.mark.parametrize("conftest", ["", WITHOUT_CGROUPS], ids=["as permitted", "without cgroups"])
def test_a_test_that_takes_too_much_is_out_of_memory(
    conftest: str, pytester: pytest.Pytester
) -> None:
    pytester.makeconftest(conftest)
    pytester.makepyfile(HUNGRY)

    result = pytester.runpytest_subprocess("--shards", "1", "--shard-memory", "600M")

    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines(["out of memory (call, shard 1)"])
    result.stdout.no_fnmatch_line("*LEAK*")


# New attempts wait


def run_of(shards: int) -> Run:
    def no_plan(_: object) -> object:
        raise AssertionError("nothing was collected")

    return Run(shards, Policy(jobs=shards), no_plan)  # type: ignore[arg-type]


def test_as_many_attempts_start_as_there_is_memory_for() -> None:
    run = run_of(4)

    assert len(run.start(0.0, room=2)) == 2
    assert run.lacks_room
    told, launched = run.measured(1, 1.0), run.measured(5, 2.0)
    assert [type(action).__name__ for action in told] == ["Launch", "Tell"]
    assert [type(action).__name__ for action in launched] == ["Launch"]
    assert not run.lacks_room


def test_one_attempt_may_always_live() -> None:
    run = run_of(2)

    assert len(run.start(0.0, room=0)) == 1
    assert run.measured(0, 1.0) != []
    assert run.measured(0, 2.0) == []
    (first,) = run.attempts
    run.not_launched(first, "it could not", 3.0)

    assert len(run.attempts) == 1
    assert run.attempts != {first}
