"""A worker that collects once and forks attempts."""

from __future__ import annotations

import gc
import json
import os
from collections.abc import Mapping
from typing import Any

import pytest

from . import newborn
from .control import Control
from .leaving import leave
from .obstacles import Watch, WatchedInput, fork
from .stream import Stream


class Warm:
    """The side of a warm worker that is no attempt yet."""

    def __init__(self, control: Control, watch: Watch) -> None:
        self._control = control
        self._watch = watch
        self._input: dict[str, Any] = {}
        self._forced = False
        self._although = ""

    def wait_for_launch(self) -> dict[str, Any]:
        """What the first attempt is told; the process ends where no run wants it."""
        line, _ = self._control.receive()
        if not line:
            os._exit(0)
        launch: dict[str, Any] = json.loads(line)
        return launch

    def take_launch(self, launch: Mapping[str, Any]) -> WatchedInput:
        """The ``workerinput`` for what is configured and collected here."""
        self._forced = launch["fork_anyway"]
        self._input = newborn.input_of(launch)
        return WatchedInput(self._input, self._watch.asked)

    def end(self) -> None:
        """pytest ends without having come to its tests."""
        self._control.send(b"over\n")

    def can_fork(self, config: pytest.Config, stream: Stream) -> bool:
        """Whether nothing speaks against forking this process, so far.

        Where False is returned it has become an attempt itself; ``pytest.exit`` ends it where it is
        not wanted as such.
        """
        obstacle = self._watch.obstacle(newborn.own_files(config))
        self._although = obstacle or ""
        if obstacle is None or self._forced:
            return True
        self._control.send(f"obstacle {obstacle}\n".encode())
        line, descriptors = self._control.receive()
        self._watch.end()
        self._control.close()
        stream.close()
        verb, _, place = line.partition(b" ")
        if verb != b"go":
            stream.fall_silent()
            # What was set up while pytest was configured is taken down.
            pytest.exit("shards are started in another way", returncode=0)
        newborn.move(stream, newborn.output_file(), descriptors)
        newborn.take_place(stream, json.loads(place.partition(b" ")[2]))
        return False

    def serve(self, config: pytest.Config, stream: Stream) -> Mapping[str, Any]:
        """Fork attempts as long as there is a controller; returns in each of them with its launch.

        The process itself ends with the controller's wish for forks.
        """
        before = newborn.Before(config, self._watch)
        self._watch.end()
        stream.close()
        # What is there now stays: no collection of garbage need touch, and thereby copy, it.
        gc.freeze()
        self._control.send(f"ready {self._although}\n".encode())
        while True:
            line, descriptors = self._control.receive()
            verb, _, rest = line.partition(b" ")
            match verb:
                case b"fork":
                    place, _, rest = rest.partition(b"\t")
                    launch: dict[str, Any] = json.loads(rest)
                    launch["identity"] |= json.loads(place)
                    if self._fork(launch, descriptors):
                        newborn.be_born(config, stream, before, launch, descriptors)
                        return launch
                case b"status":
                    pid = int(rest)
                    result = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
                    assert result is not None
                    sign = 1 if result.si_code == os.CLD_EXITED else -1
                    self._control.send(f"{sign * result.si_status}\n".encode())
                case b"reap":
                    os.waitpid(int(rest), 0)
                    self._control.send(b"reaped\n")
                case _:
                    leave(0)

    def _fork(self, launch: dict[str, Any], descriptors: list[int]) -> bool:
        """Whether this is the new process."""
        differing = self._watch.differing_input(self._input, newborn.input_of(launch))
        if differing is not None and not self._forced:
            answer = f"refused {differing}"
        else:
            try:
                pid = fork()
            except OSError as error:
                answer = f"refused fork: {error}"
            else:
                if pid == 0:
                    self._control.close()
                    return True
                answer = f"forked {pid}"
        for descriptor in descriptors:
            os.close(descriptor)
        self._control.send(f"{answer}\n".encode())
        return False
