"""What others may implement."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    # A shard knows the hooks, too, and has none of what the controller needs.
    from .executors.base import Executor
    from .model import Attempt, Ending, Item, Plan
    from .planning.splitters import Splitter


@pytest.hookspec()
def pytest_shardrun_executors(
    config: pytest.Config,
) -> Mapping[str, Callable[[str], Executor]]:
    """Offer executors by the name that ``--shard-executor`` takes.

    Each is made by a function that gets the identifier of the run; what it needs is best imported
    there, when it was chosen.
    """
    raise NotImplementedError


@pytest.hookspec()
def pytest_shardrun_splitters(config: pytest.Config) -> Mapping[str, Splitter]:
    """Offer splitters by the name that ``--shard-split`` takes."""
    raise NotImplementedError


@pytest.hookspec()
def pytest_shardrun_planned(config: pytest.Config, plan: Plan, items: Sequence[Item]) -> None:
    """The tests are collected and shared out; called in the controller."""


@pytest.hookspec()
def pytest_shardrun_attempt_started(config: pytest.Config, attempt: Attempt) -> None:
    """A process of a shard is about to be started; called in the controller."""


@pytest.hookspec()
def pytest_shardrun_attempt_ended(config: pytest.Config, attempt: Attempt, ending: Ending) -> None:
    """A process of a shard is over; called in the controller."""


@pytest.hookspec()
def pytest_shardrun_finished(config: pytest.Config, run_id: str) -> None:
    """Every test has its final status; called in the controller before the reports are written."""
