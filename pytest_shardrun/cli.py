"""The program ``shardrun`` and its commands."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import Final, TypeAlias, final

from .records import record

#: Does what a command is for and returns the exit code.
Perform: TypeAlias = Callable[[argparse.Namespace], int]

#: As pytest has it for options that cannot be.
USAGE_ERROR: Final = 4


@final
@record
class Command:
    """One word after ``shardrun``."""

    name: str
    #: One line for ``shardrun --help``.
    help: str
    #: Adds the command's arguments and returns what performs it; called when it was chosen.
    prepare: Callable[[argparse.ArgumentParser], Perform]


def main(arguments: Sequence[str] | None = None) -> int:
    """Perform the command that the arguments begin with and return the exit code."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    parser = argparse.ArgumentParser(
        prog="shardrun",
        description="Looks after runs of pytest in shards. To run tests: pytest --shards N.",
    )
    words = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    chosen = next((word for word in given if not word.startswith("-")), "")
    for command in COMMANDS:
        own = words.add_parser(command.name, help=command.help, description=command.help)
        if command.name == chosen:
            own.set_defaults(perform=command.prepare(own))
    try:
        options = parser.parse_args(given)
    except SystemExit as end:
        # argparse leaves with 2, which is an interrupted run in pytest's language.
        return USAGE_ERROR if end.code else 0
    perform: Perform = options.perform
    return perform(options)


def _bisect(parser: argparse.ArgumentParser) -> Perform:
    from .commands import bisect

    return bisect.prepare(parser)


def _doctor(parser: argparse.ArgumentParser) -> Perform:
    from .commands import doctor

    return doctor.prepare(parser)


#: A command is a module in ``commands``, imported when it is chosen.
COMMANDS: Final = (
    Command("bisect", "find the earlier tests that make a test fail", _bisect),
    Command("doctor", "name the installed plugins that need care in shards", _doctor),
)
