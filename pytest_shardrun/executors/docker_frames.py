"""An agent's frames inside of Docker's frames."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, final

from .docker_agent import HEADER, LONGEST

#: Docker's own frame: 1 is stdout, 2 is stderr; then the length.
_DOCKER_HEADER: Final = struct.Struct(">BxxxL")
_STDERR: Final = 2


class BrokenFrames(Exception):
    """What came is no frame of an agent; the text says what it is."""


@final
@dataclass(frozen=True, slots=True)
class Frame:
    """One message of an agent."""

    kind: bytes
    attempt: int
    content: bytes


def write_frames(kind: bytes, content: bytes, attempt: int = 0) -> Iterator[bytes]:
    """The content as frames for an agent; one empty frame for no content."""
    for start in range(0, len(content) or 1, LONGEST):
        piece = content[start : start + LONGEST]
        yield HEADER.pack(kind, attempt, len(piece)) + piece


class StreamReader:
    """Takes what an attached socket gives, in whatever pieces, and yields what was written."""

    def __init__(self) -> None:
        self._raw = bytearray()

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        """Descriptor, 1 or 2, and bytes; ``BrokenFrames`` where this is no such stream."""
        self._raw += data
        found = []
        position = 0
        while len(self._raw) - position >= _DOCKER_HEADER.size:
            stream, length = _DOCKER_HEADER.unpack_from(self._raw, position)
            start = position + _DOCKER_HEADER.size
            if stream > _STDERR:
                raise BrokenFrames(f"a frame of stream {stream} instead of 1 or 2")
            if len(self._raw) < start + length:
                break
            found.append((stream, bytes(self._raw[start : start + length])))
            position = start + length
        del self._raw[:position]
        return found


class FrameReader:
    """Takes what an attached socket gives, in whatever pieces, and yields whole frames."""

    def __init__(self) -> None:
        self._docker = StreamReader()
        self._stream = bytearray()
        #: What the agent or the runtime wrote to stderr, the newest part.
        self.complaints = b""

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that these bytes complete; ``BrokenFrames`` where they are none."""
        for stream, content in self._docker.feed(data):
            if stream == _STDERR:
                self.complaints = (self.complaints + content)[-(1 << 14) :]
            else:
                self._stream += content
        return list(self._frames())

    def _frames(self) -> Iterator[Frame]:
        position = 0
        try:
            while len(self._stream) - position >= HEADER.size:
                kind, attempt, length = HEADER.unpack_from(self._stream, position)
                start = position + HEADER.size
                if length > LONGEST:
                    raise BrokenFrames(
                        f"what the container says is no frame: {bytes(self._stream[:80])!r}"
                    )
                if len(self._stream) < start + length:
                    break
                yield Frame(kind, attempt, bytes(self._stream[start : start + length]))
                position = start + length
        finally:
            del self._stream[:position]
