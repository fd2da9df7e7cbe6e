"""The life of an attempt and its end."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, final

from .deadlines import Limit
from .model import Attempt, Ending, EndingKind, Exit, LeftProcess
from .records import record

#: How long the stacks may take to arrive before the process is asked to end, in seconds.
STACKS_SECONDS: Final = 0.5
#: Characters of its output in which a process that dies says why.
_LAST_WORDS: Final = 2000


@final
class Phase(enum.Enum):
    """How far an attempt has come."""

    STARTING = "starting"
    COLLECTING = "collecting"
    RUNNING = "running"
    FINISHING = "finishing"
    LEAVING = "leaving"


@final
class Step(enum.Enum):
    """What can be done to a process that must end, from gentle to final."""

    STACKS = "stacks"
    INTERRUPT = "interrupt"
    TERMINATE = "terminate"
    KILL = "kill"


@final
@record
class Escalation:
    """Why an attempt is being ended, and the steps to come with their times."""

    ending: Ending
    steps: tuple[tuple[float, Step], ...]


def after_timeout(reason: str, now: float, grace: float) -> Escalation:
    """Stacks, SIGTERM, the grace, SIGKILL."""
    ask = now + STACKS_SECONDS
    steps = ((now, Step.STACKS), (ask, Step.TERMINATE), (ask + grace, Step.KILL))
    return Escalation(Ending(EndingKind.TIMED_OUT, reason), steps)


def after_interrupt(reason: str, now: float, grace: float) -> Escalation:
    """SIGINT, so that fixtures are torn down; SIGKILL after the grace."""
    steps = ((now, Step.INTERRUPT), (now + grace, Step.KILL))
    return Escalation(Ending(EndingKind.STOPPED, reason), steps)


def after_stop(reason: str, now: float, grace: float) -> Escalation:
    """The running test may end within the grace; then as after an interrupt."""
    steps = ((now + grace, Step.INTERRUPT), (now + 2 * grace, Step.KILL))
    return Escalation(Ending(EndingKind.STOPPED, reason), steps)


def at_once(ending: Ending, now: float) -> Escalation:
    """SIGKILL."""
    return Escalation(ending, ((now, Step.KILL),))


def after_goodbye(now: float, grace: float, start_seconds: float = 0.0) -> Escalation:
    """All is said; what keeps the interpreter from ending is shown, then ended.

    An interpreter ends with less work than it starts: where a busy machine has made it start
    slowly, it may end as slowly.
    """
    patience = max(grace, start_seconds)
    reason = f"did not exit in {patience:.3g} s"
    patient = after_timeout(reason, now + patience, grace)
    return Escalation(Ending(EndingKind.CRASHED, reason), patient.steps)


@final
@record
class Expectation:
    """When something must have begun, and the limit that says so."""

    due: float
    limit: Limit

    @property
    def reason(self) -> str:
        """Why a process was ended that has disappointed it, for people."""
        waited = self.limit.seconds + self.limit.patience
        return f"did not go on for {waited:g} s ({self.limit.source})"


@dataclass(slots=True)
class Life:
    """What is known of an attempt that has been launched and has not ended."""

    attempt: Attempt
    launched: float
    phase: Phase = Phase.STARTING
    #: From the launch to its hello.
    start_seconds: float = 0.0
    #: What is being collected, and may be imported at this moment.
    collecting: str | None = None
    #: Position of the running test in the run's collection.
    running: int | None = None
    #: pytest's ``when`` of the running test's last report.
    last_when: str | None = None
    finished: int = 0
    #: Position of the test that has started a process, by the number of that process.
    children: dict[int, int] = field(default_factory=dict)
    said_goodbye: bool = False
    goodbye_status: int = 0
    dismissed: bool = False
    #: It has set up something that the other shards may need until they end.
    keeps: bool = False
    #: It has no more to do than that.
    only_keeps: bool = False
    #: What pytest or a plugin broke over, or the text of a KeyboardInterrupt.
    trouble: str = ""
    interrupted: bool = False
    limit: Limit | None = None
    #: It said so itself.
    out_of_memory: bool = False
    deadline: float | None = None
    #: Where it has something to do and has not begun it: until when it must have.
    begins: Expectation | None = None
    #: It has taken too long over a test, or to begin one: nothing that it says later counts.
    is_condemned: bool = False
    escalation: Escalation | None = None
    _steps_left: list[tuple[float, Step]] = field(default_factory=list)

    def escalate(self, escalation: Escalation) -> None:
        """Begin to end the attempt; a later, faster escalation replaces an earlier one."""
        if self.escalation is not None and (
            not self._steps_left or escalation.steps[-1][0] >= self._steps_left[-1][0]
        ):
            return
        self.escalation = escalation
        self._steps_left = list(escalation.steps)

    def expect(self, limit: Limit | None, now: float) -> None:
        """It must begin within the limit what it could begin from now on; None: nothing."""
        if limit is None:
            self.begins = None
        elif self.begins is None:
            self.begins = Expectation(now + limit.seconds + limit.patience, limit)

    def due_steps(self, now: float) -> list[Step]:
        """The steps whose time has come; each is returned once."""
        due = [step for at, step in self._steps_left if at <= now]
        self._steps_left = self._steps_left[len(due) :]
        return due

    @property
    def broke_internally(self) -> bool:
        """pytest reported an error of its own or of a plugin."""
        return bool(self.trouble) and not self.interrupted

    @property
    def is_idle(self) -> bool:
        """It has collected and waits for tests."""
        return self.phase is Phase.RUNNING and self.running is None and not self.dismissed

    def next_time(self) -> float | None:
        """When something is due at the earliest."""
        times: Iterable[float | None] = (
            self._steps_left[0][0] if self._steps_left else None,
            self.deadline if self.escalation is None else None,
            self.begins.due if self.begins is not None and self.escalation is None else None,
        )
        return min((time for time in times if time is not None), default=None)

    @property
    def phase_of_test(self) -> str:
        """pytest's name of what the running test was doing."""
        match self.last_when:
            case None:
                return "setup"
            case "setup":
                return "call"
            case _:
                return "teardown"

    def ending(self, exit: Exit) -> Ending:
        """Why it is over, now that its process has ended in this way."""
        if exit.out_of_memory or self.out_of_memory:
            return Ending(EndingKind.OUT_OF_MEMORY, "out of memory")
        if self.said_goodbye and self.running is None and not self.trouble:
            # The ladder after a goodbye counts only where a step was needed.
            if exit.code == 0:
                return Ending(EndingKind.COMPLETED, "completed")
            if self.escalation is not None and self._stepped():
                return self.escalation.ending
            return _died(exit, " while the interpreter ended")
        if self.escalation is not None and self._stepped():
            return self.escalation.ending
        if self.trouble:
            what = "KeyboardInterrupt" if self.interrupted else "internal error"
            return Ending(EndingKind.CRASHED, f"crashed with {what}")
        return _died(exit)

    def _stepped(self) -> bool:
        assert self.escalation is not None
        return len(self._steps_left) < len(self.escalation.steps)


