"""Histories of runs, told as text."""

from __future__ import annotations

import hashlib
import re
import signal
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from pytest_shardrun import events, notices
from pytest_shardrun.actions import Action, End, FreeLocks, Launch, Send, Stop, TakeLocks, Tell
from pytest_shardrun.lifecycle import Step, after_interrupt, after_stop, at_once
from pytest_shardrun.model import (
    Amount,
    Attempt,
    Ending,
    EndingKind,
    Exit,
    Halt,
    HaltWhen,
    HaltWhy,
    Item,
    LossPolicy,
    Plan,
    Policy,
    Retries,
    ShardPlan,
    Status,
    Unit,
)
from pytest_shardrun.planning.estimates import Durations
from pytest_shardrun.planning.splitters import BUILT_IN, make_plan
from pytest_shardrun.run import Run
from pytest_shardrun.worker import wire

ENDED: Final = Exit(code=0)
SEGFAULT: Final = Exit(signal=int(signal.SIGSEGV))
KILLED: Final = Exit(signal=int(signal.SIGKILL))
REMOVED: Final = Exit(remark="its container was removed", is_lost=True)

FIRST_FAILURE: Final = Stop("stopping after 1 failures", asked=True, escalate=after_stop)
CTRL_C: Final = Stop("interrupted by SIGINT", asked=True, escalate=after_interrupt)
CTRL_C_AGAIN: Final = Stop(
    "interrupted by SIGINT",
    asked=True,
    escalate=lambda reason, now, grace: at_once(Ending(EndingKind.STOPPED, reason), now),
)


def policy(
    *,
    jobs: int = 9,
    shard_timeout: float | None = None,
    shard_timeout_share: float | None = None,
    run_timeout: float | None = None,
    test_timeout: float | None = None,
    slow_every: float | None = None,
    restarts: int | None = None,
    retries: Retries | None = None,
    halts: tuple[Halt, ...] = (),
    steal: bool = True,
) -> Policy:
    return Policy(
        jobs,
        shard_timeout_share=shard_timeout_share,
        test_timeout=test_timeout,
        slow_every=slow_every,
        retries=retries,
        halts=halts,
        shard_timeout=shard_timeout,
        run_timeout=run_timeout,
        grace=10.0,
        restarts=restarts,
        steal=steal,
    )


PATIENT: Final = policy()


class Play:
    """A run whose workers do what a test says, and which tells what it does about that.

    A share is the names of the tests that the plan gives to a shard. Left out of the answers is
    what always happens: the collection's handshake, hello and the start of a test.
    """

    def __init__(
        self,
        *shares: str,
        serial: str = "",
        policy: Policy = PATIENT,
        limits: dict[str, list[float | None]] | None = None,
        measured: bool = False,
        plan_only: bool = False,
        continue_on_collection_errors: bool = False,
    ) -> None:
        self._shares = [share.split() for share in shares]
        self._serial = serial.split()
        self._limits = limits or {}
        self._measured = measured
        self._attempts: dict[int, Attempt] = {}
        self.slots: dict[str, int] = {}
        self._collections: dict[Attempt, list[str]] = {}
        self._hands: dict[Attempt, deque[str]] = {}
        self.now = 0.0
        self.run = Run(
            len(shares),
            policy,
            self._plan,
            plan_only=plan_only,
            continue_on_collection_errors=continue_on_collection_errors,
        )

    def _plan(self, items: Sequence[Item]) -> Plan:
        at = {item.nodeid: position for position, item in enumerate(items)}
        shards = (
            ShardPlan(number, tuple(Unit((at[name],), 1.0) for name in share if name in at))
            for number, share in enumerate(self._shares, start=1)
        )
        return Plan(tuple(shards), tuple(at[name] for name in self._serial), "0f", self._measured)

    # What happens

    def start(self) -> list[str]:
        return self._told(self.run.start(self.now))

    def tells(self, shard: int, event: events.Event) -> list[str]:
        return self._told(self.run.happened(self._attempts[shard], event, self.now))

    def hello(self, shard: int) -> list[str]:
        return self.tells(shard, events.Hello({}))

    def is_collecting(self, shard: int, file: str) -> None:
        """It has said hello and imports a file at this moment."""
        self.hello(shard)
        self.tells(shard, events.Collecting(file))

    def collects(self, shard: int, names: str | None = None, errors: int = 0) -> list[str]:
        """It has collected these tests, or all of them, from a file for each first letter."""
        everything = [*(name for share in self._shares for name in share), *self._serial]
        found = everything if names is None else names.split()
        self._collections[self._attempts[shard]] = found
        digest = hashlib.sha256(" ".join(found).encode()).hexdigest()
        self.hello(shard)
        told = self.tells(shard, events.Collected(len(found), digest, errors))
        if told == [f"list {self._named(self._attempts[shard])}"]:
            rows: list[list[Any]] = [
                [
                    name,
                    "test_it.py",
                    0,
                    name,
                    None,
                    name in self._serial,
                    self._limits.get(name, [None, None]),
                    "",
                ]
                for name in found
            ]
            told = self.tells(shard, events.Collection(rows, [], []))
        return told

    def starts(self, shard: int, name: str) -> list[str]:
        return self.tells(shard, events.Started(self._place(shard, name)))

    def reports(
        self, shard: int, name: str, when: str, outcome: str = "passed", *, xfail: bool = False
    ) -> list[str]:
        event = events.Reported(self._place(shard, name), when, outcome, xfail, {})
        return self.tells(shard, event)

    def finishes(self, shard: int, name: str) -> list[str]:
        hand = self._hands[self._attempts[shard]]
        if name in hand:
            hand.remove(name)
        return self.tells(shard, events.Finished(self._place(shard, name), 1.0))

    def passes(self, shard: int, name: str, outcome: str = "passed") -> list[str]:
        self.starts(shard, name)
        self.reports(shard, name, "setup")
        self.reports(shard, name, "call", outcome)
        self.reports(shard, name, "teardown")
        return self.finishes(shard, name)

    def says_that_passed(self, shard: int, name: str) -> list[str]:
        """All that follows the start of a test in one event."""
        self._hands[self._attempts[shard]].remove(name)
        times = [0.0, 0.0, 0.0]
        event = events.Passed(self._place(shard, name), 1.0, [*times, []], times, times)
        return self.tells(shard, event)

    def runs_its_hand(self, shard: int) -> list[str]:
        """It runs what it was sent and is sent meanwhile, then leaves if it was told to."""
        told: list[str] = []
        hand = self._hands[self._attempts[shard]]
        while hand:
            told += self.passes(shard, hand[0])
        if f"finish {self._named(self._attempts[shard])}" in told:
            told += self.leaves(shard)
        return told

    def says_goodbye(self, shard: int, status: int = 0) -> list[str]:
        told = self.tells(shard, events.Finishing())
        return told + self.tells(shard, events.Goodbye(status, {}))

    def exits(self, shard: int, exit: Exit = ENDED, output: str = "") -> list[str]:
        return self._told(self.run.exited(self._attempts[shard], exit, output, self.now))

    def leaves(self, shard: int) -> list[str]:
        return self.says_goodbye(shard) + self.exits(shard)

    def cannot_start(self, shard: int, reason: str, *, hopeless: bool = False) -> list[str]:
        attempt = self._attempts[shard]
        return self._told(self.run.not_launched(attempt, reason, self.now, hopeless=hopeless))

    def breaks(self, shard: int, reason: str) -> list[str]:
        return self._told(self.run.broke(self._attempts[shard], reason, self.now))

    def stops(self, stop: Stop) -> list[str]:
        return self._told(self.run.stop(stop, self.now))

    def at(self, now: float) -> list[str]:
        """The clock stands at ``now``."""
        self.now = now
        return self._told(self.run.time(now))

    def closes(self) -> list[str]:
        assert self.run.is_over
        return [self._notice(notice) for notice in self.run.close_books()]

    def statuses(self) -> dict[str, str]:
        """What the ledger says about every test."""
        return {
            self.run.items[position].nodeid: entry.status.value
            for position, entry in self.run.ledger.entries()
        }

    # What the run does

    def _told(self, actions: list[Action]) -> list[str]:
        return [text for action in actions if (text := self._text(action))]

    def _text(self, action: Action) -> str:
        match action:
            case TakeLocks(request):
                return f"take {sorted(lock.name for lock in request)}"
            case FreeLocks(names):
                return f"free {sorted(names)}"
            case Launch(attempt, doomed, slot):
                self._attempts[attempt.shard] = attempt
                self.slots[self._named(attempt)] = slot
                self._hands[attempt] = deque()
                without = f" without {' '.join(doomed)}" if doomed else ""
                return f"launch {self._named(attempt)}{without}"
            case Send(attempt, data):
                return self._command(attempt, wire.decode(data))
            case End(attempt, step):
                return f"{step.value} {self._named(attempt)}"
            case Tell(notice):
                return self._notice(notice)

    def _command(self, attempt: Attempt, command: list[Any]) -> str:
        match command:
            case ["run", places, more]:
                names = [self._collections[attempt][place] for place in places]
                self._hands[attempt].extend(names)
                what = " ".join(names) or "nothing"
                return f"run {self._named(attempt)}: {what}{'' if more else ', the last'}"
            case [name]:
                return f"{name} {self._named(attempt)}"
            case _:
                raise AssertionError(command)

    def _notice(self, notice: notices.Notice) -> str:
        match notice:
            case notices.TestTried(done):
                return f"{self._notice(done)}, try {done.number}"
            case notices.Halted():
                return f"halted: {notice.why.value}, {notice.reason}"
            case notices.NoOtherTry(text):
                return f"no other try: {text}"
            case notices.TestDone(_, _, item, status):
                blame = notice.blame
                why = f": {blame.ending.reason} ({blame.phase})" if blame is not None else ""
                after = f" after {len(notice.earlier)}" if notice.earlier else ""
                flaky = ", flaky" if notice.is_flaky else ""
                return f"{item.nodeid} {status.value}{why}{after}{flaky}"
            case notices.TestSlow(_, _, item, seconds, phase, limit):
                return f"{item.nodeid} slow: {seconds:g} s in {phase}, limit {limit}"
            case notices.TestNotRun(_, item, shard, reason, asked):
                return f"{item.nodeid} not run: {shard}, {reason}{', as asked' if asked else ''}"
            case notices.Problem(shard, text, _, internal):
                return f"{'internal ' if internal else ''}problem {shard}: {text}"
            case notices.AttemptEnded(attempt, ending):
                return f"ended {self._named(attempt)}: {ending.reason}"
            case notices.FoundLater(attempt, items):
                names = " ".join(item.nodeid for item in items)
                return f"found later {self._named(attempt)}: {names}"
            case notices.CollectionFailed(count, errors):
                return f"collection failed: {count} tests, {errors} errors"
            case notices.CollectionRefused(messages):
                return f"refused: {', '.join(messages)}"
            case notices.SeenOutsideTests(attempt, event):
                return f"outside {self._named(attempt)}: {type(event).__name__}"
            case notices.Remark(text):
                return f"remark: {text}"
            case notices.StopAskedByTest(kind, reason, returncode):
                return f"asked to {kind}: {reason}, {returncode}"
            case _:
                return ""

    @staticmethod
    def _named(attempt: Attempt) -> str:
        return f"{attempt.shard}.{attempt.number}"

    def _place(self, shard: int, name: str) -> int:
        return self._collections[self._attempts[shard]].index(name)


def begun(
    *shares: str,
    serial: str = "",
    policy: Policy = PATIENT,
    limits: dict[str, list[float | None]] | None = None,
    measured: bool = False,
) -> Play:
    """All shards have collected the same tests."""
    play = Play(*shares, serial=serial, policy=policy, limits=limits, measured=measured)
    play.start()
    for shard in range(1, len(shares) + 1):
        play.collects(shard)
    return play


# A run in which nothing goes wrong


def test_a_shard_is_sent_its_tests_two_ahead_and_then_dismissed() -> None:
    play = Play("a b c")

    assert play.start() == ["launch 1.1"]
    assert play.hello(1) == []
    assert not play.run.is_planned
    assert play.collects(1) == ["run 1.1: a b"]
    assert play.run.is_planned
    assert play.passes(1, "a") == ["a passed", "run 1.1: c, the last"]
    assert play.passes(1, "b") == ["b passed"]
    assert play.passes(1, "c") == ["c passed", "finish 1.1"]
    assert play.says_goodbye(1) == []
    assert not play.run.is_over
    assert play.exits(1) == ["ended 1.1: completed"]
    assert play.run.is_over
    assert play.closes() == []
    assert play.statuses() == {"a": "passed", "b": "passed", "c": "passed"}


