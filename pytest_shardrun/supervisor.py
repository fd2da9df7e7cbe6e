"""The one loop that performs what a run decides."""

from __future__ import annotations

import itertools
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any, Final, TypeAlias, final

from . import events, notices
from .actions import Action, End, FreeLocks, Launch, Send, Stop, TakeLocks, Tell
from .conflicts import Request
from .executors.base import (
    Executor,
    HopelessLaunch,
    KeepsUnsent,
    LaunchError,
    LaunchOrder,
    ShardProcess,
    StartsOneFirst,
)
from .lifecycle import Step, after_interrupt, at_once
from .locks import Locks
from .model import UNKNOWN_EXIT, Attempt, Ending, EndingKind, Exit
from .reading import EventReader
from .records import record
from .run import Run

#: How much of a process's output is kept for the report of its crash, in bytes.
OUTPUT_TAIL: Final = 32 * 1024
#: How long streams are read after the exit of their process: a child outside may hold them open.
DRAIN_SECONDS: Final = 2.0
#: How long messages may be taken without a look at the deadlines.
BUSY_SECONDS: Final = 0.05
#: This loop is late when it looks at a deadline so many seconds after it.
LATE_SECONDS: Final = 0.25
#: How long it then takes messages first, at most.
CATCH_UP_SECONDS: Final = 0.5
#: How long a stream gathers events after some were taken from it.
GATHER_SECONDS: Final = 0.004
#: How often the machine's memory is looked at while attempts wait for it.
MEASURE_SECONDS: Final = 0.5
#: How often locks are looked at that other runs hold or wait for.
LOCK_SECONDS: Final = 0.05
#: Bytes in a chunk behind which more must be waiting.
FULL_CHUNK: Final = 32 * 1024
#: Chunks of 64 KiB that may wait for the loop before workers have to.
_ROOM: Final = 256
#: Whose output it is where no attempt has written it.
_NOBODY: Final = Attempt(0, 1)


@final
@record
class _Chunk:
    attempt: Attempt
    data: bytes


@final
@record
class _Output:
    attempt: Attempt
    data: bytes


@final
@record
class _Gone:
    attempt: Attempt
    exit: Exit


@final
@record
class _NeverBegan:
    attempt: Attempt
    error: LaunchError


@final
@record
class _Released:
    """No attempt need wait for the first one."""


@final
@record
class _Signalled:
    number: int


@final
@record
class _Broken:
    """A thread of ours could not go on."""

    error: BaseException


_Message: TypeAlias = _Chunk | _Output | _Gone | _NeverBegan | _Released | _Signalled | _Broken


@dataclass(slots=True)
class _Live:
    process: ShardProcess
    #: The same, where it keeps what it has not sent.
    keeper: KeepsUnsent | None = None
    reader: EventReader = field(default_factory=EventReader)
    #: What was read and not acted on.
    news: Iterator[events.Event | bytes] = field(default_factory=lambda: iter(()))
    broken: bool = False
    stream_open: bool = True
    output_open: bool = True
    tail: bytes = b""
    exit: Exit | None = None
    drained_by: float = float("inf")


