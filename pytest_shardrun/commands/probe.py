"""The plugin of the processes that ``shardrun bisect`` starts."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from pathlib import Path
from typing import Any, Final

import pytest

#: Names a file of JSON: the node ids to run in order, the one to watch, and where to note its fate.
VARIABLE: Final = "SHARDRUN_BISECT"


class Probe:
    """Runs the tests of a list, in its order, and notes what becomes of one of them."""

    def __init__(self, task: dict[str, Any]) -> None:
        self._nodeids: list[str] = task["nodeids"]
        self._target: str = task["target"]
        self._result = Path(task["result"])

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(
        self, config: pytest.Config, items: list[pytest.Item]
    ) -> None:
        by_nodeid: defaultdict[str, list[pytest.Item]] = defaultdict(list)
        for item in items:
            by_nodeid[str(item.nodeid)].append(item)
        missing = [nodeid for nodeid in self._nodeids if nodeid not in by_nodeid]
        if missing:
            self._note(f"missing {missing[0]}")
            raise pytest.UsageError(f"{missing[0]} is not collected any more")
        items[:] = [by_nodeid[nodeid][0] for nodeid in self._nodeids]

    @pytest.hookimpl
    def pytest_runtest_logstart(self, nodeid: str) -> None:
        if str(nodeid) == self._target:
            self._note("began")

    @pytest.hookimpl
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if str(report.nodeid) == self._target and report.failed:
            self._note("failed")

    @pytest.hookimpl
    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        if str(nodeid) == self._target:
            self._note("ended")

    def _note(self, line: str) -> None:
        # At once: what comes next may end the process.
        with self._result.open("a", encoding="utf-8", errors="surrogatepass") as file:
            file.write(f"{line}\n")


def pytest_configure(config: pytest.Config) -> None:
    path = os.environ.get(VARIABLE)
    if path:
        task = json.loads(Path(path).read_text(encoding="utf-8", errors="surrogatepass"))
        config.pluginmanager.register(Probe(task), "shardrun-probe")
