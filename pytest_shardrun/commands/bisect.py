"""``shardrun bisect``: which earlier tests make a test fail."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, final

from ..identity import CACHE_NAME
from ..minimising import minimise
from ..reporting.journal import History, JournalError, read_history
from . import probe

#: A test that hangs after certain others must not hang this program: how much longer than in the
#: run a process may take, and at least how many seconds.
PATIENCE: Final = 10
LEAST_SECONDS: Final = 60.0

#: What would stop before the test in question, choose others or write over a report.
_UNWANTED: Final = ("-x", "--exitfirst", "--lf", "--last-failed", "--ff", "--failed-first")
_UNWANTED_TOO: Final = ("--nf", "--new-first", "--sw", "--stepwise", "--sw-skip", "--stepwise-skip")
_UNWANTED_WITH_VALUE: Final = ("--maxfail", "--junitxml", "--junit-xml")


def prepare(parser: argparse.ArgumentParser) -> Callable[[argparse.Namespace], int]:
    """Add the arguments of ``shardrun bisect``."""
    parser.add_argument("run", metavar="RUN", help="the name of a run, its beginning, or last")
    parser.add_argument("nodeid", metavar="NODEID", help="the test that failed in that run")
    parser.add_argument(
        "--cache-dir",
        type=Path,
        help="pytest's cache directory (default: .pytest_cache here or in a parent)",
    )
    return perform


def perform(options: argparse.Namespace) -> int:
    """Find the smallest set of earlier tests, and print the command that repeats the finding."""
    # As pytest has it for arguments that cannot be.
    usage_error = 4
    try:
        history = read_history(_runs_directory(options.cache_dir), options.run, options.nodeid)
    except JournalError as error:
        print(f"shardrun bisect: {error}", file=sys.stderr)
        return usage_error
    before = list(history.before)
    print(
        f"run {history.run_id}: shard {history.shard} had run {_tests(len(before))} in the process "
        f"in which {history.nodeid} {history.status}",
        flush=True,
    )
    with tempfile.TemporaryDirectory(prefix="shardrun-") as directory:
        trial = Trial(history, Path(directory))
        try:
            return _search(trial, history, before)
        except TrialError as error:
            print(f"shardrun bisect: {error}", file=sys.stderr)
            return usage_error


def _search(trial: Trial, history: History, before: list[str]) -> int:
    if trial.fails([], "alone"):
        print(f"{history.nodeid} fails alone: no other test is needed. To repeat it:")
        print(f"  {trial.command([])}")
        return 0
    if not before:
        print(f"{history.nodeid} was the first test of its process and passes now: it is flaky")
        return 1
    if not trial.fails(before, f"after all {len(before)}" if len(before) > 1 else "after it"):
        print(
            f"{history.nodeid} does not fail again after the same tests: it depends on something "
            "else, such as time, other shards or the state of this machine"
        )
        return 1
    needed = minimise(before, lambda part: trial.fails(part, f"after {len(part)}"))
    print(f"{history.nodeid} fails after {_tests(len(needed))}:")
    for nodeid in needed:
        print(f"  {nodeid}")
    print("To repeat it:")
    print(f"  {trial.command(needed)}")
    return 0


class TrialError(Exception):
    """pytest could not run the tests; the text says why."""


@final
class Trial:
    """Runs the test after others, each time in a process of its own."""

    def __init__(self, history: History, scratch: Path) -> None:
        self._history = history
        self._scratch = scratch
        self._known: dict[tuple[str, ...], bool] = {}
        self._arguments = wanted_arguments(history.arguments)
        self._patience = max(LEAST_SECONDS, PATIENCE * history.seconds)

    def fails(self, before: Sequence[str], name: str) -> bool:
        """Whether the test fails after these; says so, too."""
        key = tuple(before)
        if key not in self._known:
            self._known[key] = self._run(before)
            result = "fails" if self._known[key] else "passes"
            print(f"{len(self._known):3}: {name}: {result}", flush=True)
        return self._known[key]

    def command(self, before: Sequence[str]) -> str:
        """What a person types to see it, relative to where the run was started."""
        options = without_paths(self._arguments, Path(self._history.directory))
        return shlex.join(["pytest", *options, *before, self._history.nodeid])

    def _run(self, before: Sequence[str]) -> bool:
        number = len(self._known)
        task, result = self._scratch / f"task-{number}", self._scratch / f"result-{number}"
        nodeids = [*before, self._history.nodeid]
        text = json.dumps(
            {"nodeids": nodeids, "target": self._history.nodeid, "result": str(result)}
        )
        task.write_text(text, encoding="utf-8")
        code, output = self._start(task)
        notes = result.read_text(encoding="utf-8").splitlines() if result.exists() else []
        if "failed" in notes or ("began" in notes and "ended" not in notes):
            return True
        if "ended" in notes:
            return False
        if code is not None and code < 0:
            raise TrialError(f"an earlier test ended the process with signal {-code}")
        last = output.strip().splitlines()[-15:]
        raise TrialError("\n".join(["pytest did not come to the test:", *last]))

    def _start(self, task: Path) -> tuple[int | None, str]:
        """The exit code, None where it took too long, and what was written."""
        environment = {**os.environ, probe.VARIABLE: str(task)}
        # The plugin is in the way of nobody: it does nothing without the variable.
        arguments = [*self._arguments, "-p", probe.__name__, "--maxfail=0", "--shards=0"]
        with tempfile.TemporaryFile(dir=self._scratch) as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "pytest", *arguments],
                cwd=self._history.directory,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            code: int | None = None
            try:
                code = process.wait(self._patience)
            except subprocess.TimeoutExpired:
                pass
            finally:
                # Also what the tests have left behind, and after Ctrl-C.
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            output.seek(0)
            return code, output.read().decode("utf-8", "replace")


def wanted_arguments(arguments: Sequence[str]) -> list[str]:
    """The arguments of the run, without those that would get in the way."""
    from ..repeating import without_shard_options

    kept: list[str] = []
    skip = False
    for argument in without_shard_options(arguments):
        if skip:
            skip = False
        elif argument in _UNWANTED_WITH_VALUE:
            skip = True
        elif argument in (*_UNWANTED, *_UNWANTED_TOO):
            pass
        elif not argument.startswith(tuple(f"{each}=" for each in _UNWANTED_WITH_VALUE)):
            kept.append(argument)
    return kept


def without_paths(arguments: Sequence[str], directory: Path) -> list[str]:
    """The arguments without those that say which files to collect."""
    kept: list[str] = []
    for argument in arguments:
        is_value = bool(kept) and re.fullmatch("-[a-zA-Z]", kept[-1])
        path = argument.partition("::")[0]
        if is_value or argument.startswith("-") or not (directory / path).exists():
            kept.append(argument)
    return kept


def _runs_directory(given: Path | None) -> Path:
    candidates = (
        [given]
        if given is not None
        else [each / ".pytest_cache" for each in (Path.cwd(), *Path.cwd().parents)]
    )
    for candidate in candidates:
        directory = candidate / "d" / CACHE_NAME / "runs"
        if directory.is_dir():
            return directory
    where = candidates[0]
    raise JournalError(
        f"no run is remembered in {where}: start this where pytest was started, or give --cache-dir"
    )


def _tests(count: int) -> str:
    return f"{count} test{'' if count == 1 else 's'}"
