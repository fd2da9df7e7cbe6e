"""The seam between a run and its processes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol, final, runtime_checkable

from ..model import Attempt, Exit
from ..records import record


class LaunchError(Exception):
    """An attempt could not be started; the text says why."""


class HopelessLaunch(LaunchError):
    """No other attempt of any shard could be started, either, for the same reason."""


@final
@record
class LaunchOrder:
    """What an executor needs to start an attempt."""

    attempt: Attempt
    #: What the worker reads first; an executor far away changes the paths in it that it must.
    first_line: bytes
    #: The whole environment of the worker.
    environment: Mapping[str, str]
    directory: Path
    #: Bytes that the attempt may use; None is no limit.
    memory: int | None = None


@final
@record
class Farewell:
    """What an executor has to say when no attempt lives any more."""

    #: Makes the run red; empty where all is well.
    problem: str = ""
    #: Worth a warning.
    remark: str = ""
    #: What was written by none of the attempts.
    output: bytes = b""


class ShardProcess(Protocol):
    """One attempt, wherever it runs; its methods may be called from several threads."""

    def send(self, data: bytes) -> None:
        """Write to the worker's stdin; harmless when it is gone."""

    def receive(self) -> bytes:
        """The next bytes of the worker's stream, waiting for them; empty at its end."""

    def receive_output(self) -> bytes:
        """The next bytes of everything else that it wrote; empty at the end."""

    def wait(self) -> Exit:
        """Wait for the end of the worker, then end everything that it started.

        Raises ``LaunchError`` where it turns out that the worker could never begin.
        """

    def dump_stacks(self) -> None:
        """Ask for the stacks of all threads on the output; returns at once."""

    def interrupt(self) -> None:
        """What Ctrl-C does; returns at once, harmless when gone."""

    def terminate(self) -> None:
        """Ask it to end; returns at once, harmless when gone."""

    def kill(self) -> None:
        """End everything that the attempt started; returns at once, harmless when gone."""


@runtime_checkable
class KeepsUnsent(Protocol):
    """An attempt whose worker keeps events that it has not sent where they outlive it."""

    def unsent(self) -> bytes:
        """Their lines, and perhaps some that it has sent; a later line with a number replaces
        those from that number on. Called by the thread that started the attempt.
        """

    def forget_unsent(self) -> None:
        """Nobody will ask any more; idempotent."""


class Executor(Protocol):
    """Starts attempts somewhere."""

    #: How the terminal names it.
    name: str

    def prepare(self, say: Callable[[str], None]) -> None:
        """Do once what all attempts need, however long it takes; ``say`` shows progress.

        Called before the first start; ``LaunchError`` where no attempt could ever start.
        """

    def start(self, order: LaunchOrder) -> ShardProcess:
        """Start an attempt or raise ``LaunchError``; called from one thread."""

    def close(self) -> Farewell | None:
        """Give back what the executor itself holds, when no attempt lives any more; idempotent."""


@runtime_checkable
class StartsOneFirst(Protocol):
    """An executor for which no second attempt should be launched before the first has collected."""

    def start_one_first(self, release: Callable[[], None]) -> None:
        """``release`` is called, in any thread, where the others need not wait after all."""


@runtime_checkable
class BeginsEarly(Protocol):
    """An executor that can do something for the first attempt before all is ready for it."""

    def begin_early(self, order: LaunchOrder) -> None:
        """This attempt will be started with this order, unless something goes wrong before.

        Called once, before the first start, which says what cannot be.
        """


@runtime_checkable
class TellsHow(Protocol):
    """An executor that has something to say about how its attempts are started."""

    def how(self) -> str:
        """For people, in a few words, once the first attempt has collected."""