def test_a_test_is_told_with_all_that_belongs_to_it_and_nothing_else() -> None:
    play = begun("a b")
    attempt = Attempt(1, 1)
    warned = events.Warned(0, {}, "runtest", "a", None)
    recorded = events.XmlRecorded("a", "name", "value")
    suite = events.XmlRecorded(None, "name", "value")
    of_setup = events.Reported(0, "setup", "passed", xfail=False, data="1")
    of_call = events.Reported(0, "call", "passed", xfail=False, data="2")
    play.starts(1, "a")
    for event in (of_setup, warned, recorded, of_call):
        assert play.tells(1, event) == []
    assert play.tells(1, suite) == ["outside 1.1: XmlRecorded"]

    done = play.run.happened(attempt, events.Finished(0, 2.5), 3.0)[0]

    assert done == Tell(
        notices.TestDone(
            attempt,
            0,
            play.run.items[0],
            Status.PASSED,
            2.5,
            (of_setup, of_call),
            (warned,),
            (recorded,),
        )
    )
    assert play.tells(1, warned) == ["outside 1.1: Warned"]
    assert play.tells(1, of_call) == ["outside 1.1: Reported"]
    assert play.tells(1, recorded) == ["outside 1.1: XmlRecorded"]


def test_one_event_may_tell_that_a_test_has_passed() -> None:
    one, other = Play("a b c"), Play("a b c")
    for play in (one, other):
        play.start()
        play.collects(1)

    told = [one.starts(1, name) + one.says_that_passed(1, name) for name in "abc"]

    for name, said in zip("abc", told, strict=True):
        started = other.starts(1, name)
        other.reports(1, name, "setup")
        other.reports(1, name, "call")
        other.reports(1, name, "teardown")
        assert said == [*started, *other.finishes(1, name)]
    assert one.statuses() == other.statuses() == dict.fromkeys("abc", "passed")


def test_quick_tests_that_passed_are_no_delay() -> None:
    play = Play("a b c d", policy=replace(PATIENT, test_timeout=20.0))
    play.start()
    play.collects(1)
    for now, name in ((12.0, "a"), (24.0, "b"), (36.0, "c")):
        assert play.at(now) == []
        play.starts(1, name)
        play.says_that_passed(1, name)

    assert play.at(48.0) == []


def test_the_plan_is_told_once_with_what_was_collected() -> None:
    play = Play("a", "b")
    play.start()
    rows: list[list[Any]] = [
        ["a", "test_a.py", 3, "a", "g", False, [None, None], "module"],
        ["b", "test_b.py", None, "b", None, True, [None, 3.0], ""],
        ["b", "test_b.py", None, "b", None, True, [None, 3.0], ""],
    ]
    play.hello(1)
    collected = events.Collected(3, "d", 0)
    assert play.run.happened(Attempt(1, 1), collected, 0.0) == [
        Send(Attempt(1, 1), events.LIST_COMMAND)
    ]

    actions = play.run.happened(Attempt(1, 1), events.Collection(rows, ["x"], ["line"]), 0.0)

    assert [action for action in actions if isinstance(action, Tell)] == [
        Tell(
            notices.Planned(
                (
                    Item("a", ("test_a.py", 3, "a"), group="g", scope="module"),
                    Item("b", ("test_b.py", None, "b"), serial=True, foreign_timeout=3.0),
                    Item(
                        "b",
                        ("test_b.py", None, "b"),
                        occurrence=1,
                        serial=True,
                        foreign_timeout=3.0,
                    ),
                ),
                Plan(
                    (
                        ShardPlan(1, (Unit((0,), 1.0),)),
                        ShardPlan(2, (Unit((2,), 1.0),)),
                    ),
                    (),
                    "0f",
                    measured=False,
                ),
                ["x"],
                ["line"],
            )
        ),
        Tell(notices.AttemptCollected(Attempt(1, 1), ["a", "b", "b"])),
    ]
    play.hello(2)
    # The same digest, so the tests themselves need not be sent.
    (joined, sent) = play.run.happened(Attempt(2, 1), collected, 0.0)
    assert joined == Tell(notices.AttemptCollected(Attempt(2, 1), ["a", "b", "b"]))
    assert sent == Send(Attempt(2, 1), events.run_command([2], more=False))


def test_a_test_without_reports_was_not_run() -> None:
    play = begun("a b")
    play.starts(1, "a")

    assert play.finishes(1, "a") == ["a not run", "a not run: 1, its plugins reported nothing"]
    assert play.statuses() == {"a": "not run"}


def test_a_run_without_tests_ends_by_itself() -> None:
    play = Play("", "")
    play.start()

    assert play.collects(1, "") == ["finish 1.1", "kill 2.1"]
    assert play.exits(2, KILLED) == ["ended 2.1: not needed"]
    assert play.leaves(1) == ["ended 1.1: completed"]
    assert play.run.is_over
    assert play.closes() == []


def with_losses(policy: LossPolicy) -> Play:
    """A run that is over; two tests of the only shard have lost a value twice."""
    play = begun("a b", policy=replace(PATIENT, lost_data=policy))
    for name in ("a", "b"):
        play.starts(1, name)
        for when in ("setup", "call"):
            assert play.tells(1, events.Lossy(0, "report.thing", "own.Thing")) == []
            play.reports(1, name, when)
        play.finishes(1, name)
    play.leaves(1)
    return play


def test_values_that_became_text_are_a_problem_of_the_run() -> None:
    (told,) = with_losses(LossPolicy.FAIL).closes()

    assert told == (
        "problem 0: report.thing of type own.Thing cannot be sent between processes and became its "
        "text (a and 1 more test)"
    )


def test_values_that_became_text_may_be_a_remark() -> None:
    (told,) = with_losses(LossPolicy.WARN).closes()

    assert told.startswith("remark: report.thing of type own.Thing cannot be sent")


# Work that moves


def test_a_shard_that_runs_dry_takes_over_what_another_was_not_sent() -> None:
    play = Play("a", "b c d e")
    play.start()
    play.collects(2)
    play.collects(1)

    told = play.passes(1, "a")

    assert told[0] == "a passed"
    assert re.fullmatch("run 1.1: (e d|d e|e|d), the last", told[1])


def test_without_stealing_a_shard_that_runs_dry_leaves() -> None:
    play = begun("a", "b c d e f", policy=policy(steal=False))

    assert play.passes(1, "a") == ["a passed", "finish 1.1"]


def test_an_idle_shard_takes_over_when_a_late_one_joins() -> None:
    play = Play("a", "b c d e")
    play.start()
    play.collects(1)
    play.passes(1, "a")

    assert any(told.startswith("run 1.1: ") for told in play.collects(2))


def test_shards_that_have_nothing_to_do_are_ended_while_they_collect() -> None:
    play = Play("a b", "", "", policy=policy(steal=False))
    play.start()
    play.hello(2)

    assert play.collects(1) == ["run 1.1: a b, the last", "kill 2.1", "kill 3.1"]
    assert play.exits(2, KILLED) == ["ended 2.1: not needed"]
    assert play.exits(3, KILLED) == ["ended 3.1: not needed"]
    assert not play.run.is_over


def test_serial_tests_run_alone_after_all_others() -> None:
    play = begun("a b", "c d", serial="x y z")
    told: list[str] = []
    told += play.passes(1, "a") + play.passes(1, "b")
    told += play.passes(2, "c")

    assert "x" not in " ".join(told)
    assert play.passes(2, "d") == ["d passed", "finish 2.1"]
    assert play.leaves(2) == ["ended 2.1: completed", "run 1.1: x y"]
    assert play.passes(1, "x") == ["x passed", "run 1.1: z, the last"]
    assert play.passes(1, "y") == ["y passed"]
    assert play.passes(1, "z") == ["z passed", "finish 1.1"]
    assert play.leaves(1) == ["ended 1.1: completed"]
    assert play.closes() == []


def test_serial_tests_outlive_the_shard_that_ran_them() -> None:
    play = begun("a", serial="x y z")
    play.passes(1, "a")
    play.starts(1, "x")

    told = play.exits(1, SEGFAULT)

    assert told == [
        "x error: crashed with SIGSEGV (setup)",
        "ended 1.1: crashed with SIGSEGV",
        "launch 1.2",
    ]
    assert play.collects(1) == ["run 1.2: y z, the last"]


# More shards than may run at once


def test_shards_wait_for_a_free_place() -> None:
    play = Play("a", "b", "c", policy=policy(jobs=2, steal=False))

    assert play.start() == ["launch 1.1", "launch 2.1"]
    assert play.collects(1) == ["run 1.1: a, the last"]
    assert play.passes(1, "a") == ["a passed", "finish 1.1"]
    assert play.leaves(1) == ["ended 1.1: completed", "launch 3.1"]
    assert play.collects(2) == ["run 2.1: b, the last"]
    told = play.passes(2, "b")
    told += play.collects(3)
    told += play.passes(3, "c")
    assert set(told) >= {"run 3.1: c, the last", "finish 2.1", "finish 3.1"}
    assert play.leaves(2) == ["ended 2.1: completed"]
    assert play.leaves(3) == ["ended 3.1: completed"]
    assert play.closes() == []


def test_a_shard_that_waited_takes_the_slot_of_one_that_has_left() -> None:
    play = Play("a", "b", "c", "d", policy=policy(jobs=3, steal=False))
    play.start()
    for shard, name in ((2, "b"), (1, "a")):
        play.collects(shard)
        play.passes(shard, name)
    play.leaves(2)

    assert play.slots == {"1.1": 0, "2.1": 1, "3.1": 2, "4.1": 1}


def test_two_that_had_the_same_slot_have_different_ones_when_both_live() -> None:
    play = Play("a", "b", "c", policy=policy(jobs=2, steal=False, retries=Retries(1)))
    play.start()
    for shard, name in enumerate("abc", start=1):
        play.collects(shard)
        play.passes(shard, name, "failed")
        play.leaves(shard)
    assert play.slots == {"1.1": 0, "2.1": 1, "3.1": 0, "1.2": 0, "2.2": 1}

    play.collects(2)
    play.passes(2, "b")
    play.leaves(2)

    assert play.slots["3.2"] == 1


def test_all_attempts_of_a_shard_have_its_slot() -> None:
    play = Play("a", "b c", policy=policy(jobs=2, steal=False))
    play.start()
    play.collects(1)
    play.passes(1, "a")
    play.leaves(1)
    play.collects(2)
    play.starts(2, "b")
    play.exits(2, SEGFAULT)

    assert play.slots == {"1.1": 0, "2.1": 1, "2.2": 1}


def test_a_shard_that_crashed_keeps_its_place() -> None:
    play = Play("a b", "c d", policy=policy(jobs=1, steal=False))
    play.start()
    play.collects(1)
    play.starts(1, "a")

    assert play.exits(1, SEGFAULT)[-1] == "launch 1.2"


def test_a_place_that_becomes_free_for_ever_goes_to_a_waiting_shard() -> None:
    play = Play("a b", "c d", policy=policy(jobs=1))
    play.start()
    play.collects(1)

    assert play.exits(1, SEGFAULT) == [
        "problem 1: shard 1 crashed with SIGSEGV before its first test",
        "ended 1.1: crashed with SIGSEGV",
        "launch 2.1",
    ]
    assert play.collects(2) == ["run 2.1: c d"]
    assert play.runs_its_hand(2)[-1] == "ended 2.1: completed"
    assert play.closes() == []
    assert set(play.statuses().values()) == {"passed"}


def test_a_waiting_shard_whose_tests_are_done_is_never_launched() -> None:
    play = Play("a b", "", policy=policy(jobs=1))
    play.start()
    play.collects(1)

    assert play.runs_its_hand(1)[-1] == "ended 1.1: completed"
    assert play.run.is_over


# Crashes


def test_a_crash_is_the_running_test_s_and_the_rest_goes_on_in_the_next_attempt() -> None:
    play = begun("a b c")
    play.passes(1, "a")
    play.starts(1, "b")
    play.reports(1, "b", "setup")

    told = play.exits(1, SEGFAULT, "Fatal Python error")

    assert told == [
        "b failed: crashed with SIGSEGV (call)",
        "ended 1.1: crashed with SIGSEGV",
        "launch 1.2",
    ]
    assert play.collects(1) == ["run 1.2: c, the last"]
    assert play.passes(1, "c") == ["c passed", "finish 1.2"]
    assert play.leaves(1) == ["ended 1.2: completed"]
    assert play.closes() == []
    assert play.statuses() == {"a": "passed", "b": "failed", "c": "passed"}


@pytest.mark.parametrize(
    ("reports", "expected"),
    [
        ([], "error: crashed with SIGSEGV (setup)"),
        ([("setup", "passed")], "failed: crashed with SIGSEGV (call)"),
        ([("setup", "passed"), ("call", "passed")], "error: crashed with SIGSEGV (teardown)"),
        ([("setup", "passed"), ("call", "skipped")], "error: crashed with SIGSEGV (teardown)"),
        # That it had failed by itself is the better news.
        ([("setup", "passed"), ("call", "failed")], "failed: crashed with SIGSEGV (teardown)"),
        ([("setup", "failed")], "failed: crashed with SIGSEGV (call)"),
    ],
)
def test_the_phase_in_which_the_process_died_decides_the_status(
    reports: list[tuple[str, str]], expected: str
) -> None:
    play = begun("a b")
    play.starts(1, "a")
    for when, outcome in reports:
        play.reports(1, "a", when, outcome)

    assert play.exits(1, SEGFAULT)[0] == f"a {expected}"


