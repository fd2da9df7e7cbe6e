"""What happens to the controller, and to shards from outside."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Final

import pytest

from .support import PROCESSES_ARE_KNOWN, SOON, check_books, kinds_of, run, started, write_suite
from .table import HEALTHY, HEALTHY_KINDS, ONE_SHARD, TWO_CRASHERS, TWO_SHARDS

pytestmark = PROCESSES_ARE_KNOWN

#: One test that never ends and tells so, one that is done before, one that comes after.
WAITING: Final = """
    import pathlib, os, time
    import pytest

    HERE = pathlib.Path(__file__).parent

    @pytest.fixture
    def resource():
        yield
        (HERE / "torn-down").touch()

    def test_before():
        pass

    def test_waits(resource):
        (HERE / "pid").write_text(str(os.getpid()))
        (HERE / "waiting").touch()
        time.sleep(1000)

    def test_after():
        pass
"""
UNFINISHED: Final = "not-run|skipped"


@pytest.mark.parametrize(
    ("number", "whole_group"),
    [
        (signal.SIGINT, True),
        (signal.SIGINT, False),
        (signal.SIGTERM, False),
        (signal.SIGHUP, False),
    ],
    ids=["Ctrl-C", "SIGINT", "SIGTERM", "SIGHUP"],
)
def test_a_stopped_run_tears_down_closes_its_books_and_exits_with_2(
    tmp_path: Path, number: signal.Signals, *, whole_group: bool
) -> None:
    write_suite(tmp_path, {"test_waiting.py": WAITING})

    with started(tmp_path, *ONE_SHARD) as going:
        going.wait_for("waiting")
        if whole_group:
            going.press_ctrl_c()
        else:
            going.popen.send_signal(number)
        finished = going.finish(within=SOON)

    waiting = kinds_of("waiting", before="passed", waits=UNFINISHED, after=UNFINISHED)
    check_books(finished, code=2, kinds=waiting)
    assert (tmp_path / "torn-down").exists(), finished.describe()


def test_a_stop_keeps_what_other_shards_have_finished(tmp_path: Path) -> None:
    files = {
        "test_waiting.py": WAITING,
        "test_other.py": """
            import pathlib, time

            def test_one():
                pass

            def test_waits_too():
                pathlib.Path(__file__).with_name("waiting-too").touch()
                time.sleep(1000)
        """,
    }
    write_suite(tmp_path, files)

    with started(tmp_path, *TWO_SHARDS) as going:
        going.wait_for("waiting")
        going.wait_for("waiting-too")
        going.press_ctrl_c()
        finished = going.finish(within=SOON)

    waiting = kinds_of("waiting", before="passed", waits=UNFINISHED, after=UNFINISHED)
    other = kinds_of("other", one="passed", waits_too=UNFINISHED)
    check_books(finished, code=2, kinds={**waiting, **other})


#: A test that hears every request to stop and ignores it.
STUBBORN: Final = """
    import pathlib, signal, time

    HERE = pathlib.Path(__file__).parent

    def ignore(number, frame):
        (HERE / "asked").touch()

    def test_before():
        pass

    def test_stubborn():
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, ignore)
        (HERE / "waiting").touch()
        while True:
            time.sleep(1000)

    def test_after():
        pass
