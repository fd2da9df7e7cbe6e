"""The controller's end of a warm worker."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import threading
from collections.abc import Mapping
from typing import Final, final

from ..model import UNKNOWN_EXIT, Exit
from ..worker.control import Control
from . import guard, processes
from .guardian import Guardian
from .local import Child, Pipes, ended_in_order, exit_of

_CHUNK: Final = 1 << 16
#: How much of its output is kept, in bytes.
_OUTPUT_KEPT: Final = 1 << 20
#: How long pipes are read after its exit: a child outside may hold them open.
_DRAIN_SECONDS: Final = 2.0
#: How long an answer may take. A fork takes milliseconds, even where much memory is copied.
ANSWER_SECONDS: Final = 30.0


class ForkRefused(Exception):
    """An attempt cannot be forked; the text says why."""


@final
class Warm:
    """A process that collects and then forks attempts."""

    def __init__(
        self,
        child: Child,
        pipes: Pipes,
        control: Control,
        guardian: Guardian,
        marks: tuple[str, ...],
    ) -> None:
        self.child = child
        self._control = control
        self._guard = guardian
        self._marks = marks
        self._asking = threading.Lock()
        self._reaping = threading.Lock()
        self._stdin = pipes.stdin[1]
        self._stream = pipes.stream[0]
        self._output = pipes.output[0]
        self._open = {self._stream, self._output}
        #: All that it has sent as its stream, and what it has written otherwise.
        self.stream = b""
        self.output = b""
        self.exit: Exit | None = None
        guardian.watch(child.pid)

    # Collecting; these are called by one thread

    def wait_until_collected(self) -> tuple[str, str]:
        """Wait for its verdict and what it says about it.

        ``ready`` and what nevertheless speaks against a fork; ``obstacle`` and which it is;
        ``over`` where pytest has come to its end; ``gone`` where only the process has.
        """
        asking = self._control.fileno()
        while asking not in self._read_ready({asking}):
            pass
        # What was written before the verdict, but only after its pipe was looked at.
        self._read_ready(set(), wait=False)
        verdict, _ = self._control.receive()
        state, _, text = verdict.decode("utf-8", "replace").partition(" ")
        return state or "gone", text

    def take_output(self) -> bytes:
        """What it has written so far, for somebody who shows it."""
        output, self.output = self.output, b""
        return output

    def wait(self, *, with_children: bool) -> Exit:
        """Read what it still writes and wait for its end, then end what it has left behind."""
        reader = threading.Thread(target=self._read_all, name="shardrun warm output", daemon=True)
        reader.start()
        self.child.wait()
        with self._reaping:
            guard.kill_group(self.child.pid)
            if with_children:
                guard.kill_marked(*self._marks)
            self.exit = self.child.reap()
        self._guard.forget(self.child.pid)
        reader.join(_DRAIN_SECONDS)
        return self.exit

    def read_on(self) -> None:
        """Read what it still writes, where somebody else waits for its end."""
        self._read_all()

    def _read_all(self) -> None:
        while self._open:
            self._read_ready(set())

    def _read_ready(self, others: set[int], *, wait: bool = True) -> set[int]:
        poll = select.poll()
        for descriptor in self._open | others:
            poll.register(descriptor, select.POLLIN)
        ready = {descriptor for descriptor, _ in poll.poll(None if wait else 0)}
        for descriptor in ready & self._open:
            data = os.read(descriptor, _CHUNK)
            if not data:
                self._open.discard(descriptor)
                os.close(descriptor)
            elif descriptor == self._stream:
                self.stream += data
            else:
                self.output = (self.output + data)[-_OUTPUT_KEPT:]
        return ready

    # Requests

    def fork(
        self, first_line: bytes, place: Mapping[str, str], worker_ends: tuple[int, int, int]
    ) -> ForkedChild:
        """A new attempt on these pipes; ``ForkRefused`` where there will be none."""
        # No line of JSON has a tab in it.
        told = json.dumps(dict(place)).encode() + b"\t" + first_line
        with self._asking:
            answer = self._ask(b"fork " + told, worker_ends)
        verb, _, rest = answer.partition(b" ")
        if verb != b"forked":
            raise ForkRefused(rest.decode("utf-8", "replace") or "the warm worker is gone")
        pid = int(rest)
        try:
            return ForkedChild(pid, self)
        except OSError as error:
            guard.kill(pid)
            self.reap(pid)
            raise ForkRefused(f"the fork cannot be watched: {error}") from error

    def go_on(self, place: Mapping[str, str], worker_ends: tuple[int, int, int]) -> None:
        """Let it be an attempt itself, on these pipes."""
        # Gone already: that is noticed by its exit.
        with contextlib.suppress(OSError):
            self._control.send(b"go on " + json.dumps(dict(place)).encode() + b"\n", worker_ends)

    def send(self, first_line: bytes) -> None:
        """Tell a fresh interpreter what it is, without waiting for it to read that."""

        def write() -> None:
            view = memoryview(first_line)
            with contextlib.suppress(OSError):
                while view:
                    view = view[os.write(self._stdin, view) :]

        threading.Thread(target=write, name="shardrun warm launch", daemon=True).start()

    def tell(self, first_line: bytes) -> None:
        """Tell a worker that was forked early the rest of what it is."""
        # Gone already: that is noticed by its exit.
        with contextlib.suppress(OSError):
            self._control.send(first_line)

    def exit_of(self, pid: int) -> Exit | None:
        """How a fork ended that has ended; None where nobody can tell any more."""
        with self._asking:
            answer = self._ask(b"status %d\n" % pid)
        if not answer:
            return None
        return exit_of(int(answer))

    def reap(self, pid: int) -> None:
        """Give the number of an ended fork back."""
        with self._asking:
            self._ask(b"reap %d\n" % pid)

    def _ask(self, line: bytes, descriptors: tuple[int, ...] = ()) -> bytes:
        """One answer; empty where the other end is gone, or has to go because it gives none."""
        # A test may have stopped it.
        self.signal(signal.SIGCONT, group=False)
        try:
            self._control.limit(ANSWER_SECONDS)
            self._control.send(line, descriptors)
            return self._control.receive()[0]
        except TimeoutError:
            # Nobody must take an answer that comes late for his own.
            self._control.close()
            self.signal(signal.SIGKILL, group=False)
            return b""
        except OSError:
            return b""

    # The end

    def signal(self, number: int, *, group: bool) -> None:
        """Send a signal; harmless when it is gone."""
        with self._reaping:
            if self.exit is None:
                processes.send_signal(self.child.pid, number, group=group)

    def dismiss(self) -> None:
        """It is not needed any more: it calls its exit handlers and ends."""
        with self._asking:
            self._control.close()
        self.signal(signal.SIGCONT, group=False)
        os.close(self._stdin)


@final
class ForkedChild:
    """A fork of a warm worker: its parent is not us, so we watch it and ask how it ended."""

    def __init__(self, pid: int, warm: Warm) -> None:
        self.pid = pid
        self._warm = warm
        self._descriptor = os.pidfd_open(pid)

    def wait(self) -> bool:
        poll = select.poll()
        poll.register(self._descriptor, select.POLLIN)
        poll.poll()
        self._exit = self._warm.exit_of(self.pid)
        return self._exit is not None and self._exit.code == 0

    def reap(self) -> Exit:
        os.close(self._descriptor)
        self._warm.reap(self.pid)
        return self._exit or UNKNOWN_EXIT


@final
class EarlyChild:
    """A warm worker that this process has forked."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def wait(self) -> bool:
        return ended_in_order(os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT))

    def reap(self) -> Exit:
        return exit_of(os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1]))
