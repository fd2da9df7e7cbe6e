"""Files of containers on their way home."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Final, final

from ..records import record

#: Bytes that one attempt may bring home.
_ROOM: Final = 2 << 30


@final
@record
class Wanted:
    """What one attempt was asked to bring home, and where that goes."""

    #: Brought to the same place, alone or with all below.
    files: tuple[str, ...] = ()
    directories: tuple[str, ...] = ()
    #: Roots of the project whose changed files are changed at home.
    roots: tuple[str, ...] = ()
    write_back: tuple[str, ...] = ()
    #: Globs, and the directory of what they find.
    collect: tuple[str, ...] = ()
    collected: Path | None = None
    #: What collected paths are relative to, where they lie below.
    start: Path | None = None


class Homecoming:
    """Writes the files of one attempt; a shard cannot choose places that it was not asked for."""

    def __init__(self, wanted: Wanted, remark: Callable[[str], None]) -> None:
        self._wanted = wanted
        self._remark = remark
        self._file: IO[bytes] | None = None
        self._target = Path()
        self._mode = 0o644
        self._room = _ROOM

    def begin(self, head: bytes) -> None:
        """A file begins: purpose, path and mode as JSON."""
        self.abandon()
        try:
            described: Mapping[str, Any] = json.loads(head)
            target = self._place(str(described["purpose"]), str(described["path"]))
            self._mode = int(described["mode"]) & 0o755 | 0o600
        except (ValueError, KeyError, TypeError) as error:
            self._remark(f"a shard sent a file that cannot be placed: {error}")
            return
        if target is None:
            self._remark(f"a shard sent a file that nobody asked for: {described['path']}")
            return
        self._target = target
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            # Beside its place, so that what is there changes at once or not at all.
            self._file = tempfile.NamedTemporaryFile(  # noqa: SIM115
                dir=target.parent, prefix=".shardrun-", delete=False
            )
        except OSError as error:
            self._remark(f"{target} could not be written: {error}")

    def add(self, data: bytes) -> None:
        """More of the file; nothing is its end."""
        if self._file is None:
            return
        if not data:
            self._finish()
            return
        self._room -= len(data)
        if self._room < 0:
            self._remark(f"{self._target} did not come home: a shard may send {_ROOM >> 30} GiB")
            self.abandon()
            return
        try:
            self._file.write(data)
        except OSError as error:
            self._remark(f"{self._target} could not be written: {error}")
            self.abandon()

    def abandon(self) -> None:
        """Forget a file that did not come to its end."""
        if self._file is not None:
            self._file.close()
            os.unlink(self._file.name)
            self._file = None

    def _finish(self) -> None:
        assert self._file is not None
        try:
            self._file.close()
            os.chmod(self._file.name, self._mode)
            os.replace(self._file.name, self._target)
            self._file = None
        except OSError as error:
            self._remark(f"{self._target} could not be written: {error}")
            self.abandon()

    def _place(self, purpose: str, path: str) -> Path | None:
        if path != os.path.normpath(path) or not path.startswith("/") or "\0" in path:
            return None
        wanted = self._wanted
        match purpose:
            case "file":
                if path in wanted.files or _within(path, wanted.directories):
                    return Path(path)
            case "back":
                if wanted.write_back and not _is_hidden(path, wanted.roots):
                    return _really_within(path, wanted.roots)
            case "collect":
                if wanted.collected is not None and wanted.collect:
                    return wanted.collected / self._collected_name(path)
        return None

    def _collected_name(self, path: str) -> str:
        start = str(self._wanted.start or "/").rstrip("/")
        return path[len(start) :].lstrip("/") if path.startswith(f"{start}/") else path.lstrip("/")


def _within(path: str, directories: Sequence[str]) -> bool:
    return any(path.startswith(f"{directory}/") for directory in directories)


def _is_hidden(path: str, roots: Sequence[str]) -> bool:
    """Whether it lies in a hidden directory or is hidden: configuration that other tools act on."""
    for root in roots:
        if path.startswith(f"{root}/"):
            return any(part.startswith(".") for part in Path(path).relative_to(root).parts)
    return True


def _really_within(path: str, roots: Sequence[str]) -> Path | None:
    """The path, unless a link of the project leads out of it."""
    real = os.path.realpath(os.path.dirname(path))
    inside = any(
        real == (top := os.path.realpath(root)) or real.startswith(f"{top}/") for root in roots
    )
    return Path(path) if inside and not os.path.islink(path) else None
