"""Shards as child processes on this machine."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Final, final

from ..model import Attempt, Exit
from ..worker import boot
from . import guard, memory, processes
from .base import LaunchError, LaunchOrder
from .places import Places, open_places

_CHUNK: Final = 1 << 16


@final
class SubprocessExecutor:
    """Starts each attempt as a fresh interpreter with a process group of its own."""

    name = "subprocess"

    def __init__(self, run_id: str, cgroups: Sequence[Path] | None = None) -> None:
        """``cgroups`` is where to limit memory, the best place first; None: look for places."""
        self._run_id = run_id
        self._mark = f"SHARDRUN_RUN={run_id}"
        self._cgroups = cgroups
        self._guard: _Guard | None = None
        self._places: Places | None = None

    def prepare(self, say: Callable[[str], None]) -> None:
        """Nothing: the interpreter is there."""

    def start(self, order: LaunchOrder) -> WorkerProcess:
        """Start the interpreter; the first line is sent when the stream is first read."""
        if self._guard is None:
            self._places = open_places()
            self._guard = _Guard(self._mark, self._places)
        environment = dict(order.environment)
        if self._places is not None:
            environment.update(self._places.prepare(order.attempt))
        limit = self._limit(order)
        environment.update(limit.environment)
        arguments = [sys.executable, *_interpreter_flags(), "-c", boot.PROGRAM]
        try:
            popen = subprocess.Popen(
                arguments,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
                cwd=order.directory,
                env=environment,
                # A group to kill, deaf to the terminal's Ctrl-C: the controller decides. A session,
                # because a background group that reads from the terminal would be stopped.
                start_new_session=True,
            )
        except OSError as error:
            limit.close()
            raise LaunchError(f"could not start {sys.executable}: {error}") from error
        self._guard.watch(popen.pid)
        # Before the first line is sent, so nothing of the user's runs outside.
        limit.enter(popen.pid)
        marks = (
            self._mark,
            f"SHARDRUN_SHARD={order.attempt.shard}",
            f"SHARDRUN_ATTEMPT={order.attempt.number}",
        )
        return WorkerProcess(
            popen, order.first_line, self._guard, marks, limit, lambda: self._forget(order.attempt)
        )

    def _limit(self, order: LaunchOrder) -> memory.Limit:
        if self._cgroups is None:
            self._cgroups = memory.own_cgroups() if order.memory is not None else ()
        attempt = order.attempt
        name = f"shardrun-{self._run_id}-{attempt.shard}-{attempt.number}"
        limit = memory.open_limit(order.memory, name, self._cgroups)
        if isinstance(limit, memory.ControlGroup) and self._guard is not None:
            self._guard.remove_later(limit.directory)
        return limit

    def _forget(self, attempt: Attempt) -> None:
        if self._places is not None:
            self._places.forget(attempt)

    def close(self) -> None:
        """Remove the temporary files and let the guard end; nothing is left for it to do."""
        if self._places is not None:
            self._places.close()
            self._places = None
        if self._guard is not None:
            self._guard.close()
            self._guard = None


@final
class WorkerProcess:
    """A worker that is our child and leads its own process group."""

    def __init__(
        self,
        popen: subprocess.Popen[bytes],
        first_line: bytes,
        watcher: _Guard,
        marks: tuple[str, ...],
        limit: memory.Limit,
        clean_up: Callable[[], None],
    ) -> None:
        self._popen = popen
        self._first_line = first_line
        self._guard = watcher
        self._marks = marks
        self._limit = limit
        self._clean_up = clean_up
        self._was_killed = False
        # Signals go only to a process that has not been reaped: its number is still its own.
        self._reaping = threading.Lock()
        self._reaped = False
        assert popen.stdin is not None
        assert popen.stdout is not None
        assert popen.stderr is not None
        self._stdin = popen.stdin
        # Plain descriptors: a reader that waits for a stray child for ever is no leak to warn of.
        self._stream = _take_descriptor(popen.stdout)
        self._output = _take_descriptor(popen.stderr)

    def send(self, data: bytes) -> None:
        view = memoryview(data)
        # A worker that is gone is noticed by its exit.
        with contextlib.suppress(OSError, ValueError):
            while view:
                view = view[self._stdin.write(view) or 0 :]

    def receive(self) -> bytes:
        # Sent from the reading thread: a worker that hangs at its start must not block others.
        first, self._first_line = self._first_line, b""
        if first:
            self.send(first)
        return _read(self._stream)

    def receive_output(self) -> bytes:
        return _read(self._output)

    def wait(self) -> Exit:
        # The zombie keeps the number of the group from being used again until it is killed.
        # macOS has no waitid before Python 3.13; there the number is free for a moment.
        if hasattr(os, "waitid"):
            ended = os.waitid(os.P_PID, self._popen.pid, os.WEXITED | os.WNOWAIT)
            assert ended is not None
            in_order = ended.si_code == os.CLD_EXITED and ended.si_status == 0
        else:
            in_order = self._popen.wait() == 0
        # A worker that was killed could not end what it had started: that is nobody's leak.
        left = processes.left_behind(self._popen.pid, self._marks) if in_order else ()
        with self._reaping:
            guard.kill_group(self._popen.pid)
            if left or not in_order:
                guard.kill_marked(*self._marks)
            guard.kill(*self._limit.members())
            code = self._popen.wait()
            self._reaped = True
        self._guard.forget(self._popen.pid)
        # A child may be the one that took too much; the worker then says itself how it ended.
        starved = code == -signal.SIGKILL and not self._was_killed and self._limit.has_struck()
        self._limit.close()
        self._clean_up()
        with contextlib.suppress(OSError):
            self._stdin.close()
        if code >= 0:
            return Exit(code=code, left=left)
        return Exit(signal=-code, out_of_memory=starved)

    def dump_stacks(self) -> None:
        with self._reaping:
            if not self._reaped:
                os.kill(self._popen.pid, boot.STACKS_SIGNAL)

    def interrupt(self) -> None:
        self._signal(signal.SIGINT)

    def terminate(self) -> None:
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        self._was_killed = True
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        with self._reaping:
            if self._reaped:
                return
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._popen.pid, number)
                # A stopped process could not act on it.
                os.killpg(self._popen.pid, signal.SIGCONT)


class _Guard:
    """The process that ends the workers if the controller cannot."""

    def __init__(self, mark: str, places: Places | None) -> None:
        directory = [] if places is None else [str(places.root)]
        self._popen = subprocess.Popen(
            # Isolated, without site-packages: it starts fast and imports no user code.
            [sys.executable, "-I", "-S", guard.__file__, mark, *directory],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            # Signals for the controller's group are not for the guard.
            start_new_session=True,
        )

    def watch(self, group: int) -> None:
        self._tell(f"+{group}\n")

    def remove_later(self, directory: Path) -> None:
        self._tell(f"/{directory}\n")

    def forget(self, group: int) -> None:
        self._tell(f"-{group}\n")

    def close(self) -> None:
        assert self._popen.stdin is not None
        with contextlib.suppress(OSError):
            self._popen.stdin.close()
        self._popen.wait()

    def _tell(self, line: str) -> None:
        assert self._popen.stdin is not None
        # Somebody killed the guard: the run goes on without.
        with contextlib.suppress(OSError, ValueError):
            self._popen.stdin.write(os.fsencode(line))


def _take_descriptor(file: IO[bytes]) -> int:
    descriptor = os.dup(file.fileno())
    file.close()
    return descriptor


def _read(descriptor: int) -> bytes:
    data = os.read(descriptor, _CHUNK)
    if not data:
        os.close(descriptor)
    return data


def _interpreter_flags() -> list[str]:
    # -O, -W, -X and their like of this very interpreter; multiprocessing relies on it, too.
    flags: list[str] = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
    for name, value in sys._xoptions.items():
        flag = name if value is True else f"{name}={value}"
        if flag not in flags:
            flags += ["-X", flag]
    return flags