"""
STUBBORN_KINDS: Final = {
    "test_stubborn.py::test_before": "passed",
    "test_stubborn.py::test_stubborn": f"{UNFINISHED}|crash|timeout",
    "test_stubborn.py::test_after": UNFINISHED,
}


def test_ctrl_c_twice_does_not_wait_for_the_grace(tmp_path: Path) -> None:
    write_suite(tmp_path, {"test_stubborn.py": STUBBORN})

    with started(tmp_path, *ONE_SHARD, "--shard-grace=300") as going:
        going.wait_for("waiting")
        going.press_ctrl_c()
        going.wait_for("asked")
        going.press_ctrl_c()
        finished = going.finish(within=10)

    check_books(finished, code=2, kinds=STUBBORN_KINDS)


def test_ctrl_c_once_waits_no_longer_than_the_grace(tmp_path: Path) -> None:
    write_suite(tmp_path, {"test_stubborn.py": STUBBORN})

    with started(tmp_path, *ONE_SHARD, "--shard-grace=1") as going:
        going.wait_for("waiting")
        going.press_ctrl_c()
        finished = going.finish(within=10)

    check_books(finished, code=2, kinds=STUBBORN_KINDS)


def test_ctrl_c_during_collection_ends_the_run(tmp_path: Path) -> None:
    source = """
        import pathlib, time

        pathlib.Path(__file__).with_name("waiting").touch()
        time.sleep(1000)
    """
    write_suite(tmp_path, {"test_slow.py": source})

    with started(tmp_path, *TWO_SHARDS, "--shard-grace=1") as going:
        going.wait_for("waiting")
        going.press_ctrl_c()
        finished = going.finish(within=10)

    assert finished.code == 2, finished.describe()
    assert finished.cases is not None, finished.describe()


def test_ctrl_c_many_times_leaves_a_complete_file(tmp_path: Path) -> None:
    write_suite(tmp_path, {"test_stubborn.py": STUBBORN})

    with started(tmp_path, *ONE_SHARD, "--shard-grace=300") as going:
        going.wait_for("waiting")
        deadline = time.monotonic() + 10
        while going.popen.poll() is None and time.monotonic() < deadline:
            going.press_ctrl_c()
            # Nobody is faster.
            with contextlib.suppress(subprocess.TimeoutExpired):
                going.popen.wait(timeout=0.1)
        finished = going.finish(within=1)

    assert finished.code in (2, -signal.SIGINT), finished.describe()
    assert finished.cases is not None, finished.describe()
    assert finished.cases.keys() == STUBBORN_KINDS.keys()


#: Tests that wait, each in a way that makes it hard to notice that the controller is gone.
ORPHANS: Final = {
    "a sleep": "time.sleep(1000)",
    "a sleep with a child": "subprocess.run(['sleep', '1000'])",
    "a sleep with a child in its own session": (
        "subprocess.run(['sleep', '1000'], start_new_session=True)"
    ),
    "a loop in C that holds the GIL": "re.match('(a|a)+$', 'a' * 200 + 'b')",
    "signals ignored": "ignore(); time.sleep(1000)",
}


@pytest.mark.parametrize("name", ORPHANS)
def test_no_process_outlives_a_killed_controller(tmp_path: Path, name: str) -> None:
    source = f"""
        import pathlib, re, signal, subprocess, time

        def ignore():
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE):
                signal.signal(number, signal.SIG_IGN)

        def test_waits():
            pathlib.Path(__file__).with_name("waiting").touch()
            {ORPHANS[name]}
    """
    write_suite(tmp_path, {"test_waiting.py": source, "test_healthy.py": HEALTHY})

    with started(tmp_path, *TWO_SHARDS) as going:
        going.wait_for("waiting")
        going.popen.kill()

        going.finish(within=5)


def test_a_shard_that_is_killed_from_outside_is_replaced(tmp_path: Path) -> None:
    write_suite(tmp_path, {"test_waiting.py": WAITING, "test_healthy.py": HEALTHY})

    with started(tmp_path, *TWO_SHARDS) as going:
        pid = int(going.wait_for("waiting").with_name("pid").read_text(encoding="utf-8"))
        os.kill(pid, signal.SIGKILL)
        finished = going.finish(within=SOON)

    waiting = kinds_of("waiting", before="passed", waits="crash", after="passed")
    check_books(finished, code=1, kinds={**waiting, **HEALTHY_KINDS})
    assert "SIGKILL" in finished.case("test_waiting.py::test_waits").text


#: A test that goes on when it is told, and one that comes after.
HELD: Final = """
    import pathlib, time

    HERE = pathlib.Path(__file__).parent

    def test_held():
        (HERE / "waiting").touch()
        deadline = time.monotonic() + 60
        while not (HERE / "go-on").exists() and time.monotonic() < deadline:
            time.sleep(0.01)

    def test_after():
        pass
