"""The start of a worker: descriptors, identity, pytest, goodbye."""

from __future__ import annotations

import faulthandler
import fcntl
import os
import signal
import sys
from collections.abc import Mapping
from typing import Any, Final, NoReturn

from . import wire

#: Makes a worker write the stacks of all threads to its output: real-time, so no test uses it.
STACKS_SIGNAL: Final = signal.SIGRTMAX - 1 if hasattr(signal, "SIGRTMAX") else signal.SIGUSR2

#: The program of a worker. What follows the first line on stdin belongs to the session.
PROGRAM: Final = """\
import json, os, sys
line = b""
while not line.endswith(b"\\n"):
    chunk = os.read(0, 65536)
    if not chunk:
        sys.exit(0)
    line += chunk
launch = json.loads(line)
sys.path[:] = launch["sys_path"]
try:
    import pytest_shardrun.worker.boot as boot
except ModuleNotFoundError:
    sys.path.append(launch["package_path"])
    import pytest_shardrun.worker.boot as boot
boot.main(launch)
"""


class Stream:
    """The worker's ends of the stream, safe from what tests do to descriptors and modules."""

    def __init__(self, read_descriptor: int, write_descriptor: int) -> None:
        # Tests freeze clocks and replace os and json in every module; what an instance
        # holds is out of their reach.
        self._read = os.read
        self._write = os.write
        self._select = __import__("select").select
        self._encode = wire.encode
        self._decode = wire.decode
        self._read_descriptor = read_descriptor
        self._write_descriptor = write_descriptor
        self._process = os.getpid()
        self._getpid = os.getpid
        self._received = b""
        self._pending: list[bytes] = []
        self._sequence = 0

    def put(self, *event: object) -> None:
        """Add an event to what the next flush sends."""
        self._pending.append(self._encode([self._sequence, *event]))
        self._sequence += 1

    def flush(self) -> None:
        """Send what was put; nothing in a child that a test forked, which is not the worker."""
        data = b"".join(self._pending)
        self._pending.clear()
        if self._getpid() != self._process:
            return
        view = memoryview(data)
        while view:
            view = view[self._write(self._write_descriptor, view) :]

    def receive(self, *, wait: bool) -> list[Any] | None:
        """The next command; None where there is none yet; ``EOFError`` at the end of stdin."""
        while b"\n" not in self._received:
            if not wait and not self._select([self._read_descriptor], [], [], 0)[0]:
                return None
            chunk = self._read(self._read_descriptor, 1 << 16)
            if not chunk:
                raise EOFError
            self._received += chunk
        line, _, self._received = self._received.partition(b"\n")
        command: list[Any] = self._decode(line)
        return command


def main(launch: Mapping[str, Any]) -> NoReturn:
    """Run one attempt of a shard; ``launch`` is the first line that the controller sent."""
    stream = Stream(*_take_stream())
    # The copy stays open when a test closes or replaces descriptor 2.
    faulthandler.register(STACKS_SIGNAL, file=_copy_above(2), all_threads=True)
    # It was only meant to give all shards of a run the same order of sets.
    if launch["hash_seed_is_ours"]:
        os.environ.pop("PYTHONHASHSEED", None)
    sys.argv[:] = launch["argv"]

    # pytest is imported after the descriptors are in place, so nothing it prints is an event.
    from .session import run_session

    status = run_session(stream, launch)
    sys.exit(0 if status is None else status)


def _take_stream() -> tuple[int, int]:
    """Keep the stream for the worker; tests get an empty stdin and the output stream."""
    read_descriptor = _copy_above(0)
    write_descriptor = _copy_above(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    # What tests print with -s appears line by line, as on a terminal.
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    return read_descriptor, write_descriptor


def _copy_above(descriptor: int) -> int:
    # Not inheritable: a child that a test leaves behind cannot hold the stream open.
    return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, wire.FIRST_DESCRIPTOR)
