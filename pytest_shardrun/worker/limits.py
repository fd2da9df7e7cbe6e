"""How long tests may take, by their marks."""

from __future__ import annotations

import math
import os
from typing import Any, Final, TypeAlias

import pytest

from .times import read_seconds

#: Seconds by ``shard_timeout`` (0: no limit), and by pytest-timeout; None where nothing is said.
Limits: TypeAlias = tuple[float | None, float | None]

_MARK: Final = "shard_timeout"


def limits_of(item: pytest.Item) -> Limits:
    """The limits of a test; ``pytest.UsageError`` where its mark gives no time."""
    return _own(item), _foreign(item)


def _own(item: pytest.Item) -> float | None:
    mark = item.get_closest_marker(_MARK)
    if mark is None:
        return None
    given = mark.args[0] if mark.args else mark.kwargs.get("seconds", math.nan)
    if given is None:
        return 0.0
    seconds = read_seconds(str(given))
    if seconds is None:
        raise pytest.UsageError(
            f"{item.nodeid}: {_MARK}({given!r}) is no time: give seconds, a text like '90s', '5m' "
            "or '1h', or None for no limit"
        )
    return seconds


def _foreign(item: pytest.Item) -> float | None:
    """The limit that pytest-timeout keeps for the whole of a test, if it keeps one."""
    config = item.config
    # By its entry point, or with -p.
    if not any(config.pluginmanager.hasplugin(name) for name in ("timeout", "pytest_timeout")):
        return None
    mark = item.get_closest_marker("timeout")
    given: Any = None
    only_function: Any = None
    if mark is not None:
        names = ("timeout", "method", "func_only")
        arguments = {**dict(zip(names, mark.args, strict=False)), **mark.kwargs}
        given, only_function = arguments.get("timeout"), arguments.get("func_only")
    if given is None:
        # In the order in which it looks itself.
        option = getattr(config.option, "timeout", None)
        given = next(
            (each for each in (option, os.environ.get("PYTEST_TIMEOUT")) if each is not None),
            _ini(config, "timeout"),
        )
    if only_function is None:
        only_function = _ini(config, "timeout_func_only")
    try:
        seconds = float(given)
    except (TypeError, ValueError):
        # Not given, or refused by that plugin itself.
        return None
    return seconds if seconds > 0 and not only_function else None


def _ini(config: pytest.Config, name: str) -> Any:
    try:
        return config.getini(name)
    except (KeyError, ValueError):
        return None
