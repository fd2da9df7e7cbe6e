"""Events out of a stream of bytes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, final

from .events import BrokenStream, Event, read_event

#: Longer lines are no events; workers keep far below it but for the list of a large collection.
LONGEST_LINE: Final = 1 << 28
#: How much of a line is kept while it may still be the environment's banner.
LONGEST_BANNER: Final = 1 << 16

#: How every worker begins.
_HELLO: Final = b'[0,"hello",'


@final
class EventReader:
    """Reads what one worker says, of which any bytes may arrive in pieces of any size."""

    def __init__(self) -> None:
        self._sequence = 0
        self._received: list[bytes] = []
        self._size = 0

    def feed(self, data: bytes) -> Iterator[Event | bytes]:
        """The events that are complete now; bytes are what came before the first of them.

        Raises ``BrokenStream`` where something else comes; nothing may be fed afterwards.
        """
        if b"\n" in data:
            *lines, data = b"".join([*self._received, data]).split(b"\n")
            self._received, self._size = [], 0
            for line in lines:
                yield from self._read(line)
        if data:
            yield from self._keep(data)

    def _read(self, line: bytes) -> Iterator[Event | bytes]:
        try:
            event = read_event(line, self._sequence)
        except BrokenStream:
            if self._sequence:
                raise
            # What the environment prints before the worker has taken the stream, and it may not
            # have ended its last line.
            banner, hello, rest = line.partition(_HELLO)
            yield banner + b"\n"
            if not hello:
                return
            event = read_event(hello + rest, 0)
        self._sequence += 1
        yield event

    def _keep(self, data: bytes) -> Iterator[bytes]:
        begins = b"[%d," % self._sequence
        if not self._received and self._sequence and not _may_begin(data, begins):
            # At once: it may be the first of many megabytes without a line's end.
            raise BrokenStream(f"not an event: {data[:200]!r}")
        self._received.append(data)
        self._size += len(data)
        if self._sequence == 0 and self._size > LONGEST_BANNER:
            yield b"".join(self._received)
            self._received, self._size = [], 0
        elif self._size > LONGEST_LINE:
            raise BrokenStream(f"a line of more than {LONGEST_LINE} bytes")


def _may_begin(data: bytes, wanted: bytes) -> bool:
    return data.startswith(wanted) or wanted.startswith(data)
