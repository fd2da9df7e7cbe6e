from __future__ import annotations

import signal
from collections.abc import Callable

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from pytest_shardrun.lifecycle import (
    Escalation,
    Life,
    Phase,
    Step,
    after_goodbye,
    after_interrupt,
    after_stop,
    after_timeout,
    at_once,
    where,
)
from pytest_shardrun.model import Attempt, Ending, EndingKind, Exit

CRASHED = Ending(EndingKind.CRASHED, "crashed: its stream broke")
ENDED = Exit(code=0)
KILLED = Exit(signal=int(signal.SIGKILL))


def life() -> Life:
    return Life(Attempt(1, 1), launched=0.0, phase=Phase.RUNNING)


@pytest.mark.parametrize(
    ("escalation", "kind", "steps"),
    [
        (
            after_timeout("late", 100.0, 10.0),
            EndingKind.TIMED_OUT,
            [(100.0, Step.STACKS), (100.5, Step.TERMINATE), (110.5, Step.KILL)],
        ),
        (
            after_timeout("late", 100.0, 0.0),
            EndingKind.TIMED_OUT,
            [(100.0, Step.STACKS), (100.5, Step.TERMINATE), (100.5, Step.KILL)],
        ),
        (
            after_interrupt("Ctrl-C", 100.0, 10.0),
            EndingKind.STOPPED,
            [(100.0, Step.INTERRUPT), (110.0, Step.KILL)],
        ),
        (
            after_stop("-x", 100.0, 10.0),
            EndingKind.STOPPED,
            [(110.0, Step.INTERRUPT), (120.0, Step.KILL)],
        ),
        (at_once(CRASHED, 100.0), EndingKind.CRASHED, [(100.0, Step.KILL)]),
        (
            after_goodbye(100.0, 10.0),
            EndingKind.CRASHED,
            [(110.0, Step.STACKS), (110.5, Step.TERMINATE), (120.5, Step.KILL)],
        ),
    ],
    ids=["timeout", "no grace", "interrupt", "stop", "at once", "goodbye"],
)
def test_every_way_to_end_a_process_has_its_steps(
    escalation: Escalation, kind: EndingKind, steps: list[tuple[float, Step]]
) -> None:
    assert escalation.ending.kind is kind
    assert list(escalation.steps) == steps


def test_each_step_is_due_once() -> None:
    attempt = life()
    attempt.escalate(after_timeout("late", 100.0, 10.0))

    assert attempt.due_steps(99.0) == []
    assert attempt.due_steps(100.0) == [Step.STACKS]
    assert attempt.due_steps(100.0) == []
    assert attempt.due_steps(200.0) == [Step.TERMINATE, Step.KILL]
    assert attempt.due_steps(300.0) == []


def test_a_faster_escalation_replaces_a_slower_one() -> None:
    attempt = life()
    attempt.escalate(after_stop("-x", 100.0, 10.0))
    attempt.escalate(at_once(CRASHED, 101.0))

    assert attempt.due_steps(101.0) == [Step.KILL]
    assert attempt.ending(KILLED) == CRASHED


def test_a_slower_escalation_changes_nothing() -> None:
    attempt = life()
    attempt.escalate(after_timeout("late", 100.0, 10.0))
    attempt.due_steps(100.0)
    attempt.escalate(after_stop("-x", 101.0, 10.0))

    assert attempt.due_steps(110.5) == [Step.TERMINATE, Step.KILL]
    assert attempt.ending(KILLED).kind is EndingKind.TIMED_OUT


def test_what_was_killed_stays_killed_for_that_reason() -> None:
    attempt = life()
    attempt.escalate(after_timeout("late", 100.0, 10.0))
    attempt.due_steps(110.5)
    attempt.escalate(after_stop("-x", 110.6, 10.0))

    assert attempt.ending(KILLED).kind is EndingKind.TIMED_OUT


def test_the_next_time_is_the_deadline_until_there_is_an_escalation() -> None:
    attempt = life()
    assert attempt.next_time() is None

    attempt.deadline = 60.0
    assert attempt.next_time() == 60.0
    attempt.escalate(after_interrupt("Ctrl-C", 100.0, 10.0))
    assert attempt.next_time() == 100.0
    attempt.due_steps(100.0)
    assert attempt.next_time() == 110.0
    attempt.due_steps(110.0)
    assert attempt.next_time() is None


@pytest.mark.parametrize(
    ("phase", "running", "is_idle"),
    [
        (Phase.STARTING, None, False),
        (Phase.COLLECTING, None, False),
        (Phase.RUNNING, None, True),
        (Phase.RUNNING, 0, False),
        (Phase.FINISHING, None, False),
        (Phase.LEAVING, None, False),
    ],
)
def test_an_attempt_without_a_running_test_is_idle(
    phase: Phase, running: int | None, is_idle: bool
) -> None:
    attempt = life()
    attempt.phase = phase
    attempt.running = running

    assert attempt.is_idle is is_idle


@pytest.mark.parametrize(
    ("last_when", "phase"),
    [(None, "setup"), ("setup", "call"), ("call", "teardown"), ("teardown", "teardown")],
)
def test_a_test_is_in_the_phase_after_its_last_report(last_when: str | None, phase: str) -> None:
    attempt = life()
    attempt.last_when = last_when

    assert attempt.phase_of_test == phase


@pytest.mark.parametrize(
    ("exit", "reason"),
    [
        (Exit(code=0), "crashed with exit code 0"),
        (Exit(code=139), "crashed with exit code 139"),
        (Exit(signal=int(signal.SIGSEGV)), "crashed with SIGSEGV"),
        (Exit(signal=63), "crashed with signal 63"),
    ],
)
def test_whoever_leaves_without_goodbye_has_crashed(exit: Exit, reason: str) -> None:
    assert life().ending(exit) == Ending(EndingKind.CRASHED, reason)


