"""What happens to the controller, and to shards from outside."""

from __future__ import annotations

import contextlib
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
    [(signal.SIGINT, True), (signal.SIGINT, False), (signal.SIGTERM, False)],
    ids=["Ctrl-C", "SIGINT to the controller", "SIGTERM to the controller"],
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


def test_a_reader_that_has_seen_enough_does_not_hang_the_run(tmp_path: Path) -> None:
    """``pytest --shards 2 -v | head -1``"""
    write_suite(tmp_path, {"test_waiting.py": HEALTHY, "test_healthy.py": HEALTHY})
    reading, writing = os.pipe()

    with started(tmp_path, *TWO_SHARDS, "-v", stdout=writing) as going:
        os.close(writing)
        with os.fdopen(reading, "rb", buffering=0) as stream:
            first = stream.read(1)
        going.finish(within=SOON)

    assert first


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
