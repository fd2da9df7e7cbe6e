"""The nouns of a run."""

from __future__ import annotations

import enum
import signal
from dataclasses import KW_ONLY, dataclass
from typing import Final, NamedTuple, final

from .records import record

#: How much a test of unknown duration is expected to take when nothing at all is known.
UNKNOWN_SECONDS: Final = 1.0
#: Keeps sums of expected seconds meaningful where a plan expects no time at all.
LEAST_SECONDS: Final = 1e-6


@final
class Status(enum.Enum):
    """The one final status of a collected test."""

    PASSED = "passed"
    FAILED = "failed"
    ERROR = "error"
    SKIPPED = "skipped"
    XFAILED = "xfailed"
    XPASSED = "xpassed"
    NOT_RUN = "not run"

    # That of the enumeration is written in Python, and every test is counted by its status.
    __hash__ = object.__hash__


@final
@record
class Lock:
    """Something that tests use alone, or together with those that share it."""

    name: str
    shared: bool = False


@final
@record
class Need:
    """What a test needs for itself while it runs."""

    locks: frozenset[Lock] = frozenset()
    #: Of how many usual tests it takes the place.
    weight: int = 1


@final
@record
class Item:
    """One collected test, as the shards described it."""

    nodeid: str
    #: pytest's own: file relative to rootdir, line from 0 or None, domain name.
    location: tuple[str, int | None, str]
    #: 0, or which of several tests with this very node id (``--keep-duplicates``).
    occurrence: int = 0
    #: The name given by ``shard_group`` or ``xdist_group``; such tests stay in one process.
    group: str | None = None
    #: Marked ``shard_serial``: runs alone, after all the others.
    serial: bool = False
    #: Seconds by its mark ``shard_timeout``; 0: it has no limit.
    timeout: float | None = None
    #: Seconds after which pytest-timeout means to end it.
    foreign_timeout: float | None = None
    #: The widest of class, module and package that a fixture of this test has, or nothing: tests
    #: of that scope set it up once for all of them that one process runs.
    scope: str = ""
    #: By its marks ``shard_lock`` and ``shard_weight``.
    need: Need | None = None


# A tuple is made in a fifth of the time of a frozen dataclass, and there may be one for each test.
class Unit(NamedTuple):
    """Tests that a plan keeps together, as positions in the collection, in collection order."""

    positions: tuple[int, ...]
    expected_seconds: float
    #: A group is never taken apart; a module may be, when a shard runs dry.
    divisible: bool = True
    #: What fixtures that its tests share take in each process that runs some of them; None where
    #: there are such fixtures and nobody has measured them.
    setup_seconds: float | None = 0.0

    @property
    def each_seconds(self) -> float:
        """What one of its tests is expected to take; never nothing, so that sums mean something."""
        each = self.expected_seconds / (len(self.positions) or 1)
        return each if each > LEAST_SECONDS else LEAST_SECONDS

    @property
    def whole_seconds(self) -> float:
        """What a shard that runs all of it is expected to take, with its fixtures."""
        return self.expected_seconds + (self.setup_seconds or 0.0)


@final
@record
class ShardPlan:
    """One shard's share of the collection."""

    number: int
    units: tuple[Unit, ...]

    @property
    def positions(self) -> tuple[int, ...]:
        return tuple(position for unit in self.units for position in unit.positions)

    @property
    def expected_seconds(self) -> float:
        return sum(unit.whole_seconds for unit in self.units)


@final
@record
class Plan:
    """Which test belongs to which shard, in which order."""

    shards: tuple[ShardPlan, ...]
    #: Tests that run alone after all the others, one at a time.
    serial: tuple[int, ...]
    #: Hexadecimal; equal for equal (set of node ids, durations, number of shards).
    digest: str
    #: Whether the expected seconds rest on measured durations.
    measured: bool


@final
@record
class LeftProcess:
    """A process that outlived the worker which had started it, before it was ended."""

    pid: int
    command: str
    #: Its parent, group and session, which tell who started it where it did not stay a child.
    kin: tuple[int, ...] = ()


@final
@record
class Exit:
    """How a process ended, as far as the executor can tell."""

    #: The exit code, or None where a signal ended the process.
    code: int | None = None
    signal: int | None = None
    out_of_memory: bool = False
    left: tuple[LeftProcess, ...] = ()
    #: What became of it where nobody knows a code or a signal: "its container was removed".
    remark: str = ""
    #: Something outside has ended it, or cut it off: its machine, its container, the way to it.
    is_lost: bool = False

    def __str__(self) -> str:
        if self.remark:
            return self.remark
        if self.out_of_memory:
            return "out of memory"
        if self.signal is not None:
            return signal_name(self.signal)
        return f"exit code {self.code}"


