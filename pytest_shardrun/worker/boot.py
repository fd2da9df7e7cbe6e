"""The start of a worker: descriptors, identity, pytest, goodbye."""

from __future__ import annotations

import contextlib
import faulthandler
import importlib.util
import os
import signal
import sys
import tempfile
from collections.abc import Mapping
from typing import Any, Final, NoReturn

from . import marks, spool
from .leaving import disown_exit_handlers, run_and_leave
from .stream import Stream, copy_above

#: Makes a worker write the stacks of all threads to its output: real-time, so no test uses it.
STACKS_SIGNAL: Final = signal.SIGRTMAX - 1 if hasattr(signal, "SIGRTMAX") else signal.SIGUSR2

#: Names the descriptor by which a warm worker is told what to do.
CONTROL_VARIABLE: Final = "SHARDRUN_CONTROL"

#: How the program of a worker begins. What follows the first line on stdin is the session's.
READ_LAUNCH: Final = """\
import json, os, sys
line = b""
while not line.endswith(b"\\n"):
    chunk = os.read(0, 65536)
    if not chunk:
        sys.exit(0)
    line += chunk
launch = json.loads(line)
"""
#: The program of a worker.
PROGRAM: Final = f"""{READ_LAUNCH}\
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
    stream.keep_in(os.environ.pop(spool.VARIABLE, None))
    control = os.environ.pop(CONTROL_VARIABLE, None)
    _register_stacks()
    # It was only meant to give all shards of a run the same order of sets.
    if launch["hash_seed_is_ours"]:
        os.environ.pop("PYTHONHASHSEED", None)
    sys.argv[:] = launch["argv"]
    run_and_leave(lambda: _run(stream, launch, control), fresh=True)


def _run(stream: Stream, launch: Mapping[str, Any], control: str | None) -> int | None:
    # pytest is imported after the descriptors are in place, so nothing it prints is an event.
    from .session import run_session

    _be_started_like_the_controller(launch["main"])
    if control is None:
        return run_session(stream, launch)
    from .control import adopt

    return run_session(stream, launch, _warm(adopt(int(control))))


def main_of_fork(
    descriptors: tuple[int, int, int], connection: Any, launch: Mapping[str, Any]
) -> NoReturn:
    """Run a warm worker in a process that the controller has forked.

    ``descriptors`` are the worker's ends of stdin, stream and output. The rest of the launch
    comes by the connection.
    """
    os.setsid()
    # One of them may be in another's place, where the controller was started without stdin.
    for place, descriptor in enumerate([copy_above(each) for each in descriptors]):
        os.dup2(descriptor, place)
        os.close(descriptor)
    for descriptor in descriptors:
        if descriptor > 2:
            os.close(descriptor)
    stream = Stream(*_take_stream())
    _register_stacks()
    os.environ.update(launch["identity"])
    # The controller has looked it up for itself.
    tempfile.tempdir = None
    disown_exit_handlers()
    sys.path[:] = launch["sys_path"]
    from .control import Control
    from .session import run_session

    warm = _warm(Control(connection))
    run_and_leave(lambda: run_session(stream, launch, warm))


def _warm(control: Any) -> Any:
    from .obstacles import OWN_VARIABLES, Watch
    from .warm import Warm

    # The end of the first attempt, which has the same marks, must not be that of this process.
    marks.show_environment(without=OWN_VARIABLES)
    watch = Watch()
    watch.begin()
    return Warm(control, watch)


def _be_started_like_the_controller(main: Mapping[str, str | None]) -> None:
    """Make ``__main__`` look as in the process that the user started, not like ``python -c``."""
    module: Any = sys.modules["__main__"]
    if main["file"] is not None:
        module.__file__ = main["file"]
    if main["spec"] is not None:
        # multiprocessing starts its processes from it.
        with contextlib.suppress(ImportError, ValueError):
            module.__spec__ = importlib.util.find_spec(main["spec"])


def _register_stacks() -> None:
    # The copy stays open when a test closes or replaces descriptor 2.
    faulthandler.register(STACKS_SIGNAL, file=copy_above(2), all_threads=True)


def _take_stream() -> tuple[int, int]:
    """Keep the stream for the worker; tests get an empty stdin and the output stream."""
    read_descriptor = copy_above(0)
    write_descriptor = copy_above(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    # What tests print with -s appears line by line, as on a terminal.
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    return read_descriptor, write_descriptor
