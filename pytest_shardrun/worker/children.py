"""Which processes a test has started and not ended."""

from __future__ import annotations

import os
from pathlib import Path


class Children:
    """Looks at this process's children after each test."""

    def __init__(self) -> None:
        # Held here, because tests replace what is in modules.
        self._listdir = os.listdir
        self._waitid = getattr(os, "waitid", None)
        self._is_known_here = Path("/proc/self/task").is_dir()
        self._open = open
        self._known: set[int] = set()

    def new(self) -> list[int]:
        """The numbers of children that were not there the last time."""
        if self._waitid is None or not self._is_known_here:
            return []
        try:
            # Nothing but a quick way to learn that there are none; none is reaped.
            self._waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            self._known.clear()
            return []
        now = self._list()
        new = now - self._known
        self._known = now
        return sorted(new)

    def _list(self) -> set[int]:
        found: set[int] = set()
        for thread in self._listdir("/proc/self/task"):
            try:
                with self._open(f"/proc/self/task/{thread}/children", encoding="ascii") as file:
                    found.update(int(pid) for pid in file.read().split())
            except OSError:
                # The thread has ended, or this system keeps no such list.
                continue
        return found