"""
HELD_NODEIDS: Final = {"test_held.py::test_held", "test_held.py::test_after", *HEALTHY_KINDS}


def test_a_reader_that_has_seen_enough_ends_the_run_with_a_complete_file(tmp_path: Path) -> None:
    """``pytest --shards 2 -v | head``"""
    write_suite(tmp_path, {"test_held.py": HELD, "test_healthy.py": HEALTHY})
    reading, writing = os.pipe()

    with started(tmp_path, *TWO_SHARDS, "-v", stdout=writing) as going:
        os.close(writing)
        going.wait_for("waiting")
        os.close(reading)
        (tmp_path / "go-on").touch()
        finished = going.finish(within=SOON)

    assert finished.code == 1, finished.describe()
    assert finished.cases is not None, finished.describe()
    assert finished.cases.keys() == HELD_NODEIDS, finished.describe()


def test_a_terminal_that_is_closed_ends_the_run_with_a_complete_file(tmp_path: Path) -> None:
    """The window is closed: SIGHUP, and nothing can be written any more."""
    write_suite(tmp_path, {"test_waiting.py": WAITING, "test_healthy.py": HEALTHY})
    outer, inner = os.openpty()
    own_it = "import fcntl, termios; fcntl.ioctl(1, termios.TIOCSCTTY, 0)"

    with started(tmp_path, *TWO_SHARDS, "-v", stdout=inner, prelude=own_it) as going:
        os.close(inner)
        going.wait_for("waiting")
        os.close(outer)
        finished = going.finish(within=SOON)

    assert finished.code != 0, finished.describe()
    assert finished.cases is not None, finished.describe()
    assert finished.cases.keys() == {
        *kinds_of("waiting", before="", waits="", after=""),
        *HEALTHY_KINDS,
    }
    assert (tmp_path / "torn-down").exists(), finished.describe()


def test_a_hook_that_raises_leaves_shards_time_to_tear_down(tmp_path: Path) -> None:
    files = {
        "test_waiting.py": WAITING,
        "test_other.py": """
            import pathlib, time

            def test_sees_it_wait():
                while not pathlib.Path(__file__).with_name("waiting").exists():
                    time.sleep(0.01)
        """,
        "conftest.py": """
            def pytest_runtest_logreport(report):
                if hasattr(report, "node") and report.nodeid.endswith("test_sees_it_wait"):
                    raise RuntimeError("told by the hook")
        """,
    }
    write_suite(tmp_path, files)

    with started(tmp_path, *TWO_SHARDS, "--shard-scope=module") as going:
        finished = going.finish(within=SOON)

    assert finished.code == 3, finished.describe()
    assert finished.cases is not None, finished.describe()
    assert {nodeid: case.kind for nodeid, case in finished.cases.items()} == {
        **kinds_of("waiting", before="passed", waits="not-run", after="not-run"),
        **kinds_of("other", sees_it_wait="passed"),
    }
    assert "told by the hook" in finished.stdout, finished.describe()
    assert (tmp_path / "torn-down").exists(), finished.describe()


def test_what_was_read_with_the_report_of_which_a_hook_raises_is_not_lost(tmp_path: Path) -> None:
    files = {
        "test_quick.py": """
            import pytest

            @pytest.mark.parametrize("number", range(8))
            def test_quick(number):
                pass
        """,
        "conftest.py": """
            import pytest_shardrun.supervisor

            # All that the shard sends until it has nothing to do is read at once.
            pytest_shardrun.supervisor.GATHER_SECONDS = 1.0

            def pytest_runtest_logreport(report):
                if hasattr(report, "node") and report.nodeid.endswith("[1]"):
                    raise RuntimeError("told by the hook")
        """,
    }
    write_suite(tmp_path, files)

    with started(tmp_path, *ONE_SHARD) as going:
        finished = going.finish(within=SOON)

    assert finished.code == 3, finished.describe()
    assert finished.cases is not None, finished.describe()
    assert len(finished.cases) == 8, finished.describe()
    (journal,) = tmp_path.rglob("runs/*.jsonl")
    noted = [json.loads(line) for line in journal.read_text(encoding="utf-8").splitlines()]
    (ended,) = (each for each in noted if each["event"] == "ended")
    assert ended["reason"] == "completed", finished.describe()


def test_sighup_is_ignored_where_whoever_started_the_run_ignored_it(tmp_path: Path) -> None:
    """``nohup pytest --shards 2``"""
    write_suite(tmp_path, {"test_held.py": HELD, "test_healthy.py": HEALTHY})
    ignore = "signal.signal(signal.SIGHUP, signal.SIG_IGN)"

    with started(tmp_path, *TWO_SHARDS, prelude=ignore) as going:
        going.wait_for("waiting")
        going.popen.send_signal(signal.SIGHUP)
        (tmp_path / "go-on").touch()
        finished = going.finish(within=SOON)

    check_books(finished, code=0, kinds=dict.fromkeys(HELD_NODEIDS, "passed"))


def test_two_runs_in_one_checkout_do_not_disturb_each_other(tmp_path: Path) -> None:
    write_suite(tmp_path, {"test_held.py": HELD, "test_healthy.py": HEALTHY})

    with started(tmp_path, *TWO_SHARDS) as first, started(tmp_path, *TWO_SHARDS) as second:
        first.wait_for("waiting")
        (tmp_path / "go-on").touch()
        # What is left is looked for in the directory that they share.
        second.popen.wait(SOON)
        both = first.finish(within=SOON), second.finish(within=SOON)

    for finished in both:
        check_books(finished, code=0, kinds=dict.fromkeys(HELD_NODEIDS, "passed"))
    journals = list(tmp_path.rglob("runs/*.jsonl"))
    assert len(journals) == 2
    assert all('"not run"' not in each.read_text(encoding="utf-8") for each in journals)


def test_what_a_killed_controller_had_been_told_is_in_the_journal(tmp_path: Path) -> None:
    write_suite(tmp_path, {"test_healthy.py": HEALTHY, "test_waiting.py": WAITING})

    with started(tmp_path, *ONE_SHARD) as going:
        going.wait_for("waiting")
        journal = next(tmp_path.rglob("runs/*.jsonl"))
        # The journal is half a second behind.
        deadline = time.monotonic() + SOON
        while "test_before" not in _finished_in(journal) and time.monotonic() < deadline:
            time.sleep(0.05)
        going.popen.kill()
        going.finish(within=5)

    assert _finished_in(journal) == {"test_one", "test_two", "test_three", "test_before"}


def _finished_in(journal: Path) -> set[str]:
    events = []
    for line in journal.read_text(encoding="utf-8").splitlines():
        # The last line of a killed run may be cut short.
        with contextlib.suppress(ValueError):
            events.append(json.loads(line))
    return {event["nodeid"].partition("::")[2] for event in events if event["event"] == "finished"}


def test_x_does_not_wait_for_a_slow_test_in_another_shard(tmp_path: Path) -> None:
    files = {
        "test_fails.py": """
            import pathlib, time

            def test_fails():
                deadline = time.monotonic() + 20
                slow = pathlib.Path(__file__).with_name("waiting")
                while not slow.exists() and time.monotonic() < deadline:
                    time.sleep(0.01)
                assert False

            def test_never():
                pass
        """,
        "test_waiting.py": WAITING,
    }
    write_suite(tmp_path, files)

    with started(tmp_path, *TWO_SHARDS, "-x", "--shard-grace=1") as going:
        going.wait_for("waiting")
        finished = going.finish(within=10)

    fails = kinds_of("fails", fails="failed", never=UNFINISHED)
    waiting = kinds_of("waiting", before="passed", waits=UNFINISHED, after=UNFINISHED)
    check_books(finished, code=1, kinds={**fails, **waiting})


def test_x_counts_a_crash_as_a_failure(tmp_path: Path) -> None:
    finished = run(tmp_path, {"test_crashes.py": TWO_CRASHERS}, *ONE_SHARD, "-x", within=SOON)

    kinds = kinds_of("crashes", a="passed", b="crash", c=UNFINISHED, d=UNFINISHED, e=UNFINISHED)
    check_books(finished, code=1, kinds=kinds)


@pytest.mark.parametrize(
    "prelude",
    [
        "os.close(0)",
        "signal.signal(signal.SIGINT, signal.SIG_IGN)",
        "signal.signal(signal.SIGCHLD, signal.SIG_IGN)",
        "signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD, signal.SIGTERM})",
        "resource.setrlimit(resource.RLIMIT_NOFILE, (128, 128))",
    ],
)
def test_an_odd_environment_of_the_controller_changes_nothing(tmp_path: Path, prelude: str) -> None:
    files = {
        "test_odd.py": """
            import os, signal

            def test_before():
                pass

            def test_dies():
                os.kill(os.getpid(), signal.SIGKILL)

            def test_after():
                pass
        """,
        "test_healthy.py": HEALTHY,
    }
    write_suite(tmp_path, files)

    with started(tmp_path, *TWO_SHARDS, prelude=prelude) as going:
        finished = going.finish(within=SOON)

    odd = kinds_of("odd", before="passed", dies="crash", after="passed")
    check_books(finished, code=1, kinds={**odd, **HEALTHY_KINDS})
