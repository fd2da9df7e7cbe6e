"""The socket between a warm worker and its controller."""

from __future__ import annotations

import os
import socket
from typing import Final

#: More than one request ever brings.
_MOST_DESCRIPTORS: Final = 8


class Control:
    """One end of the socket: lines, and descriptors that travel with them."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._received = b""
        self._descriptors: list[int] = []

    def fileno(self) -> int:
        return self._socket.fileno()

    def limit(self, seconds: float) -> None:
        """Wait no longer than this for the other end, but raise ``TimeoutError``."""
        self._socket.settimeout(seconds)

    def send(self, line: bytes, descriptors: tuple[int, ...] = ()) -> None:
        """Send one line; ``OSError`` where the other end is gone."""
        if descriptors:
            sent = socket.send_fds(self._socket, [line], list(descriptors))
            line = line[sent:]
        # The other end may have taken all of it and closed, which is an error for no bytes, too.
        if line:
            self._socket.sendall(line)

    def receive(self) -> tuple[bytes, list[int]]:
        """The next line and its descriptors; an empty line is the end."""
        while b"\n" not in self._received:
            try:
                data, descriptors, _, _ = socket.recv_fds(
                    self._socket, 1 << 16, _MOST_DESCRIPTORS, socket.MSG_CMSG_CLOEXEC
                )
            except TimeoutError:
                raise
            except OSError:
                data, descriptors = b"", []
            self._descriptors += descriptors
            if not data:
                return b"", []
            self._received += data
        line, _, self._received = self._received.partition(b"\n")
        taken, self._descriptors = self._descriptors, []
        return line, taken

    def close(self) -> None:
        self._socket.close()


def connect() -> tuple[Control, socket.socket]:
    """Our end, and the other end as a socket to hand over."""
    ours, theirs = socket.socketpair()
    return Control(ours), theirs


def adopt(descriptor: int) -> Control:
    """The end that was inherited as this descriptor."""
    os.set_inheritable(descriptor, False)
    return Control(socket.socket(fileno=descriptor))
