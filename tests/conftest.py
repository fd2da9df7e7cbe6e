"""What all tests share."""

from __future__ import annotations

import pytest

pytest_plugins = ["pytester", "docker_fixtures"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("docker") is not None:
            # The daemon and its images are one for all.
            item.add_marker(pytest.mark.shard_group("docker"))
