"""Where tests were that did not run, and why."""

from __future__ import annotations

from collections.abc import Mapping
from typing import final

from .actions import Stop
from .dispatch import Dispatcher
from .model import Plan
from .records import record


@final
@record
class Absence:
    """Why a test has no result."""

    #: 0 where no shard had it.
    shard: int
    reason: str
    #: The user asked to stop.
    asked: bool
    #: What it was doing when it was stopped; empty where it had not begun.
    phase: str


class Absences:
    """Remembers where tests were when a plan was given up or a process stopped."""

    def __init__(self) -> None:
        self._planned_for: dict[int, int] = {}
        self._homes: dict[int, int] = {}
        self._stopped_in: dict[int, str] = {}

    def plan(self, plan: Plan) -> None:
        """Take in who was to run what."""
        self._planned_for = {
            position: planned.number for planned in plan.shards for position in planned.positions
        }

    def leave(self, dispatcher: Dispatcher | None) -> None:
        """Take in where tests are that this dispatcher will not hand out any more."""
        if dispatcher is not None:
            self._homes.update(dispatcher.homes())

    def stop(self, position: int, phase: str) -> None:
        """The process of a running test was ended on request."""
        self._stopped_in[position] = phase

    def explain(self, position: int, stop: Stop | None, given_up: Mapping[int, str]) -> Absence:
        """Why a test did not run; ``given_up`` are the reasons of shards that ended for good."""
        shard = self._homes.get(position, 0)
        planned = self._planned_for.get(position, 0)
        if not shard and planned in given_up:
            shard = planned
        if stop is None:
            reasons = [given_up[shard]] if shard in given_up else list(given_up.values())
            reason = reasons[0] if reasons else "no shard collected it that could run it"
            return Absence(shard, reason, asked=False, phase="")
        phase = self._stopped_in.get(position, "")
        reason = f"stopped in its {phase}: {stop.reason}" if phase else stop.reason
        return Absence(shard, reason, stop.asked, phase)
