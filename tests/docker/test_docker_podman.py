"""Podman, where it is installed, by its Docker-compatible socket."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from comparison import run_pytest
from docker_fixtures import wait_until

pytestmark = pytest.mark.docker


@pytest.fixture
def podman_address(tmp_path: Path, docker_image: str) -> Iterator[str]:
    if shutil.which("podman") is None or os.getuid() != 0:
        pytest.skip("needs podman and root")
    socket = tmp_path / "podman.sock"
    address = f"unix://{socket}"
    runtime = ["--runtime", "runc"] if shutil.which("runc") else []
    with subprocess.Popen(["docker", "save", docker_image], stdout=subprocess.PIPE) as saved:
        subprocess.run(["podman", "load", "-q"], stdin=saved.stdout, check=True, timeout=120)
    service = subprocess.Popen(
        ["podman", *runtime, "system", "service", "--time=0", address], start_new_session=True
    )
    try:
        wait_until(socket.exists, service)
        yield address
    finally:
        service.terminate()
        service.wait()
        subprocess.run(["podman", "rmi", "-f", docker_image], check=False, capture_output=True)


def test_shards_run_in_containers_of_podman(
    tmp_path: Path, docker_image: str, podman_address: str
) -> None:
    suite = tmp_path / "suite"
    suite.mkdir()
    (suite / "test_it.py").write_text(
        "import os, signal\n"
        "def test_one(tmp_path): assert os.getuid() != 0\n"
        "def test_crash(): os.kill(os.getpid(), signal.SIGSEGV)\n"
        "def test_two(): pass\n"
    )

    run = run_pytest(
        suite,
        "--shards=2",
        "--shard-executor=docker",
        f"--shard-image={docker_image}",
        env={"DOCKER_HOST": podman_address},
    )

    assert run.counts == {"passed": 2, "failed": 1}, run.show()
    assert "crashed with SIGSEGV" in run.stdout
    listed = ["podman", "ps", "-aq", "--filter", "label=pytest-shardrun.run"]
    assert subprocess.run(listed, capture_output=True, check=True).stdout == b""
