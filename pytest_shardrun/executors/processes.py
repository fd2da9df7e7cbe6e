"""The processes of an attempt: signalled, or left behind."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import time
from collections.abc import Sequence
from typing import Final

from ..model import LeftProcess
from . import guard

#: How long processes have to notice that their worker is gone, as those of multiprocessing do.
SECONDS_TO_FOLLOW: Final = 0.5
_POLL_SECONDS: Final = 0.01
#: Characters of a command line that are shown.
_LONGEST_COMMAND: Final = 300


def send_signal(pid: int, number: int, *, group: bool) -> None:
    """Send a signal to a process or its group, and wake it up for it; harmless when it is gone."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if not group:
            os.kill(pid, number)
            return
        try:
            os.killpg(pid, number)
        except ProcessLookupError:
            # A fork that has not come to lead its group yet.
            os.kill(pid, number)
            return
        # A stopped process could not act on it.
        os.killpg(pid, signal.SIGCONT)


def left_behind(group: int, marks: Sequence[str]) -> tuple[LeftProcess, ...]:
    """What still lives of an attempt whose worker has ended and has had time to follow it."""
    deadline = time.monotonic() + SECONDS_TO_FOLLOW
    while left := guard.find_left(group, *marks):
        if time.monotonic() >= deadline:
            return tuple(each for pid in left if (each := _describe(pid)) is not None)
        time.sleep(_POLL_SECONDS)
    return ()


def _describe(pid: int) -> LeftProcess | None:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            words = file.read().decode("utf-8", "backslashreplace").rstrip("\0").split("\0")
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="backslashreplace") as file:
            name = file.read().strip()
        _, *kin = guard.status_of(pid)
    except OSError:
        return None
    # A program may overwrite its command line with nothing.
    command = shlex.join(words) if any(words) else f"[{name}]"
    if len(command) > _LONGEST_COMMAND:
        command = f"{command[:_LONGEST_COMMAND]}..."
    return LeftProcess(pid, command, tuple(int(each) for each in kin))
