"""pytest-shardrun and pytest-xdist on one workload, in turn."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final

from .measuring import Cost, MeasuringError, measure
from .workloads import Place, Workload, environment

XDIST_MODES: Final = ("load", "worksteal", "loadfile")
OURS: Final = "shardrun"

#: A mode of pytest-xdist that is this much slower than its best one at first is not tried again.
HOPELESS: Final = 1.25

#: pytest has passed, or tests have failed; everything else is no result.
RESULTS: Final = (0, 1)

TIMEOUT: Final = 1800.0

#: A mode of pytest-xdist may take ten times as long as others and so many seconds.
PATIENCE: Final = 30.0


@dataclass(frozen=True, slots=True)
class Comparison:
    """What was measured on one workload."""

    workload: Workload
    #: How shards were started.
    start: str
    pairs: int
    #: Of plain pytest, in seconds.
    plain: float
    #: What no way to run the tests in so many shards can beat, in seconds.
    bound: float
    #: The median of our seconds.
    ours: float
    #: pytest-xdist's best mode, and its median in seconds.
    mode: str
    best: float
    #: Medians of ours divided by that mode's, pair by pair.
    wall: float
    cpu: float
    memory: float
    #: Of the wall ratios: the lowest and the highest.
    spread: tuple[float, float]
    load: tuple[float, float]
    remarks: tuple[str, ...]

    @property
    def bar(self) -> float:
        if self.start == "spawn":
            return 1.0
        short = self.workload.bar_if_short
        return short if short is not None and self.plain < 10 else self.workload.bar


def compare(
    workload: Workload,
    place: Place,
    *,
    pairs: int,
    starts: Sequence[str],
    say: Callable[[str], None],
) -> list[Comparison]:
    """Run the workload in all ways once to warm up, then in turn, so many times.

    There is a comparison for each of `starts`, all with the same runs of pytest-xdist.
    """
    count = str(workload.shards)
    ours = {f"{OURS} {start}": start for start in starts}
    ways: dict[str, tuple[str, ...]]
    ways = {way: ("--shards", count, "--shard-start", start) for way, start in ours.items()}
    ways |= {mode: ("-p", "no:shardrun", "-n", count, "--dist", mode) for mode in XDIST_MODES}
    load_before = os.getloadavg()[0]
    remarks: list[str] = []

    collected = _run(workload, place, (*PLAIN, "--collect-only", "-q"))
    expected = _run(workload, place, PLAIN, may_crash=True)
    warm = {way: _run(workload, place, ways[way]) for way in ours}
    limit = PATIENCE + 10 * max(expected.seconds, *map(_wall, warm.values()))
    for mode in XDIST_MODES:
        try:
            warm[mode] = _run(workload, place, ways[mode], timeout=limit)
        except MeasuringError as error:
            remarks.append(f"{mode}: {str(error).splitlines()[0]}")
    counts = {way: outcomes(cost.output) for way, cost in warm.items()}
    has_plain = expected.exit_code in RESULTS
    reference = outcomes(expected.output) if has_plain else counts[next(iter(ours))]
    for way in warm:
        if counts[way] != reference:
            remarks.append(f"{way} reported {described(counts[way])}, not {described(reference)}")
    modes = [mode for mode in XDIST_MODES if mode in warm]
    contenders = [mode for mode in modes if counts[mode] == reference] or modes
    if not contenders:
        raise MeasuringError("no mode of pytest-xdist ended: " + "; ".join(remarks))
    fastest = min(warm[mode].seconds for mode in contenders)
    contenders = [mode for mode in contenders if warm[mode].seconds <= HOPELESS * fastest]

    costs: dict[str, list[Cost]] = {way: [] for way in (*ours, *contenders)}
    for number in range(1, pairs + 1):
        for way, taken in costs.items():
            taken.append(_run(workload, place, ways[way]))
        walls = ", ".join(f"{way} {taken[-1].seconds:.2f} s" for way, taken in costs.items())
        say(f"{workload.name}: pair {number}: {walls}")
    collected = min(collected, _run(workload, place, (*PLAIN, "--collect-only", "-q")), key=_wall)
    if has_plain:
        expected = min(expected, _run(workload, place, PLAIN), key=_wall)
        plain = expected.seconds
    else:
        # One process cannot run it to its end.
        plain = float("nan")
    mode = min(contenders, key=lambda each: median(map(_wall, costs[each])))
    theirs = costs[mode]
    comparisons: list[Comparison] = []
    for way, start in ours.items():
        twos = list(zip(costs[way], theirs, strict=True))
        walls_of = [mine.seconds / other.seconds for mine, other in twos]
        comparison = Comparison(
            workload=workload,
            start=start,
            pairs=pairs,
            plain=plain,
            bound=bound(workload, plain, collected.seconds),
            ours=median(map(_wall, costs[way])),
            mode=mode,
            best=median(map(_wall, theirs)),
            wall=median(walls_of),
            cpu=median(mine.cpu_seconds / other.cpu_seconds for mine, other in twos),
            memory=median(mine.peak_bytes / other.peak_bytes for mine, other in twos),
            spread=(min(walls_of), max(walls_of)),
            load=(load_before, os.getloadavg()[0]),
            # The same for all.
            remarks=() if comparisons else tuple(remarks),
        )
        comparisons.append(comparison)
    return comparisons


#: Without a plugin that could split the tests.
PLAIN: Final = ("-p", "no:shardrun", "-p", "no:xdist", "-p", "no:xdist.looponfail")


def bound(workload: Workload, plain: float, collected: float) -> float:
    """What the longest test takes, or a fair share of all: whichever is more, in seconds."""
    at_once = workload.shards
    if not workload.waits:
        at_once = min(at_once, len(os.sched_getaffinity(0)))
    return max(workload.longest, collected + (plain - collected) / at_once)


def outcomes(output: str) -> Mapping[str, int]:
    """The counts in pytest's last line, without those of warnings."""
    lines = [line for line in output.splitlines() if re.search(r" in \d+\.\d+s", line)]
    found = re.findall(
        r"(\d+) (passed|failed|errors?|skipped|xfailed|xpassed)", (lines or [""])[-1]
    )
    return {outcome: int(count) for count, outcome in found}


def described(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {outcome}" for outcome, count in counts.items()) or "nothing"


def _wall(cost: Cost) -> float:
    return cost.seconds


def _run(
    workload: Workload,
    place: Place,
    options: Sequence[str],
    *,
    may_crash: bool = False,
    timeout: float = TIMEOUT,
) -> Cost:
    if workload.forgets:
        shutil.rmtree(place.directory / ".pytest_cache", ignore_errors=True)
    command = [*place.command, *options]
    cost = measure(command, Path(place.directory), environment(), timeout=timeout)
    if cost.exit_code not in RESULTS and not may_crash:
        tail = cost.output[-2000:]
        raise MeasuringError(f"exit code {cost.exit_code} of {' '.join(command)}\n{tail}")
    return cost