@pytest.mark.parametrize(
    ("exit", "reason"),
    [
        (Exit(code=0), "crashed with exit code 0"),
        (Exit(code=3), "crashed with exit code 3"),
        (Exit(signal=int(signal.SIGKILL)), "crashed with SIGKILL"),
        (Exit(signal=int(signal.SIGKILL), out_of_memory=True), "out of memory"),
    ],
)
def test_every_way_of_dying_is_a_crash_with_its_name(exit: Exit, reason: str) -> None:
    play = begun("a b")
    play.starts(1, "a")

    assert play.exits(1, exit)[:2] == [f"a error: {reason} (setup)", f"ended 1.1: {reason}"]


def test_the_blame_carries_what_the_process_wrote_last_and_the_time() -> None:
    play = begun("a b")
    play.now = 5.0
    play.starts(1, "a")
    report = events.Reported(0, "setup", "passed", xfail=False, data={})
    play.tells(1, report)

    done = play.run.exited(Attempt(1, 1), SEGFAULT, "the end", 7.5)[0]

    assert done == Tell(
        notices.TestDone(
            Attempt(1, 1),
            0,
            play.run.items[0],
            Status.FAILED,
            2.5,
            (report,),
            blame=notices.Blame(
                Ending(EndingKind.CRASHED, "crashed with SIGSEGV"), "call", "the end"
            ),
        )
    )


def test_every_test_may_crash() -> None:
    play = Play("a b c")
    play.start()
    for name in "abc":
        play.collects(1)
        play.starts(1, name)
        told = play.exits(1, SEGFAULT)

    assert told == ["c error: crashed with SIGSEGV (setup)", "ended 1.3: crashed with SIGSEGV"]
    assert play.run.is_over
    assert play.closes() == []
    assert set(play.statuses().values()) == {"error"}


@pytest.mark.parametrize(("seconds", "crashes"), [(0.1, 100), (1.0, 60), (10.0, 40)])
def test_a_shard_that_does_nothing_but_die_for_a_minute_is_given_up(
    seconds: float, crashes: int
) -> None:
    names = [f"t{number}" for number in range(100)]
    play = Play(" ".join(names))
    play.start()
    for name in names[:crashes]:
        play.collects(1)
        play.starts(1, name)
        play.now += seconds
        play.exits(1, SEGFAULT)

    assert play.run.is_over
    play.closes()
    assert list(play.statuses().values()).count("error") == crashes


def test_a_crash_between_two_tests_is_nobody_s_and_the_run_goes_on() -> None:
    play = begun("a b")
    play.passes(1, "a")

    assert play.exits(1, SEGFAULT) == [
        "problem 1: shard 1 crashed with SIGSEGV between two tests",
        "ended 1.1: crashed with SIGSEGV",
        "launch 1.2",
    ]
    assert play.collects(1) == ["run 1.2: b, the last"]


def test_a_crash_after_the_last_test_is_a_problem_of_the_run() -> None:
    play = begun("a")
    assert play.passes(1, "a") == ["a passed", "finish 1.1"]
    play.tells(1, events.Finishing())

    assert play.exits(1, SEGFAULT) == [
        "problem 1: shard 1 crashed with SIGSEGV after its last test, while the session finished",
        "ended 1.1: crashed with SIGSEGV",
    ]
    assert play.run.is_over


def test_a_crash_of_an_attempt_that_got_nowhere_ends_the_effort() -> None:
    play = begun("a b")

    assert play.exits(1, SEGFAULT) == [
        "problem 1: shard 1 crashed with SIGSEGV before its first test",
        "ended 1.1: crashed with SIGSEGV",
    ]
    assert play.closes() == [
        "a not run: 1, shard 1 crashed with SIGSEGV before its first test",
        "b not run: 1, shard 1 crashed with SIGSEGV before its first test",
    ]
    assert play.statuses() == {"a": "not run", "b": "not run"}


def test_others_take_over_from_a_shard_that_is_given_up() -> None:
    play = begun("a b c", "d e f")

    told = play.exits(1, SEGFAULT)

    assert told[0] == "problem 1: shard 1 crashed with SIGSEGV before its first test"
    told = play.runs_its_hand(2)
    assert told[-1] == "ended 2.1: completed"
    assert play.closes() == []
    assert play.statuses() == dict.fromkeys("abcdef", "passed")


def test_without_stealing_nobody_takes_over_from_a_shard_that_is_given_up() -> None:
    play = begun("a b", "c", policy=policy(steal=False))
    play.exits(1, SEGFAULT)
    play.exits(2, Exit(code=3))

    assert play.closes() == [
        "a not run: 1, shard 1 crashed with SIGSEGV before its first test",
        "b not run: 1, shard 1 crashed with SIGSEGV before its first test",
        "c not run: 2, shard 2 crashed with exit code 3 before its first test",
    ]


def test_the_number_of_restarts_is_that_of_the_whole_run() -> None:
    play = begun("a b c", "d e f", policy=policy(restarts=1, steal=False))
    play.starts(1, "a")
    assert play.exits(1, SEGFAULT)[-1] == "launch 1.2"
    play.starts(2, "d")

    assert play.exits(2, SEGFAULT) == [
        "d error: crashed with SIGSEGV (setup)",
        "ended 2.1: crashed with SIGSEGV",
    ]
    play.collects(1)
    play.runs_its_hand(1)
    reason = "shard 2 crashed with SIGSEGV, and --shard-restarts allows no more"
    assert play.closes() == [f"e not run: 2, {reason}", f"f not run: 2, {reason}"]


def test_no_restart_at_all() -> None:
    play = begun("a b", policy=policy(restarts=0))
    play.starts(1, "a")

    assert play.exits(1, SEGFAULT) == [
        "a error: crashed with SIGSEGV (setup)",
        "ended 1.1: crashed with SIGSEGV",
    ]
    reason = "shard 1 crashed with SIGSEGV, and --shard-restarts allows no more"
    assert play.closes() == [f"b not run: 1, {reason}"]


def test_an_attempt_that_cannot_be_launched_is_not_tried_again() -> None:
    play = Play("a", "b")
    play.start()

    assert play.cannot_start(1, "no such image") == [
        "problem 1: shard 1 no such image",
        "ended 1.1: no such image",
    ]
    assert play.collects(2) == ["run 2.1: b a, the last"]


def test_a_run_in_which_nothing_can_be_launched_is_over() -> None:
    play = Play("a", "b")
    play.start()
    play.cannot_start(1, "no such image")
    play.cannot_start(2, "no such image")

    assert play.run.is_over
    assert play.run.is_planned
    assert play.closes() == []


def test_a_stream_that_broke_ends_its_attempt_at_once() -> None:
    play = begun("a b")
    play.starts(1, "a")

    assert play.breaks(1, "its stream broke: not an event: b'?'") == ["kill 1.1"]
    assert play.exits(1, KILLED) == [
        "a error: crashed: its stream broke: not an event: b'?' (setup)",
        "ended 1.1: crashed: its stream broke: not an event: b'?'",
        "launch 1.2",
    ]


@pytest.mark.parametrize(
    "event",
    [
        events.Started(7),
        events.Started(-1),
        events.Finished(0, 1.0),
        events.Collection([["a", "b"]], [], []),
    ],
    ids=["unknown place", "negative place", "not begun", "rows of another shape"],
)
def test_an_event_that_cannot_be_ends_its_attempt_and_not_the_run(event: events.Event) -> None:
    play = begun("a b")

    assert play.tells(1, event) == ["kill 1.1"]


# Deaths while collecting


def test_what_killed_a_process_while_it_was_imported_fails_in_the_next_attempts() -> None:
    play = Play("a")
    play.start()
    play.is_collecting(1, "test_x.py")

    assert play.exits(1, SEGFAULT) == [
        "ended 1.1: crashed with SIGSEGV",
        "launch 1.2 without test_x.py",
    ]
    play.is_collecting(1, "test_y.py")
    assert play.exits(1, SEGFAULT) == [
        "ended 1.2: crashed with SIGSEGV",
        "launch 1.3 without test_x.py test_y.py",
    ]


def test_the_reason_of_the_death_is_what_the_doomed_collector_reports() -> None:
    play = Play("a")
    play.start()
    play.is_collecting(1, "test_x.py")

    actions = play.run.exited(Attempt(1, 1), SEGFAULT, "the stack", 0.0)

    assert actions[-1] == Launch(
        Attempt(1, 2),
        {"test_x.py": "shard 1 crashed with SIGSEGV while importing test_x.py\n\nthe stack"},
        slot=0,
    )


def test_a_death_while_collecting_costs_no_restart() -> None:
    play = Play("a b", policy=policy(restarts=0))
    play.start()
    play.is_collecting(1, "test_x.py")

    assert play.exits(1, SEGFAULT)[-1] == "launch 1.2 without test_x.py"


def test_shards_that_die_of_the_same_file_learn_of_it_together() -> None:
    play = Play("a", "b")
    play.start()
    play.is_collecting(1, "test_x.py")
    play.is_collecting(2, "test_x.py")

    assert play.exits(1, SEGFAULT)[-1] == "launch 1.2 without test_x.py"
    assert play.exits(2, SEGFAULT)[-1] == "launch 2.2 without test_x.py"


def test_a_shard_that_dies_although_the_file_is_not_imported_is_given_up() -> None:
    play = Play("a")
    play.start()
    play.is_collecting(1, "test_x.py")
    play.exits(1, SEGFAULT)
    play.is_collecting(1, "test_x.py")

    assert play.exits(1, SEGFAULT) == [
        "problem 1: shard 1 attempt 2 crashed with SIGSEGV while collecting test_x.py",
        "ended 1.2: crashed with SIGSEGV",
    ]
    assert play.run.is_over


@pytest.mark.parametrize(
    ("has_said_hello", "where"), [(False, "before pytest had started"), (True, "while collecting")]
)
def test_a_death_that_nothing_is_to_blame_for_ends_the_effort(
    has_said_hello: bool, where: str
) -> None:
    play = Play("a")
    play.start()
    if has_said_hello:
        play.hello(1)

    assert play.exits(1, Exit(code=1)) == [
        f"problem 1: shard 1 crashed with exit code 1 {where}",
        "ended 1.1: crashed with exit code 1",
    ]
    assert play.run.is_over


def test_a_hang_while_collecting_dooms_the_file_as_well() -> None:
    play = Play("a", policy=policy(shard_timeout=60.0))
    play.start()
    play.is_collecting(1, "test_x.py")

    assert play.at(60.0) == ["stacks 1.1"]
    assert play.exits(1, KILLED) == [
        "ended 1.1: timed out after 60 s (--shard-timeout)",
        "launch 1.2 without test_x.py",
    ]


# Collection errors


def test_collection_errors_end_the_run_as_pytest_s_own_do() -> None:
    play = Play("a", "b")
    play.start()
    play.hello(2)

    assert play.collects(1, "a", errors=2) == [
        "collection failed: 1 tests, 2 errors",
        "stop 1.1",
        "kill 2.1",
    ]
    assert play.exits(2, KILLED) == ["ended 2.1: interrupted by collection errors"]
    assert play.leaves(1) == ["ended 1.1: completed"]
    assert play.run.is_over
    assert play.closes() == []


def test_a_shard_that_alone_cannot_collect_is_given_up() -> None:
    play = Play("a", "b")
    play.start()
    play.collects(1)

    assert play.collects(2, "a", errors=1) == []
    assert play.leaves(2) == ["ended 2.1: completed", "run 1.1: b, the last"]
    play.runs_its_hand(1)
    assert play.closes() == []
    assert play.statuses() == {"a": "passed", "b": "passed"}


def test_the_run_goes_on_in_spite_of_collection_errors_if_that_was_asked_for() -> None:
    play = Play("a b", continue_on_collection_errors=True)
    play.start()

    assert play.collects(1, "a b", errors=1) == ["run 1.1: a b, the last"]


def test_a_refusal_of_the_arguments_ends_the_run_at_once() -> None:
    play = Play("a", "b")
    play.start()
    play.hello(1)

    assert play.tells(1, events.UsageRefused(["no such file"])) == [
        "refused: no such file",
        "kill 1.1",
        "kill 2.1",
    ]
    assert play.exits(1, KILLED) == ["ended 1.1: pytest refused the arguments"]
    assert play.exits(2, KILLED) == ["ended 2.1: pytest refused the arguments"]
    assert play.run.is_over


def test_a_refusal_after_the_plan_was_made_leaves_nobody_green() -> None:
    play = Play("a", "b", policy=policy(jobs=1, steal=False))
    play.start()
    play.collects(1)
    play.runs_its_hand(1)
    play.hello(2)

    play.tells(2, events.UsageRefused(["no such file"]))

    play.exits(2, KILLED)
    (told,) = play.closes()
    assert told.startswith("b not run: 2, ")
    assert "as asked" not in told


# Different collections


def test_a_test_is_sent_only_to_shards_that_have_it() -> None:
    play = Play("a b", "c d")
    play.start()
    play.collects(1)

    assert play.collects(2, "c b") == ["run 2.1: c, the last"]
    assert play.passes(1, "a") == ["a passed", "run 1.1: d, the last"]
    assert play.passes(2, "c") == ["c passed"]
    assert play.passes(1, "b") == ["b passed"]
    assert play.passes(1, "d") == ["d passed", "finish 1.1", "finish 2.1"]


