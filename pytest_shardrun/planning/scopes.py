"""What a plan keeps together."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from heapq import heapreplace
from math import fsum
from typing import Final

from pytest_shardrun.model import Item, Unit

SCOPES: Final = ("auto", "test", "class", "module", "package", "group")

#: Balance is good enough when the busiest shard is this close to what no plan can beat.
TOLERANCE: Final = 1.02


def module_of(nodeid: str) -> str:
    """The file of a test, as its node id writes it."""
    return nodeid.partition("::")[0]


def class_of(nodeid: str) -> str:
    """The class of a test with its module and outer classes, or the module of a plain function."""
    module, _, name = nodeid.partition("::")
    # A parameter may hold "::" and "[", the name of a class holds neither.
    if name.endswith("]"):
        name = name.partition("[")[0]
    classes, separator, _ = name.rpartition("::")
    return f"{module}::{classes}" if separator else module


def scope_key(item: Item, scope: str) -> str:
    """A text that is equal for the tests that the scope keeps together, and for no others."""
    if item.group is not None:
        # No node id begins like this.
        return f"::{item.group}"
    match scope:
        case "auto" | "module":
            return module_of(item.nodeid)
        case "class":
            return class_of(item.nodeid)
        case "package":
            return module_of(item.nodeid).rpartition("/")[0]
        case "test" | "group":
            return f"{item.nodeid}::{item.occurrence}" if item.occurrence else item.nodeid
        case _:
            raise ValueError(f"no scope {scope!r}: there are {', '.join(SCOPES)}")


def units_of(
    items: Sequence[Item],
    positions: Sequence[int],
    seconds: Sequence[float],
    *,
    scope: str,
    shards: int,
) -> list[Unit]:
    """The units of the tests at these positions, each unit in the order of the positions.

    With the scope ``auto`` units are modules, and parts of modules where whole ones are too uneven.
    """
    bundles: defaultdict[str, list[int]] = defaultdict(list)
    for position in positions:
        bundles[scope_key(items[position], scope)].append(position)
    groups: list[list[int]] = []
    others: list[list[int]] = []
    for bundle in bundles.values():
        (others if items[bundle[0]].group is None else groups).append(bundle)
    if scope == "auto":
        others = _cut_where_uneven(others, groups, items, seconds, shards)
    divisible = scope in ("auto", "test", "group")
    return [
        *(Unit(tuple(group), _sum(group, seconds), divisible=False) for group in groups),
        *(Unit(tuple(other), _sum(other, seconds), divisible=divisible) for other in others),
    ]


def spread(weights: Sequence[float], shards: int) -> list[list[int]]:
    """At most so many shares of the weights, by index; no share is empty.

    The heaviest weight goes first, always to the lightest share; then shares exchange weights until
    the heaviest share is within `TOLERANCE` of what no spread can beat, or nothing helps. Takes
    n log n time for n weights; where weights are equal, their order decides.
    """
    if not weights:
        return []
    shares: list[list[int]] = [[] for _ in range(min(shards, len(weights)))]
    # The number of weights decides between equal loads, so that weights of nothing are spread too.
    lightest = [(0.0, 0, number) for number in range(len(shares))]
    for index in sorted(range(len(weights)), key=lambda index: -weights[index]):
        load, size, number = lightest[0]
        shares[number].append(index)
        heapreplace(lightest, (load + weights[index], size + 1, number))
    _even_out(shares, weights)
    return shares


def _even_out(shares: list[list[int]], weights: Sequence[float]) -> None:
    """Exchange between the heaviest share and a lighter one, time and again.

    Expects each share in descending order of weights.
    """
    loads = [_sum(share, weights) for share in shares]
    enough = TOLERANCE * max(max(weights), fsum(loads) / len(loads))
    # What is to be gained falls with every exchange; this keeps the time in proportion to n.
    patience = 20_000 + 10 * len(weights)
    while patience > 0:
        patience -= len(shares)
        lighter = sorted(range(len(shares)), key=loads.__getitem__)
        heaviest = lighter.pop()
        if loads[heaviest] <= enough:
            return
        for other in lighter:
            patience -= len(shares[heaviest]) + len(shares[other])
            exchange = _best_exchange(
                [weights[index] for index in shares[heaviest]],
                [weights[index] for index in shares[other]],
            )
            if exchange is not None:
                break
        else:
            return
        given, returned = exchange
        moved = [shares[heaviest].pop(given)]
        back = [] if returned is None else [shares[other].pop(returned)]
        for number, arrived in ((other, moved), (heaviest, back)):
            shares[number].extend(arrived)
            shares[number].sort(key=lambda index: (-weights[index], index))
            loads[number] = _sum(shares[number], weights)


def _best_exchange(heavy: Sequence[float], light: Sequence[float]) -> tuple[int, int | None] | None:
    """Which weight to give away, and which to take back or none; None where nothing helps.

    Expects both in descending order.
    """
    gap = fsum(heavy) - fsum(light)
    best, best_miss = None, gap / 2 * (1 - 1e-9)
    last = len(light)
    taken = 0
    for given, weight in enumerate(heavy):
        # Ideal is to move half the gap; as `weight` falls, so does what to take back for it.
        while taken < last and light[taken] > weight - gap / 2:
            taken += 1
        for returned in (taken - 1, taken):
            if returned < 0:
                continue
            moved = weight - (light[returned] if returned < last else 0.0)
            miss = abs(moved - gap / 2)
            if miss < best_miss:
                best, best_miss = (given, returned if returned < last else None), miss
    return best


def _cut_where_uneven(
    modules: Sequence[list[int]],
    groups: Sequence[list[int]],
    items: Sequence[Item],
    seconds: Sequence[float],
    shards: int,
) -> list[list[int]]:
    """The modules, cut as little as it takes to spread them evenly and to give each shard work."""
    fixed = [_sum(group, seconds) for group in groups]
    loose = [seconds[position] for module in modules for position in module]
    bound = max(max([*fixed, *loose], default=0.0), fsum([*fixed, *loose]) / shards)
    needed = min(shards, len(fixed) + len(loose))
    last = None
    tried: list[tuple[float, list[list[int]]]] = []
    for pieces in _ever_finer(modules, items, seconds, bound):
        weights = [*fixed, *(_sum(piece, seconds) for piece in pieces)]
        if len(weights) < needed or len(weights) == last:
            continue
        last = len(weights)
        busiest = max((_sum(share, weights) for share in spread(weights, shards)), default=0.0)
        if busiest <= bound * TOLERANCE:
            return pieces
        tried.append((busiest, pieces))
    # Where tests are too long to be spread evenly, cutting has to pay all the same.
    least = min(busiest for busiest, _ in tried)
    return next(pieces for busiest, pieces in tried if busiest <= least * TOLERANCE)


def _ever_finer(
    modules: Sequence[list[int]], items: Sequence[Item], seconds: Sequence[float], bound: float
) -> Iterator[list[list[int]]]:
    """Ways to cut the modules, from whole ones to single tests."""
    yield list(modules)
    pieces = [run for module in modules for run in _runs(module, items, seconds, bound)]
    yield pieces

    # What fills a shard is well where it is; small runs of something else fill the gaps.
    def usefulness(piece: list[int]) -> tuple[bool, float]:
        weight = _sum(piece, seconds)
        return weight * TOLERANCE >= bound, -weight

    pieces = sorted(pieces, key=usefulness)
    cut = 1
    while cut < 4 * len(pieces):
        small = bound * (TOLERANCE - 1)
        fine = [run for piece in pieces[:cut] for run in _runs(piece, items, seconds, small)]
        yield fine + pieces[cut:]
        cut *= 4
    yield [[position] for module in modules for position in module]


def _runs(
    positions: Sequence[int], items: Sequence[Item], seconds: Sequence[float], size: float
) -> list[list[int]]:
    """The tests in runs that take no longer than `size`, classes whole where they fit in.

    A single test may take longer.
    """
    if _sum(positions, seconds) <= size:
        return [list(positions)]
    classes: defaultdict[str, list[int]] = defaultdict(list)
    for position in positions:
        classes[class_of(items[position].nodeid)].append(position)
    parts: list[list[int]] = []
    for name, members in classes.items():
        if name != module_of(name) and _sum(members, seconds) <= size:
            parts.append(members)
        else:
            parts.extend([member] for member in members)
    runs: list[list[int]] = []
    room = 0.0
    for part in parts:
        weight = _sum(part, seconds)
        if not runs or weight > room:
            runs.append([])
            # Sums of fractions of a second are not exact.
            room = size * (1 + 1e-9)
        runs[-1].extend(part)
        room -= weight
    return runs


def _sum(indices: Sequence[int], values: Sequence[float]) -> float:
    """Exact, so that it does not depend on the order."""
    return fsum([values[index] for index in indices])
