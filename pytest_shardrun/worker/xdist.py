"""What plugins written for pytest-xdist look for."""

from __future__ import annotations

from typing import Any, Final

import pytest

from . import xdist_fixtures

#: The name under which plugins ask whether pytest-xdist is there.
NAME: Final = "xdist"


class NodeHooks:
    """The hooks of pytest-xdist 3 that its plugins implement, declared where it is absent."""

    @pytest.hookspec()
    def pytest_configure_node(self, node: Any) -> None:
        """Put what the worker shall know into ``node.workerinput`` before it starts."""

    @pytest.hookspec()
    def pytest_testnodeready(self, node: Any) -> None:
        """A worker has said hello."""

    @pytest.hookspec()
    def pytest_testnodedown(self, node: Any, error: Any) -> None:
        """A worker is gone; ``node.workeroutput`` exists only where it said goodbye."""

    @pytest.hookspec()
    def pytest_xdist_node_collection_finished(self, node: Any, ids: list[str]) -> None:
        """A worker has collected these node ids."""

    @pytest.hookspec()
    def pytest_handlecrashitem(self, crashitem: str, report: Any, sched: Any) -> None:
        """A test is blamed for the end of its process; ``report`` may be changed."""


def stand_in_for_xdist(config: pytest.Config) -> None:
    """Offer the names of pytest-xdist to plugins unless the real one is there or forbidden."""
    manager = config.pluginmanager
    if manager.hasplugin(NAME) or manager.is_blocked(NAME):
        return
    manager.add_hookspecs(NodeHooks)
    manager.register(xdist_fixtures, NAME)
    config.addinivalue_line(
        "markers", "xdist_group(name): understood as shard_group(name) where shards are used"
    )
