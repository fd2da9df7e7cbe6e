"""The worker's ends of the stream."""

from __future__ import annotations

import os
import select
from typing import Any

from . import wire


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
