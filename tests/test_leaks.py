"""Processes that tests leave behind, as a user sees them."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

pytestmark = pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs /proc")

LEAKY: Final = """
import subprocess
import sys

SLEEP = [sys.executable, "-S", "-c", "import time; time.sleep(600)"]

def test_before():
    pass

def test_that_leaks():
    subprocess.Popen(SLEEP)

def test_after():
    pass

def test_that_ends_its_child():
    with subprocess.Popen(SLEEP) as child:
        child.kill()
"""


def test_a_process_that_a_test_left_behind_is_named_with_its_command(
    pytester: pytest.Pytester,
) -> None:
    pytester.makepyfile(LEAKY)

    result = pytester.runpytest_subprocess("--shards", "1")

    result.assert_outcomes(passed=4)
    assert result.ret == 0
    leaks = [line for line in result.outlines if "LEAK" in line]
    assert len(leaks) == 1
    assert "test_that_leaks left a process running: " in leaks[0]
    assert "time.sleep(600)" in leaks[0]


def test_a_leak_can_make_the_run_red(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(LEAKY)

    result = pytester.runpytest_subprocess(
        "--shards", "2", "--shard-leak", "fail", "--junitxml", "junit.xml"
    )

    result.assert_outcomes(passed=4, errors=1)
    assert result.ret == 1
    result.stdout.fnmatch_lines(["ERROR shard * - LEAK *"])
    assert "LEAK " in (pytester.path / "junit.xml").read_text(encoding="utf-8")


def test_leaks_can_be_ignored(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(LEAKY)

    result = pytester.runpytest_subprocess("--shards", "2", "--shard-leak", "ignore")

    result.assert_outcomes(passed=4)
    result.stdout.no_fnmatch_line("*LEAK*")


def test_the_processes_of_multiprocessing_are_no_leak(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import multiprocessing

        def test_pool():
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                assert pool.map(abs, [-1]) == [1]
        """
    )

    result = pytester.runpytest_subprocess("--shards", "1")

    result.assert_outcomes(passed=1)
    result.stdout.no_fnmatch_line("*LEAK*")


def test_temporary_files_of_shards_are_apart_and_removed(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pathlib
        import tempfile

        import pytest

        @pytest.mark.parametrize("number", range(4))
        def test_write(number):
            path = pathlib.Path(tempfile.mkdtemp(), "left")
            path.touch()
            with pathlib.Path(__file__).with_name("paths").open("a") as file:
                print(path, file=file)
        """
    )

    result = pytester.runpytest_subprocess("--shards", "2")

    result.assert_outcomes(passed=4)
    paths = [Path(line) for line in (pytester.path / "paths").read_text().splitlines()]
    assert len({path.parent.parent for path in paths}) == 2
    assert len({path.parent.parent.parent for path in paths}) == 1
    assert not paths[0].parent.parent.parent.exists()
