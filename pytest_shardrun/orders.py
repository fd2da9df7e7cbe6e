"""What attempts are told."""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, final

import pytest

from .executors.base import LaunchOrder
from .identity import RunIdentity
from .lock_directory import DIRECTORY as LOCK_DIRECTORY
from .lock_directory import lock_directory
from .model import FIRST_ATTEMPT, Attempt
from .nodes import Node
from .scratch import Scratch
from .settings import Settings
from .worker import wire
from .worker.identity import ShardIdentity
from .worker.stand_ins import name_of


@final
class Orders:
    """Writes the orders by which attempts are started, and knows their nodes.

    What comes before the first of them is imported and done is waited for by all shards.
    """

    def __init__(
        self,
        config: pytest.Config,
        settings: Settings,
        identity: RunIdentity,
        scratch: Scratch,
        sys_path: Sequence[str],
    ) -> None:
        self._config = config
        self._settings = settings
        self._run_identity = identity
        self._scratch = scratch
        self._sys_path = list(sys_path)
        self._hash_seed = str(random.SystemRandom().randint(1, 2**32 - 1))
        self._first: LaunchOrder | None = None
        self.nodes: dict[Attempt, Node] = {}
        #: The place and type of what plugins wanted to send and could not, by attempt.
        self.lost: dict[Attempt, list[tuple[str, str]]] = {}

    def write_first(self) -> LaunchOrder:
        """The order that the run will ask for first."""
        self._first = self._write(FIRST_ATTEMPT, 0, {})
        return self._first

    def order(self, attempt: Attempt, slot: int, doomed: Mapping[str, str]) -> LaunchOrder:
        """What an attempt in this slot is told; ``doomed`` collectors fail with the reason."""
        if self._first is not None and attempt == FIRST_ATTEMPT:
            # A run has neither another slot for it nor a reason to doom anything.
            first, self._first = self._first, None
            return first
        return self._write(attempt, slot, doomed)

    def _write(self, attempt: Attempt, slot: int, doomed: Mapping[str, str]) -> LaunchOrder:
        config = self._config
        identity = self._identity(attempt, slot)
        node = Node(config, identity, self._run_identity.testrun_uid)
        self.nodes[attempt] = node
        config.hook.pytest_shardrun_attempt_started(config=config, attempt=attempt)
        # Absent where pytest-xdist's names are forbidden.
        if hasattr(config.hook, "pytest_configure_node"):
            config.hook.pytest_configure_node(node=node)
        variables = {**node.variables, **identity.variables}
        # Runs that tests start share our locks, although their temporary directory is another.
        variables[LOCK_DIRECTORY] = str(lock_directory())
        environment = {**os.environ, **variables}
        seed_is_ours = "PYTHONHASHSEED" not in environment
        if seed_is_ours:
            # The order of sets decides the order of tests in some suites.
            environment["PYTHONHASHSEED"] = self._hash_seed
        basetemp = self._scratch.basetemp(attempt)
        # With -p no:terminal there is nobody to write for.
        has_terminal = config.pluginmanager.hasplugin("terminalreporter")
        writer: Any = config.get_terminal_writer() if has_terminal else None
        lost = self.lost[attempt] = []
        line = {
            "sys_path": self._sys_path,
            "package_path": str(Path(__file__).parent.parent),
            "argv": sys.argv,
            "main": _describe_main(),
            "args": [str(each) for each in config.invocation_params.args],
            "workerinput": wire.pack(
                node.workerinput,
                lambda place, value: lost.append((place, name_of(type(value)))),
                "workerinput",
            ),
            "basetemp": str(basetemp) if basetemp is not None else None,
            "log_file": self._scratch.log_file(attempt),
            "capture": self._scratch.capture_prefix(attempt),
            "retries": self._settings.policy.retries is not None,
            "doomed": dict(doomed),
            "markup": writer.hasmarkup if writer else False,
            "width": writer.fullwidth if writer else 80,
            "hash_seed_is_ours": seed_is_ours,
            "identity": variables,
            "isolate": self._settings.isolate,
            "fork_anyway": self._settings.start == "fork",
            # One that can be loaded in an image only, perhaps.
            "lacks_conftest": config.pluginmanager.hasplugin("shardrun-conftest"),
        }
        return LaunchOrder(
            attempt,
            wire.encode(line),
            environment,
            config.invocation_params.dir,
            self._settings.policy.memory,
        )

    def _identity(self, attempt: Attempt, slot: int) -> ShardIdentity:
        return ShardIdentity(
            number=attempt.shard,
            shards=self._settings.shards,
            run=self._run_identity.run_id,
            attempt=attempt.number,
            slot=slot,
        )


def _describe_main() -> dict[str, str | None]:
    """What this process was started from, which tests and multiprocessing ask ``__main__`` for."""
    module = sys.modules.get("__main__")
    return {
        "file": getattr(module, "__file__", None),
        "spec": getattr(getattr(module, "__spec__", None), "name", None),
    }
