"""A terminal reporter that keeps quiet in a shard."""

from __future__ import annotations

from typing import IO, Any

import pytest

from .stream import copy_above

NAME = "terminalreporter"


class QuietReporter:
    """Has all that plugins read from pytest's terminal reporter, but none of its hooks.

    What plugins write through it on purpose (live logs, ``--setup-show``) reaches the output.
    """

    def __init__(self, reporter: Any) -> None:
        self._reporter = reporter

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        # Some plugins refuse to work beside any other class.
        return self._reporter.__class__

    def __dir__(self) -> list[str]:
        # pluggy looks for hooks among these.
        return list(vars(self))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reporter, name)


def silence(config: pytest.Config, output: IO[str], *, markup: bool, width: int) -> None:
    """Replace the terminal reporter, whichever plugin made it, by a quiet one; idempotent."""
    reporter = config.pluginmanager.get_plugin(NAME)
    if reporter is None or type(reporter) is QuietReporter:
        return
    config.pluginmanager.unregister(reporter)
    writer = reporter._tw
    # Messages are coloured and cut where they are made, for the terminal that shows them.
    writer._file = output
    writer.hasmarkup = markup
    writer.fullwidth = width
    config.pluginmanager.register(QuietReporter(reporter), NAME)


def open_output() -> IO[str]:
    """The shard's output, whatever becomes of descriptor 1."""
    return open(copy_above(1), "w", buffering=1, encoding="utf-8", errors="backslashreplace")