def test_a_test_that_no_shard_can_run_any_more_is_named() -> None:
    play = begun("a b")
    play.starts(1, "a")
    play.exits(1, SEGFAULT)

    told = play.collects(1, "a")

    assert told == ["finish 1.2"]
    play.leaves(1)
    assert play.closes() == ["b not run: 0, no shard collected it that could run it"]


def test_what_one_shard_finds_in_addition_it_runs_itself() -> None:
    play = Play("a", "b")
    play.start()
    play.collects(1)

    told = play.collects(2, "b c d")

    assert told[0] == "found later 2.1: c d"
    told += play.runs_its_hand(2)
    play.runs_its_hand(1)
    assert {"c passed", "d passed"} <= set(told)
    assert play.statuses() == dict.fromkeys("abcd", "passed")


def test_a_shard_that_collects_in_another_order_runs_the_right_tests() -> None:
    play = Play("a b", "c d")
    play.start()
    play.collects(1, "a b c d")

    assert play.collects(2, "d c b a") == ["run 2.1: c d, the last"]
    assert play.passes(2, "c")[0] == "c passed"


# Timeouts


def test_a_timeout_climbs_from_the_stacks_to_the_kill() -> None:
    play = begun("a b", policy=policy(shard_timeout=60.0))
    play.starts(1, "a")
    play.reports(1, "a", "setup")

    assert play.run.next_time() == 60.0
    assert play.at(59.9) == []
    assert play.at(60.0) == ["stacks 1.1"]
    assert play.run.next_time() == 60.5
    assert play.at(60.4) == []
    assert play.at(60.5) == ["terminate 1.1"]
    assert play.run.next_time() == 70.5
    assert play.at(70.4) == []
    assert play.at(70.5) == ["kill 1.1"]
    assert play.run.next_time() is None
    assert play.at(99.0) == []
    assert play.exits(1, KILLED, "stacks") == [
        "a failed: timed out after 60 s (--shard-timeout) (call)",
        "ended 1.1: timed out after 60 s (--shard-timeout)",
        "launch 1.2",
    ]
    assert play.run.next_time() == 99.0 + 60.0


def test_a_process_that_ends_when_it_is_asked_to_is_not_killed() -> None:
    play = begun("a", policy=policy(shard_timeout=60.0))
    play.starts(1, "a")
    play.at(60.0)
    play.at(60.5)

    assert play.exits(1, Exit(signal=int(signal.SIGTERM))) == [
        "a error: timed out after 60 s (--shard-timeout) (setup)",
        "ended 1.1: timed out after 60 s (--shard-timeout)",
    ]
    assert play.run.is_over


def test_a_late_look_at_the_clock_takes_all_steps_that_are_due() -> None:
    play = begun("a", policy=policy(shard_timeout=60.0))
    play.starts(1, "a")
    play.at(60.0)

    assert play.at(200.0) == ["terminate 1.1", "kill 1.1"]


def test_a_timeout_that_came_to_nothing_is_forgotten() -> None:
    play = begun("a", policy=policy(shard_timeout=60.0))
    play.starts(1, "a")
    play.at(60.0)

    assert play.finishes(1, "a")[-1] == "finish 1.1"
    assert play.leaves(1) == ["ended 1.1: completed"]


def test_a_shard_that_waits_for_others_is_given_more_time() -> None:
    play = begun("a", "b", policy=policy(shard_timeout=60.0))
    play.starts(2, "b")
    play.passes(1, "a")

    assert play.at(60.0) == ["stacks 2.1"]
    assert play.run.next_time() == 60.5


def test_a_shard_that_does_not_begin_what_it_was_sent_times_out() -> None:
    play = begun("a b", policy=policy(shard_timeout=60.0))

    assert play.at(60.0) == ["stacks 1.1"]


def test_a_shard_that_stops_between_two_tests_times_out_and_nobody_is_blamed() -> None:
    play = begun("a b c", policy=policy(test_timeout=20.0))
    assert play.passes(1, "a") == ["a passed", "run 1.1: c, the last"]
    play.now = 7.0
    assert play.passes(1, "b") == ["b passed"]

    assert play.run.next_time() == 7.0 + 25.0
    assert play.at(31.9) == []
    assert play.at(32.0) == ["stacks 1.1"]
    # It was only slow, but its successor will run this test.
    assert play.starts(1, "c") == []
    assert play.reports(1, "c", "setup") == []
    reason = "did not go on for 25 s (--shard-test-timeout)"
    assert play.exits(1, KILLED) == [
        f"problem 1: shard 1 {reason} between two tests",
        f"ended 1.1: {reason}",
        "launch 1.2",
    ]


def test_a_shard_that_must_wait_for_its_next_test_has_all_the_time() -> None:
    play = begun("a", "b", policy=policy(test_timeout=20.0))
    play.passes(1, "a")
    play.starts(2, "b")

    assert play.run.next_time() == 10.0
    play.at(19.9)
    play.finishes(2, "b")
    play.leaves(1)
    assert play.leaves(2) == ["ended 2.1: completed"]


def test_the_limit_of_a_mark_holds_for_the_way_to_its_test_too() -> None:
    play = begun("a b c d", limits={"b": [3.0, None]})
    play.passes(1, "a")

    assert play.run.next_time() == 8.0
    assert play.at(8.0) == ["stacks 1.1"]


def test_a_shard_that_stops_after_its_last_test_times_out() -> None:
    play = begun("a", policy=policy(test_timeout=20.0))
    assert play.passes(1, "a") == ["a passed", "finish 1.1"]

    assert play.at(59.0) == []
    assert play.at(60.0) == ["stacks 1.1"]


def test_the_end_of_a_session_takes_a_minute_where_tests_have_a_limit() -> None:
    play = begun("a", policy=policy(test_timeout=20.0))
    play.passes(1, "a")
    play.now = 9.0
    play.tells(1, events.Finishing())

    assert play.at(68.0) == []
    assert play.at(69.0) == ["stacks 1.1"]
    reason = "did not go on for 60 s (--shard-test-timeout)"
    assert play.exits(1, KILLED) == [
        f"problem 1: shard 1 {reason} after its last test, while the session finished",
        f"ended 1.1: {reason}",
    ]


def test_a_shard_that_does_not_leave_when_it_was_dismissed_times_out() -> None:
    play = begun("a", policy=policy(shard_timeout=60.0))
    assert play.passes(1, "a") == ["a passed", "finish 1.1"]

    assert play.at(60.0) == ["stacks 1.1"]


def test_the_end_of_a_session_may_time_out_too() -> None:
    play = begun("a", policy=policy(shard_timeout=60.0))
    play.passes(1, "a")
    play.tells(1, events.Finishing())

    assert play.at(60.0) == ["stacks 1.1"]
    reason = "timed out after 60 s (--shard-timeout)"
    assert play.exits(1, KILLED) == [
        f"problem 1: shard 1 {reason} after its last test, while the session finished",
        f"ended 1.1: {reason}",
    ]


def test_a_run_that_takes_too_long_ends_with_the_stacks_of_all_shards() -> None:
    play = begun("a b", "c d", policy=policy(run_timeout=60.0))
    play.starts(1, "a")
    play.starts(2, "c")

    reason = "the run timed out after 60 s (--shard-run-timeout)"
    assert play.run.next_time() == 60.0
    assert play.at(60.0) == [f"problem 0: {reason}", "stacks 1.1", "stacks 2.1"]
    assert play.at(60.5) == ["terminate 1.1", "terminate 2.1"]
    assert play.at(70.5) == ["kill 1.1", "kill 2.1"]
    assert play.exits(1, KILLED) == [f"a error: {reason} (setup)", f"ended 1.1: {reason}"]
    assert play.exits(2, KILLED) == [f"c error: {reason} (setup)", f"ended 2.1: {reason}"]
    assert play.run.is_over
    assert play.closes() == [f"b not run: 1, {reason}", f"d not run: 2, {reason}"]


# The end of an attempt


def test_a_goodbye_without_running_is_no_completion() -> None:
    play = begun("a b", "c d", policy=policy(steal=False))

    assert play.leaves(1) == ["ended 1.1: completed"]
    play.runs_its_hand(2)
    reason = "shard 1 ended without running all of its tests"
    assert play.closes() == [f"{name} not run: 1, {reason}" for name in "ab"]


def test_a_goodbye_in_the_middle_of_a_test_is_no_completion() -> None:
    play = begun("a b")
    play.starts(1, "a")

    assert play.leaves(1) == [
        "a error: crashed with exit code 0 (setup)",
        "ended 1.1: crashed with exit code 0",
        "launch 1.2",
    ]


def test_a_goodbye_before_anything_was_collected_makes_the_run_red() -> None:
    play = Play("a")
    play.start()
    play.hello(1)

    assert any(told.startswith("problem 1: ") for told in play.leaves(1))


@pytest.mark.parametrize("exit", [Exit(code=1), SEGFAULT], ids=str)
def test_a_bad_end_after_the_goodbye_is_a_problem_of_the_run(exit: Exit) -> None:
    play = begun("a")
    play.passes(1, "a")
    play.says_goodbye(1)

    reason = f"crashed with {exit} while the interpreter ended"
    assert play.exits(1, exit) == [
        f"problem 1: shard 1 {reason} after its goodbye",
        f"ended 1.1: {reason}",
    ]
    assert play.run.is_over
    assert play.closes() == []


def test_an_interpreter_that_does_not_end_after_its_goodbye_is_ended() -> None:
    play = begun("a", policy=policy(shard_timeout=60.0))
    play.passes(1, "a")
    play.now = 5.0
    play.says_goodbye(1)

    assert play.run.next_time() == 15.0
    assert play.at(15.0) == ["stacks 1.1"]
    assert play.at(15.5) == ["terminate 1.1"]
    assert play.at(25.5) == ["kill 1.1"]
    reason = "did not exit in 10 s"
    assert play.exits(1, KILLED) == [
        f"problem 1: shard 1 {reason} after its goodbye",
        f"ended 1.1: {reason}",
    ]


def test_an_interpreter_that_took_long_to_start_may_take_as_long_to_end() -> None:
    play = Play("a", policy=policy(shard_timeout=600.0))
    play.start()
    play.now = 40.0
    play.collects(1)
    play.passes(1, "a")
    play.now = 50.0
    play.says_goodbye(1)

    assert play.at(89.0) == []
    assert play.at(90.0) == ["stacks 1.1"]
    assert play.at(90.5) == ["terminate 1.1"]
    assert play.at(100.5) == ["kill 1.1"]
    assert play.exits(1, KILLED)[-1] == "ended 1.1: did not exit in 40 s"


def test_what_keeps_every_shard_from_starting_is_told_once() -> None:
    play = Play("a", "b", "c", policy=policy(jobs=2))
    play.start()

    assert play.cannot_start(1, "no pytest", hopeless=True) == [
        "problem 1: shard 1 no pytest",
        "ended 1.1: no pytest",
        "kill 2.1",
    ]
    assert play.cannot_start(2, "no pytest", hopeless=True) == ["ended 2.1: no pytest"]
    assert play.run.is_over


# Attempts that were lost from outside


LOST: Final = "lost: its container was removed"


def test_who_ran_when_an_attempt_was_lost_is_tried_once_more_in_the_next() -> None:
    play = begun("a b c")
    play.passes(1, "a")
    play.starts(1, "b")
    play.reports(1, "b", "setup")

    assert play.exits(1, REMOVED) == [
        f"remark: b ran when shard 1 was {LOST}; it is tried again",
        f"ended 1.1: {LOST}",
        "launch 1.2",
    ]
    assert play.collects(1) == ["run 1.2: b c, the last"]
    play.runs_its_hand(1)
    assert play.run.is_over
    assert play.closes() == []
    assert play.statuses() == dict.fromkeys("abc", "passed")


def test_who_runs_when_an_attempt_is_lost_for_the_second_time_is_blamed() -> None:
    play = begun("a b")
    play.starts(1, "a")
    play.exits(1, REMOVED)
    play.collects(1)
    play.starts(1, "a")
    play.reports(1, "a", "setup")

    assert play.exits(1, REMOVED) == [
        f"a failed: {LOST}, for the second time while it ran (call)",
        f"ended 1.2: {LOST}",
        "launch 1.3",
    ]
    play.collects(1)
    play.runs_its_hand(1)
    assert play.statuses() == {"a": "failed", "b": "passed"}


def test_who_was_suspected_once_and_crashes_the_next_time_is_blamed_for_the_crash() -> None:
    play = begun("a")
    play.starts(1, "a")
    play.exits(1, REMOVED)
    play.collects(1)
    play.starts(1, "a")

    assert play.exits(1, SEGFAULT)[0] == "a error: crashed with SIGSEGV (setup)"


def test_all_that_ran_when_everything_was_lost_at_once_are_tried_again() -> None:
    play = begun("a b", "c d")
    play.starts(1, "a")
    play.starts(2, "c")

    assert play.exits(1, REMOVED)[-1] == "launch 1.2"
    assert play.exits(2, REMOVED)[-1] == "launch 2.2"
    for shard in (1, 2):
        play.collects(shard)
    told = play.runs_its_hand(1) + play.runs_its_hand(2)
    assert {f"{name} passed" for name in "abcd"} <= set(told)
    assert not any(each.startswith("problem") for each in told)


