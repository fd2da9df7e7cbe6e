"""How long tests and processes may take."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, final

from .model import Item, Plan, Policy
from .records import record, replace

#: How long pytest-timeout gets to end a test with its own timer, in seconds.
PATIENCE: Final = 5.0
#: Seconds beyond the limit of a test that its process may take to begin it.
BETWEEN_TESTS: Final = 5.0
#: The least that a share of the planned time amounts to, in seconds.
LEAST_SHARE: Final = 60.0
#: The least that a process may take for its session without tests, in seconds.
LEAST_FAREWELL: Final = 60.0


@final
@record
class Limit:
    """How long something may take, and where the user said so."""

    seconds: float
    source: str
    #: Seconds beyond the limit in which somebody else should end it.
    patience: float = 0.0

    @property
    def reason(self) -> str:
        """Why something that has reached the limit was ended, for people."""
        return f"timed out after {self.seconds:g} s ({self.source})"


def limits_of(item: Item, policy: Policy) -> tuple[Limit, ...]:
    """The limits of a test, none of them where it may take as long as it likes."""
    limits = []
    if item.timeout is None and policy.test_timeout is not None:
        limits.append(Limit(policy.test_timeout, "--shard-test-timeout"))
    elif item.timeout:
        limits.append(Limit(item.timeout, "its mark shard_timeout"))
    if item.foreign_timeout:
        source = "of pytest-timeout, whose own timer did not end it"
        limits.append(Limit(item.foreign_timeout, source, PATIENCE))
    return tuple(limits)


def beginning_limit(item: Item, policy: Policy) -> Limit | None:
    """How long a process may take to begin a test that it has, None: as long as it likes.

    Between two tests no code of a test runs, so the limit of the test is more than enough.
    """
    shortest = min(limits_of(item, policy), key=lambda limit: limit.seconds, default=None)
    return shortest and replace(shortest, patience=BETWEEN_TESTS)


def farewell_limit(policy: Policy) -> Limit | None:
    """How long a process may take to leave its tests behind, and then to end its session."""
    if policy.test_timeout is None:
        return None
    return Limit(max(LEAST_FAREWELL, policy.test_timeout), "--shard-test-timeout")


def shard_limit(policy: Policy, plan: Plan, shard: int) -> Limit | None:
    """The limit of a shard's process from the moment at which it has collected.

    It is a share of what the plan expects, where the user asked for that and durations are known.
    """
    share = policy.shard_timeout_share
    if share is None or not plan.measured:
        return None
    # A shard that takes over works as long as the busiest one.
    expected = max(
        (
            planned.expected_seconds
            for planned in plan.shards
            if policy.steal or planned.number == shard
        ),
        default=0.0,
    )
    return Limit(max(LEAST_SHARE, share * expected), f"--shard-timeout={share:.0%}")


@dataclass(slots=True)
class Watch:
    """The time of a running test: when to call it slow, and when it is over."""

    started: float
    limits: tuple[Limit, ...] = ()
    #: It is called slow again whenever so many seconds have passed.
    slow_every: float | None = None
    _looked: float = 0.0

    def next_time(self) -> float | None:
        """When to look at the latest."""
        times = [*self._slow_times(), *(limit.seconds + limit.patience for limit in self.limits)]
        return self.started + min(times) if times else None

    def is_slow(self, now: float) -> bool:
        """Whether a time has come at which it is called slow; each is told once."""
        elapsed = now - self.started
        due = any(time <= elapsed for time in self._slow_times())
        if due:
            self._looked = elapsed
        return due

    def exceeded(self, now: float) -> Limit | None:
        """The limit that was reached."""
        elapsed = now - self.started
        return next(
            (limit for limit in self.limits if elapsed >= limit.seconds + limit.patience), None
        )

    def reported(self, now: float) -> None:
        """A phase of the test has ended: who had the time to end it has done so."""
        if self.limits:
            elapsed = now - self.started
            self.limits = tuple(
                limit for limit in self.limits if not limit.patience or elapsed < limit.seconds
            )

    @property
    def shortest(self) -> Limit | None:
        """The limit that comes first."""
        return min(self.limits, key=lambda limit: limit.seconds, default=None)

    def _slow_times(self) -> list[float]:
        """Times since the start at which it will be called slow next."""
        times = []
        if self.shortest is not None and self._looked < self.shortest.seconds / 2:
            times.append(self.shortest.seconds / 2)
        if self.slow_every is not None:
            times.append(self.slow_every * (math.floor(self._looked / self.slow_every) + 1))
        return times
