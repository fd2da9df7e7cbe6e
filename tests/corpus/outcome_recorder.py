"""A pytest plugin that writes down what the reporting hooks of one run were told.

Load it with ``-p outcome_recorder``; the file named by ``OUTCOME_RECORD`` is written when the
session ends. It records in the process that reports to a person: in a worker it does nothing.
"""

from __future__ import annotations

import copy
import json
import os
import warnings
from pathlib import Path
from typing import Any

import pytest


class OutcomeRecorder:
    """Listens to the reporting hooks of one session."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._record: dict[str, Any] = {
            "order": [],
            "phases": [],
            "collection": [],
            "warnings": [],
            "deselected": 0,
        }

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._record["order"].append(["start", str(nodeid)])

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        self._record["order"].append(["finish", str(nodeid)])

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._record["order"].append(["report", str(report.nodeid)])
        self._record["phases"].append(
            {
                "nodeid": str(report.nodeid),
                "kind": type(report).__name__,
                "when": report.when,
                "outcome": report.outcome,
                "wasxfail": getattr(report, "wasxfail", None),
                "message": _message(report),
                "crash": _crash_message(report),
                "head_line": report.head_line,
                "sections": [[name, content] for name, content in report.sections],
                "user_properties": [
                    [str(name), str(value)] for name, value in report.user_properties
                ],
                "keywords": sorted(str(keyword) for keyword in report.keywords),
                "location": list(report.location),
            }
        )

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if not report.passed:
            self._record["collection"].append(
                [
                    str(report.nodeid),
                    report.outcome,
                    _message(report),
                    [[name, content] for name, content in report.sections],
                ]
            )

    def pytest_warning_recorded(
        self,
        warning_message: warnings.WarningMessage,
        when: str,
        nodeid: str,
        location: tuple[str, int, str] | None,
    ) -> None:
        self._record["warnings"].append(
            {
                "category": warning_message.category.__name__,
                "message": str(warning_message.message),
                "filename": warning_message.filename,
                "line": warning_message.lineno,
                "nodeid": str(nodeid),
                "when": when,
                "location": location,
            }
        )

    def pytest_deselected(self, items: list[pytest.Item]) -> None:
        self._record["deselected"] += len(items)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        self._record["exitstatus"] = int(exitstatus)
        self._record["testscollected"] = session.testscollected
        self._record["testsfailed"] = session.testsfailed
        self._path.write_text(json.dumps(self._record), encoding="ascii")


def pytest_configure(config: pytest.Config) -> None:
    path = os.environ.get("OUTCOME_RECORD")
    if path and not hasattr(config, "workerinput"):
        config.pluginmanager.register(OutcomeRecorder(Path(path)))


def _message(report: pytest.TestReport | pytest.CollectReport) -> str:
    """The report's text without the line that tells of which shard it is."""
    bare = copy.copy(report)
    bare.__dict__.pop("node", None)
    return bare.longreprtext


def _crash_message(report: pytest.TestReport) -> str | None:
    crash = getattr(report.longrepr, "reprcrash", None)
    return None if crash is None else str(crash.message)