def test_a_suspect_that_cannot_be_tried_again_is_not_run_and_says_how_it_was_lost() -> None:
    play = begun("a b")
    play.starts(1, "a")
    play.exits(1, REMOVED)

    assert play.cannot_start(1, "no daemon answers")[-1] == "ended 1.2: no daemon answers"
    reason = "shard 1 attempt 2 no daemon answers before pytest had started"
    assert play.closes() == [
        f"a not run: 1, {LOST}, and not tried again: {reason}",
        f"b not run: 1, {reason}",
    ]


def test_a_suspect_of_a_shard_without_restarts_goes_to_another() -> None:
    play = begun("a b", "c", policy=policy(restarts=0))
    play.starts(1, "a")
    play.exits(1, REMOVED)

    play.runs_its_hand(2)

    assert play.closes() == []
    assert play.statuses() == dict.fromkeys("abc", "passed")


def test_a_shard_is_lost_twice_before_it_has_done_anything_and_given_up() -> None:
    play = Play("a")
    play.start()
    play.is_collecting(1, "test_it.py")

    assert play.exits(1, REMOVED) == [f"ended 1.1: {LOST}", "launch 1.2"]
    play.is_collecting(1, "test_it.py")
    reason = f"shard 1 attempt 2 {LOST} while collecting test_it.py"
    assert play.exits(1, REMOVED) == [f"problem 1: {reason}", f"ended 1.2: {LOST}"]
    assert play.run.is_over


def test_what_was_lost_in_the_end_of_its_session_is_a_problem_of_the_run() -> None:
    play = begun("a")
    play.passes(1, "a")
    play.tells(1, events.Finishing())

    assert play.exits(1, REMOVED) == [
        f"problem 1: shard 1 {LOST} after its last test, while the session finished",
        f"ended 1.1: {LOST}",
    ]


def test_a_limit_that_was_reached_counts_more_than_the_loss_that_followed() -> None:
    play = begun("a", policy=policy(test_timeout=5.0))
    play.starts(1, "a")
    play.at(5.0)

    assert play.exits(1, REMOVED)[0].startswith("a error: timed out after 5 s")


def test_a_failed_test_whose_next_try_was_lost_is_tried_again() -> None:
    play = begun("a", policy=policy(retries=Retries(1)))
    play.passes(1, "a", "failed")
    play.leaves(1)
    play.collects(1)
    play.starts(1, "a")
    play.exits(1, REMOVED)
    play.collects(1)

    assert "a passed after 1, flaky" in play.passes(1, "a")


def test_what_plugins_want_the_controller_to_have_comes_with_the_end() -> None:
    play = begun("a")
    play.passes(1, "a")
    play.tells(1, events.Goodbye(0, {"cov": 1}))

    told = play.run.exited(Attempt(1, 1), ENDED, "", 4.0)

    completed = Ending(EndingKind.COMPLETED, "completed")
    assert told == [Tell(notices.AttemptEnded(Attempt(1, 1), completed, {"cov": 1}, 4.0))]


def test_what_comes_from_an_older_attempt_is_dropped() -> None:
    play = begun("a b")
    old = Attempt(1, 1)
    play.starts(1, "a")
    play.exits(1, SEGFAULT)
    play.collects(1)
    play.starts(1, "b")

    assert play.run.happened(old, events.Finished(1, 1.0), 0.0) == []
    assert play.run.happened(old, events.InternalError("late"), 0.0) == []
    assert play.run.broke(old, "late", 0.0) == []
    assert play.run.exited(old, SEGFAULT, "", 0.0) == []
    assert play.finishes(1, "b")[0] == "b not run"
    assert play.leaves(1)[-1] == "ended 1.2: completed"


# What breaks out of tests


def test_a_keyboard_interrupt_in_a_test_is_that_test_s() -> None:
    play = begun("a b")
    play.starts(1, "a")
    play.reports(1, "a", "setup")
    play.tells(1, events.Interrupted("KeyboardInterrupt in test_a"))

    told = play.leaves(1)

    assert told == [
        "a failed: crashed with KeyboardInterrupt (call)",
        "ended 1.1: crashed with KeyboardInterrupt",
        "launch 1.2",
    ]


def test_an_internal_error_during_a_test_is_that_test_s() -> None:
    play = begun("a b")
    play.starts(1, "a")
    play.tells(1, events.InternalError("a plugin broke"))
    play.says_goodbye(1, status=3)

    done = play.run.exited(Attempt(1, 1), ENDED, "output", 0.0)[0]

    assert isinstance(done, Tell)
    assert isinstance(done.notice, notices.TestDone)
    assert done.notice.status is Status.ERROR
    assert done.notice.blame == notices.Blame(
        Ending(EndingKind.CRASHED, "crashed with internal error"),
        "setup",
        "a plugin broke\noutput",
        internal=True,
    )


def test_an_internal_error_outside_tests_is_a_problem_of_the_run() -> None:
    play = begun("a")
    play.passes(1, "a")
    play.tells(1, events.InternalError("a plugin broke"))
    play.says_goodbye(1, status=3)

    told = play.run.exited(Attempt(1, 1), ENDED, "output", 0.0)

    assert told[0] == Tell(
        notices.Problem(
            1, "shard 1 crashed with internal error after its goodbye", "a plugin broke", True
        )
    )


def test_pytest_exit_ends_the_run() -> None:
    play = begun("a b", "c d")
    play.starts(2, "c")
    play.starts(1, "a")

    assert play.tells(1, events.ExitAsked("enough", 7)) == [
        "asked to exit: enough, 7",
        "stop 1.1",
        "stop 2.1",
    ]
    assert play.leaves(1) == ["ended 1.1: completed"]
    assert play.finishes(2, "c")[0] == "c not run"
    play.leaves(2)
    assert play.closes() == [
        f"{name} not run: {shard}, pytest.exit: enough, as asked"
        for name, shard in (("a", 1), ("b", 1), ("d", 2))
    ]


@pytest.mark.parametrize("kind", ["stop", "fail"])
def test_a_test_may_ask_to_stop_the_session(kind: str) -> None:
    play = begun("a b", "c d")
    play.passes(1, "a", "failed")

    assert play.tells(1, events.StopAsked(kind, "enough")) == [
        f"asked to {kind}: enough, None",
        "stop 1.1",
        "stop 2.1",
    ]


# Other tries

TWICE: Final = policy(retries=Retries(2))


def test_a_failed_test_is_tried_again_in_a_fresh_process_after_the_rest() -> None:
    play = begun("a b", "c d", policy=policy(retries=Retries(2), steal=False))

    assert play.passes(1, "a", "failed") == ["a failed, try 1"]
    assert play.passes(1, "b") == ["b passed", "finish 1.1"]
    assert play.leaves(1) == ["ended 1.1: completed"]
    assert play.statuses() == {"b": "passed"}
    assert play.passes(2, "c") == ["c passed"]
    assert play.passes(2, "d") == ["d passed", "finish 2.1"]
    assert play.leaves(2) == ["ended 2.1: completed", "launch 1.2"]
    assert play.collects(1) == ["run 1.2: a, the last"]
    assert play.passes(1, "a") == ["a passed after 1, flaky", "finish 1.2"]
    assert not play.run.is_over
    assert play.leaves(1) == ["ended 1.2: completed"]
    assert play.closes() == []
    assert play.statuses() == dict.fromkeys("abcd", "passed")


def test_what_fails_again_is_tried_alone() -> None:
    play = begun("a b c", policy=TWICE)
    for name in "abc":
        play.passes(1, name, "failed")

    assert play.leaves(1) == ["ended 1.1: completed", "launch 1.2"]
    assert play.collects(1) == ["run 1.2: a b"]
    assert play.passes(1, "a", "failed") == ["a failed, try 2", "run 1.2: c, the last"]
    assert play.passes(1, "b") == ["b passed after 1, flaky"]
    assert play.passes(1, "c", "failed") == ["c failed, try 2", "finish 1.2"]
    assert play.leaves(1) == ["ended 1.2: completed", "launch 1.3"]
    assert play.collects(1) == ["run 1.3: a, the last"]
    assert play.passes(1, "a", "failed") == ["a failed after 2", "finish 1.3"]
    assert play.leaves(1) == ["ended 1.3: completed", "launch 1.4"]
    assert play.collects(1) == ["run 1.4: c, the last"]
    assert play.passes(1, "c") == ["c passed after 2, flaky", "finish 1.4"]
    assert play.leaves(1) == ["ended 1.4: completed"]
    assert play.closes() == []


def test_crashes_and_timeouts_are_tried_again() -> None:
    play = begun("a b", policy=policy(retries=Retries(1), test_timeout=60.0))
    play.starts(1, "a")
    assert play.exits(1, SEGFAULT) == [
        "a error: crashed with SIGSEGV (setup), try 1",
        "ended 1.1: crashed with SIGSEGV",
        "launch 1.2",
    ]
    play.collects(1)
    play.starts(1, "b")
    play.at(60.0)
    assert play.exits(1, KILLED)[0] == (
        "b error: timed out after 60 s (--shard-test-timeout) (setup), try 1"
    )

    assert play.collects(1) == ["run 1.3: a b, the last"]
    assert play.passes(1, "a")[0] == "a passed after 1, flaky"
    play.starts(1, "b")
    assert play.exits(1, SEGFAULT) == [
        "b error: crashed with SIGSEGV (setup) after 1",
        "ended 1.3: crashed with SIGSEGV",
    ]
    assert play.closes() == []


def test_many_are_tried_again_in_several_shards_and_serial_ones_alone() -> None:
    play = begun("a b", "c d", serial="x", policy=TWICE)
    for shard, names in ((1, "ab"), (2, "cd")):
        for name in names:
            play.passes(shard, name, "failed")
    play.leaves(2)
    assert play.passes(1, "x", "failed") == ["x failed, try 1", "finish 1.1"]

    assert play.leaves(1) == ["ended 1.1: completed", "launch 1.2", "launch 2.2"]
    assert play.collects(1) == ["run 1.2: a c, the last"]
    assert play.collects(2) == ["run 2.2: b d, the last"]
    told = [play.passes(1, "a"), play.passes(1, "c"), play.passes(2, "b"), play.passes(2, "d")]
    assert "x" not in " ".join(" ".join(each) for each in told)
    assert play.leaves(2) == ["ended 2.2: completed", "run 1.2: x, the last"]


def test_an_executor_that_fails_is_no_try() -> None:
    play = begun("a b", "c d", policy=policy(retries=Retries(2), steal=False))
    play.passes(1, "a", "failed")
    play.passes(1, "b")
    play.passes(2, "c")
    play.passes(2, "d")
    play.leaves(2)
    assert play.leaves(1)[-1] == "launch 1.2"

    assert play.cannot_start(1, "no place") == [
        "problem 1: shard 1 attempt 2 no place",
        "ended 1.2: no place",
        "launch 2.2",
    ]
    assert play.cannot_start(2, "no place") == [
        "problem 2: shard 2 attempt 2 no place",
        "ended 2.2: no place",
        "a failed",
        "no other try: a could not be tried again",
    ]
    assert play.run.is_over
    assert play.closes() == []
    assert play.statuses()["a"] == "failed"


def test_only_failures_with_the_wanted_message_are_tried_again() -> None:
    play = begun("a b c", policy=policy(retries=Retries(1, only="timed out|SIGSEGV")))
    assert play.passes(1, "a", "failed") == ["a failed", "run 1.1: c, the last"]
    play.starts(1, "b")

    assert play.exits(1, SEGFAULT)[0] == "b error: crashed with SIGSEGV (setup), try 1"


def test_nothing_is_tried_again_when_too_much_has_failed() -> None:
    play = begun("a b c d", policy=policy(retries=Retries(1, most=(Amount(2),))))
    assert play.passes(1, "a", "failed")[0] == "a failed, try 1"
    assert play.passes(1, "b", "failed")[0] == "b failed, try 1"

    assert play.passes(1, "c", "failed") == [
        "c failed",
        "no other try: no failed test is tried again: more than 2 of 4 have failed "
        "(--shard-retry-max-failures)",
        "a failed",
        "b failed",
    ]
    assert play.passes(1, "d", "failed") == ["d failed", "finish 1.1"]
    assert play.leaves(1) == ["ended 1.1: completed"]
    assert play.closes() == []


@pytest.mark.parametrize(("tests", "most"), [(1, 10.0), (100, 10.0), (400, 40.0)])
def test_ten_failures_or_a_tenth_are_worth_another_try(tests: int, most: float) -> None:
    assert Retries(1).most_failures(tests) == most


def test_the_delay_before_another_try_doubles() -> None:
    play = begun("a", policy=policy(retries=Retries(2, delay=4.0)))
    play.now = 100.0
    play.passes(1, "a", "failed")

    assert play.leaves(1) == ["ended 1.1: completed"]
    assert not play.run.is_over
    assert play.run.next_time() == 104.0
    assert play.at(103.9) == []
    assert play.at(104.0) == ["launch 1.2"]
    play.collects(1)
    play.passes(1, "a", "failed")
    assert play.leaves(1) == ["ended 1.2: completed"]
    assert play.run.next_time() == 112.0
    assert play.at(112.0) == ["launch 1.3"]


