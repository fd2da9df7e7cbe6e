"""What attempts leave in the run's own temporary directory."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, final

import pytest

from .captured import forget_captured
from .model import Attempt


@final
class Scratch:
    """Names the files of attempts, and takes in what is in them."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    def basetemp(self, attempt: Attempt) -> Path | None:
        """What an attempt has as its ``--basetemp``."""
        if self._directory is None:
            return None
        name = f"shard-{attempt.shard}"
        if attempt.number > 1:
            name += f"-{attempt.number}"
        return self._directory / name

    def log_file(self, attempt: Attempt) -> str | None:
        """Where the worker keeps what ``--log-file`` asks for until it has ended."""
        directory = self._directory
        if self._log_stream() is None or directory is None:
            return None
        return str(directory / f"log-{attempt.shard}-{attempt.number}")

    def capture_prefix(self, attempt: Attempt) -> str | None:
        """Where the worker's capture keeps what the running test has printed."""
        directory = self._directory
        if directory is None:
            return None
        return str(directory / f"captured-{attempt.shard}-{attempt.number}")

    def take_in(self, attempt: Attempt) -> None:
        """An attempt has ended: append its log to the run's, and forget what it had captured."""
        path = self.log_file(attempt)
        # Not written where the worker died early.
        if path is not None and os.path.exists(path):
            stream = self._log_stream()
            stream.write(Path(path).read_text(encoding="utf-8", errors="replace"))
            stream.flush()
        prefix = self.capture_prefix(attempt)
        if prefix is not None:
            forget_captured(prefix)

    def _log_stream(self) -> Any:
        """The open file of pytest's ``--log-file``, None where there is none."""
        plugin: Any = self._config.pluginmanager.get_plugin("logging-plugin")
        if plugin is None:
            return None
        wanted = self._config.option.log_file or self._config.getini("log_file")
        return plugin.log_file_handler.stream if wanted else None

    @property
    def _directory(self) -> Path | None:
        """The run's own temporary directory; None with ``-p no:tmpdir``."""
        # pytest keeps the factory in a private place; pytest-xdist relies on it, too.
        factory = getattr(self._config, "_tmp_path_factory", None)
        return None if factory is None else Path(factory.getbasetemp())
