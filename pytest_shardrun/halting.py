"""When the results so far end a run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from .actions import Stop
from .ledger import FAILED
from .lifecycle import after_interrupt, after_stop
from .model import Halt, HaltWhen, HaltWhy, Status

_COUNTED: Final[Mapping[HaltWhy, tuple[Status, ...]]] = {
    HaltWhy.FAIL: FAILED,
    HaltWhy.SUCCESS: (Status.PASSED, Status.XFAILED, Status.XPASSED),
    HaltWhy.DONE: tuple(Status),
}


def reached(halts: Iterable[Halt], sums: Mapping[Status, int], tests: int) -> Halt | None:
    """The first of these at which the run has arrived; it has so many tests."""
    return next((halt for halt in halts if _is_reached(halt, _count(halt, sums), tests)), None)


def may_fail(halts: Iterable[Halt], sums: Mapping[Status, int], waiting: int, tests: int) -> bool:
    """Whether the run would be at its end if the tests that wait for another try failed again."""
    return any(
        halt.why is HaltWhy.FAIL and _is_reached(halt, _count(halt, sums) + waiting, tests)
        for halt in halts
    )


def stop_of(halt: Halt, sums: Mapping[Status, int]) -> Stop:
    """What to do, and the reason as people read it."""
    reason = halt.reason.format(count=_count(halt, sums))
    escalate = after_interrupt if halt.when is HaltWhen.NOW else after_stop
    return Stop(reason, asked=True, escalate=escalate)


def _count(halt: Halt, sums: Mapping[Status, int]) -> int:
    return sum(sums.get(status, 0) for status in _COUNTED[halt.why])


def _is_reached(halt: Halt, count: int, tests: int) -> bool:
    return count > 0 and count >= halt.amount.of(tests)