def speaks_of_memory(output: str) -> bool:
    """Whether the last words of a process that crashed are about memory that it did not get."""
    last = output[-_LAST_WORDS:]
    return any(each in last for each in ("MemoryError", "bad_alloc", "Cannot allocate memory"))


def origin(life: Life, process: LeftProcess) -> int | None:
    """The position of the test that started a process; None where that is not known."""
    return next(
        (
            life.children[number]
            for number in (process.pid, *process.kin)
            if number in life.children
        ),
        None,
    )


def _died(exit: Exit, when: str = "") -> Ending:
    if exit.is_lost:
        return Ending(EndingKind.LOST, f"lost: {exit}{when}")
    how = f"crashed: {exit}" if exit.remark else f"crashed with {exit}"
    return Ending(EndingKind.CRASHED, f"{how}{when}")


def where(life: Life) -> str:
    """What an attempt was doing when it ended, for people, where no test is to blame."""
    match life.phase:
        case Phase.STARTING:
            return "before pytest had started"
        case Phase.COLLECTING:
            return f"while collecting {life.collecting}" if life.collecting else "while collecting"
        case Phase.RUNNING:
            return "between two tests" if life.finished else "before its first test"
        case Phase.FINISHING:
            return "after its last test, while the session finished"
        case Phase.LEAVING:
            return "after its goodbye"
