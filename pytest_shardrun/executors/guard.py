"""Ends what a killed controller has left.

This file is run as a program of its own, with the standard library alone: it reads from stdin, and
the end of stdin is the end of the controller.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import time
from typing import TextIO

#: How long a process that has begun to execute a program may be without an environment.
_EXEC_SECONDS = 0.005
#: Parents of kernel threads, which never have an environment.
_KERNEL = ("0", "2")
_HAS_PROC = os.path.isdir("/proc")


def kill_group(group: int) -> None:
    """SIGKILL to a process group; harmless when it is gone."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


def kill_marked(*marks: str) -> list[int]:
    """SIGKILL to every process whose environment began with all of these ``NAME=value``.

    Finds children that left the process group. Returns their numbers; needs ``/proc``.
    """
    found = find_left(None, *marks)
    kill(*found)
    return found


def kill(*pids: int) -> None:
    """SIGKILL to processes that may have ended by themselves."""
    for pid in pids:
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)


def find_left(group: int | None, *marks: str) -> list[int]:
    """The live processes of a group, or whose environment began with all of the marks.

    Empty where there is no ``/proc``.
    """
    found = []
    wanted = [mark.encode() for mark in marks]
    names = [name for name in os.listdir("/proc") if name.isdigit()] if _HAS_PROC else []
    for patience in (_EXEC_SECONDS, _EXEC_SECONDS, 0.0):
        unsettled = []
        for name in names:
            if int(name) == os.getpid():
                continue
            # Somebody else's, or gone in the meantime.
            with contextlib.suppress(OSError):
                with open(f"/proc/{name}/environ", "rb") as file:
                    environment = file.read().split(b"\0")
                if all(mark in environment for mark in wanted):
                    found.append(int(name))
                elif group is not None or environment == [b""]:
                    state, parent, its_group, _ = status_of(name)
                    if state in "ZX":
                        continue
                    if group is not None and int(its_group) == group:
                        found.append(int(name))
                    elif environment == [b""] and parent not in _KERNEL:
                        unsettled.append(name)
        names = unsettled
        if not names:
            break
        # Between the start of a program and the moment at which its environment can be read.
        time.sleep(patience)
    return found


def status_of(pid: int | str) -> list[str]:
    """State, parent, group and session of a process; ``OSError`` when it is gone."""
    with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
        # The name in brackets may have brackets and spaces of its own.
        return file.read().rpartition(")")[2].split()[:4]


def _remove_cgroup(directory: str) -> None:
    for _ in range(100):
        try:
            os.rmdir(directory)
        except FileNotFoundError:
            return
        except OSError:
            # Busy with processes that have just been killed.
            time.sleep(0.01)
        else:
            return


def main(lines: TextIO, mark: str, directory: str = "") -> None:
    """Keep the list of live groups that the lines tell (+7, -7) and kill them when they end.

    The directory is removed then, if it is still there, and the empty ones that stdin named
    (//sys/fs/cgroup/...).
    """
    groups: set[int] = set()
    cgroups: list[str] = []
    for line in lines:
        if line[0] == "/":
            cgroups.append(line[1:-1])
            continue
        group = int(line[1:])
        if line[0] == "+":
            groups.add(group)
        else:
            groups.discard(group)
    for group in groups:
        kill_group(group)
    kill_marked(mark)
    for cgroup in cgroups:
        _remove_cgroup(cgroup)
    if directory:
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main(sys.stdin, *sys.argv[1:])
