"""Runs that end early because the results so far are enough, as a user sees them."""

from __future__ import annotations

from collections import Counter

import pytest
from comparison import run_pytest

#: Two shards: one whose tests fail at once, and one with a test that goes on for ever.
SUITE = {
    "test_quick": """
        import os
        import threading
        from pathlib import Path

        import pytest

        @pytest.mark.parametrize("number", range(20))
        def test_quick(number):
            if number == 2:
                while not Path("running").exists():
                    threading.Event().wait(0.01)
                assert "FAIL" not in os.environ
    """,
    "test_long": """
        import threading
        from pathlib import Path

        def test_goes_on():
            Path("running").touch()
            threading.Event().wait()
    """,
}


@pytest.mark.parametrize(
    ("halt", "environment", "exitcode", "reason"),
    [
        ("now,fail=1", {"FAIL": "1"}, 1, "stopping after 1 failures (--shard-halt=now,fail=1)"),
        ("now,success=3", {}, 0, "stopping after 3 successes (--shard-halt=now,success=3)"),
        ("now,done=30%", {}, 0, "stopping after 7 tests (--shard-halt=now,done=30%)"),
    ],
)
def test_what_was_stopped_is_named(
    pytester: pytest.Pytester, halt: str, environment: dict[str, str], exitcode: int, reason: str
) -> None:
    pytester.makepyfile(**SUITE)

    run = run_pytest(
        pytester.path,
        "--shards=2",
        "--shard-split=count",
        "--shard-scope=module",
        "--shard-steal=no",
        f"--shard-halt={halt}",
        env=environment,
    )

    assert run.exitcode == exitcode, run.show()
    assert f"!! {reason} !!" in run.stdout
    assert "STOPPED test_long.py::test_goes_on - stopped in its call: " + reason in run.stdout
    assert f"NOT RUN test_quick.py::test_quick[19] - {reason}" in run.stdout
    assert run.junit is not None
    kinds = Counter(
        (tag, type_) for case in run.junit.cases.values() for tag, type_, _, _ in case.details
    )
    assert len(run.junit.cases) == 21
    assert set(kinds) <= {("skipped", "not-run"), ("failure", None)}


def test_a_failure_that_stays_one_stops_the_run_though_it_was_tried_again(
    pytester: pytest.Pytester,
) -> None:
    pytester.makepyfile(
        test_it="""
        import pytest

        @pytest.mark.parametrize("number", range(400))
        def test_it(number): assert number != 3
        """
    )

    run = run_pytest(pytester.path, "--shards=1", "-x", "--shard-retries=1")

    assert run.exitcode == 1, run.show()
    assert "!! stopping after 1 failures !!" in run.stdout
    assert run.counts["failed"] == 1
    assert run.counts["not run"] == 400 - 1 - run.counts["passed"]
    assert run.counts["passed"] < 200