class Supervisor:
    """Owns the processes and threads of a run; everything else happens in the calling thread."""

    def __init__(
        self,
        run: Run,
        executor: Executor,
        order_for: Callable[[Launch], LaunchOrder],
        tell: Callable[[notices.Notice], None],
        show_output: Callable[[Attempt, bytes], None],
        wanted_stop: Callable[[], Stop | None],
        room: Callable[[], int],
        locks: Locks,
        when_idle: Callable[[], None],
    ) -> None:
        self._run = run
        self._executor = executor
        self._order_for = order_for
        self._tell = tell
        self._show_output = show_output
        self._wanted_stop = wanted_stop
        #: How many more attempts the machine has memory for.
        self._memory_room = room
        self._measure_at = 0.0
        self._locks = locks
        #: Locks that other runs hold.
        self._refused: dict[Request, None] = {}
        self._look_at_locks_at = float("inf")
        self._when_idle = when_idle
        self._inbox: queue.SimpleQueue[_Message] = queue.SimpleQueue()
        self._room = threading.Semaphore(_ROOM)
        self._live: dict[Attempt, _Live] = {}
        self._started = False
        #: Signals that have arrived and were not acted on.
        self._signals_waiting = 0
        self._looping = False
        self._untold: list[Tell] = []
        self._closed = False
        #: When the run wants to know the time.
        self._due = 0.0
        if isinstance(executor, StartsOneFirst):
            executor.start_one_first(lambda: self._inbox.put(_Released()))
        #: The signal that a person or a system sent to end the run.
        self.signalled: int | None = None

    def run_until(self, is_reached: Callable[[], bool]) -> None:
        """Perform the run until the condition holds, or the run is over."""
        if not self._started:
            self._started = True
            self._perform(self._run.start(time.monotonic(), self._memory_room()))
        self._looping = True
        try:
            while not self._run.is_over and not is_reached():
                self._take(self._next_message())
                now = time.monotonic()
                if now >= self._due:
                    self._keep_time(now)
                self._bury_drained(now)
                if self._run.lacks_room and now >= self._measure_at:
                    self._measure(now)
                if now >= self._look_at_locks_at:
                    self._look_at_locks(now)
        finally:
            self._looping = False
        if self._run.is_over:
            self._close_executor()

    def _keep_time(self, now: float) -> None:
        due = self._run.next_time()
        if due is not None and now > due + LATE_SECONDS:
            self._catch_up()
        if due is not None and now >= due:
            # A test whose end was not sent yet has kept its deadline.
            for attempt, live in list(self._live.items()):
                self._take_unsent(attempt, live)
        self._perform(self._run.time(now))

    def stop(self, stop: Stop) -> None:
        """End the run early."""
        self._perform(self._run.stop(stop, time.monotonic()))

    def close(self) -> None:
        """End what still lives, wait for it and give everything back."""
        # What a hook that raised has kept from being told.
        untold, self._untold = self._untold, []
        self._perform(untold)
        if not self._run.is_over and self._started:
            reason = "the controller ended"
            # As plain pytest does after an error of a hook, shards tear down what is set up.
            self.stop(Stop(reason, asked=False, escalate=after_interrupt))
            for attempt in self._run.attempts - self._live.keys():
                # Its launch was never performed, and nobody was told of it.
                self._run.not_launched(attempt, reason, time.monotonic())
            self.run_until(lambda: False)
        self._locks.close()
        self._close_executor()

    def _close_executor(self) -> None:
        farewell = None if self._closed else self._executor.close()
        self._closed = True
        if farewell is None:
            return
        if farewell.output:
            self._show_output(_NOBODY, farewell.output)
            self._show_output(_NOBODY, b"")
        if farewell.remark:
            self._tell(notices.Remark(farewell.remark))
        if farewell.problem:
            output = farewell.output.decode("utf-8", "replace")
            self._tell(notices.Problem(0, farewell.problem, output))

    @contextmanager
    def signals(self) -> Iterator[None]:
        """Turn SIGINT, SIGTERM and SIGHUP into an orderly end of the run."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        numbers = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
        # Who started us may have wanted them ignored, as nohup does.
        wanted = [number for number in numbers if signal.getsignal(number) != signal.SIG_IGN]
        before: dict[signal.Signals, Any] = {
            number: signal.signal(number, self._note_signal) for number in wanted
        }
        if signal.getsignal(signal.SIGCHLD) == signal.SIG_IGN:
            # The system would reap our children itself, and nobody learn how they ended.
            before[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _note_signal(self, number: int, frame: FrameType | None) -> None:
        self._signals_waiting += 1
        if self._signals_waiting > 2 and self._looping:
            # The loop itself must be stuck, in a plugin perhaps.
            raise KeyboardInterrupt
        self._inbox.put(_Signalled(number))

    def _next_time(self) -> float:
        draining = (live.drained_by for live in self._live.values())
        measure_at = self._measure_at if self._run.lacks_room else float("inf")
        return min(
            self._run.next_time() or float("inf"), *draining, measure_at, self._look_at_locks_at
        )

    def _next_message(self) -> _Message | None:
        now = time.monotonic()
        if now < self._due and not self._inbox.empty():
            return self._inbox.get()
        next_time = self._next_time()
        wait = next_time - now
        # Any message may bring a new deadline; looking for it each time would take longer.
        self._due = min(next_time, now + BUSY_SECONDS)
        if self._inbox.empty():
            self._when_idle()
        try:
            # Bounded, because a wait without an end cannot be left by a signal on every platform.
            return self._inbox.get(timeout=max(0.0, min(wait, 60.0)))
        except queue.Empty:
            return None

    def _catch_up(self) -> None:
        """Take what came while this process was stopped, or a hook kept it.

        A test whose end waits to be read has kept its deadline.
        """
        until = time.monotonic() + CATCH_UP_SECONDS
        while (left := until - time.monotonic()) > 0:
            try:
                message = self._inbox.get(timeout=left)
            except queue.Empty:
                return
            self._take(message)

    def _take(self, message: _Message | None) -> None:
        match message:
            case _Chunk(attempt, data):
                self._room.release()
                self._read(attempt, data)
            case _Output(attempt, data):
                self._room.release()
                self._keep_output(attempt, data)
            case _Gone(attempt, exit):
                live = self._live[attempt]
                live.exit = exit
                live.drained_by = time.monotonic() + DRAIN_SECONDS
            case _NeverBegan(attempt, error):
                live = self._live.pop(attempt)
                if live.keeper is not None:
                    live.keeper.forget_unsent()
                self._fail_launch(attempt, error)
            case _Released():
                self._perform(self._run.release(time.monotonic()))
            case _Signalled(number):
                self._signals_waiting -= 1
                self._be_signalled(number)
            case _Broken(error):
                raise error
            case None:
                pass

    def _be_signalled(self, number: int) -> None:
        reason = f"interrupted by {signal.Signals(number).name}"
        if self.signalled is None:
            self.signalled = number
            self.stop(Stop(reason, asked=True, escalate=after_interrupt))
        else:
            ending = Ending(EndingKind.STOPPED, reason)
            self.stop(Stop(reason, asked=True, escalate=lambda *_: at_once(ending, 0.0)))

    # Processes

    def _take_locks(self, request: Request) -> None:
        # Also to see whether another run waits for them.
        self._look_at_locks_at = min(self._look_at_locks_at, time.monotonic() + LOCK_SECONDS)
        if self._try_locks(request):
            self._perform(self._run.granted(request, time.monotonic()))
        else:
            self._refused[request] = None
            self._perform(self._run.refused(request, time.monotonic()))

    def _try_locks(self, request: Request) -> bool:
        try:
            return self._locks.take(request)
        except OSError as error:
            self._tell(
                notices.Remark(f"locks hold within this run only, because of other runs: {error}")
            )
            return True

    def _look_at_locks(self, now: float) -> None:
        for request in list(self._refused):
            if self._try_locks(request):
                del self._refused[request]
                self._perform(self._run.granted(request, now))
        names = self._locks.contended()
        if names:
            self._perform(self._run.contended(names, now))
        is_wanted = bool(self._refused) or self._locks.is_held
        self._look_at_locks_at = now + LOCK_SECONDS if is_wanted else float("inf")

    def _measure(self, now: float) -> None:
        self._measure_at = now + MEASURE_SECONDS
        self._perform(self._run.measured(self._memory_room(), now))

    def _perform(self, actions: Sequence[Action]) -> None:
        for at, action in enumerate(actions):
            try:
                self._perform_one(action)
            except BaseException:
                rest = actions[at + 1 :]
                self._untold += [each for each in rest if isinstance(each, Tell)]
                raise

    def _perform_one(self, action: Action) -> None:
        match action:
            case Tell(notice):
                self._tell(notice)
            case Send(attempt, data):
                if attempt in self._live:
                    self._live[attempt].process.send(data)
            case Launch():
                self._launch(action)
            case TakeLocks(request):
                self._take_locks(request)
            case FreeLocks(names):
                self._locks.free(names)
            case End(attempt, step):
                if attempt in self._live:
                    _take_step(self._live[attempt].process, step)

    def _launch(self, launch: Launch) -> None:
        attempt = launch.attempt
        try:
            process = self._executor.start(self._order_for(launch))
        except LaunchError as error:
            self._fail_launch(attempt, error)
            return
        live = self._live[attempt] = _Live(process)
        if isinstance(process, KeepsUnsent):
            live.keeper = process
        for target in (self._read_stream, self._read_output, self._wait_for):
            name = f"shardrun {attempt} {target.__name__.strip('_')}"
            arguments = (target, attempt, process)
            threading.Thread(target=self._serve, args=arguments, name=name, daemon=True).start()

    def _fail_launch(self, attempt: Attempt, error: LaunchError) -> None:
        is_hopeless = isinstance(error, HopelessLaunch)
        self._perform(
            self._run.not_launched(attempt, str(error), time.monotonic(), hopeless=is_hopeless)
        )

    def _serve(
        self,
        serve: Callable[[Attempt, ShardProcess], None],
        attempt: Attempt,
        process: ShardProcess,
    ) -> None:
        try:
            serve(attempt, process)
        except BaseException as error:
            # Without this the loop would wait for what never comes.
            self._inbox.put(_Broken(error))

    def _read_stream(self, attempt: Attempt, process: ShardProcess) -> None:
        while True:
            data = process.receive()
            self._room.acquire()
            self._inbox.put(_Chunk(attempt, data))
            if not data:
                return
            if len(data) < FULL_CHUNK:
                # The events of tiny tests come one by one: to wake up for each takes longer than
                # the tests.
                time.sleep(GATHER_SECONDS)

    def _read_output(self, attempt: Attempt, process: ShardProcess) -> None:
        while True:
            data = process.receive_output()
            self._room.acquire()
            self._inbox.put(_Output(attempt, data))
            if not data:
                return

    def _wait_for(self, attempt: Attempt, process: ShardProcess) -> None:
        try:
            exit = process.wait()
        except LaunchError as error:
            self._inbox.put(_NeverBegan(attempt, error))
        except BaseException:
            # The end of the broken run must not wait for this one.
            self._inbox.put(_Gone(attempt, UNKNOWN_EXIT))
            raise
        else:
            self._inbox.put(_Gone(attempt, exit))

    def _bury_drained(self, now: float) -> None:
        for attempt, live in list(self._live.items()):
            if live.exit is None:
                continue
            if (live.stream_open or live.output_open) and now < live.drained_by:
                continue
            self._take_news(attempt, live)
            self._take_unsent(attempt, live)
            del self._live[attempt]
            if live.keeper is not None:
                live.keeper.forget_unsent()
            tail = live.tail.decode("utf-8", "replace")
            # The next attempt may be launched.
            self._measure(now)
            self._perform(self._run.exited(attempt, live.exit, tail, now))

    # Streams

    def _read(self, attempt: Attempt, data: bytes) -> None:
        live = self._live.get(attempt)
        if live is None or live.broken:
            return
        live.news = itertools.chain(live.news, live.reader.feed(data))
        if not data:
            live.stream_open = False
        self._take_news(attempt, live)

    def _take_news(self, attempt: Attempt, live: _Live) -> None:
        """Act on what has been read; where a hook raises, the rest stays for the next time."""
        try:
            for each in live.news:
                if isinstance(each, bytes):
                    self._keep_output(attempt, each)
                else:
                    self._happen(attempt, each)
        except events.BrokenStream as error:
            live.broken = True
            self._perform(self._run.broke(attempt, f"its stream broke: {error}", time.monotonic()))
        live.news = iter(())

    def _take_unsent(self, attempt: Attempt, live: _Live) -> None:
        """Learn how far a test has come of which its worker has not sent all."""
        if live.keeper is None or live.broken:
            return
        for event in live.reader.catch_up(live.keeper.unsent()):
            self._happen(attempt, event)

    def _happen(self, attempt: Attempt, event: events.Event) -> None:
        self._perform(self._run.happened(attempt, event, time.monotonic()))
        # Not while actions are performed: what stops a shard must not be overtaken.
        stop = self._wanted_stop()
        if stop is not None:
            self.stop(stop)

    def _keep_output(self, attempt: Attempt, data: bytes) -> None:
        live = self._live.get(attempt)
        if live is None:
            return
        if not data:
            live.output_open = False
        else:
            live.tail = (live.tail + data)[-OUTPUT_TAIL:]
        self._show_output(attempt, data)


def _take_step(process: ShardProcess, step: Step) -> None:
    match step:
        case Step.STACKS:
            process.dump_stacks()
        case Step.INTERRUPT:
            process.interrupt()
        case Step.TERMINATE:
            process.terminate()
        case Step.KILL:
            process.kill()
