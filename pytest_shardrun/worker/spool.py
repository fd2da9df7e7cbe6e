"""Memory in which unsent events outlive the worker."""

from __future__ import annotations

import contextlib
import mmap
import os
from collections.abc import Iterator
from typing import Final, final

#: Names the file that a worker maps, where it shares memory with the controller.
VARIABLE: Final = "SHARDRUN_SPOOL"
#: Bytes of the file: a word, then lines.
SIZE: Final = 1 << 19
#: Where the lines begin. The word before says in its low half where they end; its high half is
#: changed before other lines take their place.
START: Final = 8

_ROUND: Final = 1 << 32


@final
class Spool:
    """Lines that are there for the controller from the moment at which they were added."""

    def __init__(self, descriptor: int) -> None:
        self._memory: Final = mmap.mmap(descriptor, SIZE)
        # Stored in one piece, after the lines of which it tells.
        self._word: Final = memoryview(self._memory)[:START].cast("Q")
        self._round = 0
        self._end = START

    def add(self, line: bytes) -> bool:
        """Whether there was room for it."""
        end = self._end + len(line)
        if end > SIZE:
            return False
        self._memory[self._end : end] = line
        self._end = end
        self._word[0] = self._round + end
        return True

    def clear(self) -> None:
        """All lines were sent."""
        if self._end != START:
            self._round += _ROUND
            self._end = START
            self._word[0] = self._round + START


def open_spool(path: str, lowest: int) -> Spool | None:
    """The spool in this file; None where no file is there, as on another machine.

    The map keeps a descriptor, which is ``lowest`` or above.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        with _none_free_below(lowest):
            return Spool(descriptor)
    except (OSError, ValueError):
        return None
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _none_free_below(lowest: int) -> Iterator[None]:
    # mmap takes the lowest free number, and tests count on those.
    taken = [os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)]
    try:
        while taken[-1] < lowest:
            taken.append(os.dup(taken[0]))
        os.close(taken.pop())
        yield
    finally:
        for descriptor in taken:
            os.close(descriptor)
