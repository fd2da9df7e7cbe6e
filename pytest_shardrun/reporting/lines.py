"""Lines among the letters of pytest's terminal."""

from __future__ import annotations

from typing import Any


def write_line(reporter: Any, text: str, **markup: bool) -> None:
    """Write a line of its own through pytest's terminal reporter, which may be None."""
    if reporter is not None:
        reporter.ensure_newline()
        # That looks for a file's name only, and letters of several files stand in a line.
        if reporter._tw.width_of_current_line:
            reporter.write_line("")
        reporter.write_line(text, **markup)
