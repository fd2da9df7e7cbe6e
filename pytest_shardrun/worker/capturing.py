"""Files by which captured output outlives the process."""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import tempfile
from typing import Any, Final

import pytest

from . import wire

#: Ends of the names of the files, and how pytest calls what is in them.
STREAMS: Final = {"out": "stdout", "err": "stderr", "log": "log"}


def capture_into(config: pytest.Config, prefix: str) -> None:
    """Make pytest's capture by descriptor write to ``PREFIX.out`` and ``PREFIX.err``.

    It writes to files without names, which end with the process that holds them. What is logged
    while a test runs is also written to ``PREFIX.log``. Where a file cannot be made, capture stays
    as it is.
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


def capture_apart(config: pytest.Config, captured: tuple[str, str]) -> None:
    """Make pytest's capture write to files of this process alone, which begin with ``captured``.

    Streams stay the objects that they are: modules keep them when they are imported, as handlers
    of logging do.
    """
    manager = config.pluginmanager.get_plugin("capturemanager")
    capture: Any = getattr(manager, "_global_capturing", None)
    for name, text in zip(("out", "err"), captured, strict=True):
        stream: Any = getattr(capture, name, None)
        if hasattr(stream, "targetfd"):
            with tempfile.TemporaryFile(buffering=0) as file:
                _redirect(stream, file.fileno())
        if text and stream is not None:
            stream.tmpfile.write(text)


def log_descriptor(config: pytest.Config) -> int | None:
    """Where what is logged is kept, if it is."""
    logging: Any = config.pluginmanager.get_plugin("logging-plugin")
    stream = getattr(getattr(logging, "report_handler", None), "stream", None)
    return stream.descriptor if isinstance(stream, _KeptText) else None


class _KeptText(io.StringIO):
    """What was logged since the last phase of a test began, in memory and in a file."""

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self.descriptor = descriptor
        # Tests replace what is in modules.
        self._write_file = os.write

    def write(self, text: str) -> int:
        # A test may have closed it, and is none the worse for that.
        with contextlib.suppress(OSError):
            self._write_file(self.descriptor, text.encode("utf-8", "replace"))
        return super().write(text)


def _keep_log(handler: Any, path: str) -> None:
    opened = _create(path, os.O_WRONLY | os.O_APPEND)
    try:
        # Out of the way of tests that count on low numbers.
        descriptor = fcntl.fcntl(opened, fcntl.F_DUPFD_CLOEXEC, wire.FIRST_DESCRIPTOR)
    finally:
        os.close(opened)
    # Of the class: the file of the process that this one was forked from is not for this one.
    forget = type(handler).reset
    truncate = os.ftruncate

    def reset() -> None:
        has_text = bool(handler.stream.tell())
        forget(handler)
        handler.stream = _KeptText(descriptor)
        if has_text:
            with contextlib.suppress(OSError):
                truncate(descriptor, 0)

    if isinstance(handler.stream, _KeptText):
        os.close(handler.stream.descriptor)
    handler.stream = _KeptText(descriptor)
    handler.reset = reset


def _create(path: str, flags: int) -> int:
    # The file of the process that this one was forked from stays that process's own.
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    return os.open(path, flags | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)


def _replace(stream: Any, path: str) -> None:
    named = _create(path, os.O_RDWR)
    try:
        # No test has it yet; the first one gets it.
        captured = stream.snap()
        _redirect(stream, named)
        stream.tmpfile.write(captured)
    finally:
        os.close(named)


def _redirect(stream: Any, descriptor: int) -> None:
    stream.tmpfile.flush()
    # pytest goes on with the descriptor that it knows.
    os.dup2(descriptor, stream.tmpfile.fileno(), inheritable=False)
    if stream._state == "started":
        os.dup2(descriptor, stream.targetfd)
