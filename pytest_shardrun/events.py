"""What shards tell and can be told."""

from __future__ import annotations

from typing import Any, Final, TypeAlias, final

from .records import record
from .worker import wire


class BrokenStream(ValueError):
    """A line that is no event: what came is not from our worker, or something was lost."""


@final
@record
class Hello:
    """pytest is configured and the session starts."""

    info: dict[str, Any]


@final
@record
class Collecting:
    """A directory or file is about to be collected, or imported; empty when it was."""

    nodeid: str


@final
@record
class CollectReport:
    """A collector failed or was skipped; ``data`` is pytest's serialised report, packed."""

    data: Any


@final
@record
class Collected:
    """All is collected: how many tests, a digest of them in order, and how many errors."""

    count: int
    digest: str
    errors: int


@final
@record
class Collection:
    """The tests, as rows of (node id, file, line, domain, group, serial, limits, scope)."""

    rows: list[list[Any]]
    deselected: list[str]
    #: What ``pytest_report_collectionfinish`` wants shown.
    lines: list[str]


@final
@record
class UsageRefused:
    """pytest refused the arguments while it collected, as it does for a missing file."""

    messages: list[str]


@final
@record
class Started:
    """The test at this place of the shard's own collection begins."""

    local: int


@final
@record
class Reported:
    """A report of the running test (None: of no test in particular), packed."""

    local: int | None
    when: str | None
    #: pytest's own, or what a plugin made of it (``rerun``).
    outcome: str
    #: The test carries ``xfail`` and it applied.
    xfail: bool
    #: As ``worker.brief`` makes it where it is a list.
    data: Any


@final
@record
class Finished:
    """A test is over."""

    local: int
    seconds: float
    #: Of these, in fixtures that other tests share.
    shared_seconds: float = 0.0
    #: Of these, in the setup of fixtures of the test's class, module or package.
    setup_seconds: float = 0.0


@final
@record
class Passed:
    """The running test has passed: three reports in short came, and it finished."""

    local: int
    seconds: float
    setup: list[Any]
    call: list[Any]
    teardown: list[Any]

    def parts(self) -> list[Event]:
        """The events that it stands for, each of which has a number of its own."""
        return [
            Reported(self.local, "setup", "passed", xfail=False, data=self.setup),
            Reported(self.local, "call", "passed", xfail=False, data=self.call),
            Reported(self.local, "teardown", "passed", xfail=False, data=self.teardown),
            Finished(self.local, self.seconds),
        ]


#: How many events one ``Passed`` stands for.
PARTS_OF_PASSED: Final = 4


@final
@record
class ChildSeen:
    """The running test has started a process that still lives."""

    pid: int


@final
@record
class Keeping:
    """It has set up something for all shards, and cleans it up when its session ends."""


@final
@record
class Warned:
    local: int | None
    data: dict[str, Any]
    when: str
    nodeid: str
    location: list[Any] | None


@final
@record
class XmlRecorded:
    """``record_xml_attribute`` (with a node id) or ``record_testsuite_property`` was used."""

    nodeid: str | None
    name: str
    value: str


@final
@record
class Lossy:
    """A value that no stream can carry became its text."""

    local: int | None
    path: str
    type_name: str


@final
@record
class StopAsked:
    """A test or plugin set ``session.shouldstop`` or ``shouldfail`` (kind: stop, fail)."""

    kind: str
    reason: str


@final
@record
class ExitAsked:
    """``pytest.exit()`` was called."""

    reason: str
    returncode: int | None


@final
@record
class Interrupted:
    """A KeyboardInterrupt came out of a test or arrived as a signal."""

    text: str


@final
@record
class OutOfMemory:
    """There was no more memory within the limit; the worker ends."""


@final
@record
class InternalError:
    text: str


@final
@record
class Finishing:
    """``pytest_sessionfinish`` begins."""


@final
@record
class Goodbye:
    """pytest is over; ``workeroutput`` is what plugins want the controller to have, packed."""

    status: int
    workeroutput: Any


Event: TypeAlias = (
    Hello
    | Collecting
    | CollectReport
    | Collected
    | Collection
    | UsageRefused
    | Started
    | Reported
    | Finished
    | Passed
    | ChildSeen
    | Keeping
    | Warned
    | XmlRecorded
    | Lossy
    | StopAsked
    | ExitAsked
    | Interrupted
    | OutOfMemory
    | InternalError
    | Finishing
    | Goodbye
)


