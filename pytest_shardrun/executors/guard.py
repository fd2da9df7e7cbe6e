"""Ends what a killed controller has left.

This file is run as a program of its own, with the standard library alone: it reads from stdin, and
the end of stdin is the end of the controller.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import time

#: How long a process that has begun to execute a program may be without an environment.
_EXEC_SECONDS = 0.005
#: Parents of kernel threads, which never have an environment.
_KERNEL = ("0", "2")
#: For how long a guard that was forked stays one.
_SECONDS_AS_FORK = 0.5
_CHUNK = 1 << 12
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


class Charge:
    """What a guard has been told to end, by lines on its stdin."""

    def __init__(self, told: str = "") -> None:
        self._groups: set[str] = set()
        self._cgroups: list[str] = []
        self._rest = b""
        self.hear(os.fsencode(told))

    def hear(self, chunk: bytes) -> None:
        """A process group has come (+7) or gone (-7), a control group is to go (//sys/...)."""
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        for line in map(os.fsdecode, lines):
            if line[0] == "/":
                self._cgroups.append(line[1:])
            elif line[0] == "+":
                self._groups.add(line[1:])
            else:
                self._groups.discard(line[1:])

    def told(self) -> str:
        """The same for another guard."""
        lines = [*(f"+{each}" for each in self._groups), *(f"/{each}" for each in self._cgroups)]
        return "\n".join([*lines, os.fsdecode(self._rest)])

    def end(self, mark: str, directory: str) -> None:
        """Kill the groups and what has the mark, remove the directory and the control groups."""
        for group in self._groups:
            kill_group(int(group))
        kill_marked(mark)
        for cgroup in self._cgroups:
            _remove_cgroup(cgroup)
        if directory:
            # Imported where it is needed: it takes as long as the interpreter itself.
            import shutil

            shutil.rmtree(directory, ignore_errors=True)


def main(mark: str, directory: str = "", told: str = "") -> None:
    """Listen to stdin, and when it ends, end what it has told, and what another guard was told."""
    charge = Charge(told)
    while chunk := os.read(0, _CHUNK):
        charge.hear(chunk)
    charge.end(mark, directory)


def main_of_fork(mark: str, directory: str = "") -> None:
    """The same in a fork of the controller, which becomes a program if the run takes longer.

    A fork costs less than all else that it does, but it keeps the memory that the controller had
    then and has changed since.
    """
    charge = Charge()
    deadline = time.monotonic() + _SECONDS_AS_FORK
    while (seconds := deadline - time.monotonic()) > 0:
        if select.select([0], [], [], seconds)[0]:
            chunk = os.read(0, _CHUNK)
            if not chunk:
                charge.end(mark, directory)
                return
            charge.hear(chunk)
    try:
        os.execv(sys.executable, program(mark, directory, charge.told()))
    except OSError:
        # Too little memory for a program, or too much to tell it.
        main(mark, directory, charge.told())


def program(*arguments: str) -> list[str]:
    """The command of a guard: isolated, without site-packages, so that it starts fast."""
    return [sys.executable, "-I", "-S", __file__, *arguments]


if __name__ == "__main__":
    main(*sys.argv[1:])
