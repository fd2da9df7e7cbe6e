"""A pytest plugin that writes down what a run reported, test by test.

``real_suites.py`` copies it into the environment of a suite and loads it with ``-p``.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Final

import pytest

#: Names the file to write; the environment reaches a run without changing its command line.
RECORD_VARIABLE: Final = "OUTCOME_RECORD"

#: The categories of the terminal's statistics that are not about a test or a collector.
OTHER: Final = ("", "deselected", "warnings")


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: Any, exitstatus: int, config: pytest.Config) -> None:
    """Write the statistics behind the last line: what a person is told is what is compared."""
    if hasattr(config, "workerinput"):
        return
    reported: dict[str, list[list[str]]] = {}
    for category, reports in terminalreporter.stats.items():
        if category not in OTHER:
            for report in reports:
                reported.setdefault(str(report.nodeid), []).append([category, message(report)])
    record = {
        "exit": int(exitstatus),
        "reported": reported,
        "deselected": len(terminalreporter.stats.get("deselected", [])),
        "warnings": [
            [str(warning.nodeid or ""), str(warning.message)]
            for warning in terminalreporter.stats.get("warnings", [])
        ],
    }
    Path(os.environ[RECORD_VARIABLE]).write_text(json.dumps(record), encoding="utf-8")


def message(report: Any) -> str:
    """The reason of a failure or a skip in one piece, without the traceback."""
    longrepr = report.longrepr
    if isinstance(longrepr, tuple):
        return str(longrepr[2])
    crash = getattr(longrepr, "reprcrash", None)
    if crash is not None:
        return str(crash.message)
    return str(getattr(report, "wasxfail", "") or longrepr or "")
