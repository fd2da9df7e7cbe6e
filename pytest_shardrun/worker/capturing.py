"""Files by which captured output outlives the process."""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
from typing import Any, Final

import pytest

from . import wire

#: Ends of the names of the files, and how pytest calls what is in them.
STREAMS: Final = {"out": "stdout", "err": "stderr", "log": "log"}


def capture_into(config: pytest.Config, prefix: str) -> None:
    """Make pytest's capture by descriptor write to ``PREFIX.out`` and ``PREFIX.err``.

    It writes to files without names, which end with the process that holds them. What is logged
    while a test runs is also written to ``PREFIX.log``. Call it again after capture has been
    started anew. Where a file cannot be made, capture stays as it is.
    """
    manager = config.pluginmanager.get_plugin("capturemanager")
    # Private to pytest, and there is no other way to the files.
    capture: Any = getattr(manager, "_global_capturing", None)
    for name in ("out", "err"):
        stream = getattr(capture, name, None)
        # Capture without descriptors (--capture=sys) keeps what it takes in memory.
        if hasattr(stream, "targetfd"):
            with contextlib.suppress(OSError):
                _replace(stream, f"{prefix}.{name}")
    logging: Any = config.pluginmanager.get_plugin("logging-plugin")
    handler = getattr(logging, "report_handler", None)
    if handler is not None:
        with contextlib.suppress(OSError):
            _keep_log(handler, f"{prefix}.log")


class _KeptText(io.StringIO):
    """What was logged since the last phase of a test began, in memory and in a file."""

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._descriptor = descriptor
        # Tests replace what is in modules.
        self._write_file = os.write

    def write(self, text: str) -> int:
        # A test may have closed it, and is none the worse for that.
        with contextlib.suppress(OSError):
            self._write_file(self._descriptor, text.encode("utf-8", "replace"))
        return super().write(text)


def _keep_log(handler: Any, path: str) -> None:
    opened = os.open(
        path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600
    )
    try:
        # Out of the way of tests that count on low numbers.
        descriptor = fcntl.fcntl(opened, fcntl.F_DUPFD_CLOEXEC, wire.FIRST_DESCRIPTOR)
    finally:
        os.close(opened)
    forget = handler.reset
    truncate = os.ftruncate

    def reset() -> None:
        has_text = bool(handler.stream.tell())
        forget()
        handler.stream = _KeptText(descriptor)
        if has_text:
            with contextlib.suppress(OSError):
                truncate(descriptor, 0)

    handler.reset = reset


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
