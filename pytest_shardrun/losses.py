"""What could not be sent between processes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from . import notices
from .model import Item, LossPolicy

#: So many kinds of values are told apart: a plugin may name attributes after what it found.
MOST_KINDS: Final = 20

WHAT_TO_DO: Final = (
    "put there what is needed of it, as text, numbers, lists or dictionaries, or accept the text "
    "with --shard-lost-data=warn"
)


class Losses:
    """Counts values of which only the text arrived, by where they were and what they were."""

    def __init__(self) -> None:
        #: The positions of their tests, in order, and the shards of those that belong to none.
        self._tests: dict[tuple[str, str], dict[int, None]] = {}
        self._shards: dict[tuple[str, str], dict[int, None]] = {}
        self._others = 0

    def note(self, place: str, kind: str, *, shard: int, test: int | None) -> None:
        """Take in one of them; ``test`` is the position of the test that was running."""
        key = (place, kind)
        if key not in self._tests:
            if len(self._tests) == MOST_KINDS:
                self._others += 1
                return
            self._tests[key] = {}
            self._shards[key] = {}
        if test is None:
            self._shards[key][shard] = None
        else:
            self._tests[key][test] = None

    def notices(
        self, items: Sequence[Item], policy: LossPolicy
    ) -> list[notices.Problem | notices.Remark]:
        """What the run has to say of them at its end; the tests are known by their positions."""
        lines = self._describe(items)
        if policy is LossPolicy.WARN:
            return [notices.Remark(line) for line in lines]
        return [notices.Problem(0, line, WHAT_TO_DO) for line in lines]

    def _describe(self, items: Sequence[Item]) -> list[str]:
        lines = []
        for (place, kind), tests in self._tests.items():
            if tests:
                first = items[next(iter(tests))].nodeid
                more = len(tests) - 1
                where = f"{first} and {more} more test{'' if more == 1 else 's'}" if more else first
            else:
                shards = sorted(self._shards[place, kind])
                where = f"shard{'' if len(shards) == 1 else 's'} {', '.join(map(str, shards))}"
            lines.append(
                f"{place or 'a value'} of type {kind} cannot be sent between processes and became "
                f"its text ({where})"
            )
        if self._others:
            lines.append(f"{self._others} more values cannot be sent and became their texts")
        return lines