@pytest.mark.parametrize("stop", [FIRST_FAILURE, CTRL_C, CTRL_C_AGAIN])
def test_a_stop_before_the_other_try_leaves_a_failure(stop: Stop) -> None:
    play = begun("a", policy=policy(retries=Retries(2, delay=4.0)))
    play.passes(1, "a", "failed")
    play.leaves(1)

    assert play.stops(stop) == []
    assert play.run.is_over
    assert play.closes() == ["a failed"]
    assert play.statuses() == {"a": "failed"}


def test_a_test_whose_other_try_is_interrupted_has_failed() -> None:
    play = begun("a", policy=TWICE)
    play.passes(1, "a", "failed")
    play.leaves(1)
    play.collects(1)
    play.starts(1, "a")
    play.stops(CTRL_C_AGAIN)

    assert play.exits(1, KILLED) == ["ended 1.2: interrupted by SIGINT"]
    assert play.closes() == ["a failed"]


def test_a_flaky_test_fails_where_the_user_wants_that() -> None:
    play = begun("a", policy=policy(retries=Retries(2, flaky_fails=True)))
    play.passes(1, "a", "failed")
    play.leaves(1)
    play.collects(1)

    assert play.passes(1, "a")[0] == "a failed after 1, flaky"
    assert play.statuses() == {"a": "failed"}


def test_a_test_that_a_fresh_process_does_not_collect_has_failed() -> None:
    play = begun("a b", policy=TWICE)
    play.passes(1, "a", "failed")
    play.passes(1, "b")
    play.leaves(1)

    assert play.collects(1, "b") == ["finish 1.2"]
    assert play.leaves(1) == [
        "ended 1.2: completed",
        "a failed",
        "no other try: a could not be tried again",
    ]
    assert play.closes() == []


# Enough


def halt(when: str, why: str, value: float, *, is_share: bool = False) -> Halt:
    return Halt(
        HaltWhen(when), HaltWhy(why), Amount(value, is_share), f"stopping after {{count}} {why}"
    )


def test_soon_lets_running_tests_end_and_begins_no_others() -> None:
    play = begun("a b", "c d", policy=policy(halts=(halt("soon", "fail", 1),)))
    play.starts(2, "c")

    assert play.passes(1, "a", "failed") == [
        "a failed",
        "halted: fail, stopping after 1 fail",
        "stop 1.1",
        "stop 2.1",
    ]
    play.leaves(1)
    play.reports(2, "c", "call")
    assert play.finishes(2, "c") == ["c passed"]
    play.leaves(2)
    assert play.closes() == [
        "b not run: 1, stopping after 1 fail, as asked",
        "d not run: 2, stopping after 1 fail, as asked",
    ]


def test_now_interrupts_running_tests_and_names_them() -> None:
    play = begun("a b", "c d", policy=policy(halts=(halt("now", "success", 1),)))
    play.starts(2, "c")
    play.reports(2, "c", "setup")

    assert play.passes(1, "a") == [
        "a passed",
        "halted: success, stopping after 1 success",
        "interrupt 1.1",
        "interrupt 2.1",
    ]
    play.leaves(1)
    play.tells(2, events.Interrupted("KeyboardInterrupt"))
    play.leaves(2)
    assert play.closes() == [
        "b not run: 1, stopping after 1 success, as asked",
        "c not run: 2, stopped in its call: stopping after 1 success, as asked",
        "d not run: 2, stopping after 1 success, as asked",
    ]


@pytest.mark.parametrize(
    ("wanted", "outcomes", "halts_after"),
    [
        (halt("soon", "fail", 2), "failed passed failed passed", 3),
        (halt("soon", "fail", 0.5, is_share=True), "failed passed failed passed", 3),
        (halt("soon", "fail", 0.3, is_share=True), "failed passed failed passed", 3),
        (halt("soon", "fail", 0.1, is_share=True), "passed failed passed passed", 2),
        (halt("soon", "success", 2), "failed passed failed passed", None),
        (halt("soon", "success", 2), "passed failed passed failed", 3),
        (halt("soon", "done", 0.5, is_share=True), "failed passed failed passed", 2),
        (halt("soon", "done", 0.6, is_share=True), "failed passed failed passed", 3),
        # What is reached with the last test stops nothing.
        (halt("soon", "done", 1.0, is_share=True), "passed passed passed passed", None),
        (halt("soon", "fail", 4), "failed failed failed failed", None),
    ],
)
def test_numbers_and_shares_are_counted_as_they_come(
    wanted: Halt, outcomes: str, halts_after: int | None
) -> None:
    play = begun("a b c d", policy=policy(halts=(wanted,)))
    halted_after = None
    for count, (name, outcome) in enumerate(zip("abcd", outcomes.split(), strict=True), start=1):
        told = play.passes(1, name, outcome)
        if any(text.startswith("halted") for text in told):
            halted_after = count
            break

    assert halted_after == halts_after


def test_where_a_failure_would_end_the_run_it_is_tried_again_at_once() -> None:
    play = begun(
        "a b c",
        "d e f",
        policy=policy(retries=Retries(1), halts=(halt("soon", "fail", 1),), steal=False),
    )
    play.starts(2, "d")

    assert play.passes(1, "a", "failed") == ["a failed, try 1", "stop 1.1", "stop 2.1"]
    assert play.leaves(1) == ["ended 1.1: completed"]
    play.reports(2, "d", "call")
    assert play.finishes(2, "d") == ["d passed"]
    assert play.leaves(2) == ["ended 2.1: completed", "launch 1.2"]
    assert play.collects(1) == ["run 1.2: a, the last"]
    # It was not a failure after all: the rest goes on.
    assert play.passes(1, "a") == ["a passed after 1, flaky", "finish 1.2"]
    assert play.leaves(1) == ["ended 1.2: completed", "launch 1.3", "launch 2.2"]
    assert play.collects(1) == ["run 1.3: b c, the last"]
    assert play.collects(2) == ["run 2.2: e f, the last"]
    play.passes(2, "e")
    play.passes(2, "f")
    play.leaves(2)
    play.passes(1, "b")
    # The second time it is.
    assert play.passes(1, "c", "failed") == ["c failed, try 1", "stop 1.3"]
    assert play.leaves(1) == ["ended 1.3: completed", "launch 1.4"]
    play.collects(1)
    assert play.passes(1, "c", "failed") == ["c failed after 1", "finish 1.4"]
    play.leaves(1)
    assert play.closes() == []


def test_a_failure_that_stays_one_ends_the_run() -> None:
    play = begun("a b c", policy=policy(retries=Retries(1), halts=(halt("soon", "fail", 1),)))
    play.passes(1, "a", "failed")
    play.leaves(1)
    play.collects(1)

    assert play.passes(1, "a", "failed") == [
        "a failed after 1",
        "halted: fail, stopping after 1 fail",
        "stop 1.2",
    ]
    assert play.leaves(1) == ["ended 1.2: completed"]
    assert play.closes() == [
        "b not run: 1, stopping after 1 fail, as asked",
        "c not run: 1, stopping after 1 fail, as asked",
    ]


# Limits of tests


def test_a_test_is_called_slow_at_half_its_limit_and_ended_at_the_limit() -> None:
    play = begun("a b c", policy=policy(test_timeout=60.0))
    play.starts(1, "a")
    play.reports(1, "a", "setup")

    assert play.at(29.0) == []
    assert play.at(30.0) == ["a slow: 30 s in call, limit 60.0"]
    assert play.at(59.0) == []
    assert play.at(60.0) == ["stacks 1.1"]
    assert play.at(60.5) == ["terminate 1.1"]
    assert play.at(70.5) == ["kill 1.1"]
    assert play.exits(1, KILLED) == [
        "a failed: timed out after 60 s (--shard-test-timeout) (call)",
        "ended 1.1: timed out after 60 s (--shard-test-timeout)",
        "launch 1.2",
    ]
    assert play.collects(1) == ["run 1.2: b c, the last"]


def test_each_test_has_its_whole_limit() -> None:
    play = begun("a b", policy=policy(test_timeout=60.0))
    play.now = 50.0
    play.passes(1, "a")
    play.starts(1, "b")

    assert play.at(100.0) == ["b slow: 50 s in setup, limit 60.0"]
    assert play.run.next_time() == 110.0
    assert play.at(110.0) == ["stacks 1.1"]


def test_the_mark_of_a_test_is_its_limit_and_none_means_none() -> None:
    play = begun(
        "a b", "c d", policy=policy(test_timeout=60.0), limits={"a": [4.0, None], "c": [0.0, None]}
    )
    play.starts(1, "a")
    play.starts(2, "c")

    assert play.at(4.0) == ["stacks 1.1"]
    play.exits(1, KILLED)
    assert play.at(1000.0) == []


def test_what_comes_after_a_test_that_took_too_long_does_not_count() -> None:
    play = begun("a b c", policy=policy(test_timeout=60.0))
    play.starts(1, "a")
    play.at(60.0)

    for when in ("setup", "call", "teardown"):
        assert play.reports(1, "a", when) == []
    assert play.finishes(1, "a") == []
    assert play.starts(1, "b") == []
    assert play.says_goodbye(1) == []
    assert play.exits(1)[0] == "a error: timed out after 60 s (--shard-test-timeout) (teardown)"
    assert play.collects(1) == ["run 1.2: b c, the last"]


def test_the_timer_of_pytest_timeout_has_precedence() -> None:
    play = begun("a b", limits={"a": [None, 10.0]})
    play.starts(1, "a")

    assert play.at(10.0) == ["a slow: 10 s in setup, limit 10.0"]
    assert play.at(14.9) == []
    assert play.at(15.0) == ["stacks 1.1"]


def test_a_timer_of_pytest_timeout_that_has_ended_its_test_is_done() -> None:
    play = begun("a b", limits={"a": [None, 10.0]})
    play.starts(1, "a")
    play.now = 10.1
    play.reports(1, "a", "setup")
    play.reports(1, "a", "call", "failed")

    # The teardown may take longer: that timer does not watch it any more.
    assert play.at(1000.0) == []


def test_in_ci_a_test_is_called_slow_every_minute() -> None:
    play = begun("a b", policy=policy(slow_every=60.0))
    play.starts(1, "a")

    assert play.run.next_time() == 60.0
    assert play.at(60.0) == ["a slow: 60 s in setup, limit None"]
    assert play.at(61.0) == []
    assert play.at(121.0) == ["a slow: 121 s in setup, limit None"]
    assert play.run.next_time() == 180.0


def test_a_shard_may_be_limited_to_a_share_of_the_planned_time() -> None:
    shares = [" ".join(f"{letter}{at}" for at in range(40)) for letter in "ab"]
    play = Play(*shares, policy=policy(shard_timeout_share=3.0), measured=True)
    play.start()
    play.now = 1000.0
    play.collects(1)
    play.starts(1, "a0")

    # 40 tests of a second each, three times, from the end of the collection.
    assert play.at(1119.0) == []
    assert play.at(1120.0) == ["stacks 1.1"]
    play.exits(1, KILLED)
    assert play.at(10_000.0) == []


def test_a_share_of_the_planned_time_is_at_least_a_minute() -> None:
    play = begun("a b", policy=policy(shard_timeout_share=3.0), measured=True)
    play.starts(1, "a")

    assert play.at(59.0) == []
    assert play.at(60.0) == ["stacks 1.1"]
    assert (
        play.exits(1, KILLED)[0] == "a error: timed out after 60 s (--shard-timeout=300%) (setup)"
    )


def test_without_known_durations_there_is_no_share_of_the_planned_time() -> None:
    play = begun("a b", policy=policy(shard_timeout_share=3.0))
    play.starts(1, "a")

    assert play.run.next_time() is None


# Stopping the whole run


def test_after_the_first_failure_running_tests_may_end_and_no_others_begin() -> None:
    play = begun("a b c", "d e f")
    play.passes(1, "a", "failed")
    play.starts(2, "d")

    assert play.stops(FIRST_FAILURE) == ["stop 1.1", "stop 2.1"]
    assert play.run.stopped is FIRST_FAILURE
    assert play.finishes(2, "d")[1:] == ["d not run: 2, its plugins reported nothing"]
    assert play.leaves(2) == ["ended 2.1: completed"]
    assert play.leaves(1) == ["ended 1.1: completed"]
    assert play.run.is_over
    assert sorted(play.closes()) == [
        f"{name} not run: {shard}, stopping after 1 failures, as asked"
        for name, shard in (("b", 1), ("c", 1), ("e", 2), ("f", 2))
    ]


