"""How long tests took, in a locked file."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Final, final

from filelock import FileLock

from pytest_shardrun.model import UNKNOWN_SECONDS
from pytest_shardrun.planning.scopes import module_of

#: How long to wait for other runs that are saving their durations.
LOCK_SECONDS: Final = 10.0

#: What no test takes: longer ones come from a clock that was set.
DAY: Final = 86_400.0


@final
@dataclass(frozen=True, slots=True)
class Durations:
    """Known seconds by node id; what cannot be a duration is left out."""

    seconds: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        credible = {nodeid: value for nodeid, value in self.seconds.items() if 0 <= value <= DAY}
        object.__setattr__(self, "seconds", credible)

    def known(self, nodeid: str) -> bool:
        return nodeid in self.seconds

    def estimate(self, nodeids: Sequence[str]) -> list[float]:
        """The seconds of each test: its own, else those of a usual test in its module or suite."""
        if all(map(self.known, nodeids)):
            return [self.seconds[nodeid] for nodeid in nodeids]
        by_module: defaultdict[str, list[float]] = defaultdict(list)
        for nodeid, value in self.seconds.items():
            by_module[module_of(nodeid)].append(value)
        usual = {module: median(values) for module, values in by_module.items()}
        overall = median(self.seconds.values()) if self.seconds else UNKNOWN_SECONDS
        return [
            self.seconds[nodeid]
            if nodeid in self.seconds
            else usual.get(module_of(nodeid), overall)
            for nodeid in nodeids
        ]


def read_durations(path: Path, *, complain: Callable[[str], None]) -> Durations:
    """The durations in the file: none where it is missing or cannot be read.

    A file that holds something else is moved aside to ``NAME.corrupt``. Besides our own format
    that of pytest-split is understood. Never raises; `complain` is told what went wrong.
    """
    try:
        return _load(path)
    except FileNotFoundError:
        return Durations()
    except OSError as error:
        complain(f"recorded durations are not used: {error}")
        return Durations()
    except ValueError:
        pass
    try:
        # Another run may be replacing the file with a sound one.
        with _lock(path):
            return _load_or_move_aside(path, complain)
    except OSError as error:
        complain(f"{path} holds no durations and cannot be moved aside: {error}")
        return Durations()


def update_durations(
    path: Path,
    measured: Mapping[str, float],
    *,
    complain: Callable[[str], None],
    collected: Collection[str] | None = None,
) -> None:
    """Mix the measured durations into the file, which other runs may be doing at this moment.

    With `collected`, the node ids of the whole suite, tests that are no longer in it are
    forgotten. Never raises for the state of the file or its directory; `complain` is told.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _lock(path):
            seconds = dict(_load_or_move_aside(path, complain).seconds)
            for nodeid, value in Durations(measured).seconds.items():
                seconds[nodeid] = _mixed(seconds.get(nodeid), value)
            if collected is not None:
                alive = frozenset(collected)
                seconds = {nodeid: seconds[nodeid] for nodeid in seconds if nodeid in alive}
            _write(path, seconds)
    except OSError as error:
        complain(f"durations are not saved: {error}")


def _lock(path: Path) -> FileLock:
    """A lock for the file; to wait in vain for it raises an `OSError` as well."""
    return FileLock(f"{path}.lock", timeout=LOCK_SECONDS)


def _load(path: Path) -> Durations:
    """The durations in the file; raises `OSError`, or `ValueError` where it holds none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if not isinstance(content, dict):
        raise ValueError("not a JSON object")
    seconds: object = content
    if "version" in content:
        if content["version"] != 1:
            raise ValueError(f"version {content['version']} is not known")
        seconds = content.get("durations")
    if not isinstance(seconds, dict):
        raise ValueError('no object "durations"')
    for nodeid, value in seconds.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"{nodeid} has no number of seconds")
    return Durations(seconds)


def _load_or_move_aside(path: Path, complain: Callable[[str], None]) -> Durations:
    try:
        return _load(path)
    except FileNotFoundError:
        return Durations()
    except ValueError as error:
        aside = path.with_name(f"{path.name}.corrupt")
        os.replace(path, aside)
        complain(f"{path} holds no durations ({error}): it was moved to {aside.name}")
        return Durations()


def _mixed(old: float | None, new: float) -> float:
    if old is None:
        return new
    # A machine that slept or a test that hung once says little about the next run.
    if new > max(60.0, 20 * old):
        new = max(60.0, 20 * old)
    return 0.5 * old + 0.5 * new


def _write(path: Path, seconds: Mapping[str, float]) -> None:
    """Replace the file at once, so that a reader never sees half of it."""
    content = {
        "version": 1,
        "durations": {nodeid: round(seconds[nodeid], 4) for nodeid in sorted(seconds)},
    }
    beside = path.with_name(f"{path.name}.new")
    try:
        # One test a line.
        beside.write_text(json.dumps(content, separators=(",\n", ": ")) + "\n", encoding="ascii")
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