#: Of a process whose parent is gone, or could not wait for it.
UNKNOWN_EXIT: Final = Exit(remark="nobody could learn how it ended")


def signal_name(number: int) -> str:
    """``SIGSEGV`` for 11; ``signal 40`` where the platform has no name for it."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


@final
class EndingKind(enum.Enum):
    """Why an attempt is over, in order of severity."""

    COMPLETED = "completed"
    STOPPED = "stopped"
    TIMED_OUT = "timed out"
    OUT_OF_MEMORY = "out of memory"
    LOST = "lost"
    CRASHED = "crashed"
    NOT_LAUNCHED = "not launched"


@final
@record
class Ending:
    kind: EndingKind
    #: For people: ``crashed with SIGSEGV``, ``timed out after 60 s``.
    reason: str


@final
@record
class Attempt:
    """One process life of a shard; shards and attempts count from 1."""

    shard: int
    number: int

    def __str__(self) -> str:
        return (
            f"shard {self.shard}"
            if self.number == 1
            else f"shard {self.shard} attempt {self.number}"
        )


#: What every run starts with.
FIRST_ATTEMPT: Final = Attempt(1, 1)


@final
class HaltWhen(enum.Enum):
    """What becomes of tests that run when a run ends early."""

    #: They may end within the grace.
    SOON = "soon"
    #: They are interrupted.
    NOW = "now"


@final
class HaltWhy(enum.Enum):
    """What is counted to end a run early."""

    FAIL = "fail"
    SUCCESS = "success"
    DONE = "done"


@final
@record
class Halt:
    """End the run when so many tests have come to such an end."""

    when: HaltWhen
    why: HaltWhy
    amount: Amount
    #: For people; ``{count}`` stands for how many it were.
    reason: str


@final
class LeakPolicy(enum.Enum):
    """What becomes of processes that a shard left behind, besides being ended."""

    IGNORE = "ignore"
    REPORT = "report"
    FAIL = "fail"


@final
class LossPolicy(enum.Enum):
    """What becomes of a run in which values could not be sent and became their texts."""

    FAIL = "fail"
    WARN = "warn"


@final
@record
class Amount:
    """A number of tests, or a share of all of them."""

    value: float
    is_share: bool = False

    def of(self, tests: int) -> float:
        """How many of so many tests."""
        return self.value * tests if self.is_share else self.value

    def __str__(self) -> str:
        return f"{self.value * 100:g}%" if self.is_share else f"{self.value:g}"


#: So many failures, or this share of all tests, whichever is more, are worth another try.
MOST_RETRIED: Final = (Amount(10), Amount(0.1, is_share=True))


@final
@record
class Retries:
    """Which failed tests are tried again, and when."""

    #: How often each.
    count: int
    #: A regular expression that the message of the failure must contain.
    only: str = ""
    #: Seconds before the second try; before each further one it doubles.
    delay: float = 0.0
    #: The most that may have failed; the largest of these counts.
    most: tuple[Amount, ...] = MOST_RETRIED
    #: A test whose last try passed has failed all the same.
    flaky_fails: bool = False

    def most_failures(self, tests: int) -> float:
        """How many of so many tests may have failed."""
        return max(amount.of(tests) for amount in self.most)


@final
@dataclass(frozen=True, slots=True)
class Policy:
    """The limits that a run keeps; times are seconds, None is no limit."""

    jobs: int
    _: KW_ONLY
    shard_timeout: float | None = None
    #: Of the planned time, in place of seconds.
    shard_timeout_share: float | None = None
    run_timeout: float | None = None
    test_timeout: float | None = None
    #: A test that takes long is called slow again after so many seconds.
    slow_every: float | None = None
    grace: float = 10.0
    restarts: int | None = None
    retries: Retries | None = None
    halts: tuple[Halt, ...] = ()
    steal: bool = True
    leak: LeakPolicy = LeakPolicy.REPORT
    lost_data: LossPolicy = LossPolicy.FAIL
    #: A process may end in good order before its shard has run all of its tests.
    isolates: bool = False
    #: Bytes that a shard may use.
    memory: int | None = None
