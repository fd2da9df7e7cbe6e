"""What tests are expected to take."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, final

from pytest_shardrun.model import UNKNOWN_SECONDS
from pytest_shardrun.planning.scopes import module_of

from ..records import record

#: What no test takes: longer ones come from a clock that was set.
DAY: Final = 86_400.0

#: Two machines are compared by the tests that take at least this long on both.
COMPARABLE_SECONDS: Final = 0.01
COMPARABLE_TESTS: Final = 5


@final
@record
class Rest:
    """The tests of a module that are not known one by one."""

    count: int
    seconds: float

    @property
    def mean(self) -> float:
        return self.seconds / self.count


@final
@dataclass(frozen=True, slots=True)
class Durations:
    """Known seconds by node id; what cannot be a duration is left out."""

    seconds: Mapping[str, float] = field(default_factory=dict)
    #: What the shared fixtures of a class, module or package take, by its node id.
    setups: Mapping[str, float] = field(default_factory=dict)
    #: By module.
    rests: Mapping[str, Rest] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "seconds", _credible(self.seconds))
        object.__setattr__(self, "setups", _credible(self.setups))
        rests = {
            module: rest
            for module, rest in self.rests.items()
            if rest.count > 0 and 0 <= rest.seconds <= DAY * rest.count
        }
        object.__setattr__(self, "rests", rests)

    def known(self, nodeid: str) -> bool:
        """Whether it was measured, by itself or with the others of its module."""
        return nodeid in self.seconds or module_of(nodeid) in self.rests

    def count_known(self, nodeids: Sequence[str]) -> int:
        """How many of these were measured."""
        if self.rests:
            return sum(map(self.known, nodeids))
        return len([nodeid for nodeid in nodeids if nodeid in self.seconds])

    def estimate(self, nodeids: Sequence[str]) -> list[float]:
        """The seconds of each test: its own, else those of a usual test in its module or suite."""
        seconds = self.seconds
        known = [*map(seconds.get, nodeids)]
        if None not in known:
            return [each for each in known if each is not None]
        by_module: defaultdict[str, list[float]] = defaultdict(list)
        for nodeid, value in seconds.items():
            by_module[module_of(nodeid)].append(value)
        usual = {module: median(values) for module, values in by_module.items()}
        usual |= {module: rest.mean for module, rest in self.rests.items()}
        all_seconds = [*seconds.values()]
        for rest in self.rests.values():
            all_seconds += [rest.mean] * rest.count
        overall = median(all_seconds) if all_seconds else UNKNOWN_SECONDS
        return [
            usual.get(module_of(nodeid), overall) if each is None else each
            for nodeid, each in zip(nodeids, known, strict=True)
        ]

    def without(self, gone: Callable[[str], bool]) -> Durations:
        """These durations without the modules and packages of which `gone` says so."""
        modules = {module_of(key) for key in (*self.seconds, *self.setups, *self.rests)}
        dead = {module for module in modules if gone(module)}
        if not dead:
            return self
        return Durations(
            {key: value for key, value in self.seconds.items() if module_of(key) not in dead},
            {key: value for key, value in self.setups.items() if module_of(key) not in dead},
            {key: rest for key, rest in self.rests.items() if key not in dead},
        )

    def filled_up(self, other: Durations, nodeids: Sequence[str]) -> Durations:
        """These durations, and for tests that they do not know those of another machine.

        Where enough tests are known to both, the other's are taken at this machine's speed.
        """
        missing = [nodeid for nodeid in nodeids if nodeid not in self.seconds]
        missing = [nodeid for nodeid in missing if other.known(nodeid)]
        factor = 1.0
        if missing:
            common = [nodeid for nodeid in nodeids if nodeid in self.seconds]
            factor = speed([self.seconds[nodeid] for nodeid in common], other.estimate(common))
        estimates = dict(zip(missing, other.estimate(missing), strict=True))
        return Durations(
            {nodeid: value * factor for nodeid, value in estimates.items()} | dict(self.seconds),
            {key: value * factor for key, value in other.setups.items()} | dict(self.setups),
        )


def median(values: Iterable[float]) -> float:
    """The middle one of some values, or the mean of the two in the middle."""
    # The module statistics takes longer to import than the rest of the planning.
    ordered = sorted(values)
    middle = len(ordered) // 2
    if len(ordered) % 2:
        return ordered[middle]
    return (ordered[middle - 1] + ordered[middle]) / 2


def speed(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """How much longer the same tests take here than there; 1 where too few can be compared."""
    ratios = [
        mine / other
        for mine, other in zip(ours, theirs, strict=True)
        if mine >= COMPARABLE_SECONDS and other >= COMPARABLE_SECONDS
    ]
    return median(ratios) if len(ratios) >= COMPARABLE_TESTS else 1.0


def _credible(seconds: Mapping[str, float]) -> dict[str, float]:
    return {nodeid: value for nodeid, value in seconds.items() if 0 <= value <= DAY}
