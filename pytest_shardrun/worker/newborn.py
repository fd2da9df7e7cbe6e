"""What a forked attempt makes its own."""

from __future__ import annotations

import contextlib
import os
import random
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import pytest

from . import capturing, marks, spool, wire
from .leaving import disown_exit_handlers
from .obstacles import Watch
from .stream import Stream

_CAPTURE: Final = "capturemanager"
_LOGGING: Final = "logging-plugin"


class Before:
    """What a process must know about itself before it is forked."""

    def __init__(self, config: pytest.Config, watch: Watch) -> None:
        for stream in (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__):
            # A conftest file may have closed or replaced it.
            with contextlib.suppress(AttributeError, OSError, ValueError):
                stream.flush()  # type: ignore[union-attr]
        manager: Any = config.pluginmanager.get_plugin(_CAPTURE)
        #: What is captured and no test has yet.
        self.captured = ("", "")
        if manager is not None and manager.is_globally_capturing():
            out, err = manager.read_global_capture()
            self.captured = (out, err)
        self.files_to_reopen = watch.files_to_reopen()
        self.random = random.getstate() if watch.generator_was_seeded() else None
        self.log_file: str | None = config.option.log_file
        self.output = output_file()


def input_of(launch: Mapping[str, Any]) -> dict[str, Any]:
    """The ``workerinput`` that an attempt is given."""
    values: dict[str, Any] = wire.unpack(launch["workerinput"])
    return values


def own_files(config: pytest.Config) -> set[tuple[int, int]]:
    """Device and inode of what pytest and we hold open, and each attempt opens for itself."""
    descriptors = [1, 2]
    kept_log = capturing.log_descriptor(config)
    if kept_log is not None:
        descriptors.append(kept_log)
    manager: Any = config.pluginmanager.get_plugin(_CAPTURE)
    streams = None if manager is None else manager._global_capturing
    for capture in () if streams is None else (streams.out, streams.err, streams.in_):
        file = getattr(capture, "tmpfile", None)
        # Nothing but what is kept in memory has no descriptor.
        with contextlib.suppress(AttributeError, OSError, ValueError):
            descriptors.append(file.fileno())  # type: ignore[union-attr]
    logging: Any = config.pluginmanager.get_plugin(_LOGGING)
    if logging is not None and logging.log_file_handler.stream is not None:
        descriptors.append(logging.log_file_handler.stream.fileno())
    found = set()
    for descriptor in descriptors:
        with contextlib.suppress(OSError):
            status = os.fstat(descriptor)
            found.add((status.st_dev, status.st_ino))
    return found


def be_born(
    config: pytest.Config,
    stream: Stream,
    before: Before,
    launch: Mapping[str, Any],
    descriptors: list[int],
) -> None:
    """Become an attempt of one's own, in a process that was just forked."""
    # A group to kill, as a fresh interpreter would lead it.
    os.setsid()
    move(stream, before.output, descriptors)
    take_place(stream, launch["identity"])
    marks.show_environment()
    disown_exit_handlers()
    for descriptor in before.files_to_reopen:
        _reopen(descriptor)
    _seed(before)
    capturing.capture_apart(config, before.captured)
    _take_identity(config, launch)
    _restart_log_file(config, before, launch)


def move(stream: Stream, before: tuple[int, int], descriptors: list[int]) -> None:
    """Leave the process's own pipes for these: stdin, stream, output."""
    read_end, write_end, output = descriptors
    _redirect(before, output)
    stream.move(read_end, write_end)


def take_place(stream: Stream, variables: Mapping[str, str]) -> None:
    """Say in the environment who and where this process is, its temporary directory included."""
    before = os.environ.get("TMPDIR")
    os.environ.update(variables)
    stream.keep_in(os.environ.pop(spool.VARIABLE, None))
    if tempfile.tempdir == before:
        # Looked up again when it is needed.
        tempfile.tempdir = None


def output_file() -> tuple[int, int]:
    """Device and inode of this process's output."""
    status = os.fstat(2)
    return status.st_dev, status.st_ino


def _redirect(before: tuple[int, int], output: int) -> None:
    # Capture and faulthandler keep copies of descriptor 2 under other numbers.
    for name in os.listdir("/proc/self/fd"):
        number = int(name)
        if number == output:
            continue
        # The listing's own is gone.
        with contextlib.suppress(OSError):
            status = os.fstat(number)
            if (status.st_dev, status.st_ino) == before:
                os.dup2(output, number, inheritable=os.get_inheritable(number))
    os.close(output)


def _reopen(descriptor: int) -> None:
    # Whoever reads from it now moves nobody else's place in the file.
    with contextlib.suppress(OSError):
        place = os.lseek(descriptor, 0, os.SEEK_CUR)
        fresh = os.open(f"/proc/self/fd/{descriptor}", os.O_RDONLY | os.O_CLOEXEC)
        os.lseek(fresh, place, os.SEEK_SET)
        os.dup2(fresh, descriptor, inheritable=os.get_inheritable(descriptor))
        os.close(fresh)


def _seed(before: Before) -> None:
    # Python seeds its generator anew after a fork, also where the user wanted a certain sequence.
    if before.random is not None:
        random.setstate(before.random)
    numpy_random: Any = sys.modules.get("numpy.random")
    if numpy_random is not None and before.random is None:
        numpy_random.seed()


def _take_identity(config: pytest.Config, launch: Mapping[str, Any]) -> None:
    workerinput: dict[str, Any] = config.workerinput  # type: ignore[attr-defined]
    # Plugins may hold this very object.
    workerinput.clear()
    workerinput.update(input_of(launch))
    config.option.basetemp = launch["basetemp"]
    # Absent with -p no:tmpdir. pytest keeps the factory in a private place.
    factory: Any = getattr(config, "_tmp_path_factory", None)
    if factory is not None and launch["basetemp"]:
        factory._given_basetemp = Path(launch["basetemp"])
        factory._basetemp = None


def _restart_log_file(config: pytest.Config, before: Before, launch: Mapping[str, Any]) -> None:
    logging: Any = config.pluginmanager.get_plugin(_LOGGING)
    path = launch["log_file"]
    if logging is None or path is None:
        return
    config.option.log_file = path
    mode = logging.log_file_mode
    if path == before.log_file:
        # It goes on with what was logged while collecting.
        logging.log_file_mode = "a"
    logging.set_log_path(path)
    logging.log_file_mode = mode
