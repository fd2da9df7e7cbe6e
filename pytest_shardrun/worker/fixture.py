"""The fixture ``shard``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .identity import ShardIdentity


@pytest.fixture(scope="session")
def shard(request: pytest.FixtureRequest) -> ShardIdentity:
    """Which shard this is: its number, shards, run, attempt and slot."""
    # Imported where it is used: without shards the plugin costs nothing.
    from .identity import ShardIdentity

    return ShardIdentity.of(getattr(request.config, "workerinput", {}))
