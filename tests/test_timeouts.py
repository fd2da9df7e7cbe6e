"""Tests that take too long, as a user sees them."""

from __future__ import annotations

import importlib.util

import pytest
from comparison import run_pytest

HANGING = """
    import signal
    import threading

    import pytest


    def test_before(): pass


    def test_hangs():
        print("so far so good")
        threading.Event().wait()


    @pytest.fixture
    def hanging():
        yield
        threading.Event().wait()


    @pytest.mark.shard_timeout("0.5s")
    def test_hangs_in_teardown(hanging): pass


    @pytest.mark.shard_timeout(None)
    def test_has_no_limit(): threading.Event().wait(4)


    def test_after(): pass
"""


def test_a_test_that_takes_too_long_is_ended_and_the_rest_goes_on(
    pytester: pytest.Pytester,
) -> None:
    pytester.makepyfile(test_it=HANGING)

    run = run_pytest(
        pytester.path, "--shards=2", "--shard-test-timeout=2", "--shard-grace=1", "-rA"
    )

    assert run.exitcode == 1
    assert run.outcomes == {
        "test_it.py::test_before": "passed",
        "test_it.py::test_hangs": "failed",
        "test_it.py::test_hangs_in_teardown": "error",
        "test_it.py::test_has_no_limit": "passed",
        "test_it.py::test_after": "passed",
    }, run.show()
    assert "SLOW test_it.py::test_hangs: " in run.stdout
    assert "timed out after 2 s (--shard-test-timeout) (call, shard " in run.stdout
    assert "timed out after 0.5 s (its mark shard_timeout) (teardown, shard " in run.stdout
    assert "in test_hangs" in run.stdout, "the stacks"
    assert "so far so good" in run.stdout
    assert run.junit is not None
    ((tag, type_, _, _), *_) = run.junit.cases["test_it", "test_hangs"].details
    assert (tag, type_) == ("failure", "timeout")


@pytest.mark.skipif(importlib.util.find_spec("pytest_timeout") is None, reason="needs it")
def test_the_limits_of_pytest_timeout_hold_where_its_timer_cannot_end_a_test(
    pytester: pytest.Pytester,
) -> None:
    pytester.makepyfile(
        test_it="""
        import signal
        import threading

        import pytest

        def test_is_ended_by_its_timer(): threading.Event().wait()

        @pytest.mark.timeout(0.1, method="signal")
        def test_is_deaf_to_its_timer():
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
            threading.Event().wait()

        def test_after(): pass
        """
    )

    run = run_pytest(
        pytester.path, "-ppytest_timeout", "--shards=1", "--timeout=1", "--timeout-method=signal"
    )

    assert run.outcomes == {
        "test_it.py::test_is_ended_by_its_timer": "failed",
        "test_it.py::test_is_deaf_to_its_timer": "failed",
        "test_it.py::test_after": "passed",
    }, run.show()
    assert "Timeout (>1.0s) from pytest-timeout" in run.stdout
    assert "timed out after 0.1 s (of pytest-timeout, whose own timer" in run.stdout


def test_a_mark_that_gives_no_time_is_refused(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        test_it="""
        import pytest

        @pytest.mark.shard_timeout("soon")
        def test_it(): pass
        """
    )

    run = run_pytest(pytester.path, "--shards=2")

    assert run.exitcode == pytest.ExitCode.USAGE_ERROR
    assert "test_it.py::test_it: shard_timeout('soon') is no time" in run.stderr, run.show()


def test_a_controller_that_was_stopped_blames_no_test_for_it(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        test_it="""
        import os
        import subprocess
        from pathlib import Path

        def test_before(): pass

        def test_stops_the_controller():
            controller = os.getppid()
            subprocess.Popen(
                ["sh", "-c", f"kill -STOP {controller}; sleep 3; kill -CONT {controller}"],
                start_new_session=True,
            )
            while "State:\\tT" not in Path(f"/proc/{controller}/status").read_text():
                pass

        def test_after(): pass
        """
    )

    run = run_pytest(pytester.path, "--shards=1", "--shard-test-timeout=1.5", "--shard-leak=ignore")

    assert run.counts == {"passed": 3}, run.show()
