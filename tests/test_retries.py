"""Failed tests that are tried again, as a user sees them."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest
from comparison import Run, run_pytest

#: Tests that fail a number of times, however many processes they run in.
FAILING = {
    "conftest": """
        import os
        from pathlib import Path

        import pytest


        @pytest.fixture
        def tries(request):
            file = Path(os.environ["TRIES"], request.node.name)
            file.touch()
            with file.open("a") as stream:
                stream.write("x")
            return file.stat().st_size
    """,
    "test_it": """
        import os

        import pytest

        print("imported in", os.getpid())

        def test_passes(): pass

        def test_is_flaky(tries):
            print(f"this is try {tries}")
            assert tries > 1, "not at the first try"

        def test_always_fails(tries): raise ValueError(f"at try {tries}")

        def test_crashes_once(tries):
            if tries == 1:
                os.abort()

        @pytest.fixture
        def breaks_once(tries):
            yield
            assert tries > 1

        def test_breaks_in_teardown(breaks_once): pass
    """,
}
NAMES = [
    "test_passes",
    "test_is_flaky",
    "test_always_fails",
    "test_crashes_once",
    "test_breaks_in_teardown",
]


def run_failing(pytester: pytest.Pytester, tmp_path: Path, *arguments: str) -> Run:
    pytester.makepyfile(**FAILING)
    tries = tmp_path / f"tries{len(list(tmp_path.iterdir()))}"
    tries.mkdir()
    return run_pytest(pytester.path, "--shards=2", *arguments, env={"TRIES": str(tries)})


def cases_of(run: Run) -> dict[str, list[ElementTree.Element]]:
    root = ElementTree.parse(run.junit_path).getroot()
    return {case.get("name", ""): list(case) for case in root.iter("testcase")}


def journal_of(pytester: pytest.Pytester) -> list[dict[str, object]]:
    (file,) = (pytester.path / ".pytest_cache/d/shardrun/runs").glob("*.jsonl")
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()]


def test_flaky_tests_pass_and_are_shown_everywhere(
    pytester: pytest.Pytester, tmp_path: Path
) -> None:
    run = run_failing(pytester, tmp_path, "--shard-retries=2", "-rA")

    assert run.exitcode == 1
    assert run.counts == {"failed": 1, "passed": 1, "flaky": 3}, run.show()
    lines = run.stdout.splitlines()
    assert "FLAKY test_it.py::test_is_flaky: passed in try 2" in lines
    assert "FLAKY test_it.py::test_crashes_once: passed in try 2" in lines
    assert "FAILED test_it.py::test_always_fails in all of 3 tries" in lines
    for expected in (
        "AssertionError: not at the first try",
        "crashed with SIGABRT (call)",
        "ValueError: at try 1",
        "ValueError: at try 2",
        "ValueError: at try 3",
    ):
        assert any(line.startswith("  try ") and line.endswith(expected) for line in lines)
    assert "this is try 1" in lines, "what the failed try has printed"
    assert any("5 collected = 4 passed + 1 failed; 3 of them flaky" in line for line in lines)

    cases = cases_of(run)
    assert sorted(cases) == sorted(NAMES)
    assert [child.tag for child in cases["test_passes"]] == []
    (flaky,) = cases["test_is_flaky"]
    assert (flaky.tag, flaky.get("type")) == ("flakyFailure", "AssertionError")
    (crash,) = cases["test_crashes_once"]
    assert (crash.tag, crash.get("type")) == ("flakyError", "crash")
    assert [child.tag for child in cases["test_breaks_in_teardown"]] == ["flakyError"]
    last, *earlier = cases["test_always_fails"]
    assert (last.tag, last.get("message")) == ("failure", "ValueError: at try 3")
    assert [(each.tag, each.get("message")) for each in earlier] == [
        ("rerunFailure", "ValueError: at try 1"),
        ("rerunFailure", "ValueError: at try 2"),
    ]

    told = [
        (each["nodeid"], each["try"], each["message"])
        for each in journal_of(pytester)
        if each["event"] == "tried"
    ]
    assert ("test_it.py::test_always_fails", 2, "ValueError: at try 2") in told
    assert len(told) == 5
    finished = {
        each["nodeid"]: each for each in journal_of(pytester) if each["event"] == "finished"
    }
    assert len(finished) == len(NAMES)
    assert finished["test_it.py::test_is_flaky"]["flaky"] is True
    assert finished["test_it.py::test_always_fails"]["flaky"] is False
    assert "flaky" not in finished["test_it.py::test_passes"]

    # Only what has failed for good is a last failure.
    again = run_failing(pytester, tmp_path, "--lf")
    assert list(again.outcomes) == ["test_it.py::test_always_fails"]


def test_flaky_tests_fail_where_the_user_wants_that(
    pytester: pytest.Pytester, tmp_path: Path
) -> None:
    run = run_failing(pytester, tmp_path, "--shard-retries=1", "--shard-flaky=fail", "-kflaky")

    assert run.exitcode == 1
    assert run.counts == {"failed": 1, "deselected": 4}, run.show()
    assert "flaky: passed in try 2 (--shard-flaky=fail)" in run.stdout
    last, earlier = cases_of(run)["test_is_flaky"]
    assert (last.tag, earlier.tag) == ("failure", "rerunFailure")
    assert journal_of(pytester)[-2]["event"] in ("finished", "ended")
    again = run_failing(pytester, tmp_path, "--lf", "--shard-retries=1")
    assert list(again.outcomes) == ["test_it.py::test_is_flaky"]
    assert again.exitcode == 0


def test_a_flaky_test_is_no_reason_to_stop(pytester: pytest.Pytester, tmp_path: Path) -> None:
    run = run_failing(pytester, tmp_path, "-x", "--shard-retries=1", "-kpasses or flaky or crashes")

    assert run.exitcode == 0, run.show()
    assert run.counts == {"passed": 1, "flaky": 2, "deselected": 2}


def test_too_many_failures_are_not_tried_again(pytester: pytest.Pytester, tmp_path: Path) -> None:
    run = run_failing(pytester, tmp_path, "--shard-retries=1", "--shard-retry-max-failures=2")

    assert run.exitcode == 1
    assert run.counts == {"failed": 3, "passed": 2, "error": 1}, run.show()
    assert "no failed test is tried again: more than 2 of 5 have failed" in run.stdout
    assert "tried again =" not in run.stdout
    tags = [child.tag for children in cases_of(run).values() for child in children]
    assert sorted(tags) == ["error", "error", "failure", "failure"]


def test_other_plugins_may_try_tests_again_as_well(
    pytester: pytest.Pytester, tmp_path: Path
) -> None:
    pytest.importorskip("pytest_rerunfailures")

    run = run_failing(
        pytester,
        tmp_path,
        "-ppytest_rerunfailures",
        "--reruns=1",
        "--shard-retries=1",
        "-kalways or flaky",
    )

    assert run.counts == {"failed": 1, "passed": 1, "rerun": 2, "deselected": 3}, run.show()
    failure, *earlier = cases_of(run)["test_always_fails"]
    assert failure.get("message") == "ValueError: at try 4"
    assert [each.get("message") for each in earlier] == [
        f"ValueError: at try {n}" for n in (1, 2, 3)
    ]
