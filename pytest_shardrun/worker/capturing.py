"""Files by which captured output outlives the process."""

from __future__ import annotations

import contextlib
import os
from typing import Any, Final

import pytest

#: Attributes of pytest's capture, and the ends of the names of their files.
STREAMS: Final = ("out", "err")


def capture_into(config: pytest.Config, prefix: str) -> None:
    """Make pytest's capture by descriptor write to ``PREFIX.out`` and ``PREFIX.err``.

    It writes to files without names, which end with the process that holds them. Call it again
    after capture has been started anew. Where a file cannot be made, capture stays as it is.
    """
    manager = config.pluginmanager.get_plugin("capturemanager")
    # Private to pytest, and there is no other way to the files.
    capture: Any = getattr(manager, "_global_capturing", None)
    for name in STREAMS:
        stream = getattr(capture, name, None)
        # Capture without descriptors (--capture=sys) keeps what it takes in memory.
        if hasattr(stream, "targetfd"):
            with contextlib.suppress(OSError):
                _replace(stream, f"{prefix}.{name}")


def _replace(stream: Any, path: str) -> None:
    named = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        stream.tmpfile.flush()
        # pytest goes on with the descriptor that it knows.
        os.dup2(named, stream.tmpfile.fileno(), inheritable=False)
        if stream._state == "started":
            os.dup2(named, stream.targetfd)
    finally:
        os.close(named)
