"""Which shard runs which test."""

from __future__ import annotations

import gc
import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from hashlib import sha256
from itertools import groupby, pairwise
from math import fsum
from typing import Final, Protocol

from pytest_shardrun.model import Item, Plan, ShardPlan, Unit
from pytest_shardrun.planning.estimates import Durations
from pytest_shardrun.planning.scopes import module_of, scope_key, spread, units_of

#: What pytest itself needs for a test, however short.
LEAST_SECONDS: Final = 0.001


class Splitter(Protocol):
    """Deals out the units: one list for each shard, of which there may be fewer than asked for.

    Items come in the order of node ids, and the units' positions refer to that, so that the order
    of collection cannot have an influence.
    """

    def __call__(
        self, units: Sequence[Unit], items: Sequence[Item], shards: int, /
    ) -> list[list[Unit]]: ...


def split_by_duration(
    units: Sequence[Unit], items: Sequence[Item], shards: int, /
) -> list[list[Unit]]:
    """Equal expected seconds in every shard, as nearly as can be."""
    return _dealt(units, spread([unit.whole_seconds for unit in units], shards))


def split_by_count(
    units: Sequence[Unit], items: Sequence[Item], shards: int, /
) -> list[list[Unit]]:
    """Equal numbers of tests in every shard, as nearly as can be."""
    return _dealt(units, spread([len(unit.positions) for unit in units], shards))


def split_by_module(
    units: Sequence[Unit], items: Sequence[Item], shards: int, /
) -> list[list[Unit]]:
    """Equal expected seconds in every shard, but what belongs to a module stays together."""
    modules: defaultdict[str, list[Unit]] = defaultdict(list)
    for unit in units:
        modules[module_of(items[unit.positions[0]].nodeid)].append(unit)
    together = list(modules.values())
    shares = spread([fsum(unit.whole_seconds for unit in module) for module in together], shards)
    return [[unit for index in share for unit in together[index]] for share in shares]


def split_by_hash(
    units: Sequence[Unit], items: Sequence[Item], shards: int, /, *, scope: str = "test"
) -> list[list[Unit]]:
    """A shard for every unit by its name alone: no other test or duration can move it."""
    shares: list[list[Unit]] = [[] for _ in range(shards)]
    for unit in units:
        key = scope_key(items[unit.positions[0]], scope)
        shares[int.from_bytes(sha256(_encoded(key)).digest(), "big") % shards].append(unit)
    return shares


def _dealt(units: Sequence[Unit], shares: Sequence[Sequence[int]]) -> list[list[Unit]]:
    """The units of each share, in the order in which they lie in memory.

    With hundreds of thousands of units, going through them as `spread` left them takes several
    times as long.
    """
    return [[units[index] for index in sorted(share)] for share in shares]


BUILT_IN: Final[Mapping[str, Splitter]] = {
    "duration": split_by_duration,
    "count": split_by_count,
    "hash": split_by_hash,
    "module": split_by_module,
}


def make_plan(
    items: Sequence[Item], durations: Durations, *, shards: int, splitter: Splitter, scope: str
) -> Plan:
    """The plan for the collected tests, which depends on their set but not on their order.

    Where there are tests there is at least one shard, even if all of them are serial. The last
    shard has tests, unless it is the only one; those before it are empty only where the splitter
    says so, as `split_by_hash` may. Raises `ValueError` where the splitter does not deal out every
    test exactly once.
    """
    with _without_collector():
        return _make_plan(items, durations, shards, splitter, scope)


