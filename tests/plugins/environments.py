"""Environments to run the suites in, kept between runs."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

PROJECT: Final = Path(__file__).parents[2]
_READY: Final = "ready.json"


@dataclass(frozen=True, slots=True)
class Environment:
    """A virtual environment with plugins and this project."""

    directory: Path

    @property
    def python(self) -> str:
        return str(self.directory / "bin" / "python")

    def versions(self) -> Mapping[str, str]:
        """The installed distributions, by their name in PyPI's spelling."""
        program = (
            "import json, re; from importlib.metadata import distributions as d;"
            "print(json.dumps({re.sub('[-_.]+', '-', e.name).lower(): e.version for e in d()}))"
        )
        done = subprocess.run(
            [self.python, "-c", program], check=True, capture_output=True, text=True
        )
        versions: dict[str, str] = json.loads(done.stdout)
        return versions


def default_cache() -> Path:
    """Where environments are kept: outside the clone, as a user's caches are."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "pytest-shardrun" / "plugins"


def prepare(cache: Path, requirements: Iterable[str], python: str = sys.executable) -> Environment:
    """The environment with these requirements, made where the cache does not have it."""
    wanted = sorted(set(requirements))
    version = subprocess.run(
        [python, "-c", "import sys; print(sys.version)"], check=True, capture_output=True, text=True
    ).stdout
    pyproject = (PROJECT / "pyproject.toml").read_text(encoding="utf-8")
    key = json.dumps([wanted, version, str(PROJECT), pyproject])
    name = hashlib.sha256(key.encode("utf-8")).hexdigest()[:16]
    environment = Environment(cache.resolve() / name)
    if not (environment.directory / _READY).exists():
        print(f"installing {len(wanted)} requirements into {environment.directory}", flush=True)
        shutil.rmtree(environment.directory, ignore_errors=True)
        _call(python, "-m", "venv", str(environment.directory))
        # In one go, so that pip finds versions that agree with each other.
        pip = (environment.python, "-m", "pip", "install", "--quiet")
        _call(*pip, "--disable-pip-version-check", "--editable", str(PROJECT), *wanted)
        (environment.directory / _READY).write_text(json.dumps(wanted), encoding="utf-8")
    return environment


def _call(*command: str) -> None:
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
