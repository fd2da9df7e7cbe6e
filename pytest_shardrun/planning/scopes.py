"""What a plan keeps together."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from heapq import heapreplace
from math import fsum
from typing import Final, final

from pytest_shardrun.model import Item, Unit

from ..records import record

SCOPES: Final = ("auto", "test", "class", "module", "package", "group")

#: Balance is good enough when the busiest shard is this close to what no plan can beat.
TOLERANCE: Final = 1.02


#: Shared fixtures that take less than this are not worth keeping their tests together.
LEAST_SETUP: Final = 0.001

#: No node id begins like this.
_NO_MODULE: Final = "::"


@final
@record
class _Bundle:
    """Tests that are to stay together, and what their shared fixtures take."""

    positions: list[int]
    #: What they take themselves.
    seconds: float
    #: None where it is not known, 0 where nothing is shared.
    setup: float | None

    @property
    def weight(self) -> float:
        return self.seconds + (self.setup or 0.0)

    def unit(self, *, divisible: bool) -> Unit:
        return Unit(tuple(self.positions), self.seconds, divisible, self.setup)


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
        return f"{_NO_MODULE}{item.group}"
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


def setup_key(item: Item) -> str:
    """The class, module or package whose fixtures the test shares, or nothing."""
    match item.scope:
        case "class":
            return class_of(item.nodeid)
        case "module":
            return module_of(item.nodeid)
        case "package":
            return module_of(item.nodeid).rpartition("/")[0] or "."
        case _:
            return ""


def units_of(
    items: Sequence[Item],
    positions: Sequence[int],
    seconds: Sequence[float],
    *,
    scope: str,
    shards: int,
    setups: Mapping[str, float] = {},
) -> list[Unit]:
    """The units of the tests at these positions, each unit in the order of the positions.

    With the scope ``auto`` tests stay together that share fixtures of their class, module or
    package, and those of a module that share none. Where that is too uneven, the latter are cut
    into parts, and the former only where that is not enough. `setups` are the seconds that shared
    fixtures take, by `setup_key`.
    """
    alone: list[int] = []
    if scope in ("test", "group"):
        alone = [position for position in positions if items[position].group is None]
        if len(alone) == len(positions):
            positions = ()
        else:
            positions = [position for position in positions if items[position].group is not None]
    groups: list[_Bundle] = []
    others: list[_Bundle] = []
    for (shared, _), members in _together(items, positions, scope).items():
        setup = setups.get(shared) if shared else 0.0
        setup = setup if setup is None or setup >= LEAST_SETUP else 0.0
        bundle = _Bundle(members, _sum(members, seconds), setup)
        (others if items[members[0]].group is None else groups).append(bundle)
    if scope == "auto":
        others = _cut_where_uneven(others, groups, items, seconds, shards)
    return [
        *[group.unit(divisible=False) for group in groups],
        *[other.unit(divisible=scope == "auto") for other in others],
        *[Unit((position,), seconds[position]) for position in alone],
    ]


def _together(
    items: Sequence[Item], positions: Sequence[int], scope: str
) -> Mapping[tuple[str, str], list[int]]:
    """What the scope keeps together, by what shares fixtures with others and by its name."""
    bundles: defaultdict[tuple[str, str], list[int]] = defaultdict(list)
    # In the order of node ids, most tests belong to the module of the one before.
    head, latest = _NO_MODULE, [0]
    for position in positions:
        item = items[position]
        is_plain = item.group is None and (not item.scope or scope != "auto")
        if is_plain and item.nodeid.startswith(head):
            latest.append(position)
            continue
        shared = setup_key(item) if item.group is None and not is_plain else ""
        members = bundles[shared, shared or scope_key(item, scope)]
        members.append(position)
        if is_plain and scope in ("auto", "module"):
            head, latest = f"{module_of(item.nodeid)}::", members
    return bundles


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
    # In reverse, equal weights keep their order as well.
    for index in sorted(range(len(weights)), key=weights.__getitem__, reverse=True):
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
    bundles: Sequence[_Bundle],
    groups: Sequence[_Bundle],
    items: Sequence[Item],
    seconds: Sequence[float],
    shards: int,
) -> list[_Bundle]:
    """The bundles, cut as little as it takes to spread them evenly and to give each shard work."""
    fixed = [group.weight for group in groups]
    loose = [seconds[position] for bundle in bundles for position in bundle.positions]
    whole = [bundle.weight for bundle in bundles]
    bound = max(max([*fixed, *loose], default=0.0), fsum([*fixed, *whole]) / shards)
    needed = min(shards, len(fixed) + len(loose))
    last = None
    tried: list[tuple[float, list[_Bundle]]] = []
    for pieces in _ever_finer(bundles, items, seconds, bound):
        weights = [*fixed, *[piece.weight for piece in pieces]]
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
    bundles: Sequence[_Bundle], items: Sequence[Item], seconds: Sequence[float], bound: float
) -> Iterator[list[_Bundle]]:
    """Ways to cut the bundles, from whole ones to single tests; first those that share nothing."""
    yield list(bundles)
    sharing = [bundle for bundle in bundles if bundle.setup != 0]
    if sharing and len(sharing) < len(bundles):
        free = [bundle for bundle in bundles if bundle.setup == 0]
        for pieces in _cuts(free, items, seconds, bound):
            yield [*sharing, *pieces]
    yield from _cuts(bundles, items, seconds, bound)


def _cuts(
    bundles: Sequence[_Bundle], items: Sequence[Item], seconds: Sequence[float], bound: float
) -> Iterator[list[_Bundle]]:
    pieces = [run for bundle in bundles for run in _runs(bundle, items, seconds, bound)]
    yield pieces

    # What fills a shard is well where it is; small runs of something else fill the gaps.
    def usefulness(piece: _Bundle) -> tuple[bool, float]:
        return piece.weight * TOLERANCE >= bound, -piece.weight

    pieces = sorted(pieces, key=usefulness)
    cut = 1
    while cut < 4 * len(pieces):
        small = bound * (TOLERANCE - 1)
        fine = [run for piece in pieces[:cut] for run in _runs(piece, items, seconds, small)]
        yield fine + pieces[cut:]
        cut *= 4
    yield [
        _Bundle([position], seconds[position], bundle.setup)
        for bundle in bundles
        for position in bundle.positions
    ]


def _runs(
    bundle: _Bundle, items: Sequence[Item], seconds: Sequence[float], size: float
) -> list[_Bundle]:
    """The tests in runs that take no longer than `size`, classes whole where they fit in.

    A single test may take longer; what the fixtures take is not looked at.
    """
    if bundle.seconds <= size:
        return [bundle]
    classes: defaultdict[str, list[int]] = defaultdict(list)
    for position in bundle.positions:
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
    return [_Bundle(run, _sum(run, seconds), bundle.setup) for run in runs]


def _sum(indices: Sequence[int], values: Sequence[float]) -> float:
    """Exact, so that it does not depend on the order."""
    return fsum(map(values.__getitem__, indices))