def test_a_test_that_goes_on_after_the_first_failure_is_interrupted_then_killed() -> None:
    play = begun("a b", "c d")
    play.passes(1, "a", "failed")
    play.starts(2, "c")
    play.now = 100.0
    play.stops(FIRST_FAILURE)
    play.leaves(1)

    assert play.run.next_time() == 110.0
    assert play.at(110.0) == ["interrupt 2.1"]
    assert play.at(120.0) == ["kill 2.1"]
    assert play.exits(2, KILLED) == ["ended 2.1: stopping after 1 failures"]
    assert play.closes()[1] == (
        "c not run: 2, stopped in its setup: stopping after 1 failures, as asked"
    )


def test_a_stop_ends_shards_that_still_collect_and_those_that_wait() -> None:
    play = Play("a", "b", "c", policy=policy(jobs=2))
    play.start()
    play.collects(1)
    play.hello(2)

    assert play.stops(FIRST_FAILURE) == ["stop 1.1", "kill 2.1"]
    play.exits(2, KILLED)
    assert play.leaves(1) == ["ended 1.1: completed"]
    assert play.run.is_over


def test_ctrl_c_interrupts_all_shards_and_kills_them_after_the_grace() -> None:
    play = begun("a b", "c d")
    play.starts(1, "a")

    assert play.stops(CTRL_C) == ["interrupt 1.1", "interrupt 2.1"]
    assert play.at(9.9) == []
    assert play.at(10.0) == ["kill 1.1", "kill 2.1"]
    assert play.exits(1, KILLED) == ["ended 1.1: interrupted by SIGINT"]
    assert play.exits(2, KILLED) == ["ended 2.1: interrupted by SIGINT"]
    assert len(play.closes()) == 4


def test_a_shard_that_ctrl_c_interrupted_takes_its_leave() -> None:
    play = begun("a b")
    play.starts(1, "a")
    play.stops(CTRL_C)
    play.tells(1, events.Interrupted("KeyboardInterrupt"))

    assert play.leaves(1) == ["ended 1.1: interrupted by SIGINT"]
    assert play.closes() == [
        "a not run: 1, stopped in its setup: interrupted by SIGINT, as asked",
        "b not run: 1, interrupted by SIGINT, as asked",
    ]


def test_the_second_ctrl_c_kills_at_once() -> None:
    play = begun("a b", "c d")
    play.stops(CTRL_C)

    assert play.stops(CTRL_C_AGAIN) == ["kill 1.1", "kill 2.1"]


def test_the_second_ctrl_c_also_kills_what_does_not_end_after_its_goodbye() -> None:
    play = begun("a")
    play.passes(1, "a")
    play.says_goodbye(1)
    play.stops(CTRL_C)

    assert play.stops(CTRL_C_AGAIN) == ["kill 1.1"]


def test_ctrl_c_is_faster_than_a_timeout_but_does_not_wait_longer() -> None:
    play = begun("a", policy=policy(shard_timeout=60.0))
    play.starts(1, "a")
    play.at(60.0)

    # The timeout's own kill comes sooner than that of an interrupt would.
    play.now = 61.0
    assert play.stops(CTRL_C) == ["terminate 1.1"]
    assert play.at(70.5) == ["kill 1.1"]


def test_a_stop_does_not_rewrite_the_end_of_a_process_that_was_killed_already() -> None:
    play = begun("a b", "c d", policy=policy(shard_timeout=60.0))
    play.starts(1, "a")
    play.at(60.0)
    play.at(70.5)

    play.stops(FIRST_FAILURE)

    assert play.exits(1, KILLED)[0] == "a error: timed out after 60 s (--shard-timeout) (setup)"


def test_a_crash_during_the_grace_of_a_stop_is_still_a_crash() -> None:
    play = begun("a b", "c d")
    play.starts(2, "c")
    play.passes(1, "a", "failed")
    play.stops(FIRST_FAILURE)

    assert play.exits(2, SEGFAULT)[0] == "c error: crashed with SIGSEGV (setup)"


def test_a_stop_before_anything_was_launched_or_collected_leaves_nothing() -> None:
    play = Play("a", "b", policy=policy(jobs=1))
    play.start()

    assert play.stops(CTRL_C_AGAIN) == ["kill 1.1"]
    play.exits(1, KILLED)
    assert play.run.is_over
    assert play.run.is_planned
    assert play.closes() == []


# The plan alone


def test_only_one_shard_collects_where_only_the_plan_is_wanted() -> None:
    play = Play("a", "b", plan_only=True)

    assert play.start() == ["launch 1.1"]
    assert play.collects(1) == ["finish 1.1"]
    assert play.run.is_planned
    assert play.leaves(1) == ["ended 1.1: completed"]
    assert play.run.is_over


def test_where_only_the_plan_is_wanted_no_test_is_missing() -> None:
    play = Play("a", "b", plan_only=True)
    play.start()
    play.collects(1)
    play.leaves(1)

    assert play.closes() == []


def test_books_are_closed_once() -> None:
    play = begun("a b")
    play.exits(1, SEGFAULT)

    assert len(play.closes()) == 2
    assert play.closes() == []


# Any history at all


#: Possible at one moment of a life, and wrong at others.
STRAY_EVENTS: Final[list[events.Event]] = [
    events.Hello({}),
    events.Collecting("f0"),
    events.Started(0),
    events.Started(1),
    events.Started(99),
    events.Reported(0, "call", "failed", xfail=False, data={}),
    events.Finished(0, 0.1),
    events.Finished(1, 0.1),
    events.Collected(1, "other", 0),
    events.Collection([["f0::0", "", None, "f0::0", None, False]], [], []),
    events.Finishing(),
    events.Goodbye(0, {}),
]


@dataclass(frozen=True, slots=True)
class World:
    """What there is to collect, and how."""

    #: Tests by file.
    files: dict[str, list[str]]
    serial: frozenset[str]
    grouped: frozenset[str]
    #: Tests that end without a report.
    silent: frozenset[str]
    #: How often tests fail before they pass.
    failing: dict[str, int]
    #: By shard: what it does not collect.
    lacks: dict[int, frozenset[str]]
    continue_on_collection_errors: bool

    def row(self, nodeid: str) -> list[Any]:
        group = "g" if nodeid in self.grouped else None
        scope = "module" if nodeid.startswith("f0") else ""
        return [nodeid, "", None, nodeid, group, nodeid in self.serial, [None, None], scope]


class Worker:
    """A process that does what a worker does, until something happens to it."""

    def __init__(
        self, world: World, launch: Launch, failed: Counter[str], *, is_deaf: bool
    ) -> None:
        self.attempt = launch.attempt
        self.slot = launch.slot
        #: Deaf to SIGINT and SIGTERM.
        self.is_deaf = is_deaf
        self.is_hung = False
        self.exit: Exit | None = None
        #: Sent and not finished.
        self.sent: set[int] = set()
        self.was_told_to_finish = False
        self._failed = failed
        self._world = world
        self._doomed = launch.doomed.keys() & world.files.keys()
        lacks = world.lacks.get(launch.attempt.shard, frozenset())
        self.nodeids = [
            nodeid
            for file, nodeids in world.files.items()
            if file not in self._doomed
            for nodeid in nodeids
            if nodeid not in lacks
        ]
        self._commands: deque[list[Any]] = deque()
        self._hand: deque[int] = deque()
        self._more = True
        self._is_running = False
        self.is_in_a_test = False
        self._is_finishing = False
        self._session = self._collect_and_run()

    def obey(self, command: list[Any]) -> None:
        self._commands.append(command)
        self.was_told_to_finish = self.was_told_to_finish or command == ["finish"]

    def step(self) -> events.Event | None:
        """What it says next; None where it waits for the controller or has exited."""
        if self.is_hung or self.exit is not None:
            return None
        try:
            return next(self._session)
        except StopIteration:
            self.exit = ENDED
            return None

    def die(self, exit: Exit) -> None:
        if self.exit is None:
            self.exit = exit

    def leave(self, *last_words: events.Event) -> None:
        """It says this, and goodbye."""
        self._session = iter([*last_words, events.Finishing(), events.Goodbye(2, {})])

    def suffer(self, step: Step) -> None:
        match step:
            case Step.KILL:
                self.die(KILLED)
            case Step.TERMINATE if not self.is_deaf:
                self.die(Exit(signal=int(signal.SIGTERM)))
            case Step.INTERRUPT if not self.is_deaf and not self.is_hung:
                self.leave(events.Interrupted("KeyboardInterrupt"))
            case _:
                pass

    def _collect_and_run(self) -> Iterator[events.Event | None]:
        yield events.Hello({})
        for file in self._world.files:
            yield events.Collecting(file)
            if file in self._doomed:
                yield events.CollectReport({})
        digest = hashlib.sha256(" ".join(self.nodeids).encode()).hexdigest()
        yield events.Collected(len(self.nodeids), digest, len(self._doomed))
        if not self._doomed or self._world.continue_on_collection_errors:
            yield from self._run()
        yield events.Finishing()
        yield events.Goodbye(0, {})

    @property
    def owes_something(self) -> bool:
        """It could run a test, or end its session, without being told anything more."""
        if not self._is_running:
            return False
        hand, more, is_finishing = len(self._hand), self._more, self._is_finishing
        for command in self._commands:
            match command:
                case ["run", places, more]:
                    hand += len(places)
                case ["finish"] | ["stop"]:
                    is_finishing = True
        return is_finishing or hand > int(more)

    def _run(self) -> Iterator[events.Event | None]:
        self._is_running = True
        while True:
            while self._commands or self._must_wait():
                if not self._commands:
                    yield None
                elif (command := self._commands.popleft()) == ["list"]:
                    yield events.Collection(
                        [self._world.row(each) for each in self.nodeids], [], []
                    )
                else:
                    self._take(command)
            if not self._hand:
                return
            place = self._hand.popleft()
            self.is_in_a_test = True
            yield events.Started(place)
            nodeid = self.nodeids[place]
            if nodeid not in self._world.silent:
                fails = self._failed[nodeid] < self._world.failing.get(nodeid, 0)
                self._failed[nodeid] += fails
                for when in ("setup", "call", "teardown"):
                    outcome = "failed" if fails and when == "call" else "passed"
                    yield events.Reported(place, when, outcome, xfail=False, data={})
            self.is_in_a_test = False
            yield events.Finished(place, 0.01)

    def _must_wait(self) -> bool:
        """The last test is held until it is known whether another follows."""
        return not self._is_finishing and len(self._hand) <= int(self._more)

    def _take(self, command: list[Any]) -> None:
        match command:
            case ["run", places, more]:
                self._hand.extend(places)
                self._more = more
            case ["finish"]:
                self._is_finishing = True
            case ["stop"]:
                self._hand.clear()
                self._is_finishing = True
            case _:
                raise AssertionError(command)


@st.composite
def worlds(draw: st.DrawFn) -> World:
    sizes = draw(st.lists(st.sampled_from([3, 5, 1, 0, 2]), min_size=1, max_size=4))
    files = {f"f{at}": [f"f{at}::{n}" for n in range(size)] for at, size in enumerate(sizes)}
    nodeids = [nodeid for each in files.values() for nodeid in each]
    some = st.frozensets(st.sampled_from(nodeids or ["none"]), max_size=3)
    none: st.SearchStrategy[frozenset[str]] = st.just(frozenset())
    few = st.one_of(none, some)
    return World(
        files,
        serial=draw(few),
        grouped=draw(few),
        silent=draw(few),
        failing=draw(
            st.one_of(
                st.just({}),
                st.dictionaries(
                    st.sampled_from(nodeids or ["none"]), st.integers(1, 4), max_size=5
                ),
            )
        ),
        lacks=draw(st.one_of(st.just({}), st.dictionaries(st.integers(1, 4), some, max_size=2))),
        continue_on_collection_errors=draw(st.booleans()),
    )


