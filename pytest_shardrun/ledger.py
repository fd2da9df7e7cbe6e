"""What became of every test."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from .events import Reported
from .model import Status

#: The statuses that make a run red, beside that of a test which was not run.
FAILED: Final = (Status.FAILED, Status.ERROR)


# A tuple is made in a third of the time of a frozen dataclass, and every test has one.
class Entry(NamedTuple):
    """The end of one test."""

    status: Status
    #: 0 where no shard had it.
    shard: int
    #: Why it was not run; empty otherwise.
    reason: str = ""
    #: How often it ran.
    tries: int = 1


class Ledger:
    """The one record of every test's status in this run, by position in the collection."""

    def __init__(self) -> None:
        self._entries: list[Entry | None] = []
        self._sums: Counter[Status] = Counter()

    def open(self, count: int) -> None:
        """Expect ``count`` more tests."""
        self._entries.extend([None] * count)

    def close(self, position: int, entry: Entry) -> None:
        """Record the one final status of a test; a second one is an error of ours."""
        assert self._entries[position] is None, f"test {position} ended twice"
        self._entries[position] = entry
        self._sums[entry.status] += 1

    def entry(self, position: int) -> Entry | None:
        """The end of a test, or None while it is open."""
        return self._entries[position]

    def open_positions(self) -> list[int]:
        """Tests without a status, in the order of collection."""
        return [position for position, entry in enumerate(self._entries) if entry is None]

    def sums(self) -> Mapping[Status, int]:
        """How many tests ended with each status."""
        return self._sums

    @property
    def is_complete(self) -> bool:
        """Every expected test has its status."""
        return self._sums.total() == len(self._entries)

    def entries(self) -> Iterable[tuple[int, Entry]]:
        """Positions and ends of all closed tests."""
        return ((at, entry) for at, entry in enumerate(self._entries) if entry is not None)

    def __len__(self) -> int:
        return len(self._entries)


def status_of(reports: Sequence[Reported]) -> Status:
    """The one status that all the reports of a test amount to; NOT_RUN where there are none."""
    if not reports:
        return Status.NOT_RUN
    failed = [report for report in reports if report.outcome == "failed"]
    if failed:
        in_fixtures = all(report.when in ("setup", "teardown") for report in failed)
        return Status.ERROR if in_fixtures else Status.FAILED
    # Reports of subtests come before the one of the whole test; its fixtures' after and before.
    ended = [report for report in reports if report.outcome in ("passed", "skipped")]
    decisive = [report for report in ended if report.when == "call"] or [
        report for report in ended if report.outcome == "skipped"
    ]
    if not decisive:
        return Status.PASSED if ended else Status.NOT_RUN
    last = decisive[-1]
    if last.outcome == "passed":
        return Status.XPASSED if last.xfail else Status.PASSED
    return Status.XFAILED if last.xfail else Status.SKIPPED
