"""What each shard did, in figures."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from .. import notices
from ..ledger import FAILED
from ..model import Status


@dataclass(slots=True)
class ShardFigures:
    """What one shard did."""

    number: int
    tests: int = 0
    failed: int = 0
    attempts: int = 0
    #: Spent in tests.
    busy_seconds: float = 0.0
    first_launch: float | None = None
    last_end: float = 0.0
    slowest: str = ""
    slowest_seconds: float = -1.0


@dataclass(slots=True)
class Figures:
    """Sums of a run, kept while it goes."""

    shards: dict[int, ShardFigures] = field(default_factory=dict)
    statuses: dict[Status, int] = field(default_factory=dict)
    flaky: int = 0
    _timed: set[tuple[int, int]] = field(default_factory=set)

    def shard(self, number: int) -> ShardFigures:
        return self.shards.setdefault(number, ShardFigures(number))

    def note(self, notice: notices.Notice, now: float) -> None:
        """Count what the notice tells; ``now`` is seconds of any clock."""
        match notice:
            case notices.AttemptReady(attempt):
                figures = self.shard(attempt.shard)
                figures.attempts = attempt.number
            case notices.TestDone():
                # It is a test of the shard that was to run it, wherever it was tried again.
                home = self.shard((*notice.earlier, notice)[0].attempt.shard)
                home.tests += 1
                home.failed += notice.status in FAILED
                self.flaky += notice.is_flaky
                figures = self._add_time(notice)
                figures.last_end = now
                if notice.seconds > figures.slowest_seconds:
                    figures.slowest_seconds = notice.seconds
                    figures.slowest = notice.item.nodeid
                # Told as not run as well, if that is what it is.
                if notice.status is not Status.NOT_RUN:
                    self._count(notice.status)
            case notices.TestTried(done):
                self._add_time(done)
                self._timed.add((done.position, done.number))
            case notices.TestNotRun():
                self._count(Status.NOT_RUN)
            case _:
                pass

    def _add_time(self, done: notices.TestDone) -> ShardFigures:
        figures = self.shard(done.attempt.shard)
        # A try that no other followed is told as the last one again.
        if (done.position, done.number) not in self._timed:
            figures.busy_seconds += done.seconds
        return figures

    def _count(self, status: Status) -> None:
        self.statuses[status] = self.statuses.get(status, 0) + 1


def table(figures: Figures, wall: float, most: int | None = None) -> list[str]:
    """One row for each shard, or for those worth a look where there are more than ``most``."""
    rows = [("shard", "tests", "failed", "busy", "of the wall", "processes")]
    shown = worth_a_look(figures.shards.values(), most)
    for each in shown:
        share = each.busy_seconds / wall if wall > 0 else 0.0
        rows.append(
            (
                str(each.number),
                str(each.tests),
                str(each.failed),
                f"{each.busy_seconds:.2f}s",
                f"{share:.0%}",
                str(each.attempts),
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    ]
    if len(shown) < len(figures.shards):
        lines.append(f"... and {len(figures.shards) - len(shown)} more (-v shows all)")
    return lines


def worth_a_look(shards: Iterable[ShardFigures], most: int | None) -> list[ShardFigures]:
    """At most so many shards in their order: those with failures and deaths, then the busiest."""

    def interest(shard: ShardFigures) -> tuple[bool, bool, float]:
        return shard.failed > 0, shard.attempts > 1, shard.busy_seconds

    chosen = sorted(shards, key=interest, reverse=True)[:most]
    return sorted(chosen, key=lambda each: each.number)


def conclusions(figures: Figures, wall: float, started: float) -> list[str]:
    """What the figures mean, in sentences."""
    shards = [each for each in figures.shards.values() if each.tests]
    if not shards or wall <= 0:
        return []
    busy = sum(each.busy_seconds for each in shards)
    lines = [
        f"speed-up {busy / wall:.1f}: {busy:.2f}s of tests in {wall:.2f}s, "
        f"shards busy for {busy / (wall * len(shards)):.0%} of it"
    ]
    slowest = max(shards, key=lambda each: each.slowest_seconds)
    lines.append(f"slowest test: {slowest.slowest_seconds:.2f}s {slowest.slowest}")
    ends = sorted(shards, key=lambda each: each.last_end)
    waited = ends[-1].last_end - ends[0].last_end
    if len(ends) > 1 and waited > max(0.5, 0.1 * wall):
        last = ends[-1]
        lines.append(
            f"bottleneck: shard {ends[0].number} waited {waited:.1f}s for shard {last.number}, "
            f"whose longest test took {last.slowest_seconds:.1f}s ({last.slowest})"
        )
    return lines
