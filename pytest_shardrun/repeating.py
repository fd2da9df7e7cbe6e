"""Command lines that repeat a part of a run."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

from .worker.options import OPTIONS

#: Options that split the run -> whether they take a value.
SPLITTING: Final = {option.flag: option.metavar is not None for option in OPTIONS}
#: They would select other tests, or replace the report of the whole run.
OUT_OF_PLACE: Final = {
    "--junitxml": True,
    "--junit-xml": True,
    "--lf": False,
    "--last-failed": False,
}


def replay_command(arguments: Iterable[str], name: str) -> str:
    """What to type to run the tests of the shard ``name`` again, in one process."""
    kept = _without(arguments, SPLITTING | OUT_OF_PLACE)
    return shlex.join([*_pytest(), "--shard-replay", name, *kept])


def without_shard_options(arguments: Sequence[str]) -> list[str]:
    """The arguments without those that split the run."""
    return _without(arguments, SPLITTING)


def _without(arguments: Iterable[str], flags: Mapping[str, bool]) -> list[str]:
    kept: list[str] = []
    skip = False
    for argument in arguments:
        flag, equals, _ = argument.partition("=")
        if skip:
            skip = False
        elif flag in flags:
            skip = flags[flag] and not equals
        else:
            kept.append(argument)
    return kept


def _pytest() -> list[str]:
    # As a module it finds what is in the current directory, and as a program it does not.
    program = Path(sys.argv[0])
    if program.name == "__main__.py" and program.parent.name == "pytest":
        return [Path(sys.executable).name, "-m", "pytest"]
    return ["pytest"]
