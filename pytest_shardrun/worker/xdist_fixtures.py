"""The fixtures of pytest-xdist, where it is absent."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session")
def worker_id(request: pytest.FixtureRequest) -> str:
    """The worker's name, ``gw0`` for the first shard; ``master`` without shards."""
    return str(getattr(request.config, "workerinput", {}).get("workerid", "master"))


@pytest.fixture(scope="session")
def testrun_uid(request: pytest.FixtureRequest) -> str:
    """The same unique name in all shards of a run."""
    return str(request.config.workerinput["testrunuid"])  # type: ignore[attr-defined]
