"""The fixtures ``shard`` and ``run_once``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from .identity import ShardIdentity


@pytest.fixture(scope="session")
def shard(request: pytest.FixtureRequest) -> ShardIdentity:
    """Which shard this is: its number, shards, run, attempt and slot."""
    # Imported where it is used: without shards the plugin costs nothing.
    from .identity import ShardIdentity

    return ShardIdentity.of(getattr(request.config, "workerinput", {}))


@pytest.fixture(scope="session")
def run_once(request: pytest.FixtureRequest) -> Callable[[str, Callable[[], Any]], Any]:
    """Call ``run_once(name, function)`` for what the function returns, called once for all shards.

    A function that yields is continued at the end of the run, when no shard needs it any more.
    """
    from .once import once_of

    return once_of(request.config).run
