"""A Docker daemon and an image with this Python, for tests that need them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from pytest_shardrun.executors.docker_client import Daemon, DaemonError
from pytest_shardrun.executors.docker_sweep import RUN_LABEL

_SCRIPTS: Final = Path(__file__).parents[1] / "scripts"


@pytest.fixture(scope="session")
def docker_daemon() -> Daemon:
    """The local daemon; without one the test is skipped, but in CI it fails."""
    try:
        return Daemon()
    except DaemonError as error:
        if os.environ.get("CI") == "true":
            pytest.fail(f"CI=true asks for the tests in containers: {error}", pytrace=False)
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def docker_image(docker_daemon: Daemon) -> str:
    """An image with this very Python and its pytest."""
    return make_test_image()


def make_test_image(*arguments: str) -> str:
    """The tag of an image that scripts/test_image.py has made, now or earlier."""
    done = subprocess.run(
        [sys.executable, str(_SCRIPTS / "test_image.py"), *arguments],
        stdout=subprocess.PIPE,
        text=True,
        timeout=300,
        check=True,
    )
    return done.stdout.strip()


@pytest.fixture
def nothing_left(docker_daemon: Daemon) -> Iterator[None]:
    """Check that a test leaves no container and no volume of ours that was not there before."""
    before = ours(docker_daemon)
    yield
    left = ours(docker_daemon) - before
    for name in left:
        docker_daemon.remove(name)
    assert not left


def ours(daemon: Daemon) -> set[str]:
    """The names of all containers and volumes that the plugin has made."""
    containers = {each["Names"][0].lstrip("/") for each in daemon.containers(RUN_LABEL)}
    return containers | {each["Name"] for each in daemon.volumes(RUN_LABEL)}
