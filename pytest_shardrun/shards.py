"""A shard of a run and its latest process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from . import events
from .catalogue import Collection
from .deadlines import Watch
from .events import Finished
from .ledger import status_of
from .lifecycle import Life, Phase
from .model import Attempt, Ending, EndingKind, Item, Status
from .notices import Blame, TestDone

#: Ways to end that say nothing about what was being imported.
_NOBODYS_FAULT: Final = (EndingKind.STOPPED, EndingKind.COMPLETED, EndingKind.LOST)


@dataclass(slots=True)
class RunningTest:
    """What has come of the test that runs."""

    watch: Watch
    reports: list[events.Reported] = field(default_factory=list)
    warnings: list[events.Warned] = field(default_factory=list)
    xml: list[events.XmlRecorded] = field(default_factory=list)


@dataclass(slots=True)
class Shard:
    """A shard of a run; all but its numbers is that of the attempt that lives."""

    number: int
    attempts: int = 0
    #: How many of the newest attempts in a row have not finished a test.
    barren: int = 0
    #: When the first of them was launched.
    barren_since: float = 0.0
    #: What it counts as among the shards that live at the same time; None before its first attempt.
    slot: int | None = None
    life: Life | None = None
    digest: str = ""
    collection: Collection | None = None
    #: What its process was told not to import.
    doomed: frozenset[str] = frozenset()
    test: RunningTest | None = None
    workeroutput: Any = None
    given_up: str = ""

    def begin(self, doomed: Mapping[str, str], now: float) -> Life:
        """Begin the next attempt, of which nothing is known."""
        self.attempts += 1
        self.life = Life(Attempt(self.number, self.attempts), launched=now)
        self.test = None
        self.collection = None
        self.doomed = frozenset(doomed)
        self.workeroutput = None
        return self.life

    def note_progress(self, life: Life) -> None:
        """Count an attempt that is over where it has not finished a test."""
        if life.finished:
            self.barren = 0
        else:
            self.barren += 1
            if self.barren == 1:
                self.barren_since = life.launched

    def position(self, local: int) -> int | None:
        """Of the test at this place of the shard's own collection, in that of the run."""
        if self.collection is None or not 0 <= local < len(self.collection.positions):
            return None
        return self.collection.positions[local]

    def next_time(self) -> float | None:
        """When something is due at the earliest."""
        if self.life is None:
            return None
        times = [self.life.next_time()]
        if self.test is not None and self.life.escalation is None:
            times.append(self.test.watch.next_time())
        return min((time for time in times if time is not None), default=None)

    def finished(self, item: Item, finished: Finished, number: int) -> TestDone:
        """What came of the running test, which is over."""
        assert self.life is not None
        assert self.life.running is not None
        assert self.test is not None
        status = status_of(self.test.reports)
        return self._done(self.life, self.test, item, status, finished, number)

    def blamed(
        self, life: Life, item: Item, ending: Ending, output: str, now: float, number: int
    ) -> TestDone:
        """What came of the test that was running when its process ended."""
        assert self.test is not None
        phase = life.phase_of_test
        failed_by_itself = status_of(self.test.reports)
        fallback = Status.FAILED if phase == "call" else Status.ERROR
        status = failed_by_itself if failed_by_itself is Status.FAILED else fallback
        text = output if not life.trouble else f"{life.trouble}\n{output}"
        blame = Blame(ending, phase, text, life.broke_internally)
        finished = Finished(0, now - self.test.watch.started)
        return self._done(life, self.test, item, status, finished, number, blame)

    def _done(
        self,
        life: Life,
        test: RunningTest,
        item: Item,
        status: Status,
        finished: Finished,
        number: int,
        blame: Blame | None = None,
    ) -> TestDone:
        assert life.running is not None
        done = TestDone(
            life.attempt,
            life.running,
            item,
            status,
            finished.seconds,
            tuple(test.reports),
            tuple(test.warnings),
            tuple(test.xml),
            blame,
            number,
            shared_seconds=finished.shared_seconds,
            setup_seconds=finished.setup_seconds,
        )
        life.running = self.test = None
        return done

    def killer(self, life: Life, ending: Ending) -> str | None:
        """The collector that ended the attempt, if its process was to import it."""
        collecting = life.collecting if life.phase is Phase.COLLECTING else None
        if collecting in self.doomed or ending.kind in _NOBODYS_FAULT:
            return None
        return collecting
