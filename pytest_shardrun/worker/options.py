"""The options and ini names, as a table."""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

import pytest


class Option(NamedTuple):
    """One option; it has an ini name of the same words unless it makes sense for one run only."""

    flag: str
    metavar: str | None
    help: str
    ini: bool = True
    #: May be given several times; in the ini file one on each line.
    many: bool = False

    @property
    def dest(self) -> str:
        return self.flag[2:].replace("-", "_")


_OF_A_RUN: Final = (
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
        "--shard-start",
        "METHOD",
        "how processes on this machine are started: fork (one process collects and is then "
        "forked), spawn (a fresh interpreter for each), or auto (default): fork where it does no "
        "harm",
    ),
    Option(
        "--shard-isolate",
        "UNIT",
        "give each module, or each test, a process of its own, forked after the collection: no "
        "(default), module or test",
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
        "--shard-durations",
        "FILE",
        "also read durations from this file and save them there, for a file that a team "
        "commits; a .test_durations of pytest-split stays one (default: pytest's cache alone)",
    ),
    Option(
        "--shard-steal",
        "yes|no",
        "no: a shard that runs dry does not take over tests of another (default: yes)",
    ),
    Option(
        "--shard-test-timeout",
        "TIME",
        "end a test that takes longer, by ending its process; the rest goes on in a new one "
        "(seconds, 90s, 5m, 1h)",
    ),
    Option(
        "--shard-timeout",
        "TIME|N%",
        "end a process of a shard that takes longer; the test that was running has "
        "failed, the rest goes on in a new process; 300%%: three times the planned time, "
        "but at least a minute",
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
        "no limit, until 40 in a row, for a minute, die of their first test)",
    ),
    Option(
        "--shard-memory",
        "SIZE",
        "how much memory a shard may use, like 512m or 2g; what needs more ends with the reason "
        "out of memory; 0: no limit (default: no limit, in containers 4g)",
    ),
    Option(
        "--shard-leak",
        "ignore|report|fail",
        "processes that outlive the shard that started them are ended in any case; report "
        "(default) names them with the test, fail turns the run red",
    ),
    Option(
        "--shard-lost-data",
        "fail|warn",
        "when a plugin puts something into a report that cannot be sent from a shard, so that only "
        "its text arrives: fail (default) turns the run red, warn is a warning",
    ),
    Option(
        "--shard-halt",
        "never|WHEN,WHY",
        "end the run early: soon (running tests may end) or now (they are interrupted), after so "
        "many tests or such a share: soon,fail=1, now,fail=10%%, soon,done=80%%, now,success=1; "
        "-x and --maxfail=N stand for soon,fail=N (default: never)",
    ),
    Option(
        "--shard-retries",
        "N",
        "try each failed test up to N times more: in a fresh process after the rest, and alone "
        "if it fails again (default: 0)",
    ),
    Option(
        "--shard-retry-only",
        "REGEX",
        "try only tests again whose failure's message has this in it",
    ),
    Option(
        "--shard-retry-delay",
        "TIME",
        "wait before a test is tried again; before each further try twice as long",
    ),
    Option(
        "--shard-retry-max-failures",
        "N|N%",
        "try nothing again when more tests than this have failed (default: 10 or 10%%, "
        "whichever is more)",
    ),
    Option(
        "--shard-flaky",
        "pass|fail",
        "what a test is that failed and then passed (default: pass)",
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

CONTAINER_OPTIONS: Final = (
    Option(
        "--shard-image",
        "IMAGE",
        "the image of the containers (default: python:3.X-slim, with this Python's X)",
    ),
    Option(
        "--shard-pull",
        "never|missing|always",
        "whether the image is pulled (default: missing)",
    ),
    Option(
        "--shard-build",
        "PATH",
        "build the image from this directory or Dockerfile",
    ),
    Option(
        "--shard-setup",
        "COMMAND",
        "run this shell command once in the image, as root, with network and in a copy of the "
        "project, and keep the result as an image",
    ),
    Option(
        "--shard-setup-inputs",
        "FILE",
        "files whose content decides with the command whether the kept image still fits",
        many=True,
    ),
    Option(
        "--shard-python",
        "NAME",
        "the interpreter in the image (default: python3, else python)",
    ),
    Option(
        "--shard-code",
        "copy|volume|bind",
        "how the project gets into the containers: copied into the memory of each (default), once "
        "into a volume that they share, or mounted from this machine, read-only",
    ),
    Option(
        "--shard-collect-files",
        "GLOB",
        "files to bring home from the containers, relative to where pytest was started",
        many=True,
    ),
    Option(
        "--shard-collect-dir",
        "DIR",
        "where they are put, in a directory per shard (default: shard-files)",
    ),
    Option(
        "--shard-write-back",
        "GLOB",
        "files of the project which, when tests change or make them, are changed at home, too "
        "(default: none; all where an option like --snapshot-update asks for it)",
        many=True,
    ),
    Option(
        "--shard-env",
        "NAME[=VALUE]",
        "a variable of the environment that the containers get, too; NAME* for several",
        many=True,
    ),
    Option(
        "--shard-network",
        "NAME",
        "the network of the containers: none (default), bridge, or one that exists",
    ),
    Option(
        "--shard-cpus",
        "N",
        "how many CPUs a container may use; 0: no limit (default: 2)",
    ),
    Option(
        "--shard-pids",
        "N",
        "how many processes and threads a container may have; 0: no limit (default: 512)",
    ),
    Option(
        "--shard-disk",
        "SIZE",
        "how much can be written below the project and below /tmp; it is held in the container's "
        "memory (default: 1g)",
    ),
    Option(
        "--shard-user",
        "UID[:GID]",
        "who the tests are in a container (default: who you are, or 1000:1000 instead of root)",
    ),
    Option(
        "--shard-docker-opt",
        "KEY=JSON",
        "any other option of the Docker SDK for a container",
        many=True,
    ),
)

OPTIONS: Final = (*_OF_A_RUN, *CONTAINER_OPTIONS)

MARKERS: Final = (
    "shard_group(name): tests with the same name run in one shard and one process, in order",
    "shard_timeout(seconds): the test has failed when it takes longer, and its process is ended; "
    "None: it may take as long as it likes",
    "shard_serial: the test runs alone, after all the others",
    "shard_lock(*names, shared=False): tests with a name in common don't run at the same time on "
    "this machine, in any shard of any run, unless both share it",
    "shard_weight(n): the test takes the place of n others while it runs",
)


def add_options(parser: pytest.Parser) -> None:
    """Make pytest know the options and ini names; what they say is read by the controller only."""
    group = parser.getgroup("shardrun", "shards (pytest-shardrun)")
    for option in OPTIONS:
        if option.metavar is None:
            group.addoption(option.flag, dest=option.dest, action="store_true", help=option.help)
        else:
            group.addoption(
                option.flag,
                dest=option.dest,
                action="append" if option.many else "store",
                metavar=option.metavar,
                help=option.help,
            )
        if option.ini:
            kind: Literal["linelist"] | None = "linelist" if option.many else None
            parser.addini(option.dest, f"default of {option.flag}", type=kind)


def add_markers(config: pytest.Config) -> None:
    """Make pytest know the marks, also under ``--strict-markers``."""
    for marker in MARKERS:
        config.addinivalue_line("markers", marker)


def wants_shards(config: pytest.Config) -> bool:
    """Whether a run in shards was asked for, on the command line or in the ini file."""
    given = config.getoption("shards")
    if given is None:
        given = config.getini("shards")
    wanted = str(given).strip() if given else ""
    return wanted not in ("", "0") or bool(config.getoption("shard_plan"))
