"""Durations as text, and how measurements change them."""

from __future__ import annotations

import enum
import json
from collections import defaultdict
from collections.abc import Collection, Mapping
from typing import Any, Final, final

from .estimates import COMPARABLE_SECONDS, Durations, Rest, median, speed
from .scopes import module_of

#: A test is named in a compact file where its module's usual seconds would be so far off.
NOTABLE_SECONDS: Final = 0.05
NOTABLE_SHARE: Final = 0.5

#: What a compact file says is changed where a measurement differs by this share.
CALM: Final = 0.25


@final
class Format(enum.Enum):
    """How a file holds durations."""

    #: Ours: every test.
    FULL = 1
    #: Ours: a sum for each module and the tests that matter; for a file that people share.
    COMPACT = 2
    #: pytest-split's ``.test_durations``: an object of seconds by node id.
    PYTEST_SPLIT = 0


def parse(text: str) -> tuple[Format, Durations]:
    """The durations in a text and its format; raises `ValueError` where it holds none."""
    try:
        content = json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if not isinstance(content, dict):
        raise ValueError("not a JSON object")
    if "version" not in content:
        return Format.PYTEST_SPLIT, Durations(_numbers(content, "it"))
    version = content["version"]
    if version == Format.FULL.value and type(version) is int:
        seconds = _numbers(content.get("durations"), "durations")
        return Format.FULL, Durations(seconds, _numbers(content.get("setups", {}), "setups"))
    if version == Format.COMPACT.value and type(version) is int:
        tests = _numbers(content.get("tests"), "tests")
        setups = _numbers(content.get("setups", {}), "setups")
        return Format.COMPACT, Durations(tests, setups, _rests(content.get("modules")))
    raise ValueError(f"version {version} is not known")


def render(durations: Durations, format: Format) -> str:
    """A text that `parse` understands: sorted, one entry a line, rounded."""
    match format:
        case Format.PYTEST_SPLIT:
            return json.dumps(_rounded(durations.seconds), indent=4) + "\n"
        case Format.FULL:
            content: dict[str, object] = {
                "version": 1,
                "durations": _rounded(durations.seconds),
            }
            if durations.setups:
                content["setups"] = _rounded(durations.setups)
            return json.dumps(content, separators=(",\n", ": ")) + "\n"
        case Format.COMPACT:
            modules = {
                module: [rest.count, rest.seconds]
                for module, rest in sorted(durations.rests.items())
            }
            parts = [
                f'"{title}": {{\n{_lines(entries)}}}'
                for title, entries in (
                    ("modules", modules),
                    ("setups", dict(sorted(durations.setups.items()))),
                    ("tests", dict(sorted(durations.seconds.items()))),
                )
            ]
            return '{"version": 2,\n' + ",\n".join(parts) + "}\n"


def updated(
    old: Durations, measured: Durations, format: Format, collected: Collection[str] | None
) -> Durations:
    """The durations after a run; `collected` are all tests of their modules, where that is known.

    What these modules had before and do not have any more is forgotten.
    """
    if format is Format.COMPACT:
        return _compact(old, measured, collected)
    seconds = dict(old.seconds)
    for nodeid, value in measured.seconds.items():
        seconds[nodeid] = _mixed(seconds.get(nodeid), value)
    setups = dict(old.setups)
    for key, value in measured.setups.items():
        setups[key] = _mixed(setups.get(key), value)
    if collected is not None:
        alive = frozenset(collected)
        modules = {module_of(nodeid) for nodeid in alive}
        seconds = {
            nodeid: value
            for nodeid, value in seconds.items()
            if nodeid in alive or module_of(nodeid) not in modules
        }
    return Durations(seconds, setups)


def _mixed(old: float | None, new: float) -> float:
    """A machine that slept or a test that hung once says little about the next run."""
    if old is None or old > max(60.0, 20 * new):
        return new
    if new > max(60.0, 20 * old):
        new = max(60.0, 20 * old)
    return 0.5 * old + 0.5 * new


def _compact(old: Durations, measured: Durations, collected: Collection[str] | None) -> Durations:
    """As little as describes the suite, changed as little as possible by another run or machine."""
    known = [nodeid for nodeid in measured.seconds if old.known(nodeid)]
    # Whoever has a faster machine does not rewrite the whole file: the proportions count.
    factor = speed(old.estimate(known), [measured.seconds[nodeid] for nodeid in known])
    modules: defaultdict[str, dict[str, float]] = defaultdict(dict)
    for nodeid, value in measured.seconds.items():
        modules[module_of(nodeid)][nodeid] = value * factor
    listed: defaultdict[str, dict[str, float]] = defaultdict(dict)
    for nodeid, value in old.seconds.items():
        listed[module_of(nodeid)][nodeid] = value
    whole = {module_of(nodeid) for nodeid in collected or ()}
    alive = frozenset(collected or ())

    seconds = dict(old.seconds)
    rests = dict(old.rests)
    for module, values in modules.items():
        kept = {
            nodeid: value
            for nodeid, value in listed[module].items()
            if nodeid not in values and (module not in whole or nodeid in alive)
        }
        for nodeid in listed[module]:
            del seconds[nodeid]
        rest = rests.pop(module, None)
        usual = median([*values.values()])
        plain: dict[str, float] = {}
        for nodeid, value in values.items():
            value = _calm(listed[module].get(nodeid), value)
            # Who is named stays so for a while: what is near the limit does not come and go.
            limit = max(NOTABLE_SECONDS, NOTABLE_SHARE * usual)
            if abs(value - usual) > limit * (0.6 if nodeid in listed[module] else 1.0):
                kept[nodeid] = value
            else:
                plain[nodeid] = value
        seconds |= kept
        if plain:
            count = len(plain)
            if rest is not None and module not in whole:
                count = max(count, rest.count)
            mean = sum(plain.values()) / len(plain)
            if rest is not None and count == rest.count and _is_near(rest.mean, mean):
                rests[module] = rest
            else:
                rests[module] = Rest(count, _short(mean * count))
        elif rest is not None and module not in whole:
            rests[module] = rest
    setups = dict(old.setups)
    for key, value in measured.setups.items():
        value = _calm(setups.pop(key, None), value * factor)
        if value >= NOTABLE_SECONDS:
            setups[key] = value
    return Durations(seconds, setups, rests)


def _calm(old: float | None, new: float) -> float:
    if old is None:
        return _short(new)
    return old if _is_near(old, new) else _short(_mixed(old, new))


def _is_near(old: float, new: float) -> bool:
    return abs(new - old) <= max(CALM * old, COMPARABLE_SECONDS)


def _short(value: float) -> float:
    """Two digits: more would be different on every run."""
    return float(f"{value:.2g}") if value >= 0.001 else round(value, 4)


def _rounded(values: Mapping[str, float]) -> dict[str, float]:
    return {nodeid: round(values[nodeid], 4) for nodeid in sorted(values)}


def _lines(entries: Mapping[str, Any]) -> str:
    return ",\n".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in entries.items())


def _numbers(values: object, what: str) -> dict[str, float]:
    if not isinstance(values, dict):
        raise ValueError(f'no object "{what}"')
    for nodeid, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"{nodeid} has no number of seconds")
    return values


def _rests(values: object) -> dict[str, Rest]:
    if not isinstance(values, dict):
        raise ValueError('no object "modules"')
    rests = {}
    for module, value in values.items():
        match value:
            case [int(count), int(seconds) | float(seconds)]:
                rests[module] = Rest(count, seconds)
            case _:
                raise ValueError(f"{module} has no count and seconds")
    return rests
