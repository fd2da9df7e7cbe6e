"""Tests that ran when something outside ended their process."""

from __future__ import annotations

from typing import Final, final

from .lifecycle import Life, Phase
from .model import Ending, EndingKind

#: How often in a row a shard may be lost before it has done anything.
_MOST_LOSSES: Final = 1


@final
class Suspects:
    """Each is tried once more, and blamed only if its process is lost again while it runs."""

    def __init__(self) -> None:
        self._reasons: dict[int, str] = {}
        #: How often in a row each shard was lost and nobody was blamed.
        self._losses: dict[int, int] = {}

    def excuses(self, position: int, ending: Ending) -> bool:
        """Whether the test that was running may be innocent of this end."""
        if ending.kind is not EndingKind.LOST or position in self._reasons:
            return False
        self._reasons[position] = ending.reason
        return True

    def loss_of(self, position: int) -> str:
        """How the process of a test was lost that got another chance; empty where it was not."""
        return self._reasons.get(position, "")

    def forgive(self, shard: int, life: Life, ending: Ending, *, progress: bool) -> bool:
        """Whether the end of a process is no problem, because another can do what it could not.

        The end of a session is not done again. A shard that is lost and lost again before it has
        done anything has a problem.
        """
        if progress:
            self._losses.pop(shard, None)
        if ending.kind is not EndingKind.LOST or life.phase in (Phase.FINISHING, Phase.LEAVING):
            return False
        if not progress:
            self._losses[shard] = self._losses.get(shard, 0) + 1
        return self._losses.get(shard, 0) <= _MOST_LOSSES
