"""Runs that several tests look at, made side by side since most of them wait."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final, TypeAlias

import pytest

from .scenario import Outcome, Scenario

Outcomes: TypeAlias = Callable[[Scenario], Outcome]

#: They wait for a timeout, for a grace, for a process.
_AT_ONCE: Final = 3


@pytest.fixture(scope="session")
def outcome_of(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Outcomes]:
    """What came of a scenario; those of all selected tests are run ahead."""
    futures: dict[Scenario, Future[Outcome]] = {}
    with ThreadPoolExecutor(_AT_ONCE) as pool:

        def begin(scenario: Scenario) -> Future[Outcome]:
            if scenario not in futures:
                directory = tmp_path_factory.mktemp("scenario")
                futures[scenario] = pool.submit(scenario.play, directory)
            return futures[scenario]

        # In a shard the session has tests that other shards run.
        if "PYTEST_XDIST_WORKER" not in os.environ:
            for item in request.session.items:
                callspec: Any = getattr(item, "callspec", None)
                scenario = callspec.params.get("scenario") if callspec else None
                if scenario is not None:
                    begin(scenario)
        try:
            yield lambda scenario: begin(scenario).result()
        finally:
            for future in futures.values():
                future.cancel()
