"""Images of a registry, and a daemon that may not be asked."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from comparison import Run, run_pytest
from docker_fixtures import wait_until

from pytest_shardrun.executors.docker_client import Daemon

pytestmark = [pytest.mark.docker, pytest.mark.usefixtures("nothing_left")]


def in_container(directory: Path, image: str, *arguments: str) -> Run:
    (directory / "test_it.py").write_text("def test_it(): pass")
    return run_pytest(
        directory,
        "--shards=1",
        "--shard-executor=docker",
        f"--shard-image={image}",
        *arguments,
    )


def docker(*arguments: str) -> None:
    subprocess.run(["docker", *arguments], check=True, capture_output=True, timeout=120)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def answers(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[str]:
    """The address of a registry on this machine, which daemons take plain HTTP from."""
    program = shutil.which("docker-registry")
    if program is None:
        pytest.skip("needs docker-registry (Debian's package of this name)")
    port = free_port()
    address = f"127.0.0.1:{port}"
    config = tmp_path / "registry.yml"
    config.write_text(
        "version: 0.1\nlog: {level: error}\n"
        f"storage: {{filesystem: {{rootdirectory: {tmp_path}/registry}}}}\n"
        f"http: {{addr: {address}}}\n"
    )
    process = subprocess.Popen([program, "serve", str(config)])
    try:
        wait_until(lambda: answers(port), process)
        yield address
    finally:
        process.terminate()
        process.wait()


@pytest.fixture
def published(registry: str, tmp_path: Path, docker_image: str) -> Iterator[str]:
    """An image that the registry has and the daemon has not."""
    name = f"{registry}/shardrun-published:1"
    context = tmp_path / "context"
    context.mkdir()
    (context / "layer").write_bytes(os.urandom(1 << 20))
    (context / "Dockerfile").write_text(f"FROM {docker_image}\nCOPY layer /layer\n")
    docker("build", "-q", "-t", name, str(context))
    docker("push", "-q", name)
    docker("rmi", name)
    yield name
    subprocess.run(["docker", "rmi", name], check=False, capture_output=True)


def test_an_image_is_pulled_where_it_is_missing(tmp_path: Path, published: str) -> None:
    suite = tmp_path / "suite"
    suite.mkdir()

    refused = in_container(suite, published, "--shard-pull=never")
    first = in_container(suite, published, "--shard-pull=missing")
    second = in_container(suite, published, "--shard-pull=missing")
    third = in_container(suite, published, "--shard-pull=always")

    assert refused.exitcode == pytest.ExitCode.USAGE_ERROR, refused.show()
    assert f"there is no image {published} and --shard-pull=never" in refused.stderr
    assert [each.counts for each in (first, second, third)] == [{"passed": 1}] * 3, first.show()
    told = [f"pulling {published}" in each.stdout for each in (first, second, third)]
    assert told == [True, False, True]


def test_a_tag_that_the_registry_does_not_have_is_an_error(tmp_path: Path, registry: str) -> None:
    suite = tmp_path / "suite"
    suite.mkdir()

    run = in_container(suite, f"{registry}/nothing:1", "--shard-pull=missing")

    assert run.exitcode == pytest.ExitCode.USAGE_ERROR, run.show()
    assert f"could not pull {registry}/nothing:1" in run.stderr
    assert "name an image that is there with --shard-image" in run.stderr


@pytest.mark.parametrize("pull", ["missing", "always"])
def test_a_registry_out_of_reach_is_an_error_that_says_what_to_do(
    pull: str, tmp_path: Path, docker_daemon: Daemon
) -> None:
    image = f"127.0.0.1:{free_port()}/nothing:1"

    run = in_container(tmp_path, image, f"--shard-pull={pull}")

    assert run.exitcode == pytest.ExitCode.USAGE_ERROR, run.show()
    assert f"could not pull {image}" in run.stderr
    assert "connection refused" in run.stderr
    assert "name an image that is there with --shard-image, or build one with" in run.stderr


def test_a_socket_without_permission_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    program = [sys.executable, "-m", "pytest"]
    path = tmp_path / "docker.sock"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        path.chmod(0o600)
        if os.getuid() == 0:
            if shutil.which("setpriv") is None:
                pytest.skip("needs setpriv, which takes root's way around permissions away")
            os.chown(path, 12345, 12345)
            program = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", *program]
        else:
            path.chmod(0)
        (tmp_path / "test_it.py").write_text("def test_it(): pass")
        run = run_pytest(
            tmp_path,
            "--shards=1",
            "--shard-executor=docker",
            env={"DOCKER_HOST": f"unix://{path}"},
            program=program,
        )

    assert run.exitcode == pytest.ExitCode.USAGE_ERROR, run.show()
    assert "may not talk to the Docker daemon at" in run.stderr
    assert "add the user to the group that owns the socket, or set DOCKER_HOST" in run.stderr
