"""The start of a worker: descriptors, identity, pytest, goodbye."""

from __future__ import annotations

import contextlib
import faulthandler
import fcntl
import importlib.util
import os
import resource
import signal
import sys
from collections.abc import Mapping
from typing import Any, Final, NoReturn

from . import wire
from .stream import Stream

#: Makes a worker write the stacks of all threads to its output: real-time, so no test uses it.
STACKS_SIGNAL: Final = signal.SIGRTMAX - 1 if hasattr(signal, "SIGRTMAX") else signal.SIGUSR2

#: The program of a worker. What follows the first line on stdin belongs to the session.
PROGRAM: Final = """\
import json, os, sys
line = b""
while not line.endswith(b"\\n"):
    chunk = os.read(0, 65536)
    if not chunk:
        sys.exit(0)
    line += chunk
launch = json.loads(line)
sys.path[:] = launch["sys_path"]
try:
    import pytest_shardrun.worker.boot as boot
except ModuleNotFoundError:
    sys.path.append(launch["package_path"])
    import pytest_shardrun.worker.boot as boot
boot.main(launch)
"""


def main(launch: Mapping[str, Any]) -> NoReturn:
    """Run one attempt of a shard; ``launch`` is the first line that the controller sent."""
    stream = Stream(*_take_stream())
    # The copy stays open when a test closes or replaces descriptor 2.
    faulthandler.register(STACKS_SIGNAL, file=_copy_above(2), all_threads=True)
    # It was only meant to give all shards of a run the same order of sets.
    if launch["hash_seed_is_ours"]:
        os.environ.pop("PYTHONHASHSEED", None)
    sys.argv[:] = launch["argv"]

    # pytest is imported after the descriptors are in place, so nothing it prints is an event.
    from .session import run_session

    _be_started_like_the_controller(launch["main"])
    status = run_session(stream, launch)
    sys.exit(0 if status is None else status)


def _be_started_like_the_controller(main: Mapping[str, str | None]) -> None:
    """Make ``__main__`` look as in the process that the user started, not like ``python -c``."""
    module: Any = sys.modules["__main__"]
    if main["file"] is not None:
        module.__file__ = main["file"]
    if main["spec"] is not None:
        # multiprocessing starts its processes from it.
        with contextlib.suppress(ImportError, ValueError):
            module.__spec__ = importlib.util.find_spec(main["spec"])


def _take_stream() -> tuple[int, int]:
    """Keep the stream for the worker; tests get an empty stdin and the output stream."""
    read_descriptor = _copy_above(0)
    write_descriptor = _copy_above(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    # What tests print with -s appears line by line, as on a terminal.
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    return read_descriptor, write_descriptor


def _copy_above(descriptor: int) -> int:
    soft_limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = wire.FIRST_DESCRIPTOR
    if soft_limit != resource.RLIM_INFINITY:
        lowest = min(lowest, soft_limit // 2)
    # Not inheritable: a child that a test leaves behind cannot hold the stream open.
    return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, lowest)
