"""Runs again, in this process, what a shard of an earlier run was given."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import pytest

from .reporting.journal import JournalError, Share, read_share


def replay_share(config: pytest.Config) -> None:
    """Select the tests that ``--shard-replay`` names; ``pytest.UsageError`` where it cannot."""
    name = str(config.getoption("shard_replay"))
    # Not yet there: the cache belongs to pytest_configure.
    cache: Any = getattr(config, "cache", None)
    config.pluginmanager.register(ReplayedShare(name, cache), "shardrun-replay")


class ReplayedShare:
    """Keeps the tests of one shard, in the order in which it ran them."""

    def __init__(self, name: str, cache: Any) -> None:
        self._name = name
        self._share: Share | None = None
        _ = cache

    @pytest.hookimpl
    def pytest_sessionstart(self, session: pytest.Session) -> None:
        config = session.config
        cache: Any = getattr(config, "cache", None)
        if cache is None:
            raise pytest.UsageError(
                "--shard-replay reads pytest's cache: leave out -p no:cacheprovider"
            )
        try:
            self._share = read_share(cache.mkdir("shardrun") / "runs", self._name)
        except JournalError as error:
            raise pytest.UsageError(f"--shard-replay: {error}") from error

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(
        self, config: pytest.Config, items: list[pytest.Item]
    ) -> None:
        assert self._share is not None
        by_nodeid: defaultdict[str, list[pytest.Item]] = defaultdict(list)
        for item in items:
            by_nodeid[str(item.nodeid)].append(item)
        selected = [
            by_nodeid[nodeid].pop(0) for nodeid in self._share.nodeids if by_nodeid.get(nodeid)
        ]
        rest = [item for left in by_nodeid.values() for item in left]
        if rest:
            config.hook.pytest_deselected(items=rest)
        items[:] = selected