@contextmanager
def _without_collector() -> Iterator[None]:
    """Keep the collector of garbage from going through all the values that a plan is made of."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _make_plan(
    items: Sequence[Item], durations: Durations, shards: int, splitter: Splitter, scope: str
) -> Plan:
    order = _order_of(items)
    ordered = [items[at] for at in order]
    nodeids = [item.nodeid for item in ordered]
    seconds = [
        estimate if estimate > LEAST_SECONDS else LEAST_SECONDS
        for estimate in durations.estimate(nodeids)
    ]
    parallel = [position for position, item in enumerate(ordered) if not item.serial]
    serial = [position for position, item in enumerate(ordered) if item.serial]

    if splitter is split_by_hash:
        # Where modules would be cut depends on all other tests.
        scope = "test" if scope == "auto" else scope
        splitter = partial(split_by_hash, scope=scope)
    if splitter is split_by_count:
        units = units_of(ordered, parallel, [1.0] * len(items), scope=scope, shards=shards)
        units = [unit._replace(expected_seconds=_total(unit, seconds)) for unit in units]
    else:
        units = units_of(
            ordered, parallel, seconds, scope=scope, shards=shards, setups=durations.setups
        )
    shares = splitter(units, ordered, shards)
    _check(shares, parallel, ordered, shards)

    while shares and not shares[-1]:
        shares = shares[:-1]
    if items and not shares:
        shares = [[]]
    if scope == "auto":
        shares = [_rejoined(share, ordered) for share in shares]
    return Plan(
        shards=tuple(
            ShardPlan(number, _in_collection_order(share, order, seconds))
            for number, share in enumerate(shares, 1)
        ),
        serial=tuple(sorted(order[position] for position in serial)),
        digest=_digest(shares, serial, nodeids),
        measured=bool(items) and 2 * durations.count_known(nodeids) >= len(items),
    )


def _order_of(items: Sequence[Item]) -> list[int]:
    """Where the items are that come first, second, … by node id and occurrence."""
    order = [*range(len(items))]
    # The second sort keeps the order of the first for equal node ids.
    if any([item.occurrence for item in items]):
        order.sort(key=lambda at: items[at].occurrence)
    order.sort(key=[item.nodeid for item in items].__getitem__)
    return order


def _check(
    shares: Sequence[Sequence[Unit]], parallel: list[int], items: Sequence[Item], shards: int
) -> None:
    if len(shares) > shards:
        raise ValueError(f"the splitter made {len(shares)} shards where {shards} were asked for")
    dealt = [position for share in shares for unit in share for position in unit.positions]
    if len(dealt) == len(parallel) and set(dealt) == set(parallel):
        return
    times = Counter(dealt)
    for position in parallel:
        if times[position] != 1:
            raise ValueError(
                f"the splitter put {items[position].nodeid} into a shard {times[position]} times, "
                "not once"
            )
    raise ValueError(f"the splitter made up the positions {sorted(set(dealt) - set(parallel))}")


def _rejoined(share: Sequence[Unit], items: Sequence[Item]) -> list[Unit]:
    """The share with all parts of a module that it has as one unit again.

    Then they run in the order of collection, which pytest chose so that fixtures are set up least.
    """
    modules: defaultdict[str, list[Unit]] = defaultdict(list)
    others: list[Unit] = []
    for unit in share:
        first = items[unit.positions[0]]
        if unit.divisible and not (first.scope == "package" and _spans_modules(unit, items)):
            modules[module_of(first.nodeid)].append(unit)
        else:
            others.append(unit)
    return [
        *others,
        *(
            Unit(
                tuple(position for part in parts for position in part.positions),
                fsum(part.expected_seconds for part in parts),
                setup_seconds=_setup_of(parts),
            )
            for parts in modules.values()
        ),
    ]


def _spans_modules(unit: Unit, items: Sequence[Item]) -> bool:
    return len({module_of(items[position].nodeid) for position in unit.positions}) > 1


def _setup_of(parts: Sequence[Unit]) -> float | None:
    """What the fixtures of parts of a module take in a process, as far as is known."""
    known = [part.setup_seconds for part in parts if part.setup_seconds is not None]
    # Parts of one class or module share the fixtures; None stands only where nothing is known.
    return max(known, default=0.0) or (None if len(known) < len(parts) else 0.0)


def _in_collection_order(
    share: Sequence[Unit], order: Sequence[int], seconds: Sequence[float]
) -> tuple[Unit, ...]:
    """The share with positions in the collection instead of positions in the order of node ids.

    Where the collection takes turns between modules (``--ff``, a shuffle), a divisible unit is cut,
    so that the shard runs its tests in the order of collection.
    """
    moved = [Unit(_moved(unit.positions, order), *unit[1:]) for unit in share]
    moved.sort(key=lambda unit: unit.positions[0])
    if all([one.positions[-1] < other.positions[0] for one, other in pairwise(moved)]):
        return tuple(moved)
    seconds_at = {order[at]: seconds[at] for unit in share for at in unit.positions}
    entries = [(unit.positions[0], unit, unit.positions) for unit in moved if not unit.divisible]
    entries += [
        (position, unit, (position,))
        for unit in moved
        if unit.divisible
        for position in unit.positions
    ]
    entries.sort(key=lambda entry: entry[0])
    units = []
    for _, run in groupby(entries, key=lambda entry: id(entry[1])):
        parts = list(run)
        at = tuple(position for _, _, part in parts for position in part)
        units.append(
            parts[0][1]._replace(
                positions=at, expected_seconds=fsum([seconds_at[position] for position in at])
            )
        )
    return tuple(units)


def _moved(positions: tuple[int, ...], order: Sequence[int]) -> tuple[int, ...]:
    if len(positions) == 1:
        return (order[positions[0]],)
    return tuple(sorted([order[position] for position in positions]))


def _digest(shares: Sequence[Sequence[Unit]], serial: Sequence[int], nodeids: Sequence[str]) -> str:
    """What the plan decides, as a short text: equal for equal decisions.

    That is SHA-256 over the JSON list of the serial tests' sorted node ids, those of shard 1, of
    shard 2, …
    """
    assigned = [serial, *([at for unit in share for at in unit.positions] for share in shares)]
    decisions = [[nodeids[position] for position in sorted(tests)] for tests in assigned]
    return sha256(_encoded(json.dumps(decisions))).hexdigest()[:16]


def _total(unit: Unit, seconds: Sequence[float]) -> float:
    return fsum([seconds[position] for position in unit.positions])


def _encoded(text: str) -> bytes:
    # The name of a file may hold bytes that are no text, which Python turns into surrogates.
    return text.encode("utf-8", "surrogatepass")
