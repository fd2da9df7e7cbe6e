"""Locks between runs on this machine."""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Final, final

from filelock import FileLock, Timeout

from .model import Lock

#: How many runs can share a lock at the same time.
SLOTS: Final = 8


@final
class Locks:
    """The locks that this run holds, or waits for; the kernel frees them if it is killed.

    Each name has a few slots, which are lock files: to share a lock is to hold one of them, to
    have it alone is to hold them all. A gate before them is held by whoever waits, so that nobody
    who comes later is served first.
    """

    def __init__(self, directory: Path) -> None:
        self._directory: Final = directory
        self._slots: Final[dict[str, list[FileLock]]] = {}
        self._gates: Final[dict[frozenset[Lock], dict[str, FileLock]]] = {}

    def take(self, request: frozenset[Lock]) -> bool:
        """Try to take all of these locks, or none; ask again until it succeeds or is given up.

        Raises ``OSError`` where there can be no lock files.
        """
        if any(lock.name in self._slots for lock in request):
            # Held for tests that run at this moment, perhaps in another way.
            return False
        ordered = sorted(request, key=lambda lock: lock.name)
        if not self._pass_gates(request, ordered):
            return False
        taken: dict[str, list[FileLock]] = {}
        for lock in ordered:
            slots = self._take_slots(lock)
            if not slots:
                _release(each for held in taken.values() for each in held)
                return False
            taken[lock.name] = slots
        self._slots.update(taken)
        self.forget(request)
        return True

    def forget(self, request: frozenset[Lock]) -> None:
        """Wait for these locks no more; idempotent."""
        _release(self._gates.pop(request, {}).values())

    def free(self, names: Iterable[str]) -> None:
        """Give locks back."""
        for name in names:
            _release(self._slots.pop(name, ()))

    def contended(self) -> list[str]:
        """The names of those that are held and for which another run waits."""
        own = {name for gates in self._gates.values() for name in gates}
        waited_for = []
        for name in self._slots.keys() - own:
            gate = self._file(name, "gate")
            if _try(gate):
                _release([gate])
            else:
                waited_for.append(name)
        return waited_for

    @property
    def is_held(self) -> bool:
        """Whether this run holds any."""
        return bool(self._slots)

    def close(self) -> None:
        """Give everything back."""
        for request in list(self._gates):
            self.forget(request)
        self.free(list(self._slots))

    def _pass_gates(self, request: frozenset[Lock], ordered: list[Lock]) -> bool:
        # In the order of names, and a request of ours waits behind another one of ours: no circle.
        gates = self._gates.setdefault(request, {})
        for lock in ordered:
            if lock.name in gates:
                continue
            gate = self._file(lock.name, "gate")
            if not _try(gate):
                return False
            gates[lock.name] = gate
        return True

    def _take_slots(self, lock: Lock) -> list[FileLock]:
        taken: list[FileLock] = []
        for number in range(SLOTS):
            slot = self._file(lock.name, str(number))
            if _try(slot):
                taken.append(slot)
                if lock.shared:
                    return taken
            elif not lock.shared:
                _release(taken)
                return []
        return taken

    def _file(self, name: str, kind: str) -> FileLock:
        if not self._directory.is_dir():
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        owner = self._directory.stat()
        if owner.st_uid != os.getuid() or stat.S_IMODE(owner.st_mode) & 0o022:
            raise PermissionError(f"{self._directory} can be written by somebody else")
        readable = re.sub(r"[^A-Za-z0-9]+", "-", name)[:40]
        digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:16]
        return FileLock(self._directory / f"{readable}-{digest}.{kind}")


def _try(lock: FileLock) -> bool:
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return False
    return True


def _release(locks: Iterable[FileLock]) -> None:
    for lock in locks:
        lock.release()
