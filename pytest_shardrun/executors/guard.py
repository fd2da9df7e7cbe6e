"""Ends what a killed controller has left.

This file is run as a program of its own, with the standard library alone: it reads from stdin, and
the end of stdin is the end of the controller.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys


def kill_group(group: int) -> None:
    """SIGKILL to a process group; harmless when it is gone."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


def kill_marked(*marks: str) -> list[int]:
    """SIGKILL to every process whose environment began with all of these ``NAME=value``.

    Finds children that left the process group. Returns their numbers; needs ``/proc``.
    """
    killed = []
    wanted = [mark.encode() for mark in marks]
    for name in os.listdir("/proc") if os.path.isdir("/proc") else ():
        if not name.isdigit() or int(name) == os.getpid():
            continue
        # Somebody else's, or gone in the meantime.
        with contextlib.suppress(OSError):
            with open(f"/proc/{name}/environ", "rb") as file:
                environment = file.read().split(b"\0")
            if all(mark in environment for mark in wanted):
                os.kill(int(name), signal.SIGKILL)
                killed.append(int(name))
    return killed


def main(mark: str) -> None:
    """Keep the list of live groups that stdin tells (+7, -7) and kill them when it ends."""
    groups: set[int] = set()
    for line in sys.stdin:
        group = int(line[1:])
        if line[0] == "+":
            groups.add(group)
        else:
            groups.discard(group)
    for group in groups:
        kill_group(group)
    kill_marked(mark)


if __name__ == "__main__":
    main(sys.argv[1])