def test_a_goodbye_and_a_good_exit_are_a_completion() -> None:
    attempt = life()
    attempt.said_goodbye = True

    assert attempt.ending(ENDED) == Ending(EndingKind.COMPLETED, "completed")


def test_a_goodbye_in_the_middle_of_a_test_is_no_completion() -> None:
    attempt = life()
    attempt.said_goodbye = True
    attempt.running = 3

    assert attempt.ending(ENDED) == Ending(EndingKind.CRASHED, "crashed with exit code 0")


def test_a_goodbye_before_the_first_step_counts_more_than_the_wish_to_end_it() -> None:
    attempt = life()
    attempt.escalate(after_stop("-x", 100.0, 10.0))
    attempt.said_goodbye = True

    assert attempt.ending(ENDED).kind is EndingKind.COMPLETED


def test_a_bad_exit_after_the_goodbye_is_a_crash() -> None:
    attempt = life()
    attempt.said_goodbye = True
    attempt.escalate(after_goodbye(100.0, 10.0))

    reason = "crashed with SIGKILL while the interpreter ended"
    assert attempt.ending(KILLED) == Ending(EndingKind.CRASHED, reason)
    attempt.due_steps(200.0)
    assert attempt.ending(KILLED).reason == "did not exit in 10 s"


@pytest.mark.parametrize(
    ("interrupted", "reason"),
    [(True, "crashed with KeyboardInterrupt"), (False, "crashed with internal error")],
)
def test_trouble_is_a_crash_in_spite_of_a_goodbye(interrupted: bool, reason: str) -> None:
    attempt = life()
    attempt.said_goodbye = True
    attempt.trouble = "traceback"
    attempt.interrupted = interrupted

    assert attempt.ending(ENDED) == Ending(EndingKind.CRASHED, reason)


def test_no_memory_is_the_reason_whatever_else_there_is() -> None:
    attempt = life()
    attempt.escalate(after_timeout("late", 0.0, 10.0))
    attempt.due_steps(0.0)

    ending = attempt.ending(Exit(signal=int(signal.SIGKILL), out_of_memory=True))
    assert ending == Ending(EndingKind.OUT_OF_MEMORY, "out of memory")


@pytest.mark.parametrize(
    ("phase", "collecting", "finished", "text"),
    [
        (Phase.STARTING, None, 0, "before pytest had started"),
        (Phase.COLLECTING, None, 0, "while collecting"),
        (Phase.COLLECTING, "test_a.py", 0, "while collecting test_a.py"),
        (Phase.RUNNING, None, 0, "before its first test"),
        (Phase.RUNNING, None, 2, "between two tests"),
        (Phase.FINISHING, None, 2, "after its last test, while the session finished"),
        (Phase.LEAVING, None, 2, "after its goodbye"),
    ],
)
def test_where_an_attempt_ended_is_said_in_words(
    phase: Phase, collecting: str | None, finished: int, text: str
) -> None:
    attempt = life()
    attempt.phase = phase
    attempt.collecting = collecting
    attempt.finished = finished

    assert where(attempt) == text


class AnyLife(RuleBasedStateMachine):
    """Escalations of every kind, in any order, while the time passes or its looks are late."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.life = Life(Attempt(1, 1), launched=0.0)
        self.taken: list[Step] = []
        self.killed_by = float("inf")

    @rule(
        begin=st.sampled_from([after_timeout, after_interrupt, after_stop]),
        grace=st.sampled_from([0.0, 1.0, 10.0]),
    )
    def end(self, begin: Callable[[str, float, float], Escalation], grace: float) -> None:
        self.escalate(begin("reason", self.now, grace))

    @rule()
    def end_at_once(self) -> None:
        self.escalate(at_once(Ending(EndingKind.STOPPED, "reason"), self.now))

    @rule(grace=st.sampled_from([0.0, 1.0, 10.0]))
    def say_goodbye(self, grace: float) -> None:
        self.life.said_goodbye = True
        self.escalate(after_goodbye(self.now, grace))

    def escalate(self, escalation: Escalation) -> None:
        self.life.escalate(escalation)
        if Step.KILL not in self.taken:
            self.killed_by = min(self.killed_by, escalation.steps[-1][0])

    @rule(seconds=st.sampled_from([0.0, 0.1, 1.0, 30.0]))
    def look_at_the_clock(self, seconds: float) -> None:
        self.now += seconds
        self.taken += self.life.due_steps(self.now)
        assert self.life.due_steps(self.now) == [], "a step twice"

    @invariant()
    def nobody_lives_longer_than_the_fastest_escalation_allows(self) -> None:
        next_time = self.life.next_time()
        if Step.KILL in self.taken:
            assert next_time is None
        elif self.killed_by < float("inf"):
            assert next_time is not None
            assert next_time <= self.killed_by

    @invariant()
    def nothing_follows_the_kill(self) -> None:
        assert Step.KILL not in self.taken[:-1]

    @invariant()
    def nobody_is_completed_without_a_goodbye_and_a_good_exit(self) -> None:
        for exit in (Exit(code=0), Exit(code=1), Exit(signal=9), Exit(None, 9, True)):
            completed = self.life.ending(exit).kind is EndingKind.COMPLETED
            assert completed == (self.life.said_goodbye and exit.code == 0)

    @invariant()
    def every_ending_says_why(self) -> None:
        assert self.life.ending(Exit(signal=9)).reason


TestAnyLife = AnyLife.TestCase