class AnyHistory(RuleBasedStateMachine):
    """Workers that run, wait, hang, die, leave and break as they like."""

    @initialize(
        world=worlds(),
        shards=st.integers(1, 4),
        jobs=st.integers(1, 5),
        shard_timeout=st.sampled_from([None, 30.0]),
        run_timeout=st.sampled_from([None, None, 300.0]),
        test_timeout=st.sampled_from([None, None, 20.0]),
        restarts=st.sampled_from([None, None, 0, 2]),
        retries=st.sampled_from(
            [
                None,
                Retries(1),
                Retries(3, delay=5.0),
                Retries(2, most=(Amount(1),)),
                Retries(1, flaky_fails=True),
            ]
        ),
        halts=st.sampled_from(
            [
                (),
                (),
                (halt("soon", "fail", 1),),
                (halt("now", "fail", 2),),
                (halt("soon", "done", 0.5, is_share=True), halt("now", "success", 3)),
            ]
        ),
        steal=st.booleans(),
        splitter=st.sampled_from(["duration", "count", "hash"]),
    )
    def begin(
        self,
        world: World,
        shards: int,
        jobs: int,
        shard_timeout: float | None,
        run_timeout: float | None,
        test_timeout: float | None,
        restarts: int | None,
        retries: Retries | None,
        halts: tuple[Halt, ...],
        steal: bool,
        splitter: str,
    ) -> None:
        self.world = world
        self.shards = shards
        self.policy = Policy(
            jobs,
            shard_timeout=shard_timeout,
            run_timeout=run_timeout,
            test_timeout=test_timeout,
            restarts=restarts,
            retries=retries,
            halts=halts,
            steal=steal,
        )
        self.failed: Counter[str] = Counter()
        #: By position, from 1.
        self.tried: dict[int, list[int]] = {}
        self.now = 0.0
        self.workers: dict[Attempt, Worker] = {}
        self.launches = 0
        self.done: Counter[int] = Counter()
        self.not_run: Counter[int] = Counter()
        self.statuses: dict[int, Status] = {}
        self.ended: list[tuple[Attempt, Ending]] = []
        self.problems: list[str] = []
        self.was_doomed = False
        self.was_halted = False
        self.has_left_in_order = False
        #: Tests are tried again: what could not be run before is no part of that.
        self.is_another_round = False
        self.next_launch_fails = False
        self.next_is_deaf = False
        #: Nothing has happened that should not.
        self.is_harmless = not world.silent
        self.run = Run(
            shards,
            self.policy,
            lambda items: make_plan(
                items,
                Durations(),
                shards=shards,
                splitter=BUILT_IN[splitter],
                scope="auto",
            ),
            continue_on_collection_errors=world.continue_on_collection_errors,
        )
        self.perform(self.run.start(self.now))

    # What may happen

    @precondition(lambda self: self.workers)
    @rule(data=st.data(), steps=st.integers(1, 12))
    def work(self, data: st.DataObject, steps: int) -> None:
        attempt = self.some_attempt(data)
        for _ in range(steps):
            if attempt in self.workers:
                self.advance(self.workers[attempt])

    @rule(steps=st.integers(1, 40))
    def all_work(self, steps: int) -> None:
        for _ in range(steps):
            for worker in list(self.workers.values()):
                if worker.attempt in self.workers:
                    self.advance(worker)

    @rule(seconds=st.sampled_from([0.1, 1.0, 9.0, 30.0]))
    def time_passes(self, seconds: float) -> None:
        if (self.policy.shard_timeout, self.policy.run_timeout, self.policy.test_timeout) != (
            None,
            None,
            None,
        ):
            self.is_harmless = False
        self.now += seconds
        self.perform(self.run.time(self.now))

    @precondition(lambda self: self.workers)
    @rule(
        data=st.data(),
        exit=st.sampled_from([Exit(code=0), Exit(code=1), SEGFAULT, Exit(None, 9, True), REMOVED]),
    )
    def die(self, data: st.DataObject, exit: Exit) -> None:
        self.some_worker(data).die(exit)

    @precondition(lambda self: self.workers)
    @rule(data=st.data())
    def hang(self, data: st.DataObject) -> None:
        worker = self.some_worker(data)
        worker.is_hung = True

    @precondition(lambda self: self.workers)
    @rule(data=st.data(), steps=st.integers(1, 20))
    def hang_between_two_tests(self, data: st.DataObject, steps: int) -> None:
        worker = self.some_worker(data)
        for _ in range(steps):
            self.advance(worker)
            if worker.owes_something and not worker.is_in_a_test:
                worker.is_hung = True
                break

    @precondition(lambda self: self.workers)
    @rule(data=st.data())
    def leave_early(self, data: st.DataObject) -> None:
        self.some_worker(data).leave()

    @precondition(lambda self: self.workers)
    @rule(data=st.data(), internal=st.booleans())
    def break_off(self, data: st.DataObject, internal: bool) -> None:
        word = events.InternalError("oops") if internal else events.Interrupted("oops")
        self.some_worker(data).leave(word)

    @precondition(lambda self: self.workers)
    @rule(data=st.data())
    def send_nonsense(self, data: st.DataObject) -> None:
        attempt = self.some_worker(data).attempt
        self.perform(self.run.broke(attempt, "nonsense", self.now))

    @precondition(lambda self: self.workers)
    @rule(
        data=st.data(),
        unlikely=st.integers(0, 5),
        event=st.sampled_from(
            [
                events.StopAsked("stop", "enough"),
                events.ExitAsked("enough", None),
                events.UsageRefused(["no such file"]),
            ]
        ),
    )
    def ask_to_stop(self, data: st.DataObject, unlikely: int, event: events.Event) -> None:
        if unlikely == 5:
            self.some_worker(data).leave(event)

    @rule(unlikely=st.integers(0, 9), stop=st.sampled_from([FIRST_FAILURE, CTRL_C, CTRL_C_AGAIN]))
    def be_stopped(self, unlikely: int, stop: Stop) -> None:
        if unlikely == 9:
            self.is_harmless = False
            self.perform(self.run.stop(stop, self.now))

    @rule(fails=st.booleans(), is_deaf=st.booleans())
    def have_bad_luck_later(self, fails: bool, is_deaf: bool) -> None:
        self.next_launch_fails = fails
        self.next_is_deaf = is_deaf

    @precondition(lambda self: self.workers)
    @rule(data=st.data(), event=st.sampled_from(STRAY_EVENTS))
    def hear_what_cannot_be(self, data: st.DataObject, event: events.Event) -> None:
        """An event that came twice, too late, or from a worker that was tampered with."""
        worker = self.some_worker(data)
        if isinstance(event, events.Finishing):
            # Nothing can be asked of a session that is about to end; without a limit, nobody
            # tells one that never does from one that takes its time.
            worker.is_hung = True
        self.perform(self.run.happened(worker.attempt, event, self.now))

    @precondition(lambda self: self.ended)
    @rule(data=st.data())
    def hear_from_the_dead(self, data: st.DataObject) -> None:
        attempt, _ = data.draw(st.sampled_from(self.ended))
        assert self.run.happened(attempt, events.Started(0), self.now) == []
        assert self.run.happened(attempt, events.Finished(0, 1.0), self.now) == []
        assert self.run.exited(attempt, SEGFAULT, "", self.now) == []

    def some_attempt(self, data: st.DataObject) -> Attempt:
        return data.draw(st.sampled_from(list(self.workers)))

    def some_worker(self, data: st.DataObject) -> Worker:
        self.is_harmless = False
        return self.workers[self.some_attempt(data)]

    # What the run does about it

    def advance(self, worker: Worker) -> bool:
        """Let a worker do one thing; False where it cannot."""
        event = worker.step()
        if event is not None:
            self.perform(self.run.happened(worker.attempt, event, self.now))
            return True
        if worker.exit is None or worker.attempt not in self.workers:
            return False
        del self.workers[worker.attempt]
        if worker.was_told_to_finish and worker.exit == ENDED and not self.is_another_round:
            self.has_left_in_order = True
        self.perform(self.run.exited(worker.attempt, worker.exit, "", self.now))
        return True

    def perform(self, actions: list[Action]) -> None:
        for action in actions:
            match action:
                case Launch(attempt):
                    self.launch(action)
                case Send(attempt, data):
                    self.send(self.workers[attempt], wire.decode(data))
                case End(attempt, step):
                    if attempt in self.workers:
                        self.workers[attempt].suffer(step)
                case Tell(notice):
                    self.note(notice)

    def launch(self, launch: Launch) -> None:
        self.launches += 1
        files, tests = len(self.world.files), sum(map(len, self.world.files.values()))
        retries = self.policy.retries.count if self.policy.retries is not None else 0
        # Each try of a test may cost a process, and each round one for every shard.
        most = self.shards * (files + 1) + tests + 2 * retries * tests * (1 + self.shards)
        # Who is lost once is excused, the test and the shard.
        most = 2 * most + self.shards
        assert self.launches <= most, "attempts without end"
        self.was_doomed = self.was_doomed or bool(launch.doomed)
        if self.tried and not self.workers:
            self.is_another_round = True
        if self.next_launch_fails:
            self.next_launch_fails = False
            self.is_harmless = False
            self.perform(self.run.not_launched(launch.attempt, "no place", self.now))
            return
        self.workers[launch.attempt] = Worker(
            self.world, launch, self.failed, is_deaf=self.next_is_deaf
        )
        assert len(self.workers) <= self.policy.jobs
        taken = [worker.slot for worker in self.workers.values()]
        assert len(set(taken)) == len(taken), "two in one slot"
        assert max(taken) < self.policy.jobs

    def send(self, worker: Worker, command: list[Any]) -> None:
        worker.obey(command)
        if command[0] != "run":
            return
        at = {item.nodeid: position for position, item in enumerate(self.run.items)}
        for place in command[1]:
            position = at[worker.nodeids[place]]
            assert all(position not in other.sent for other in self.workers.values()), "twice"
            assert position not in self.statuses, "after its end"
            worker.sent.add(position)

    def note(self, notice: notices.Notice) -> None:
        match notice:
            case notices.TestTried(done):
                assert done.position not in self.statuses, "after its end"
                self.tried.setdefault(done.position, []).append(done.number)
                if done.attempt in self.workers:
                    self.workers[done.attempt].sent.remove(done.position)
            case notices.TestDone(attempt, position, _, status):
                self.done[position] += 1
                self.statuses[position] = status
                tries = [*(each.number for each in notice.earlier), notice.number]
                assert tries == list(range(1, len(tries) + 1))
                told = self.tried.get(position, [])
                assert told in (tries, tries[:-1]), "each failed try is told once, in order"
                # The last one may have been told before, and nothing have followed it.
                if attempt in self.workers:
                    self.workers[attempt].sent.discard(position)
            case notices.TestNotRun(position, _, _, reason):
                assert reason
                self.not_run[position] += 1
                self.statuses[position] = Status.NOT_RUN
            case notices.AttemptEnded(attempt, ending):
                self.ended.append((attempt, ending))
            case notices.Problem(_, text):
                self.problems.append(text)
            case notices.Halted():
                assert not self.was_halted
                self.was_halted = True
            case _:
                pass

    @invariant()
    def what_was_told_is_in_the_ledger(self) -> None:
        if hasattr(self, "run"):
            entries = {position: entry.status for position, entry in self.run.ledger.entries()}
            assert entries == self.statuses
            assert len(self.run.ledger) == len(self.run.items)

    # The end

    def teardown(self) -> None:
        if not hasattr(self, "run"):
            return
        for _ in range(3000):
            if self.run.is_over:
                break
            self.go_on()
        assert self.run.is_over, "the run does not end"
        assert self.run.is_planned
        assert not self.workers
        for notice in self.run.close_books():
            self.note(notice)
        self.what_was_told_is_in_the_ledger()
        self.check_the_books()

    def go_on(self) -> None:
        """Let everybody who can do something; else time passes; else the hung ones are killed."""
        attempts = list(self.workers)
        if any([each in self.workers and self.advance(self.workers[each]) for each in attempts]):
            return
        next_time = self.run.next_time()
        if next_time is not None:
            self.now = max(self.now, next_time)
            self.perform(self.run.time(self.now))
            return
        hung = [worker for worker in self.workers.values() if worker.is_hung]
        assert hung, "all wait for each other"
        if self.policy.test_timeout is not None:
            assert not [worker.attempt for worker in hung if worker.owes_something]
        for worker in hung:
            worker.die(KILLED)

    def check_the_books(self) -> None:
        positions = range(len(self.run.items))
        for position in positions:
            told = (self.done[position], self.not_run[position])
            expected = {(1, 0), (0, 1)}
            if self.statuses[position] is Status.NOT_RUN:
                expected = {(0, 1), (1, 1)}
            assert told in expected, self.run.items[position]
        assert sum(self.run.ledger.sums().values()) == len(positions)
        assert len(self.ended) == self.launches
        restarts = self.policy.restarts
        if restarts is not None and self.policy.retries is None:
            # A death while collecting dooms a file for each shard once, and costs nothing.
            most = self.shards * (1 + len(self.world.files)) + restarts
            assert self.launches <= most
        if self.is_harmless and self.run.stopped is not None:
            assert self.was_halted
            assert all(
                told == (0, 1)
                for at in positions
                if self.statuses[at] is Status.NOT_RUN
                for told in [(self.done[at], self.not_run[at])]
            )
        if self.is_harmless and not self.world.lacks and self.run.stopped is None:
            assert self.problems == []
            wrong = {
                self.run.items[at].nodeid
                for at, status in self.statuses.items()
                if status is not Status.PASSED
            }
            assert wrong <= self.world.failing.keys()
            retries = self.policy.retries
            if retries is None or (retries.most[0].value == 10 and not retries.flaky_fails):
                tries = 1 + (retries.count if retries is not None else 0)
                assert wrong == {
                    nodeid for nodeid, fails in self.world.failing.items() if fails >= tries
                } - {"none"}
            assert len(positions) == sum(map(len, self.world.files.values()))
        if self.others_took_over:
            left = [at for at in positions if self.statuses[at] is Status.NOT_RUN]
            assert {self.run.items[at].nodeid for at in left} <= self.world.silent

    @property
    def others_took_over(self) -> bool:
        """Whether a shard that ended well must have run what those that died have left."""
        return (
            self.has_left_in_order
            and self.policy.steal
            and self.run.stopped is None
            and not self.world.lacks
            # Else it may have left in order to make room.
            and self.policy.jobs >= self.shards
            # Those may be left with nobody but their host, and a doomed file costs a shard.
            and not self.world.serial
            and not self.was_doomed
        )


TestAnyHistory = AnyHistory.TestCase
TestAnyHistory.settings = settings(
    max_examples=100,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
