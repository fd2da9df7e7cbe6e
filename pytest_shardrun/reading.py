"""Events out of a stream of bytes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, final

from .events import PARTS_OF_PASSED, BrokenStream, Event, Passed, read_event

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
        #: The number of the next event of the stream.
        self._sequence = 0
        #: The number of the next event that was not given; the spool may be ahead of the stream.
        self._known = 0
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

    def catch_up(self, data: bytes) -> Iterator[Event]:
        """The events that the worker has put into its spool and the stream has not brought yet.

        The stream may bring them later. A line replaces those from its number on. What is no event
        ends it: the worker may be writing there.
        """
        if not self._sequence:
            return
        found: list[tuple[int, Event]] = []
        for line in data.split(b"\n")[:-1]:
            try:
                number = int(line[1 : line.index(b",")])
                event = read_event(line, number)
            except ValueError:
                break
            while found and found[-1][0] >= number:
                found.pop()
            found.append((number, event))
        for number, event in found:
            if number > self._known:
                # Some are on their way.
                return
            yield from self._news(number, event)

    def _news(self, number: int, event: Event) -> list[Event]:
        """What was not given yet of an event with this number."""
        following = number + (PARTS_OF_PASSED if type(event) is Passed else 1)
        known, self._known = self._known, max(following, self._known)
        if known <= number:
            return [event]
        if known >= following:
            return []
        assert isinstance(event, Passed)
        return event.parts()[known - number :]

    def _read(self, line: bytes) -> Iterator[Event | bytes]:
        try:
            event = read_event(line, self._sequence)
        except BrokenStream:
            if self._sequence:
                raise
            # What the environment prints before the worker has taken the stream, and it may not
            # have ended its last line.
            # No text of the event itself can look like this: quotes in it are escaped.
            banner, hello, rest = line.rpartition(_HELLO)
            yield (banner if hello else line) + b"\n"
            if not hello:
                return
            event = read_event(hello + rest, 0)
        number = self._sequence
        self._sequence += PARTS_OF_PASSED if type(event) is Passed else 1
        yield from self._news(number, event)

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
