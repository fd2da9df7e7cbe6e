"""The process that ends workers if the controller cannot."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from pathlib import Path
from typing import final

from . import guard, processes
from .places import Places


@final
class Guardian:
    """Our end of the guard."""

    def __init__(self, pid: int, descriptor: int, popen: subprocess.Popen[bytes] | None) -> None:
        self._pid = pid
        self._descriptor = descriptor
        self._popen = popen

    def watch(self, group: int) -> None:
        """End this process group if the controller dies."""
        self._tell(f"+{group}\n")

    def forget(self, group: int) -> None:
        """The process group is gone."""
        self._tell(f"-{group}\n")

    def close(self) -> None:
        """Let the guard end and wait for it; what it still watches it ends."""
        os.close(self._descriptor)
        # Somebody may have stopped it.
        processes.send_signal(self._pid, signal.SIGCONT, group=False)
        if self._popen is not None:
            self._popen.wait()
        else:
            # Somebody else may have waited for all children.
            with contextlib.suppress(ChildProcessError):
                os.waitpid(self._pid, 0)

    def remove_later(self, directory: Path) -> None:
        """Remove this control group if the controller dies."""
        self._tell(f"/{directory}\n")

    def _tell(self, line: str) -> None:
        # Somebody killed the guard: the run goes on without.
        with contextlib.suppress(OSError):
            os.write(self._descriptor, os.fsencode(line))


def start_guard(mark: str, places: Places | None) -> Guardian:
    """A guard as a program of its own; ``mark`` is in the environment of all it must end."""
    read_end, write_end = os.pipe()
    popen = subprocess.Popen(
        guard.program(*_arguments(mark, places)),
        stdin=read_end,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        # Signals for the controller's group are not for the guard.
        start_new_session=True,
    )
    os.close(read_end)
    return Guardian(popen.pid, write_end, popen)


def fork_guard(mark: str, places: Places | None) -> Guardian:
    """A guard for a tenth of the price, from a process without threads."""
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setsid()
            os.dup2(read_end, 0)
            nothing = os.open(os.devnull, os.O_RDWR)
            os.dup2(nothing, 1)
            os.dup2(nothing, 2)
            # Every other end of a pipe that we kept would keep its reader waiting.
            os.closerange(3, os.sysconf("SC_OPEN_MAX"))
            guard.main_of_fork(*_arguments(mark, places))
        finally:
            os._exit(0)
    os.close(read_end)
    return Guardian(pid, write_end, None)


def _arguments(mark: str, places: Places | None) -> list[str]:
    return [mark] if places is None else [mark, str(places.root)]
