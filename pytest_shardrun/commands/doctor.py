"""``shardrun doctor``: what is installed, and what needs care."""

from __future__ import annotations

import argparse
import platform
import sys
from collections.abc import Callable, Mapping
from importlib import metadata

from ..advice import advice_for, as_lines
from ..cpus import usable_cpus


def prepare(parser: argparse.ArgumentParser) -> Callable[[argparse.Namespace], int]:
    """Add the arguments of ``shardrun doctor``; there are none."""
    return perform


def perform(options: argparse.Namespace) -> int:
    """Look at the environment that this program is installed in and tell what was seen."""
    versions = {name: metadata.version(name) for name in ("pytest-shardrun", "pytest")}
    told = [f"{name} {version}" for name, version in versions.items()]
    told.append(f"Python {platform.python_version()} on {sys.platform}")
    cpus = usable_cpus()
    told.append(f"{cpus} usable CPU{'' if cpus == 1 else 's'}")
    print(", ".join(told))
    print("\n".join(_describe(pytest_plugins())))
    return 0


def pytest_plugins() -> Mapping[str, str]:
    """The distributions that pytest loads plugins of, and their versions."""
    found = {
        point.dist.name: point.dist.version
        for point in metadata.entry_points(group="pytest11")
        if point.dist is not None
    }
    found.pop("pytest-shardrun", None)
    return dict(sorted(found.items()))


def _describe(plugins: Mapping[str, str]) -> list[str]:
    if not plugins:
        return ["no other pytest plugins are installed"]
    named = ", ".join(f"{name} {version}" for name, version in plugins.items())
    advice = as_lines(advice_for(plugins)) or ["none of them is known to need care in shards"]
    return [f"pytest plugins: {named}", *advice]
