"""The append-only file of a run's events."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, Final

from .. import notices
from ..explanations import explain
from ..identity import CACHE_NAME
from ..records import record

#: How many runs are remembered.
KEPT_RUNS: Final = 20
#: What is written may be this many seconds behind.
_FLUSH_SECONDS: Final = 0.5


class JournalError(Exception):
    """A journal cannot be found or read; the text says why."""


class Journal:
    """Writes one line of JSON for each event; ``docs/journal.md`` describes them."""

    def __init__(
        self, directory: Path, run_id: str, complain: Callable[[str], None] = warnings.warn
    ) -> None:
        """Begin the file of this run; ``OSError`` where that is impossible.

        Where it cannot be continued later, on a full disk, it ends and `complain` is told.
        """
        self._complain = complain
        directory.mkdir(parents=True, exist_ok=True)
        self.path = directory / f"{run_id}.jsonl"
        self._file: IO[str] = self.path.open("x", encoding="utf-8", errors="backslashreplace")
        self._flushed = time.monotonic()
        self._is_behind = False
        _forget_old(directory)

    def write(self, event: str, /, fields: dict[str, Any]) -> None:
        """Append an event with the time of this moment."""
        line = json.dumps({"event": event, "time": round(time.time(), 4), **fields})
        self._write_line(line + "\n")

    def _write_line(self, line: str) -> None:
        if self._file.closed:
            return
        try:
            self._file.write(line)
        except OSError as error:
            self._give_up(error)
        self._is_behind = True
        if time.monotonic() - self._flushed > _FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Let others read what was written until now."""
        if not self._is_behind or self._file.closed:
            return
        self._is_behind = False
        self._flushed = time.monotonic()
        try:
            self._file.flush()
        except OSError as error:
            self._give_up(error)

    def note(self, notice: notices.Notice) -> None:
        """Append what a run tells."""
        match notice:
            case notices.TestStarted(attempt, position):
                # Written for every test, in a third of the time that a dictionary takes.
                self._write_line(
                    f'{{"event": "started", "time": {round(time.time(), 4)}, '
                    f'"shard": {attempt.shard}, "attempt": {attempt.number}, '
                    f'"position": {position}}}\n'
                )
            case notices.TestDone():
                self._note_test("finished", notice)
            case notices.TestTried(done):
                self._note_test("tried", done)
            case notices.NoOtherTry(text):
                self.write("no other try", {"text": text})
            case notices.TestSlow(attempt, position, item, seconds, phase):
                self.write(
                    "slow",
                    {
                        **_from(attempt),
                        "position": position,
                        "nodeid": item.nodeid,
                        "seconds": round(seconds, 4),
                        "phase": phase,
                    },
                )
            case notices.Planned(items, plan):
                self.write(
                    "planned",
                    {
                        "digest": plan.digest,
                        "nodeids": [item.nodeid for item in items],
                        "shards": [list(shard.positions) for shard in plan.shards],
                        "serial": list(plan.serial),
                        "expected_seconds": [
                            round(shard.expected_seconds, 4) for shard in plan.shards
                        ]
                        if plan.measured
                        else None,
                    },
                )
            case notices.FoundLater(attempt, items):
                self.write(
                    "found later",
                    {**_from(attempt), "nodeids": [item.nodeid for item in items]},
                )
            case notices.AttemptReady(attempt, info):
                self.write("ready", {**_from(attempt), "info": info})
            case notices.AttemptCollected(attempt, nodeids):
                self.write("collected", {**_from(attempt), "tests": len(nodeids)})
            case notices.AttemptEnded(attempt, ending, _, seconds):
                fields = {"ending": ending.kind.value, "reason": ending.reason}
                self.write("ended", {**_from(attempt), **fields, "seconds": round(seconds, 4)})
            case notices.TestNotRun(position, item, shard, reason, _, phase):
                self.write(
                    "not run",
                    {
                        "shard": shard,
                        "position": position,
                        "nodeid": item.nodeid,
                        "reason": reason,
                        **({"phase": phase} if phase else {}),
                    },
                )
            case notices.Halted(why, reason):
                self.write("halted", {"why": why.value, "reason": reason})
            case notices.Leaked(attempt, pid, command, nodeid):
                self.write(
                    "leak",
                    {**_from(attempt), "pid": pid, "command": command, "nodeid": nodeid},
                )
            case notices.Problem(shard, text):
                self.write("problem", {"shard": shard, "text": text})
            case notices.CollectionFailed(count, errors):
                self.write("collection failed", {"tests": count, "errors": errors})
            case notices.StopAskedByTest(kind, reason):
                self.write("stop asked", {"kind": kind, "reason": reason})
            case _:
                pass

    def _note_test(self, event: str, done: notices.TestDone) -> None:
        fields: dict[str, Any] = {
            **_from(done.attempt),
            "position": done.position,
            "nodeid": done.item.nodeid,
            "status": done.status.value,
            "seconds": round(done.seconds, 4),
        }
        if done.blame is not None:
            fields["ending"] = done.blame.ending.kind.value
            fields["reason"] = done.blame.ending.reason
            fields["phase"] = done.blame.phase
        if event == "tried" or done.earlier:
            fields["try"] = done.number
        if event == "tried":
            fields["message"] = explain(done.reports, done.blame)
        if done.earlier:
            fields["flaky"] = done.is_flaky
        self.write(event, fields)

    def close(self) -> None:
        """Write what is left; idempotent."""
        try:
            self._file.close()
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        self._complain(f"the journal ends early: {error}")
        # It tries to write what is left once more, and is closed in any case.
        with contextlib.suppress(OSError):
            self._file.close()


