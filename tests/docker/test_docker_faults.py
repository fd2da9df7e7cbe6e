"""What breaks in, under and around containers, as a user sees it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from docker_fixtures import make_test_image, options
from faults.support import check_books, started, write_suite

from pytest_shardrun.executors.docker_client import Daemon, NotThere

pytestmark = [pytest.mark.docker, pytest.mark.usefixtures("nothing_left")]


def wait_until(is_true: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not is_true():
        assert time.monotonic() < end, "did not happen in time"
        time.sleep(0.05)


DEATHS = """
import ctypes, os, signal, sys, time

def test_before(): pass

def test_segfault():
    os.kill(os.getpid(), signal.SIGSEGV)

def test_exit():
    os._exit(0)

def test_memory():
    kept = []
    while True:
        kept.append(bytearray(b"x" * (8 << 20)))

def test_killed():
    os.kill(os.getpid(), signal.SIGKILL)

def test_hangs_in_c():
    # Holds the interpreter's lock, but for the moment in which the stacks are asked for.
    for _ in range(9):
        ctypes.PyDLL(None).sleep(600)

def test_after(): pass
"""


def test_every_way_to_die_is_told_apart_and_costs_one_test(
    tmp_path: Path, docker_image: str
) -> None:
    write_suite(tmp_path, {"test_it.py": DEATHS})

    with started(
        tmp_path,
        *options(docker_image, "--shard-memory=128m", "--shard-timeout=20s", "--shard-grace=5s"),
    ) as run:
        finished = run.finish(within=120)

    check_books(
        finished,
        code=1,
        kinds={
            "test_it.py::test_before": "passed",
            "test_it.py::test_segfault": "crash",
            "test_it.py::test_exit": "crash",
            "test_it.py::test_memory": "crash",
            "test_it.py::test_killed": "crash",
            "test_it.py::test_hangs_in_c": "timeout",
            "test_it.py::test_after": "passed",
        },
    )
    assert "SIGSEGV" in finished.case("test_it.py::test_segfault").text
    assert "exit code 0" in finished.case("test_it.py::test_exit").text
    assert "out of memory" in finished.case("test_it.py::test_memory").text
    assert "SIGKILL" in finished.case("test_it.py::test_killed").text
    assert "out of memory" not in finished.case("test_it.py::test_killed").text
    assert "--shard-memory" in finished.stdout


def test_a_fork_bomb_a_full_disk_and_a_flood_hit_their_own_shard_only(
    tmp_path: Path, docker_image: str
) -> None:
    write_suite(
        tmp_path,
        {
            "test_it.py": """
                import os, sys, time

                def test_fork_bomb():
                    while True:
                        if os.fork() == 0:
                            time.sleep(600)

                def test_full_disk(tmp_path):
                    with open(tmp_path / "big", "wb") as file:
                        for _ in range(200):
                            file.write(bytes(1 << 20))

                def test_flood(capfd):
                    with capfd.disabled():
                        for _ in range(20000):
                            os.write(1, b"y" * 1000 + b"\\n")

                def test_after(): pass
            """
        },
    )

    with started(tmp_path, *options(docker_image, "--shard-pids=64", "--shard-disk=32m")) as run:
        finished = run.finish(within=120)

    check_books(
        finished,
        code=1,
        kinds={
            "test_it.py::test_fork_bomb": "failed",
            "test_it.py::test_full_disk": "failed",
            "test_it.py::test_flood": "passed",
            "test_it.py::test_after": "passed",
        },
    )
    assert "--shard-pids" in finished.stdout
    assert "--shard-disk" in finished.stdout


WAITING = """
    import pathlib, socket, time

    def test_before(): pass

    def test_waits():
        print("waiting", flush=True)
        time.sleep({seconds})

    def test_after(): pass
