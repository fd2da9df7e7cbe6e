"""How evenly the shards were busy, and why."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from .. import notices
from ..model import Plan
from ..planning.outlook import Outlook, enough, name_of

#: A bottleneck is worth a line where splitting it saves this share of the tests' time.
WORTHWHILE: Final = 0.05


class Balance:
    """Compares what a plan expected of the shards with what they did."""

    def __init__(self) -> None:
        self._plan: Plan | None = None
        #: Of tests that a plan may not part, by position: what holds them together.
        self._bulk_of: dict[int, str] = {}
        self._bulks: dict[str, float] = {}
        #: The two longest single tests, the longest first.
        self._longest: list[tuple[float, str]] = []

    def note(self, notice: notices.Notice) -> None:
        """Take in what the run tells."""
        match notice:
            case notices.Planned(items, plan):
                self._plan = plan
                for shard in plan.shards:
                    for unit in shard.units:
                        if not unit.divisible and len(unit.positions) > 1:
                            name = name_of(unit, items)
                            self._bulk_of.update(dict.fromkeys(unit.positions, name))
            case notices.TestDone():
                name = self._bulk_of.get(notice.position, "")
                if name:
                    self._bulks[name] = self._bulks.get(name, 0.0) + notice.seconds
                elif len(self._longest) < 2 or notice.seconds > self._longest[1][0]:
                    self._longest.append((notice.seconds, notice.item.nodeid))
                    self._longest.sort(reverse=True)
                    del self._longest[2:]
            case _:
                pass

    def lines(self, busy: Sequence[float]) -> list[str]:
        """The spread of the shards' seconds, and what splitting the longest part would gain."""
        if self._plan is None or len(busy) < 2:
            return []
        actual = f"actual {_spread(busy)}"
        if self._plan.measured:
            planned = [shard.expected_seconds for shard in self._plan.shards]
            lines = [f"balance: planned {_spread(planned)} of tests in a shard, {actual}"]
        else:
            lines = [f"balance: planned by number, as no durations were known; {actual}"]
        return lines + self._gain(sum(busy) / len(busy))

    def _gain(self, fair: float) -> list[str]:
        parts = [(seconds, name) for name, seconds in self._bulks.items()] + self._longest
        parts = sorted(parts, reverse=True)[:2]
        if not parts:
            return []
        seconds, name = parts[0]
        second = parts[1][0] if len(parts) > 1 else 0.0
        saved = seconds - max(fair, seconds / 2, second)
        if saved < max(0.1, WORTHWHILE * seconds):
            return []
        return [
            f"to gain: {name} takes {seconds:.1f}s, where a fair share of all tests is "
            f"{fair:.1f}s; split in two, it would save about {saved:.1f}s"
        ]


def what_if(found: Sequence[Outlook], start: float, cpus: int) -> list[str]:
    """A table of the wall time that other numbers of shards are expected to take."""
    lines = [" shards  expected  speed-up"]
    whole = start + found[0].seconds
    for each in found:
        wall = start + each.seconds
        cause = f"  {each.bottleneck}" if each.bottleneck else ""
        lines.append(f"{each.shards:>7}  {wall:>7.1f}s  {whole / wall:>8.1f}{cause}")
    lines.append(f"(with {start:.1f}s to start and collect; tests that compute need a CPU each,")
    lines.append(f" of which there {'is' if cpus == 1 else 'are'} {cpus} to use)")
    last = enough(found, start)
    if last is not None:
        reason = "starting and collecting take most of the rest"
        named = [each.bottleneck for each in found if each.shards >= last.shards]
        if name := next(filter(None, named), ""):
            reason = f"{name} cannot be split"
        shards = f"{last.shards} shard{'' if last.shards == 1 else 's'}"
        lines.append(f"more than {shards} would gain little: {reason}")
    return lines


def _spread(seconds: Sequence[float]) -> str:
    low, high = f"{min(seconds):.1f}", f"{max(seconds):.1f}"
    return f"{high}s" if low == high else f"{low} to {high}s"
