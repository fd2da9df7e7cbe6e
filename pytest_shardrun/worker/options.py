"""The options and ini names, as a table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import pytest


@dataclass(frozen=True)
class Option:
    """One option; it has an ini name of the same words unless it makes sense for one run only."""

    flag: str
    metavar: str | None
    help: str
    ini: bool = True

    @property
    def dest(self) -> str:
        return self.flag[2:].replace("-", "_")


OPTIONS: Final = (
    Option(
        "--shards",
        "N|auto",
        "split the tests into N shards, run each in a process of its own at the same "
        "time, and merge the results; auto: as many as there are usable CPUs",
    ),
    Option(
        "--shard-jobs",
        "N",
        "how many shards run at once; the rest wait (default: all, up to the larger of 5 "
        "and 4 times the usable CPUs)",
    ),
    Option(
        "--shard-executor",
        "NAME",
        "where the shards run (default: subprocess)",
    ),
    Option(
        "--shard-split",
        "NAME",
        "how the tests are split: duration (default), count, hash, or the name of a "
        "splitter that a plugin offers",
    ),
    Option(
        "--shard-scope",
        "SCOPE",
        "what stays together in one shard: auto (default), test, class, module, package or group",
    ),
    Option(
        "--shard-steal",
        "yes|no",
        "no: a shard that runs dry does not take over tests of another (default: yes)",
    ),
    Option(
        "--shard-timeout",
        "TIME",
        "end a process of a shard that takes longer; the test that was running has "
        "failed, the rest goes on in a new process (seconds, 90s, 5m, 1h)",
    ),
    Option(
        "--shard-run-timeout",
        "TIME",
        "end the whole run when it takes longer",
    ),
    Option(
        "--shard-grace",
        "TIME",
        "how long a process may take to end when it is asked to, before it is killed "
        "(default: 10s)",
    ),
    Option(
        "--shard-restarts",
        "N",
        "how many processes that crashed or timed out may be replaced in a run (default: "
        "no limit while each gets on)",
    ),
    Option(
        "--shard-leak",
        "ignore|report|fail",
        "processes that outlive the shard that started them are ended in any case; report "
        "(default) names them with the test, fail turns the run red",
    ),
    Option(
        "--shard-plan",
        None,
        "show which test goes to which shard, and run nothing",
        ini=False,
    ),
    Option(
        "--shard-replay",
        "RUN:SHARD",
        "run the tests that a shard of an earlier run was given, in their order, in this process",
        ini=False,
    ),
)

MARKERS: Final = (
    "shard_group(name): tests with the same name run in one shard and one process, in order",
    "shard_serial: the test runs alone, after all the others",
)


def add_options(parser: pytest.Parser) -> None:
    """Make pytest know the options and ini names; what they say is read by the controller only."""
    group = parser.getgroup("shardrun", "shards (pytest-shardrun)")
    for option in OPTIONS:
        if option.metavar is None:
            group.addoption(option.flag, dest=option.dest, action="store_true", help=option.help)
        else:
            group.addoption(option.flag, dest=option.dest, metavar=option.metavar, help=option.help)
        if option.ini:
            parser.addini(option.dest, f"default of {option.flag}")


def add_markers(config: pytest.Config) -> None:
    """Make pytest know the marks, also under ``--strict-markers``."""
    for marker in MARKERS:
        config.addinivalue_line("markers", marker)