def read_event(line: bytes, sequence: int) -> Event:
    """The event of a line; ``sequence`` is the number it must carry.

    Raises ``BrokenStream`` where the line is no event of this protocol or one before it is missing.
    """
    try:
        number, *content = wire.decode(line)
    except (ValueError, TypeError, RecursionError):
        raise BrokenStream(f"not an event: {line[:200]!r}") from None
    if not line.startswith(b"["):
        # JSON allows white space before it; here that is somebody else's.
        raise BrokenStream(f"not only an event: {line[:200]!r}")
    if number != sequence:
        raise BrokenStream(f"event {sequence} is missing, got {number!r}")
    return _event_of(content, line)


def _is_brief(data: list[Any]) -> bool:
    """Whether a report in short has what it must: three times, and keywords perhaps."""
    match data:
        case [float(), float(), float(), None]:
            return True
        case [float(), float(), float(), list(names)]:
            return _are_texts(names)
        case _:
            return False


def _are_texts(names: list[Any]) -> bool:
    return all(type(name) is str for name in names)


def _event_of(content: list[Any], line: bytes) -> Event:
    match content:
        case [
            "passed",
            int(local),
            float(seconds),
            [float(), float(), float(), list(names)] as setup,
            [float(), float(), float(), None] as call,
            [float(), float(), float(), None] as teardown,
        ] if _are_texts(names):
            return Passed(local, seconds, setup, call, teardown)
        case ["start", int(local)]:
            return Started(local)
        case ["report", _, _, _, _, list(data)] if not _is_brief(data):
            raise BrokenStream(f"not an event: {line[:200]!r}")
        case ["report", local, when, str(outcome), bool(xfail), data]:
            return Reported(local, when, outcome, xfail, data)
        case ["finish", int(local), float(seconds)]:
            return Finished(local, seconds)
        case ["keeping"]:
            return Keeping()
        case ["child", int(pid)]:
            return ChildSeen(pid)
        case ["finish", int(local), float(seconds), float(shared), float(setup)]:
            return Finished(local, seconds, shared, setup)
        case ["collecting", str(nodeid)]:
            return Collecting(nodeid)
        case ["warning", local, dict(data), str(when), str(nodeid), location]:
            return Warned(local, data, when, nodeid, location)
        case ["hello", int(protocol), dict(info)]:
            if protocol != wire.PROTOCOL:
                raise BrokenStream(f"protocol {protocol} instead of {wire.PROTOCOL}")
            return Hello(info)
        case ["collect_report", data]:
            return CollectReport(data)
        case ["collected", int(count), str(digest), int(errors)]:
            return Collected(count, digest, errors)
        case ["collection", list(rows), list(deselected), list(lines)]:
            return Collection(rows, deselected, lines)
        case ["usage_error", list(messages)]:
            return UsageRefused(messages)
        case ["xml", nodeid, str(name), str(value)]:
            return XmlRecorded(nodeid, name, value)
        case ["lossy", local, str(path), str(type_name)]:
            return Lossy(local, path, type_name)
        case ["stop", str(kind), str(reason)]:
            return StopAsked(kind, reason)
        case ["exit", str(reason), returncode]:
            return ExitAsked(reason, returncode)
        case ["interrupted", str(text)]:
            return Interrupted(text)
        case ["out_of_memory"]:
            return OutOfMemory()
        case ["internal_error", str(text)]:
            return InternalError(text)
        case ["finishing"]:
            return Finishing()
        case ["goodbye", int(status), output]:
            return Goodbye(status, output)
        case _:
            raise BrokenStream(f"not an event: {line[:200]!r}")


def run_command(positions: list[int], *, more: bool) -> bytes:
    """Run these places of the shard's own collection; ``more``: others will follow."""
    return wire.encode(["run", positions, more])


#: Send the collection, not just its digest.
LIST_COMMAND: Final = wire.encode(["list"])
#: Run what was sent, then end the session.
FINISH_COMMAND: Final = wire.encode(["finish"])
#: End the session after the test that runs.
STOP_COMMAND: Final = wire.encode(["stop"])
