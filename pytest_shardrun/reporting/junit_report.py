"""When the JUnit file is written."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Any, final

import pytest

from ..worker.recorder import record_xml
from .junit import JUnitWriter


@final
class JUnitReport:
    """The plugin that writes the JUnit file, however the session has ended."""

    def __init__(self, config: pytest.Config, path: str, *, started: float) -> None:
        """``started`` is the time since the epoch, in seconds."""
        self._path = os.path.abspath(path)
        self._clock_started = time.monotonic()
        self._is_written = False
        self._error: OSError | None = None
        #: What happens to the tests is told here.
        self.writer = JUnitWriter(config, path, started=started)
        #: Those that the tests were shared out to.
        self.shards: Sequence[int] = ()
        record_xml(config, self._record)

    def _record(self, nodeid: str | None, name: str, value: str) -> None:
        # From plugins and conftest files in this process; tests run elsewhere.
        if nodeid is None:
            self.writer.add_suite_property(1, name, value)

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        # Where the run has not come so far as to do it.
        self.write(session)

    def write(self, session: pytest.Session) -> None:
        """Write the file, unless that is done; what goes wrong is told at the end."""
        if self._is_written:
            return
        self._is_written = True
        wall = time.monotonic() - self._clock_started
        try:
            self.writer.write(shard_seconds=dict.fromkeys(self.shards, wall), wall_seconds=wall)
        except OSError as error:
            self._error = error
            # Whoever reads the file must not take an older one for this run's.
            if session.exitstatus in (0, 1):
                session.exitstatus = pytest.ExitCode.INTERNAL_ERROR

    @pytest.hookimpl(trylast=True)
    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        if self._error is None:
            terminalreporter.write_sep("-", f"generated xml file: {self._path}")
        else:
            terminalreporter.ensure_newline()
            text = f"ERROR {self._path} could not be written: {self._error}"
            terminalreporter.write_line(text, red=True)