"""


def begun(daemon: Daemon, pid: int, count: int = 1) -> list[str]:
    """The containers that the run of this process has started, as soon as it has."""
    found: list[str] = []

    def has_begun() -> bool:
        found[:] = [
            str(each["Names"][0]).lstrip("/")
            for each in daemon.containers("pytest-shardrun.owner")
            if each["Labels"]["pytest-shardrun.owner"].split(" ")[2] == str(pid)
            and each["State"] == "running"
        ]
        return len(found) >= count

    wait_until(has_begun)
    return found


REMOVED = """
    import os, time

    def test_before(): pass

    def test_waits():
        attempt = int(os.environ["SHARDRUN_ATTEMPT"])
        if attempt <= {attempts}:
            print("waiting in", attempt, flush=True)
            time.sleep(600)

    def test_after(): pass
"""


def test_a_container_that_somebody_removes_is_replaced_and_its_test_tried_again(
    tmp_path: Path, docker_image: str, docker_daemon: Daemon
) -> None:
    write_suite(tmp_path, {"test_it.py": REMOVED.format(attempts=1)})

    with started(tmp_path, *options(docker_image, "-s", shards=1)) as run:
        [name] = begun(docker_daemon, run.popen.pid)
        run.wait_for_output("waiting in 1")
        docker_daemon.remove(name)
        finished = run.finish(within=60)

    names = ("test_before", "test_waits", "test_after")
    check_books(
        finished, code=0, kinds=dict.fromkeys((f"test_it.py::{n}" for n in names), "passed")
    )
    assert finished.has_line_with("[shard 1] lost: its container was removed by somebody else")
    assert finished.has_line_with("test_it.py::test_waits ran when shard 1 was lost", "tried again")


def test_a_test_whose_container_is_lost_again_is_blamed(
    tmp_path: Path, docker_image: str, docker_daemon: Daemon
) -> None:
    write_suite(tmp_path, {"test_it.py": REMOVED.format(attempts=2)})

    with started(tmp_path, *options(docker_image, "-s", shards=1)) as run:
        for attempt in ("1", "2"):
            run.wait_for_output(f"waiting in {attempt}")
            [name] = [
                each for each in begun(docker_daemon, run.popen.pid) if each.endswith(f"-{attempt}")
            ]
            docker_daemon.kill(name)
        finished = run.finish(within=60)

    check_books(
        finished,
        code=1,
        kinds={
            "test_it.py::test_before": "passed",
            "test_it.py::test_waits": "lost",
            "test_it.py::test_after": "passed",
        },
    )
    assert "exit code 137, for the second time while it ran" in finished.stdout


def test_ctrl_c_ends_containers_and_closes_the_books(
    tmp_path: Path, docker_image: str, docker_daemon: Daemon
) -> None:
    write_suite(tmp_path, {"test_it.py": WAITING.format(seconds=600)})

    with started(tmp_path, *options(docker_image, "-s", shards=1)) as run:
        begun(docker_daemon, run.popen.pid)
        run.wait_for_output("waiting")
        run.press_ctrl_c()
        finished = run.finish(within=30)

    assert finished.code == 2, finished.describe()
    assert finished.case("test_it.py::test_before").kind == "passed"


def test_ctrl_c_while_containers_start_leaves_nothing(
    tmp_path: Path, docker_image: str, docker_daemon: Daemon
) -> None:
    write_suite(tmp_path, {"test_it.py": WAITING.format(seconds=600)})

    with started(tmp_path, *options(docker_image, shards=4)) as run:
        begun(docker_daemon, run.popen.pid)
        run.press_ctrl_c()
        finished = run.finish(within=30)

    assert finished.code == 2, finished.describe()


def test_containers_end_with_a_killed_controller_and_the_next_run_removes_them(
    tmp_path: Path, docker_image: str, docker_daemon: Daemon
) -> None:
    write_suite(tmp_path, {"test_it.py": WAITING.format(seconds=600)})

    with started(tmp_path, *options(docker_image, "-s", shards=2)) as run:
        names = begun(docker_daemon, run.popen.pid, 2)
        run.wait_for_output("waiting")
        os.kill(run.popen.pid, signal.SIGKILL)
        wait_until(
            lambda: not any(docker_daemon.inspect(each)["State"]["Running"] for each in names)
        )
    second = tmp_path / "second"
    second.mkdir()
    write_suite(second, {"test_it.py": "def test_it(): pass"})
    with started(second, *options(docker_image, shards=1)) as run:
        finished = run.finish(within=60)

    assert finished.code == 0, finished.describe()
    for each in names:
        with pytest.raises(NotThere):
            docker_daemon.inspect(each)


def test_a_container_that_is_slow_to_end_because_it_has_little_cpu_is_no_failure(
    tmp_path: Path, docker_image: str
) -> None:
    write_suite(
        tmp_path,
        {
            "test_it.py": """
                import atexit, time

                def work():
                    # Longer than the grace, and less than its start took.
                    while time.process_time() < begun + 0.1:
                        pass

                def test_it():
                    global begun
                    begun = time.process_time()
                    atexit.register(work)
            """
        },
    )
    limits = ("--shard-cpus=0.05", "--shard-grace=0.5s")

    with started(tmp_path, *options(docker_image, *limits, shards=1)) as run:
        finished = run.finish(within=180)

    check_books(finished, code=0, kinds={"test_it.py::test_it": "passed"})


def test_two_runs_at_once_leave_each_other_alone(tmp_path: Path, docker_image: str) -> None:
    places = [tmp_path / name for name in ("one", "two")]
    for place in places:
        place.mkdir()
        write_suite(place, {"test_it.py": "import time\ndef test_it(): time.sleep(1)"})

    with (
        started(places[0], *options(docker_image)) as one,
        started(places[1], *options(docker_image)) as two,
    ):
        finished = [run.finish(within=90) for run in (one, two)]

    assert [each.code for each in finished] == [0, 0], finished[0].describe()


def test_a_name_that_somebody_else_has_taken_is_left_to_them(
    tmp_path: Path, docker_image: str, docker_daemon: Daemon
) -> None:
    write_suite(
        tmp_path,
        {
            "conftest.py": f"""
                import pathlib, subprocess

                def pytest_report_header(config):
                    # In the controller, before its first container.
                    if (controller := config.pluginmanager.get_plugin("shardrun-controller")):
                        name = f"shardrun-{{controller._run_id}}-1-1"
                        command = ["docker", "create", "--name", name, "{docker_image}", "true"]
                        subprocess.run(command, check=True, capture_output=True)
                        pathlib.Path("taken.txt").write_text(name)
            """,
            "test_it.py": "def test_it(): pass",
        },
    )

    with started(tmp_path, *options(docker_image, shards=1)) as run:
        finished = run.finish(within=60)

    name = (tmp_path / "taken.txt").read_text()
    assert docker_daemon.inspect(name)["State"]["Status"] == "created"
    docker_daemon.remove(name)
    check_books(finished, code=0, kinds={"test_it.py::test_it": "passed"})


def test_an_image_without_pytest_names_both_ways_out(tmp_path: Path, docker_daemon: Daemon) -> None:
    bare = make_test_image("--without-packages")
    write_suite(tmp_path, {"test_it.py": "def test_it(): pass"})

    with started(tmp_path, *options(bare, shards=4)) as run:
        finished = run.finish(within=60)

    assert finished.code == 1, finished.describe()
    assert sum(line.startswith("[shard ") for line in finished.stdout.splitlines()) == 1
    assert sum(line.startswith("ERROR shard") for line in finished.stdout.splitlines()) == 1
    assert "has no pytest for" in finished.stdout
    assert "--shard-image" in finished.stdout
    assert "--shard-setup 'pip install pytest'" in finished.stdout


def test_an_interpreter_that_is_not_there_is_named(tmp_path: Path, docker_image: str) -> None:
    write_suite(tmp_path, {"test_it.py": "def test_it(): pass"})

    with started(tmp_path, *options(docker_image, "--shard-python=python9", shards=1)) as run:
        finished = run.finish(within=60)

    assert finished.code == 1, finished.describe()
    assert f"{docker_image} has no python9: name its interpreter with --shard-python" in (
        finished.stdout
    )
