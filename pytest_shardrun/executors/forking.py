"""Shards as forks of a process that has collected."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable
from typing import Final, final

from ..model import Exit
from ..records import record
from ..worker import boot
from ..worker.control import connect
from .base import Farewell, LaunchError, LaunchOrder
from .local import WorkerProcess, marks_of, open_pipes, spawn
from .places import WARM
from .subprocess import SubprocessExecutor
from .warm import ForkRefused, Warm

#: The exit code of an attempt that could not be started so late.
NOT_STARTED: Final = 127


@final
@record
class _First:
    """The attempt that has no process before the warm worker has collected."""

    order: LaunchOrder
    process: WorkerProcess


@final
class ForkingExecutor:
    """Starts attempts as forks of a warm worker; as fresh interpreters where that does harm.

    The first attempt shares the fate of the warm worker until that has collected. No other should
    be started before, unless it turns out that there will be no forks.
    """

    name = "subprocess"

    def __init__(
        self,
        spawning: SubprocessExecutor,
        early: Warm | None,
        *,
        alike: bool,
        grace: float,
        obstacle: str = "",
    ) -> None:
        """``alike``: the early worker's sets have the order that fresh interpreters' have.

        ``obstacle`` is known from an earlier run.
        """
        self._spawning = spawning
        self._early = early
        #: The early worker collects already.
        self._is_told = False
        self._alike = alike
        self._grace = grace
        # What the loop and the thread that attends to the warm worker both look at.
        self._lock = threading.RLock()
        self._first: _First | None = None
        self._warm: Warm | None = None
        self._thread: threading.Thread | None = None
        self._although = ""
        self._remark = ""
        self._problem = ""
        self._release: Callable[[], None] = lambda: None
        #: Why attempts are fresh interpreters after all; empty as long as they are forks.
        self.obstacle = obstacle
        #: The one that this run has found, if it will be there again.
        self.found = ""

    def prepare(self, say: Callable[[str], None]) -> None:
        """Nothing: the interpreter is there."""

    def start_one_first(self, release: Callable[[], None]) -> None:
        self._release = release
        if self.obstacle:
            release()

    def begin_early(self, order: LaunchOrder) -> None:
        """Let the warm worker collect as this attempt."""
        if self.obstacle:
            self._spawning.begin_early(order)
            return
        with contextlib.suppress(LaunchError):
            self._early = self._tell_warm(order)
            self._is_told = True

    def start(self, order: LaunchOrder) -> WorkerProcess:
        """Fork the attempt, now or as soon as the warm worker has collected."""
        with self._lock:
            if self.obstacle or self._first is not None:
                return self._spawning.start(order)
            process = self._spawning.new_process(order, self._signal_first)
            first = _First(order, process)
            if self._thread is not None:
                self._fork(first, b"")
            else:
                self._first = first
                self._begin(first)
            return process

    def how(self) -> str:
        """``fork``, or ``spawn`` and why."""
        with self._lock:
            if self.obstacle:
                return f"spawn ({self.obstacle})"
            return f"fork (although {self._although})" if self._although else "fork"

    def close(self) -> Farewell:
        """Let the warm worker call its exit handlers and end."""
        early, self._early = self._early, None
        if early is not None:
            self._dismiss_early(early)
        output = b""
        with self._lock:
            warm, self._warm = self._warm, None
        if warm is not None:
            warm.dismiss()
        if self._thread is not None:
            self._thread.join(self._grace)
            if self._thread.is_alive() and warm is not None:
                self._problem = (
                    "the process from which shard processes were forked was "
                    f"still running {self._grace:g} s after its end"
                )
                warm.signal(signal.SIGKILL, group=True)
            self._thread.join()
        if warm is not None:
            output = warm.output
            if warm.exit is not None and warm.exit.code != 0 and not self._problem:
                self._problem = (
                    "the process from which shard processes were forked crashed with "
                    f"{warm.exit} while the interpreter ended"
                )
        self._spawning.close()
        return Farewell(self._problem, self._remark, output)

    def _begin(self, first: _First) -> None:
        is_told = self._early is not None and self._is_told
        warm = self._early if is_told else self._tell_warm(first.order)
        self._early, self._warm = None, warm
        self._thread = threading.Thread(
            target=self._attend, args=(warm, first), name="shardrun warm", daemon=True
        )
        self._thread.start()

    def _tell_warm(self, order: LaunchOrder) -> Warm:
        if self._early is not None:
            self._early.tell(order.first_line)
            return self._early
        # It is a fresh interpreter as all others are.
        self._alike = True
        return self._spawn_warm(order)

    def _dismiss_early(self, early: Warm) -> None:
        """It was made for attempts that nobody wants."""
        early.dismiss()
        if self._is_told:
            early.signal(signal.SIGINT, group=True)
        end = threading.Thread(target=lambda: early.wait(with_children=True), daemon=True)
        end.start()
        end.join(self._grace)
        early.signal(signal.SIGKILL, group=True)
        end.join()

    def _spawn_warm(self, order: LaunchOrder) -> Warm:
        guardian = self._spawning.guardian
        pipes = open_pipes()
        control, theirs = connect()
        with theirs:
            child = spawn(order, self._spawning.place(WARM), pipes, theirs.fileno())
        pipes.close_worker_ends()
        marks = marks_of(self._spawning.mark, order.attempt)
        warm = Warm(child, pipes, control, guardian, marks)
        warm.send(order.first_line)
        return warm

    # The thread that attends to the warm worker

    def _attend(self, warm: Warm, first: _First) -> None:
        try:
            self._see_through(warm, first)
        except BaseException as error:
            if first.process.has_begun:
                raise
            # Without this whoever waits for the attempt would wait for ever.
            first.process.begin_without(error)

    def _see_through(self, warm: Warm, first: _First) -> None:
        state, text = warm.wait_until_collected()
        if state in ("over", "gone"):
            warm.wait(with_children=True)
        with self._lock:
            self._first = None
            match state:
                case "ready":
                    self._although = text
                    self._fork(first, warm.take_output())
                case "obstacle":
                    self.obstacle = self.found = text
                    self._warm = None
                    goes_on = self._start_otherwise(warm, first)
                case _:
                    self._warm = None
                    self.obstacle = f"the process that collected ended with {warm.exit}"
        match state:
            case "ready":
                warm.wait(with_children=False)
                self._note_end(warm)
            case "obstacle":
                self._release()
                if goes_on:
                    warm.read_on()
                else:
                    warm.dismiss()
                    warm.wait(with_children=False)
            case _:
                assert warm.exit is not None
                _write(first.process.pipes.stream[1], warm.stream)
                _write(first.process.pipes.output[1], warm.output)
                first.process.begin_without(warm.exit)

    def _note_end(self, warm: Warm) -> None:
        with self._lock:
            if self._warm is not None and not self.obstacle:
                # Nobody has dismissed it. Its forks go on, and what comes next is spawned.
                self.obstacle = f"the process that collected ended with {warm.exit}"
                self._remark = f"{self.obstacle}; later processes of shards were not forked"
            if self.obstacle:
                self._warm = None

    def _fork(self, one: _First, output: bytes) -> None:
        process = one.process
        assert self._warm is not None
        # Shown once, by the first of them.
        _write(process.pipes.output[1], output)
        try:
            child = self._warm.fork(
                one.order.first_line, process.environment, process.pipes.worker_ends
            )
        except ForkRefused as refusal:
            self.obstacle = str(refusal)
            self._spawn(one)
        else:
            process.begin(child)

    def _spawn(self, one: _First) -> None:
        process = one.process
        try:
            child = spawn(one.order, process.environment, process.pipes)
        except LaunchError as error:
            _write(process.pipes.output[1], f"{error}\n".encode())
            process.begin_without(Exit(code=NOT_STARTED))
        else:
            process.begin(child, one.order.first_line)
            process.send_first_line()

    def _start_otherwise(self, warm: Warm, first: _First) -> bool:
        """Whether the warm worker goes on as the attempt that waited for it."""
        if self._alike:
            process = first.process
            _write(process.pipes.output[1], warm.take_output())
            warm.go_on(process.environment, process.pipes.worker_ends)
            process.begin(warm.child)
        else:
            self._spawn(first)
        return self._alike

    # Signals

    def _signal_first(self, process: WorkerProcess, number: int) -> None:
        """Pass on what is meant for an attempt that has no process of its own yet."""
        group = number != boot.STACKS_SIGNAL
        with self._lock:
            warm = self._warm
            if self._first is None or warm is None:
                if process.has_begun:
                    process.signal(number, group=group)
                return
        warm.signal(number, group=group)


def _write(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    # Nobody reads any more.
    with contextlib.suppress(OSError):
        while view:
            view = view[os.write(descriptor, view) :]
