"""Shards as plugins of pytest-xdist see them."""

from __future__ import annotations

import sys
from collections.abc import Generator
from types import SimpleNamespace
from typing import Any

import pytest

from .model import Attempt
from .worker.identity import KEY, ShardIdentity


class Gateway:
    """The end of a connection, which plugins ask for its name."""

    def __init__(self, name: str) -> None:
        self.id = name
        self.spec = SimpleNamespace(popen=True, chdir=None, python=sys.executable)

    def _rinfo(self) -> SimpleNamespace:
        return SimpleNamespace(
            executable=sys.executable,
            version_info=tuple(sys.version_info),
            platform=sys.platform,
            cwd=None,
        )


class Node:
    """One attempt: ``workerinput`` is sent to it, ``workeroutput`` came with its goodbye."""

    workerinfo: dict[str, Any]
    workeroutput: dict[str, Any]

    def __init__(self, config: pytest.Config, identity: ShardIdentity, testrun_uid: str) -> None:
        self.config = config
        self.gateway = Gateway(worker_id(identity))
        specs = [None] * identity.shards
        self.nodemanager = SimpleNamespace(roots=[], specs=specs, testrunuid=testrun_uid)
        self.workerinput: dict[str, Any] = {
            "workerid": self.gateway.id,
            "workercount": identity.shards,
            "testrunuid": testrun_uid,
            "mainargv": sys.argv,
            KEY: identity.as_input(),
        }
        self._variables = xdist_variables(identity, testrun_uid)

    @property
    def variables(self) -> dict[str, str]:
        """The environment that plugins of pytest-xdist look at."""
        return self._variables


class Scheduler:
    """What plugins ask about a crash; it never runs the test again for them."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config

    def mark_test_pending(self, item: str) -> None:
        # As some of pytest-xdist's own schedulers say it.
        raise NotImplementedError


class Headings:
    """Whether the text of a failure begins with its shard: only where the terminal shows it."""

    def __init__(self) -> None:
        self.shown = False

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_terminal_summary(self) -> Generator[None, Any, Any]:
        self.shown = True
        try:
            return (yield)
        finally:
            self.shown = False


class ReportNode:
    """What pytest's terminal reads from the ``node`` of a report."""

    def __init__(self, attempt: Attempt, node: Node, headings: Headings) -> None:
        self.gateway = Gateway(f"shard {attempt.shard}")
        self.config = node.config
        self.workerinput = node.workerinput
        self._headings = headings

    def __repr__(self) -> str:
        return f"<{self.gateway.id}>"

    @property
    def _workerinfocache(self) -> str:
        # pytest shows this above each failure, and would otherwise describe the interpreter.
        return f"[{self.gateway.id}]" if self._headings.shown else ""


def xdist_variables(identity: ShardIdentity, testrun_uid: str) -> dict[str, str]:
    """The environment of a shard as plugins of pytest-xdist know it."""
    return {
        "PYTEST_XDIST_WORKER": worker_id(identity),
        "PYTEST_XDIST_WORKER_COUNT": str(identity.shards),
        "PYTEST_XDIST_TESTRUNUID": testrun_uid,
    }


def worker_id(identity: ShardIdentity) -> str:
    """``gw0`` for the first shard, the same for all of its attempts."""
    return f"gw{identity.number - 1}"
