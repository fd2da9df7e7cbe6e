"""What tests need for themselves, by their marks."""

from __future__ import annotations

from typing import Final

import pytest

_LOCK: Final = "shard_lock"
_WEIGHT: Final = "shard_weight"


def need_of(item: pytest.Item) -> list[object] | None:
    """The names of locks, those that are shared, and the weight; None where there is no mark.

    Raises ``pytest.UsageError`` where a mark says nothing that can be done.
    """
    exclusive: set[str] = set()
    shared: set[str] = set()
    for mark in item.iter_markers(_LOCK):
        unknown = mark.kwargs.keys() - {"shared"}
        if not mark.args or unknown or not all(isinstance(each, str) for each in mark.args):
            raise pytest.UsageError(
                f"{item.nodeid}: {_LOCK} takes names, and shared=True where tests may have them "
                f"together, not {_arguments_of(mark)}: give it like {_LOCK}('database')"
            )
        (shared if mark.kwargs.get("shared", False) else exclusive).update(mark.args)
    weight = _weight_of(item)
    if not exclusive and not shared and weight == 1:
        return None
    return [sorted(exclusive), sorted(shared - exclusive), weight]


def _weight_of(item: pytest.Item) -> int:
    mark = item.get_closest_marker(_WEIGHT)
    if mark is None:
        return 1
    given = mark.args[0] if mark.args else mark.kwargs.get("n")
    if isinstance(given, bool) or not isinstance(given, int) or given < 1:
        raise pytest.UsageError(
            f"{item.nodeid}: {_WEIGHT} takes a whole number of at least 1, not "
            f"{_arguments_of(mark)}: give it like {_WEIGHT}(2)"
        )
    return given


def _arguments_of(mark: pytest.Mark) -> str:
    words = [repr(each) for each in mark.args]
    words += [f"{name}={each!r}" for name, each in mark.kwargs.items()]
    return ", ".join(words) or "nothing"
