"""A daemon on another machine, and daemons that fail."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from comparison import CORPUS, differences, run_pytest
from docker_fixtures import RemoteDaemon, check_heavy_traffic, options
from faults.support import check_books, started, write_suite
from test_same_as_pytest import read_suite

pytestmark = pytest.mark.docker

WAITING: Final = """
    import pathlib, time

    def test_before(): pass

    def test_waits():
        print("waiting", flush=True)
        time.sleep(600)
"""


@pytest.mark.parametrize("name", ["fixtures", "properties"])
def test_shards_far_away_report_what_pytest_reports(
    name: str, tmp_path: Path, docker_image: str, remote_daemon: RemoteDaemon
) -> None:
    suite = read_suite(CORPUS / f"{name}.txtar")
    directories = tmp_path / "one/suite", tmp_path / "two/suite"
    for each in directories:
        suite.write(each)

    plain = run_pytest(directories[0])
    sharded = run_pytest(
        directories[1],
        *options(docker_image, *suite.shard_arguments),
        env={"DOCKER_HOST": remote_daemon.address},
    )

    assert differences(plain, sharded) == [], sharded.show()


def test_a_daemon_with_certificates_serves_crashes_floods_and_files(
    tmp_path: Path, docker_image: str, strict_daemon: RemoteDaemon
) -> None:
    # Bundles for the web, which many systems of CI set, are not for the daemon.
    environment = {**strict_daemon.environment, "REQUESTS_CA_BUNDLE": str(tmp_path / "none.pem")}

    check_heavy_traffic(tmp_path, docker_image, environment)

    assert strict_daemon.docker("ps", "-aq").stdout == b""


def test_a_daemon_with_certificates_refuses_whoever_has_none(
    tmp_path: Path, docker_image: str, strict_daemon: RemoteDaemon
) -> None:
    (tmp_path / "test_it.py").write_text("def test_it(): pass")

    run = run_pytest(
        tmp_path,
        *options(docker_image),
        env={"DOCKER_HOST": strict_daemon.environment["DOCKER_HOST"]},
    )

    assert run.exitcode == pytest.ExitCode.USAGE_ERROR, run.show()
    assert f"the Docker daemon at {strict_daemon.address} wants certificates: set" in run.stderr


def test_limits_that_the_daemon_takes_no_notice_of_are_named(
    tmp_path: Path, docker_image: str, strict_daemon: RemoteDaemon
) -> None:
    (tmp_path / "test_it.py").write_text("def test_it(): pass")

    run = run_pytest(tmp_path, *options(docker_image), env=strict_daemon.environment)

    assert run.counts == {"passed": 1}, run.show()
    assert (
        "the Docker daemon takes no notice of these limits on its machine: --shard-pids"
        in run.stdout
    )


@pytest.mark.parametrize("code", ["volume", "bind"])
def test_a_volume_can_be_far_away_and_a_mount_cannot(
    code: str, tmp_path: Path, docker_image: str, remote_daemon: RemoteDaemon
) -> None:
    (tmp_path / "test_it.py").write_text("def test_it(): pass")

    run = run_pytest(
        tmp_path,
        *options(docker_image, f"--shard-code={code}", shards=1),
        env={"DOCKER_HOST": remote_daemon.address},
    )

    if code == "volume":
        assert run.counts == {"passed": 1}, run.show()
    else:
        assert run.exitcode == 1, run.show()
        assert "--shard-code=bind needs a daemon on this machine, copy does not" in run.stdout


def test_a_daemon_that_dies_leaves_tests_that_say_why_they_were_not_run(
    tmp_path: Path,
    docker_image: str,
    remote_daemon: RemoteDaemon,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DOCKER_HOST", remote_daemon.address)
    write_suite(tmp_path, {"test_it.py": WAITING})

    with started(tmp_path, *options(docker_image, "-s", shards=1)) as run:
        run.wait_for_output("waiting")
        remote_daemon.signal(signal.SIGKILL)
        try:
            finished = run.finish(within=180)
        finally:
            remote_daemon.stop()
            remote_daemon.start()

    check_books(
        finished,
        code=1,
        kinds={"test_it.py::test_before": "passed", "test_it.py::test_waits": "not-run"},
    )
    assert "the Docker daemon does not answer: waiting 30 s for it to come back" in finished.stdout
    reason = finished.case("test_it.py::test_waits").text
    assert "lost: " in reason
    assert "and not tried again: shard 1 attempt 2 " in reason


def test_a_daemon_that_dies_and_comes_back_costs_no_test(
    tmp_path: Path,
    docker_image: str,
    remote_daemon: RemoteDaemon,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DOCKER_HOST", remote_daemon.address)
    write_suite(
        tmp_path,
        {
            "test_it.py": """
                import os, time

                def test_before(): pass

                def test_waits():
                    if os.environ["SHARDRUN_ATTEMPT"] == "1":
                        print("waiting", flush=True)
                        time.sleep(600)
            """
        },
    )

    with started(tmp_path, *options(docker_image, "-s", shards=1)) as run:
        run.wait_for_output("waiting")
        remote_daemon.stop()
        remote_daemon.start()
        finished = run.finish(within=180)

    check_books(
        finished,
        code=0,
        kinds={"test_it.py::test_before": "passed", "test_it.py::test_waits": "passed"},
    )
    assert finished.has_line_with("test_it.py::test_waits ran when shard 1 was lost", "tried again")


@pytest.fixture
def freezing(
    remote_daemon: RemoteDaemon, monkeypatch: pytest.MonkeyPatch
) -> Iterator[RemoteDaemon]:
    """The second daemon, for all runs; it has nothing at first, and is thawed at the end."""
    monkeypatch.setenv("DOCKER_HOST", remote_daemon.address)
    # What a killed controller has left there in another test is for the next run to remove.
    if left := remote_daemon.containers():
        assert remote_daemon.docker("rm", "--force", *left).returncode == 0
    yield remote_daemon
    remote_daemon.signal(signal.SIGCONT)


def test_a_daemon_that_freezes_while_tests_run_and_is_thawed_costs_no_test(
    tmp_path: Path, docker_image: str, freezing: RemoteDaemon
) -> None:
    write_suite(
        tmp_path,
        {
            f"test_{name}.py": """
                import time, pytest

                def test_waits():
                    print("waiting", flush=True)
                    time.sleep(2)

                @pytest.mark.parametrize("number", range(5))
                def test_after(number):
                    print("x" * 100_000)
            """
            for name in ("one", "two")
        },
    )

    with started(tmp_path, *options(docker_image, "-s")) as run:
        run.wait_for_output("waiting")
        freezing.signal(signal.SIGSTOP)
        # Longer than the tests take: what they report waits in the daemon.
        time.sleep(6)
        freezing.signal(signal.SIGCONT)
        finished = run.finish(within=60)

    after = [f"test_after[{number}]" for number in range(5)]
    check_books(
        finished,
        code=0,
        kinds={
            f"test_{name}.py::{test}": "passed"
            for name in ("one", "two")
            for test in ("test_waits", *after)
        },
    )
    assert " lost" not in finished.stdout
    assert not freezing.containers()


def test_a_daemon_that_freezes_while_it_makes_containers_is_asked_again(
    tmp_path: Path, docker_image: str, freezing: RemoteDaemon
) -> None:
    write_suite(
        tmp_path,
        {
            "test_it.py": "def test_one(): pass\ndef test_two(): pass",
            "waiting.py": """
                import pathlib, time

                def pytest_shardrun_attempt_started():
                    pathlib.Path("starting").touch()
                    while not pathlib.Path("go").exists():
                        time.sleep(0.01)
            """,
        },
    )

    with started(tmp_path, *options(docker_image, "-p", "waiting")) as run:
        run.wait_for("starting")
        freezing.signal(signal.SIGSTOP)
        (tmp_path / "go").touch()
        # Only now: the creations that were not answered in time will be carried out all the same.
        run.wait_for_output("the Docker daemon does not answer: waiting 30 s for it to come back")
        freezing.signal(signal.SIGCONT)
        finished = run.finish(within=60)

    check_books(
        finished,
        code=0,
        kinds={"test_it.py::test_one": "passed", "test_it.py::test_two": "passed"},
    )
    assert not freezing.containers()


def test_a_daemon_that_stays_frozen_cannot_stop_a_run_from_ending(
    tmp_path: Path, docker_image: str, freezing: RemoteDaemon
) -> None:
    write_suite(tmp_path, {"test_it.py": WAITING, "test_more.py": "def test_more(): pass"})

    with started(tmp_path, *options(docker_image, "-s", shards=1)) as run:
        run.wait_for_output("waiting")
        freezing.signal(signal.SIGSTOP)
        # A minute of silence, and calls that take half a minute each.
        run.popen.wait(timeout=300)
        freezing.signal(signal.SIGCONT)
        # What is in the container lives as long as the daemon sleeps.
        finished = run.finish(within=10)

    check_books(
        finished,
        code=1,
        kinds={
            "test_it.py::test_before": "passed",
            "test_it.py::test_waits": "not-run",
            "test_more.py::test_more": "not-run",
        },
    )
    assert "lost: has been silent for 60 s" in finished.stdout
    assert "is left, because the Docker daemon does not answer" in finished.stdout
    assert_the_next_run_removes_all(tmp_path / "next", docker_image, freezing)


def assert_the_next_run_removes_all(directory: Path, image: str, daemon: RemoteDaemon) -> None:
    """Whatever a daemon does late that it was asked for while it was frozen."""
    directory.mkdir()
    (directory / "test_it.py").write_text("def test_it(): pass")
    deadline = time.monotonic() + 60
    while True:
        run = run_pytest(directory, *options(image, shards=1))
        assert run.counts == {"passed": 1}, run.show()
        if not daemon.containers():
            return
        assert time.monotonic() < deadline, daemon.containers()


def test_a_frozen_daemon_does_not_outlast_the_time_of_a_run(
    tmp_path: Path, docker_image: str, freezing: RemoteDaemon
) -> None:
    write_suite(tmp_path, {"test_it.py": WAITING})

    with started(
        tmp_path,
        *options(docker_image, "-s", "--shard-run-timeout=8s", "--shard-grace=1s", shards=1),
    ) as run:
        run.wait_for_output("waiting")
        freezing.signal(signal.SIGSTOP)
        run.popen.wait(timeout=120)
        freezing.signal(signal.SIGCONT)
        # What is in the container lives as long as the daemon sleeps.
        finished = run.finish(within=10)

    assert finished.code == 1, finished.describe()
    assert finished.case("test_it.py::test_before").kind == "passed"
    assert finished.case("test_it.py::test_waits").kind == "timeout"
    assert_the_next_run_removes_all(tmp_path / "next", docker_image, freezing)
