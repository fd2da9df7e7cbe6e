"""A run of a suite in which something goes wrong, by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, final

from .support import SOON, Finished, started, write_suite

#: Notes which tests were really run, and how often, whatever becomes of their process.
NOTE_RUNS: Final = """
import os
import pytest

@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call(item):
    line = os.open(item.config.rootpath / "runs", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(line, item.nodeid.encode() + b"\\n")
    os.close(line)
"""


@final
@dataclass(frozen=True, slots=True)
class Outcome:
    """The end of a scenario, or why it is none."""

    finished: Finished
    #: The node ids of all calls that were begun, in their order.
    runs: tuple[str, ...]


@final
@dataclass(frozen=True, slots=True)
class Scenario:
    """Scenarios of the same name are the same."""

    name: str
    files: Mapping[str, str] = field(compare=False, repr=False)
    arguments: tuple[str, ...] = field(compare=False, repr=False)
    within: float = field(default=2 * SOON, compare=False, repr=False)
    #: Executed in the process that becomes the controller.
    prelude: str = field(default="", compare=False, repr=False)

    def __str__(self) -> str:
        return self.name

    def play(self, directory: Path) -> Outcome:
        """Run it to its end; ``AssertionError`` where that does not come or something is left."""
        write_suite(directory, self.files)
        with started(directory, *self.arguments, prelude=self.prelude) as going:
            finished = going.finish(within=self.within)
        runs = directory / "runs"
        lines = runs.read_text(encoding="utf-8").splitlines() if runs.exists() else []
        return Outcome(finished, tuple(lines))
