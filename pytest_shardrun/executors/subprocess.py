"""Shards as fresh interpreters on this machine."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import final

from ..model import Attempt
from ..worker.spool import VARIABLE as SPOOL
from . import memory
from .base import LaunchError, LaunchOrder
from .guardian import Guardian, start_guard
from .local import WorkerProcess, open_pipes, spawn
from .places import Places, open_places
from .spools import open_spool

__all__ = ["SubprocessExecutor", "WorkerProcess"]


@final
class SubprocessExecutor:
    """Starts each attempt as a fresh interpreter with a process group of its own."""

    name = "subprocess"

    def __init__(
        self,
        run_id: str,
        *,
        cgroups: Sequence[Path] | None = None,
        guardian: Guardian | None = None,
        places: Places | None = None,
    ) -> None:
        """``cgroups`` is where to limit memory, the best place first; None: look for places."""
        self._run_id = run_id
        self.mark = f"SHARDRUN_RUN={run_id}"
        self._cgroups = cgroups
        self._guardian = guardian
        self._places = places
        #: What was started before anybody has asked for it.
        self._early: tuple[Attempt, WorkerProcess] | None = None

    @property
    def guardian(self) -> Guardian:
        """The guard of all attempts, which is started for the first of them."""
        if self._guardian is None:
            self._places = open_places()
            self._guardian = start_guard(self.mark, self._places)
        return self._guardian

    def prepare(self, say: Callable[[str], None]) -> None:
        """Nothing: the interpreter is there."""

    def new_process(
        self, order: LaunchOrder, unborn: Callable[[WorkerProcess, int], None] | None = None
    ) -> WorkerProcess:
        """An attempt without a process; ``unborn`` gets its signals until it has one."""
        guardian = self.guardian
        attempt = order.attempt
        environment = dict(self.place(attempt))
        limit = self._limit(order)
        environment.update(limit.environment)
        pipes = open_pipes()
        spool = open_spool()
        if spool is not None:
            environment[SPOOL] = spool.path
        return WorkerProcess(
            attempt,
            pipes,
            environment,
            guardian,
            self.mark,
            limit,
            lambda: self._forget(attempt),
            spool,
            unborn,
        )

    def place(self, attempt: Attempt) -> Mapping[str, str]:
        """Make the directory of an attempt; what its environment has to say about it."""
        return {} if self._places is None else self._places.prepare(attempt)

    def begin_early(self, order: LaunchOrder) -> None:
        """Start the interpreter, and let it import what it needs."""
        with contextlib.suppress(LaunchError):
            self._early = order.attempt, self.start(order)
            _, process = self._early
            # It may take its time to read it.
            threading.Thread(target=process.send_first_line, daemon=True).start()

    def start(self, order: LaunchOrder) -> WorkerProcess:
        """Start the interpreter; the first line is sent when the stream is first read."""
        if self._early is not None and self._early[0] == order.attempt:
            (_, process), self._early = self._early, None
            return process
        process = self.new_process(order)
        try:
            child = spawn(order, process.environment, process.pipes)
        except LaunchError:
            process.give_up()
            raise
        process.begin(child, order.first_line)
        return process

    def _limit(self, order: LaunchOrder) -> memory.Limit:
        if self._cgroups is None:
            self._cgroups = memory.own_cgroups() if order.memory is not None else ()
        attempt = order.attempt
        name = f"shardrun-{self._run_id}-{attempt.shard}-{attempt.number}"
        limit = memory.open_limit(order.memory, name, self._cgroups)
        if isinstance(limit, memory.ControlGroup):
            self.guardian.remove_later(limit.directory)
        return limit

    def _forget(self, attempt: Attempt) -> None:
        if self._places is not None:
            self._places.forget(attempt)

    def close(self) -> None:
        """Remove the temporary files and let the guard end; nothing is left for it to do."""
        if self._early is not None:
            (_, process), self._early = self._early, None
            process.kill()
            process.wait()
            process.forget_unsent()
            # Nobody has read from them.
            os.close(process.pipes.stream[0])
            os.close(process.pipes.output[0])
        if self._places is not None:
            self._places.close()
            self._places = None
        if self._guardian is not None:
            self._guardian.close()
            self._guardian = None
