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
from pytest_shardrun.executors.docker_sweep import (
    RUN_LABEL,
    left_over_containers,
    left_over_volumes,
)

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
    """Check that the runs of a test, which are over, have left no container and no volume."""
    sweep(docker_daemon)
    yield
    assert not sweep(docker_daemon)


def sweep(daemon: Daemon) -> list[str]:
    """Remove what runs that are over have left; the names of it."""
    containers = left_over_containers([*daemon.containers(RUN_LABEL)])
    volumes = left_over_volumes([*daemon.volumes(RUN_LABEL)])
    for name in containers:
        daemon.remove(name)
    for name in volumes:
        daemon.remove_volume(name)
    return [*containers, *volumes]
