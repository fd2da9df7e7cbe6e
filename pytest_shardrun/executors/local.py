"""Processes of this machine as attempts."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Final, Protocol, final

from ..model import Attempt, Exit
from ..records import record, replace
from ..worker import boot
from . import guard, memory, processes
from .base import LaunchError, LaunchOrder
from .guardian import Guardian
from .interpreter import interpreter_flags
from .spools import SharedSpool

_CHUNK: Final = 1 << 16


class Child(Protocol):
    """A process that leads its own process group."""

    pid: int

    def wait(self) -> bool:
        """Wait until it has ended, and say whether it has done so by itself and without trouble.

        Its number stays its own until ``reap`` where possible.
        """

    def reap(self) -> Exit:
        """Give its number back and learn how it ended."""


@final
@record
class Pipes:
    """Both ends of the three pipes of an attempt: stdin, stream and output."""

    stdin: tuple[int, int]
    stream: tuple[int, int]
    output: tuple[int, int]

    @property
    def worker_ends(self) -> tuple[int, int, int]:
        return self.stdin[0], self.stream[1], self.output[1]

    def close_worker_ends(self) -> None:
        """Where the worker has them they must not be open here as well."""
        for descriptor in self.worker_ends:
            os.close(descriptor)


def open_pipes() -> Pipes:
    """Fresh pipes; ``LaunchError`` where there are no descriptors left."""
    opened: list[tuple[int, int]] = []
    try:
        for _ in range(3):
            opened.append(os.pipe())
    except OSError as error:
        for descriptor in (end for pipe in opened for end in pipe):
            os.close(descriptor)
        raise LaunchError(f"could not open pipes: {error}") from error
    return Pipes(*opened)


def marks_of(run_mark: str, attempt: Attempt) -> tuple[str, ...]:
    """What the environment of all processes of an attempt has in it."""
    return run_mark, f"SHARDRUN_SHARD={attempt.shard}", f"SHARDRUN_ATTEMPT={attempt.number}"


@final
class WorkerProcess:
    """An attempt on this machine, from before it has a process until it is gone."""

    def __init__(
        self,
        attempt: Attempt,
        pipes: Pipes,
        environment: Mapping[str, str],
        guardian: Guardian,
        mark: str,
        limit: memory.Limit,
        clean_up: Callable[[], None],
        spool: SharedSpool | None,
        unborn: Callable[[WorkerProcess, int], None] | None = None,
    ) -> None:
        self.pipes: Final = pipes
        #: What is added to its environment.
        self.environment: Final = environment
        #: What a fresh interpreter still has to be told.
        self._first_line = b""
        self._guard = guardian
        self._marks = marks_of(mark, attempt)
        self._limit = limit
        self._clean_up = clean_up
        self._spool = spool
        self._was_killed = False
        #: Gets the signals of an attempt that has no process yet.
        self._unborn = unborn
        self._child: Child | None = None
        #: How it ends without one, or what has kept it from getting one.
        self._fate: Exit | BaseException | None = None
        self._begun = threading.Event()
        # Signals go only to a process that has not been reaped: its number is still its own.
        self._reaping = threading.Lock()
        self._reaped = False
        self._stdin: int = pipes.stdin[1]
        self._stdin_open = True
        # Commands of the loop and the first line must not mix.
        self._sending = threading.Lock()

    def begin(self, child: Child, first_line: bytes = b"") -> None:
        """The attempt has its process now, which holds the worker's ends of the pipes."""
        self._first_line = first_line
        self._guard.watch(child.pid)
        # Before it is told what to run, so nothing of the user's tests runs outside.
        self._limit.enter(child.pid)
        self.pipes.close_worker_ends()
        with self._reaping:
            self._child = child
        self._begun.set()

    def begin_without(self, fate: Exit | BaseException) -> None:
        """The attempt ends like this and never gets a process; an error is for who waits for it."""
        self.pipes.close_worker_ends()
        self._fate = fate
        self._begun.set()

    def give_up(self) -> None:
        """There will be no process, and nobody waits for one."""
        self._limit.close()
        self.forget_unsent()
        pipes = self.pipes
        for end in (*pipes.stdin, *pipes.stream, *pipes.output):
            os.close(end)

    @property
    def has_begun(self) -> bool:
        return self._begun.is_set()

    def send_first_line(self) -> None:
        """Tell a fresh interpreter what it is; it may take its time to read it."""
        with self._sending:
            first, self._first_line = self._first_line, b""
        if first:
            self.send(first)

    def send(self, data: bytes) -> None:
        view = memoryview(data)
        # A worker that is gone is noticed by its exit.
        with contextlib.suppress(OSError), self._sending:
            while view and self._stdin_open:
                view = view[os.write(self._stdin, view) :]

    def receive(self) -> bytes:
        if self._first_line:
            # From the reading thread: a worker that hangs at its start must not block others.
            self.send_first_line()
        return _read(self.pipes.stream[0])

    def receive_output(self) -> bytes:
        return _read(self.pipes.output[0])

    def unsent(self) -> bytes:
        return b"" if self._spool is None else self._spool.read()

    def forget_unsent(self) -> None:
        spool, self._spool = self._spool, None
        if spool is not None:
            spool.close()

    def wait(self) -> Exit:
        self._begun.wait()
        if self._child is None:
            self._limit.close()
            self._clean_up()
            self._close_stdin()
            if isinstance(self._fate, Exit):
                return self._fate
            assert self._fate is not None
            raise self._fate
        in_order = self._child.wait()
        # A worker that was killed could not end what it had started: that is nobody's leak.
        left = processes.left_behind(self._child.pid, self._marks) if in_order else ()
        with self._reaping:
            guard.kill_group(self._child.pid)
            if left or not in_order:
                guard.kill_marked(*self._marks)
            guard.kill(*self._limit.members())
            exit = self._child.reap()
            self._reaped = True
        self._guard.forget(self._child.pid)
        # A child may be the one that took too much; the worker then says itself how it ended.
        starved = (
            exit.signal == signal.SIGKILL and not self._was_killed and self._limit.has_struck()
        )
        self._limit.close()
        self._clean_up()
        self._close_stdin()
        if exit.signal is not None:
            return replace(exit, out_of_memory=starved)
        return replace(exit, left=left)

    def _close_stdin(self) -> None:
        # Not while a thread writes to it: the number might be another pipe's by then. A full pipe
        # without a reader lets the writer go.
        with self._sending:
            self._stdin_open = False
            os.close(self._stdin)

    def dump_stacks(self) -> None:
        self.signal(boot.STACKS_SIGNAL, group=False)

    def interrupt(self) -> None:
        self.signal(signal.SIGINT)

    def terminate(self) -> None:
        self.signal(signal.SIGTERM)

    def kill(self) -> None:
        self._was_killed = True
        self.signal(signal.SIGKILL)

    def signal(self, number: int, *, group: bool = True) -> None:
        """Send a signal to the group or the process alone; harmless when it is gone."""
        with self._reaping:
            if self._reaped or self._fate is not None:
                return
            child = self._child
            if child is not None:
                processes.send_signal(child.pid, number, group=group)
                return
        if self._unborn is not None:
            self._unborn(self, number)


