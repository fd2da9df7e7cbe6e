"""What each shard wrote past pytest's capture, in files."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import IO, Final, final

from ..model import Attempt

#: Bytes that are kept of a shard: a flood must not fill the disk.
MOST: Final = 8 << 20


@final
class OutputFiles:
    """One file for each shard that wrote anything, for all of its attempts."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._files: dict[int, IO[bytes]] = {}
        self._sizes: dict[int, int] = {}
        self._open = ExitStack()
        self._is_usable = True

    def write(self, attempt: Attempt, data: bytes) -> None:
        """Append what an attempt wrote; where that is impossible the run goes on without."""
        size = self._sizes.get(attempt.shard, 0)
        if not data or not attempt.shard or size >= MOST or not self._is_usable:
            return
        try:
            file = self._file(attempt.shard)
            file.write(data[: MOST - size])
            if size + len(data) >= MOST:
                file.write(b"\n(cut)\n")
        except OSError:
            # Full, or read-only: what matters is shown on the terminal, too.
            self._is_usable = False
        self._sizes[attempt.shard] = size + len(data)

    def _file(self, shard: int) -> IO[bytes]:
        if shard not in self._files:
            self._directory.mkdir(parents=True, exist_ok=True)
            path = self._directory / f"shard-{shard}.txt"
            self._files[shard] = self._open.enter_context(path.open("ab", buffering=0))
        return self._files[shard]

    def close(self) -> None:
        """Close the files; idempotent."""
        self._open.close()
