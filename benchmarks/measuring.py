"""What a command costs, with all the processes it starts."""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

#: From the kernel's ``prctl.h``.
PR_SET_CHILD_SUBREAPER: Final = 36

#: Between two looks at the memory, in seconds; a look may take a tenth of the time at most.
INTERVAL: Final = 0.05

#: How long processes that outlive the command may take until they are killed.
PATIENCE: Final = 10.0


class MeasuringError(Exception):
    """A command did not do what was to be measured."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What one run of a command has cost."""

    seconds: float
    #: User and system time of all its processes.
    cpu_seconds: float
    #: The highest sum over all its processes that was seen; shared pages count once.
    peak_bytes: int
    exit_code: int
    output: str


def adopt_orphans() -> None:
    """Become the parent of what a command leaves behind, so that its CPU time is counted, too."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def measure(
    command: Sequence[str], directory: Path, environment: Mapping[str, str], *, timeout: float
) -> Cost:
    """Run a command to its end; this process may have no other children meanwhile."""
    with tempfile.TemporaryFile() as stream:
        started = time.monotonic()
        process = subprocess.Popen(
            command,
            cwd=directory,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
        )
        try:
            peak = _watch(process.pid, started, started + timeout)
        except BaseException:
            _kill_descendants()
            process.wait()
            _reap_orphans()
            raise
        seconds = time.monotonic() - started
        _, status, usage = os.wait4(process.pid, 0)
        # Popen would wait for it as well.
        process.returncode = os.waitstatus_to_exitcode(status)
        cpu = usage.ru_utime + usage.ru_stime + _reap_orphans()
        stream.seek(0)
        output = stream.read().decode("utf-8", "replace")
    return Cost(seconds, cpu, peak, process.returncode, output)


def _watch(pid: int, started: float, deadline: float) -> int:
    """The peak of memory until the process has ended, which is still to be waited for."""
    peak = 0
    pause = INTERVAL / 5
    descriptor = os.pidfd_open(pid)
    try:
        while not select.select([descriptor], [], [], pause)[0]:
            looked = time.monotonic()
            if looked > deadline:
                raise MeasuringError(f"it did not end within {deadline - started:.0f} s")
            peak = max(peak, sum(map(_memory_of, _descendants(os.getpid()))))
            pause = max(INTERVAL, 9 * (time.monotonic() - looked))
    finally:
        os.close(descriptor)
    return peak


def _descendants(pid: int) -> Iterator[int]:
    try:
        threads = list(Path(f"/proc/{pid}/task").iterdir())
        children = [
            child for thread in threads for child in (thread / "children").read_text().split()
        ]
    except OSError:
        # It has ended in the meantime.
        return
    for child in map(int, children):
        yield child
        yield from _descendants(child)


def _memory_of(pid: int) -> int:
    """Proportional set size: a page that four processes share is a quarter of a page for each."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0
    for line in text.splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return 0


def _reap_orphans() -> float:
    """The CPU time of the processes that the command has left behind."""
    cpu = 0.0
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            pid, _, usage = os.wait4(-1, os.WNOHANG)
        except ChildProcessError:
            return cpu
        if pid:
            cpu += usage.ru_utime + usage.ru_stime
        elif time.monotonic() > deadline:
            _kill_descendants()
        else:
            time.sleep(0.01)


def _kill_descendants() -> None:
    for pid in list(_descendants(os.getpid())):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
