"""Shards in containers, as a user sees them."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest
from comparison import Run, run_pytest

from pytest_shardrun.executors.docker_client import Daemon

pytestmark = [pytest.mark.docker, pytest.mark.usefixtures("nothing_left")]

SUITE: Final = """
import os, sys, warnings
import pytest

@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("place")

def test_passes(place, record_property):
    (place / "file").write_text("x")
    record_property("name", "value")
    print("printed")

def test_fails():
    values = [1, 2]
    assert values == [1, 3]

@pytest.mark.skip(reason="not today")
def test_is_skipped(): pass

@pytest.mark.xfail(reason="known")
def test_is_expected_to_fail(): assert 0

@pytest.mark.parametrize("number", range(6))
def test_numbers(number):
    warnings.warn(f"number {number}")

class TestClass:
    def test_method(self, tmp_path):
        assert tmp_path.is_dir()
        raise RuntimeError("raised")
"""


def in_containers(directory: Path, image: str, *arguments: str, shards: int = 2) -> Run:
    return run_pytest(
        directory,
        f"--shards={shards}",
        "--shard-executor=docker",
        f"--shard-image={image}",
        *arguments,
    )


def test_a_shard_is_a_process_with_no_more_rights_than_it_needs(
    tmp_path: Path, docker_image: str
) -> None:
    (tmp_path / "test_rights.py").write_text(
        """
import os, pathlib, socket
import pytest

def status(name):
    for line in pathlib.Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return line.split(":", 1)[1].strip()

def test_nobody_is_root():
    assert os.getuid() != 0

def test_no_capability_and_no_way_to_one():
    assert int(status("CapEff"), 16) == int(status("CapBnd"), 16) == 0
    assert status("NoNewPrivs") == "1"

def test_no_network():
    with pytest.raises(OSError):
        socket.create_connection(("192.0.2.1", 80), timeout=1)
    assert [name for _, name in socket.if_nameindex()] == ["lo"]

def test_the_root_is_read_only():
    with pytest.raises(OSError, match="Read-only"):
        open("/usr/file", "w")

def test_the_environment_is_not_the_controllers():
    assert "SECRET_TOKEN" not in os.environ
    assert os.environ["GIVEN"] == "on purpose"
    assert os.environ["ASKED_FOR"] == "yes"
"""
    )

    run = run_pytest(
        tmp_path,
        "--shards=2",
        "--shard-executor=docker",
        f"--shard-image={docker_image}",
        "--shard-env=GIVEN=on purpose",
        "--shard-env=ASKED_*",
        env={"SECRET_TOKEN": "hidden", "ASKED_FOR": "yes"},
    )

    assert run.counts == {"passed": 5}, run.show()


def test_the_plugin_and_its_options_need_not_be_in_the_image(
    tmp_path: Path, docker_image: str
) -> None:
    (tmp_path / "pytest.ini").write_text(
        "[pytest]\naddopts = --shards=2 --strict-markers --strict-config\n"
        f"shard_executor = docker\nshard_image = {docker_image}\nmarkers = docker\n"
        # What the SDK leaves open must not become an error of the run.
        "filterwarnings = error\n"
    )
    (tmp_path / "conftest.py").write_text(
        "def pytest_shardrun_finished(config, run_id):\n    print('finished', run_id)\n"
    )
    (tmp_path / "test_it.py").write_text(
        "import pytest\n\n@pytest.mark.shard_serial\ndef test_it(): pass\n"
    )

    run = run_pytest(tmp_path)

    assert run.exitcode == 0, run.show()
    assert run.counts == {"passed": 1}


def test_a_crash_costs_a_worker_and_not_the_container(
    tmp_path: Path, docker_image: str, docker_daemon: Daemon
) -> None:
    (tmp_path / "test_it.py").write_text(
        """
import os, pathlib, signal, socket

def test_first():
    pathlib.Path("/tmp/trace").write_text(socket.gethostname())

def test_crashes():
    os.kill(os.getpid(), signal.SIGSEGV)

def test_last():
    assert pathlib.Path("/tmp/trace").read_text() == socket.gethostname()
"""
    )

    run = in_containers(tmp_path, docker_image, shards=1)

    assert run.counts == {"passed": 2, "failed": 1}, run.show()
    assert "crashed with SIGSEGV" in run.stdout


def test_a_missing_image_is_an_error_that_says_what_to_do(
    tmp_path: Path, docker_daemon: Daemon
) -> None:
    (tmp_path / "test_it.py").write_text("def test_it(): pass")

    run = in_containers(tmp_path, "shardrun-no-such-image", "--shard-pull=never")

    assert run.exitcode == pytest.ExitCode.USAGE_ERROR, run.show()
    assert (
        "ERROR: --shard-executor=docker: there is no image shardrun-no-such-image and "
        "--shard-pull=never: pull it, build one with --shard-build, or name another with "
        "--shard-image" in run.stderr
    )


def test_no_daemon_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text("def test_it(): pass")

    run = run_pytest(
        tmp_path,
        "--shards=2",
        "--shard-executor=docker",
        env={"DOCKER_HOST": f"unix://{tmp_path}/none.sock"},
    )

    assert run.exitcode == pytest.ExitCode.USAGE_ERROR, run.show()
    assert "no Docker daemon answers at" in run.stderr
    assert "start one, or set DOCKER_HOST" in run.stderr


def test_the_suite_reports_what_plain_pytest_reports(tmp_path: Path, docker_image: str) -> None:
    from comparison import differences

    runs = []
    for place in ("one", "two"):
        directory = tmp_path / place / "suite"
        directory.mkdir(parents=True)
        (directory / "test_it.py").write_text(SUITE)
        runs.append(directory)
    plain = run_pytest(runs[0])

    sharded = in_containers(runs[1], docker_image, shards=3)

    assert differences(plain, sharded) == [], sharded.show()
