"""What a dead process had captured of its test."""

from __future__ import annotations

import contextlib
import os
from typing import Final

from .worker.capturing import STREAMS

#: How much of each stream is shown, in bytes, counted from its end.
MOST_SHOWN: Final = 256 * 1024


def read_captured(prefix: str, phase: str) -> list[tuple[str, str]]:
    """Sections of a report as pytest names them, for the phase in which the process died."""
    sections = []
    for name, title in STREAMS.items():
        text = _tail(f"{prefix}.{name}")
        if text:
            sections.append((f"Captured {title} {phase}", text))
    return sections


def forget_captured(prefix: str) -> None:
    """Remove the files of a process that has ended."""
    for name in STREAMS:
        with contextlib.suppress(OSError):
            os.unlink(f"{prefix}.{name}")


def _tail(path: str) -> str:
    try:
        with open(path, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - MOST_SHOWN))
            data = file.read(MOST_SHOWN)
    except OSError:
        # The shard has no files in common with this process, or captures without descriptors.
        return ""
    cut = f"({size - len(data)} bytes left out)\n" if size > len(data) else ""
    return cut + data.decode("utf-8", "replace")
