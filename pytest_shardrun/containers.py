"""What the executor of containers learns from pytest."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from .container_settings import read_container_settings
from .executors.base import LaunchError
from .executors.docker import DockerExecutor, find_project
from .reporting.sandbox import SandboxHints


def make_executor(config: pytest.Config, run_id: str, sys_path: Sequence[str]) -> DockerExecutor:
    """The executor of this run; ``pytest.UsageError`` where its options cannot be."""
    cache: Any = getattr(config, "cache", None)
    basetemp = config.getoption("basetemp", None)
    try:
        project = find_project(
            root=config.rootpath,
            start=config.invocation_params.dir,
            arguments=_paths(config),
            config_file=config.inipath,
            cache=Path(cache._cachedir) if cache is not None else None,
            sys_path=sys_path,
            python_path=os.environ.get("PYTHONPATH", ""),
            basetemp=Path(basetemp).absolute() if basetemp else None,
        )
    except LaunchError as error:
        raise pytest.UsageError(f"--shard-executor=docker: {error}") from error

    # The same for all shards; a matrix would have one for each.
    settings = (read_container_settings(config),)
    config.pluginmanager.register(SandboxHints(settings), "shardrun-sandbox")
    return DockerExecutor(run_id, settings, project)


def _paths(config: pytest.Config) -> list[Path]:
    """The files and directories that pytest was told to look into."""
    paths = []
    for argument in config.args:
        path = config.invocation_params.dir / str(argument).partition("::")[0]
        # With --pyargs it may be a module's name.
        if path.exists():
            paths.append(Path(os.path.normpath(path)))
    return paths
