"""Coverage measured by pytest-cov is the same with and without shards."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from comparison import Run, run_pytest

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("pytest_cov") is None, reason="needs pytest-cov"
)

LIBRARY = """
    import sys

    def choose(number):
        if number:
            return "some"
        return "none"

    def halves(number):
        for each in range(number):
            if each % 2:
                yield each

    def last():
        return "last"

    def never():
        return "never"

    if __name__ == "__main__":
        print(last() if len(sys.argv) > 1 else choose(1))
"""

TESTS = {
    "test_one": """
        import library

        def test_some(): assert library.choose(1) == "some"
        def test_halves(): assert list(library.halves(4)) == [1, 3]
    """,
    "test_two": """
        import subprocess
        import sys

        import library

        def test_none(): assert library.choose(0) == "none"

        def test_in_a_child():
            subprocess.run([sys.executable, "library.py", "argument"], check=True)
    """,
}

#: What measures in children as well; the words are those of coverage's own configuration.
CONFIGURATION = """
[run]
branch = true
patch =
    subprocess
    _exit
sigterm = true
"""

COV = ("-p", "pytest_cov", "--cov=library", "--cov-branch", "--cov-context=test")


def measured(directory: Path) -> dict[str, Any]:
    """Lines, branches and contexts of the library, as coverage tells them."""
    command = [sys.executable, "-m", "coverage", "json", "-q", "--show-contexts", "-o", "-"]
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=True)
    data: dict[str, Any] = json.loads(done.stdout)["files"]["library.py"]
    # Of the file, and of each of its functions and classes; in the order in which data came in.
    parts = [data, *data.get("functions", {}).values(), *data.get("classes", {}).values()]
    for part in parts:
        part["contexts"] = {line: sorted(names) for line, names in part["contexts"].items()}
    return data


def both(
    pytester: pytest.Pytester, *arguments: str, tests: dict[str, str] = TESTS
) -> tuple[Run, dict[str, Any], Run, dict[str, Any]]:
    pytester.makepyfile(library=LIBRARY, **tests)
    (pytester.path / ".coveragerc").write_text(CONFIGURATION)
    plain = run_pytest(pytester.path, *COV, *arguments)
    of_plain = measured(pytester.path)
    sharded = run_pytest(pytester.path, *COV, *arguments, "--shards=2", "--shard-scope=module")
    return plain, of_plain, sharded, measured(pytester.path)


def test_lines_branches_and_contexts_are_the_same_in_children_too(
    pytester: pytest.Pytester,
) -> None:
    plain, of_plain, sharded, of_sharded = both(pytester)

    assert of_plain["summary"]["covered_branches"] > 3
    assert of_sharded == of_plain, sharded.show()
    assert [path.name for path in pytester.path.glob(".coverage.*")] == []
    assert plain.exitcode == sharded.exitcode == 0


@pytest.mark.parametrize(("threshold", "exitcode"), [(85, 0), (99, 1)])
def test_the_threshold_is_judged_once_for_all_shards(
    pytester: pytest.Pytester, threshold: int, exitcode: int
) -> None:
    plain, _, sharded, _ = both(pytester, f"--cov-fail-under={threshold}")

    assert plain.exitcode == sharded.exitcode == exitcode, sharded.show()
    for run in (plain, sharded):
        assert run.stdout.count("Required test coverage") == 1, run.show()
    assert "INTERNALERROR" not in sharded.stdout


def test_what_a_process_had_saved_before_it_ended_is_kept(pytester: pytest.Pytester) -> None:
    crash = """
        import os

        import library

        def test_some(): assert library.choose(1) == "some"
        def test_crashes(): os._exit(3)
        def test_halves(): assert list(library.halves(4)) == [1, 3]
    """
    tests = {"test_one": crash, "test_two": TESTS["test_two"]}
    pytester.makepyfile(library=LIBRARY, **tests)
    (pytester.path / ".coveragerc").write_text(CONFIGURATION)

    run = run_pytest(pytester.path, *COV, "--shards=2", "--shard-scope=module")

    assert run.counts == {"passed": 4, "failed": 1}, run.show()
    contexts = measured(pytester.path)["contexts"]
    assert "test_one.py::test_some|run" in contexts["5"]
    assert "test_one.py::test_halves|run" in contexts["11"]


def test_what_a_process_had_saved_before_it_was_ended_is_kept(pytester: pytest.Pytester) -> None:
    hang = """
        import time

        import library

        def test_some(): assert library.choose(1) == "some"
        def test_hangs(): time.sleep(600)
        def test_halves(): assert list(library.halves(4)) == [1, 3]
    """
    pytester.makepyfile(library=LIBRARY, test_one=hang)
    (pytester.path / ".coveragerc").write_text(CONFIGURATION)

    run = run_pytest(pytester.path, *COV, "--shards=1", "--shard-timeout=20s")

    assert run.counts == {"passed": 2, "failed": 1}, run.show()
    contexts = measured(pytester.path)["contexts"]
    assert "test_one.py::test_some|run" in contexts["5"]
    assert "test_one.py::test_halves|run" in contexts["11"]


@pytest.mark.parametrize("settings", ["", "patch = subprocess"])
def test_coverage_run_measures_shards_or_says_that_it_does_not(
    pytester: pytest.Pytester, settings: str
) -> None:
    pytester.makefile(".ini", coveragerc=f"[run]\n{settings}\n")
    pytester.makepyfile(library=LIBRARY, test_one="import library\n\ndef test_it(): library.last()")
    arguments = ["coverage", "run", "--rcfile=coveragerc.ini", "--include=library.py", "-m"]

    ran = pytester.run(sys.executable, "-m", *arguments, "pytest", "-pshardrun", "--shards=1")
    pytester.run(sys.executable, "-m", "coverage", "combine", "--rcfile=coveragerc.ini")
    report = pytester.run(sys.executable, "-m", "coverage", "report")

    assert ran.ret == 0
    was_measured = "library.py" in report.stdout.str() and " 0%" not in report.stdout.str()
    assert was_measured == bool(settings)
    assert ("coverage: measured in this process only" in ran.stdout.str()) != was_measured
