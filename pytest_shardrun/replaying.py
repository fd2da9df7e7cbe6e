"""Runs a shard's tests again, in this process."""

from __future__ import annotations

from collections import defaultdict
from typing import Any, Final, final

import pytest

from .reporting.journal import JournalError, Share, journal_directory, read_share

NAME: Final = "shardrun-replay"


@final
class Replaying:
    """Keeps the tests of one shard, in the order in which that shard ran them."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._share: Share

    @pytest.hookimpl
    def pytest_sessionstart(self, session: pytest.Session) -> None:
        # Absent with -p no:cacheprovider.
        cache: Any = getattr(session.config, "cache", None)
        if cache is None:
            raise pytest.UsageError(
                f"--shard-replay={self._name} reads pytest's cache: leave out -p no:cacheprovider"
            )
        try:
            self._share = read_share(journal_directory(cache), self._name)
        except JournalError as error:
            raise pytest.UsageError(f"--shard-replay={self._name}: {error}") from error

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(
        self, config: pytest.Config, items: list[pytest.Item]
    ) -> None:
        by_nodeid: defaultdict[str, list[pytest.Item]] = defaultdict(list)
        for item in items:
            by_nodeid[str(item.nodeid)].append(item)
        selected: list[pytest.Item] = []
        missing: list[str] = []
        for nodeid in self._share.nodeids:
            if by_nodeid[nodeid]:
                selected.append(by_nodeid[nodeid].pop(0))
            else:
                missing.append(nodeid)
        if missing:
            raise pytest.UsageError(
                f"--shard-replay={self._name}: {missing[0]} is not collected any more "
                f"({len(missing)} of {len(self._share.nodeids)} tests are missing): "
                "give the arguments of that run"
            )
        rest = [item for left in by_nodeid.values() for item in left]
        if rest:
            config.hook.pytest_deselected(items=rest)
        items[:] = selected