def _from(attempt: Any) -> dict[str, int]:
    return {"shard": attempt.shard, "attempt": attempt.number}


def _forget_old(directory: Path) -> None:
    # Names begin with the time.
    for path in sorted(directory.glob("*.jsonl"))[:-KEPT_RUNS]:
        path.unlink(missing_ok=True)
        # What its shards wrote.
        shutil.rmtree(path.with_suffix(""), ignore_errors=True)


def journal_directory(cache: Any) -> Path:
    """Where runs are remembered, in pytest's cache; ``OSError`` where it cannot be written."""
    directory: Path = cache.mkdir(CACHE_NAME) / "runs"
    return directory


@record
class Share:
    """What a shard of an earlier run ran, in its order."""

    run_id: str
    shard: int
    nodeids: tuple[str, ...]


def read_share(directory: Path, name: str) -> Share:
    """The share that ``RUN:SHARD`` names; RUN may be cut short, or ``last``.

    Raises ``JournalError``.
    """
    run, _, number = name.rpartition(":")
    if not run or not re.fullmatch("[0-9]{1,9}", number):
        raise JournalError(f"{name} names no shard of a run: give RUN:SHARD, like last:2")
    path = _find(directory, run)
    nodeids: list[str] = []
    ran: dict[int, list[int]] = {}
    tried: set[int] = set()
    for event in _events(path):
        match event:
            case {"event": "planned"}:
                nodeids += event["nodeids"]
            case {"event": "found later"}:
                nodeids += event["nodeids"]
            case {"event": "tried", "position": int(position)}:
                tried.add(position)
            case {"event": "started", "shard": int(shard), "position": int(position)}:
                # Another try, after the rest, belongs to no order.
                if position not in tried:
                    ran.setdefault(shard, []).append(position)
    shard = int(number)
    if shard not in ran:
        known = ", ".join(map(str, sorted(ran)))
        raise JournalError(
            f"run {path.stem} has no shard {shard} that ran tests: choose {known}"
            if known
            else f"run {path.stem} ran no tests"
        )
    # A test that was running when its process was lost may have started twice.
    positions = dict.fromkeys(ran[shard])
    return Share(path.stem, shard, tuple(nodeids[position] for position in positions))


@record
class History:
    """What had run in a process before a test failed there."""

    run_id: str
    nodeid: str
    #: For people: ``failed``, or how it ended its process.
    status: str
    shard: int
    before: tuple[str, ...]
    #: How long all of this took.
    seconds: float
    #: Of the whole run.
    arguments: tuple[str, ...]
    directory: str


def read_history(directory: Path, run: str, nodeid: str) -> History:
    """The first failure of a test in a run, which may be cut short, or ``last``.

    Raises ``JournalError``.
    """
    path = _find(directory, run)
    begun: dict[str, Any] = {}
    nodeids: list[str] = []
    started: dict[tuple[int, int], list[int]] = {}
    seconds: dict[int, float] = {}
    statuses: set[str] = set()
    for event in _events(path):
        match event:
            case {"event": "run"}:
                begun = event
            case {"event": "planned" | "found later"}:
                nodeids += event["nodeids"]
            case {"event": "started"}:
                key = (event["shard"], event["attempt"])
                started.setdefault(key, []).append(event["position"])
            case {"event": "finished" | "tried"}:
                seconds[event["position"]] = event["seconds"]
                if event["nodeid"] != nodeid:
                    continue
                statuses.add(event["status"])
                if event["status"] not in ("failed", "error"):
                    continue
                key = (event["shard"], event["attempt"])
                earlier = started[key][: started[key].index(event["position"])]
                return History(
                    path.stem,
                    nodeid,
                    event.get("reason") or event["status"],
                    event["shard"],
                    tuple(nodeids[position] for position in earlier),
                    sum(seconds.get(each, 0.0) for each in (*earlier, event["position"])),
                    tuple(begun["arguments"]),
                    begun.get("directory", begun["rootdir"]),
                )
    if statuses:
        raise JournalError(f"{nodeid} did not fail in run {path.stem}: {', '.join(statuses)}")
    raise JournalError(
        f"{nodeid} was not run in run {path.stem}: give a node id as pytest shows it"
    )


def _find(directory: Path, run: str) -> Path:
    paths = sorted(directory.glob("*.jsonl"))
    if run == "last":
        found = paths[-1:]
    else:
        found = [path for path in paths if path.stem.startswith(run)]
    if len(found) == 1:
        return found[0]
    known = ", ".join(path.stem for path in paths[-5:]) or "none"
    problem = "is not among" if not found else "is not the only one of"
    raise JournalError(f"run {run} {problem} the remembered runs (newest: {known})")


def _events(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        for line in file:
            try:
                event = json.loads(line)
            except ValueError:
                # The last line of a run that was killed.
                continue
            if isinstance(event, dict):
                yield event
