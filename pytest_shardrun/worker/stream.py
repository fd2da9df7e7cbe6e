"""The worker's ends of the stream."""

from __future__ import annotations

import fcntl
import os
import resource
import select
from typing import Any

from . import wire
from .spool import Spool, open_spool


class Stream:
    """The worker's ends of the stream, safe from what tests do to descriptors and modules."""

    def __init__(self, read_descriptor: int, write_descriptor: int) -> None:
        # Tests freeze clocks and replace os and json in every module; what an instance
        # holds is out of their reach.
        self._read = os.read
        self._write = os.write
        self._select = select.select
        self._encode = wire.encode_within
        self._decode = wire.decode
        self._read_descriptor = read_descriptor
        self._write_descriptor = write_descriptor
        self._process = os.getpid()
        self._getpid = os.getpid
        self._exit = os._exit
        self._flag = fcntl.fcntl
        self._received = b""
        self._pending: list[bytes] = []
        #: The number of the next event.
        self.sequence = 0
        #: The number of the first event that was not sent.
        self._unsent_from = 0
        self._spool: Spool | None = None
        #: What was sent, where forks will have to send it again.
        self._sent: list[bytes] | None = None

    def put(self, *event: object) -> None:
        """Add an event to what the next flush sends.

        Nothing in a child that a test forked, which is not the worker.
        """
        if self._getpid() == self._process:
            self._add(self._encode([self.sequence, *event]))

    def put_text(self, content: str) -> None:
        """Add an event that is JSON already, but for its number and brackets."""
        if self._getpid() == self._process:
            self._add(f"[{self.sequence},{content}]\n".encode("ascii"))

    def fold(self, first: int, content: str) -> None:
        """Put an event for those from number ``first`` on and one more; all are unsent."""
        if self._getpid() == self._process:
            del self._pending[first - self.sequence :]
            self._add(f"[{first},{content}]\n".encode("ascii"))

    def holds(self, number: int) -> bool:
        """Whether the events from this number on are unsent."""
        return number >= self._unsent_from

    def _add(self, line: bytes) -> None:
        self._pending.append(line)
        self.sequence += 1
        if self._spool is not None and not self._spool.add(line):
            self.flush()

    def secure(self) -> None:
        """See to it that what was put outlives this process."""
        if self._spool is None:
            self.flush()

    def check(self) -> None:
        """Raise ``OSError`` where the stream was closed, as by a test that closes descriptors."""
        self._flag(self._write_descriptor, fcntl.F_GETFD)

    def flush(self) -> None:
        """Send what was put; nothing in a child that a test forked, which is not the worker."""
        data = b"".join(self._pending)
        self._pending.clear()
        if self._getpid() != self._process:
            return
        self._unsent_from = self.sequence
        if self._sent is not None:
            self._sent.append(data)
        self._write_all(data)
        if self._spool is not None:
            self._spool.clear()

    def _write_all(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[self._write(self._write_descriptor, view) :]

    def receive(self, *, wait: bool) -> list[Any] | None:
        """The next command; None where there is none yet; ``EOFError`` at the end of stdin."""
        if self._getpid() != self._process:
            # A child that a test forked and forgot: commands and tests are for its parent.
            self._exit(0)
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

    def remember(self) -> None:
        """Keep what is sent from now on for ``move``."""
        self._sent = []

    def keep_in(self, path: str | None) -> None:
        """Let what is put from now on outlive this process, in memory shared by this name."""
        self._spool = None if path is None else open_spool(path, _lowest_descriptor())

    def close(self) -> None:
        """Give up the descriptors; forks go on with others."""
        os.close(self._read_descriptor)
        os.close(self._write_descriptor)

    def fall_silent(self) -> None:
        """Nobody listens any more."""
        self._sent = None
        self._process = 0

    def move(self, read_descriptor: int, write_descriptor: int) -> None:
        """Go on with other descriptors, in a fork perhaps, and send all once more."""
        self._process = self._getpid()
        self._read_descriptor = copy_above(read_descriptor)
        self._write_descriptor = copy_above(write_descriptor)
        os.close(read_descriptor)
        os.close(write_descriptor)
        sent, self._sent = self._sent, None
        self._write_all(b"".join(sent or ()))


def copy_above(descriptor: int) -> int:
    """A copy of a descriptor, out of the way of tests that count on low numbers."""
    # Not inheritable: a child that a test leaves behind cannot hold the stream open.
    return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, _lowest_descriptor())


def _lowest_descriptor() -> int:
    soft_limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft_limit == resource.RLIM_INFINITY:
        return wire.FIRST_DESCRIPTOR
    return min(wire.FIRST_DESCRIPTOR, soft_limit // 2)
