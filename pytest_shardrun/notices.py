"""What a run tells those who listen."""

from __future__ import annotations

from typing import Any, TypeAlias, final

from .events import Reported, Warned, XmlRecorded
from .model import Attempt, Ending, HaltWhy, Item, Plan, Status
from .records import record


@final
@record
class AttemptReady:
    """A worker has said hello."""

    attempt: Attempt
    info: dict[str, Any]


@final
@record
class AttemptCollected:
    """A worker has collected these node ids."""

    attempt: Attempt
    nodeids: list[str]


@final
@record
class CollectReported:
    """A collector failed or was skipped in a shard; other shards may say the same."""

    attempt: Attempt
    data: Any


@final
@record
class CollectionRefused:
    """pytest refused the arguments."""

    messages: list[str]


@final
@record
class CollectionFailed:
    """There were collection errors, and the user did not ask to go on in spite of them."""

    count: int
    errors: int


@final
@record
class Planned:
    """The tests are known and shared out."""

    items: tuple[Item, ...]
    plan: Plan
    deselected: list[str]
    lines: list[str]


@final
@record
class FoundLater:
    """A shard collected tests that were not known when the plan was made."""

    attempt: Attempt
    items: tuple[Item, ...]


@final
@record
class TestStarted:
    attempt: Attempt
    position: int
    __test__ = False


@final
@record
class TestSlow:
    """A test has been running for long."""

    attempt: Attempt
    position: int
    item: Item
    seconds: float
    #: setup, call or teardown.
    phase: str
    #: After how many seconds it will be ended.
    limit: float | None
    __test__ = False


@final
@record
class Blame:
    """Why a test is held responsible for the end of its process."""

    ending: Ending
    #: setup, call or teardown.
    phase: str
    #: What the process wrote last, stacks included.
    output: str
    #: pytest itself or a plugin broke, as opposed to the test.
    internal: bool = False


@final
@record
class TestDone:
    """A test has its final status; everything that belongs to it, in order."""

    attempt: Attempt
    position: int
    item: Item
    status: Status
    seconds: float
    reports: tuple[Reported, ...]
    warnings: tuple[Warned, ...] = ()
    xml: tuple[XmlRecorded, ...] = ()
    blame: Blame | None = None
    #: Which try it was, from 1.
    number: int = 1
    #: The tries before, all of which failed.
    earlier: tuple[TestDone, ...] = ()
    #: It failed because the user wants no flaky tests, though this try did not.
    is_refused: bool = False
    #: Of the seconds, those in fixtures that other tests share.
    shared_seconds: float = 0.0
    #: Of these, those in the setup of fixtures of the test's class, module or package.
    setup_seconds: float = 0.0
    __test__ = False

    @property
    def is_flaky(self) -> bool:
        """Whether a try has failed and the last one has not."""
        failed = self.status in (Status.FAILED, Status.ERROR)
        return bool(self.earlier) and (self.is_refused or not failed)


@final
@record
class TestTried:
    """A try of a test has failed, and another will follow unless the run ends before."""

    done: TestDone
    __test__ = False


@final
@record
class Halted:
    """The results so far end the run, as the user wanted."""

    why: HaltWhy
    reason: str


@final
@record
class NoOtherTry:
    """Failed tests are not tried again, and why."""

    text: str


@final
@record
class TestNotRun:
    position: int
    item: Item
    #: 0 where no shard had it.
    shard: int
    reason: str
    #: The user asked to stop.
    asked: bool
    #: What it was doing when it was stopped; empty where it had not begun.
    phase: str = ""
    __test__ = False


@final
@record
class SeenOutsideTests:
    """A report, warning or suite property that belongs to no test."""

    attempt: Attempt
    event: Reported | Warned | XmlRecorded


@final
@record
class AttemptEnded:
    attempt: Attempt
    ending: Ending
    #: Packed; None where it did not say goodbye.
    workeroutput: Any
    seconds: float


@final
@record
class Leaked:
    """A process outlived the worker of an attempt that had ended in good order."""

    attempt: Attempt
    pid: int
    command: str
    #: Of the test that started it; empty where that is not known.
    nodeid: str

    def __str__(self) -> str:
        culprit = self.nodeid or str(self.attempt)
        return f"LEAK {culprit} left a process running: {self.command} (pid {self.pid}, ended)"


@final
@record
class Problem:
    """Something no single test stands for; it makes the run red."""

    shard: int
    text: str
    #: What the process wrote last.
    output: str = ""
    #: pytest itself or a plugin broke, as opposed to a process.
    internal: bool = False


@final
@record
class Remark:
    """Something worth a warning that leaves the outcome as it is."""

    text: str


@final
@record
class StopAskedByTest:
    """A test or plugin in a shard asked to end the whole run."""

    #: stop and fail as pytest's ``session.shouldstop`` and ``shouldfail``; exit as ``pytest.exit``.
    kind: str
    reason: str
    returncode: int | None = None


Notice: TypeAlias = (
    AttemptReady
    | AttemptCollected
    | CollectReported
    | CollectionRefused
    | CollectionFailed
    | Planned
    | FoundLater
    | TestStarted
    | TestSlow
    | TestDone
    | TestTried
    | NoOtherTry
    | Halted
    | TestNotRun
    | SeenOutsideTests
    | AttemptEnded
    | Leaked
    | Problem
    | Remark
    | StopAskedByTest
)