@final
class SpawnedChild:
    """A fresh interpreter."""

    def __init__(self, popen: subprocess.Popen[bytes]) -> None:
        self._popen = popen
        self.pid = popen.pid

    def wait(self) -> bool:
        # The zombie keeps the number of the group from being used again until it is killed.
        # macOS has no waitid before Python 3.13; there the number is free for a moment.
        if hasattr(os, "waitid"):
            return ended_in_order(os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT))
        return self._popen.wait() == 0

    def reap(self) -> Exit:
        return exit_of(self._popen.wait())


def ended_in_order(ended: os.waitid_result | None) -> bool:
    """Whether a process has left with exit code 0."""
    return ended is not None and ended.si_code == os.CLD_EXITED and ended.si_status == 0


def exit_of(code: int) -> Exit:
    """The exit that ``subprocess`` and ``os.waitstatus_to_exitcode`` describe by a number."""
    return Exit(code=code) if code >= 0 else Exit(signal=-code)


def spawn(
    order: LaunchOrder, more: Mapping[str, str], pipes: Pipes, control: int | None = None
) -> SpawnedChild:
    """Start an interpreter on these pipes; ``control`` is a descriptor that it inherits.

    ``more`` is added to its environment.
    """
    environment = {**order.environment, **more}
    if control is not None:
        environment[boot.CONTROL_VARIABLE] = str(control)
    stdin, stream, output = pipes.worker_ends
    try:
        popen = subprocess.Popen(
            [sys.executable, *interpreter_flags(), "-c", boot.PROGRAM],
            stdin=stdin,
            stdout=stream,
            stderr=output,
            cwd=order.directory,
            env=environment,
            pass_fds=() if control is None else (control,),
            # A group to kill, deaf to the terminal's Ctrl-C: the controller decides. A session,
            # because a background group that reads from the terminal would be stopped.
            start_new_session=True,
        )
    except OSError as error:
        raise LaunchError(f"could not start {sys.executable}: {error}") from error
    return SpawnedChild(popen)


def _read(descriptor: int) -> bytes:
    data = os.read(descriptor, _CHUNK)
    if not data:
        os.close(descriptor)
    return data
