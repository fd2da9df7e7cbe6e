"""The tests of a run, as shards collected them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, final

from .events import BrokenStream
from .model import Item, Lock, Need
from .records import record


@final
@record
class Collection:
    """A shard's own collection: places in it are what its worker knows."""

    #: Of the tests in the run's collection, by place.
    positions: Sequence[int]
    #: The other way round.
    places: dict[int, int]
    nodeids: list[str]


class Catalogue:
    """Every test that any shard has collected, by position, and each shard's view of them."""

    def __init__(self) -> None:
        self._items: list[Item] = []
        #: What tests need for themselves, by position, where they need anything.
        self.needs: Final[dict[int, Need]] = {}
        self._known: dict[tuple[str, int], int] = {}
        self._by_digest: dict[str, Collection] = {}

    @property
    def items(self) -> Sequence[Item]:
        """The tests by position, in the order of collection."""
        return self._items

    def collection(self, digest: str) -> Collection | None:
        """The collection with this digest, if a shard has sent it."""
        return self._by_digest.get(digest)

    def learn(self, digest: str, rows: Sequence[Sequence[Any]]) -> list[int]:
        """Take in a collection; the positions of the tests that nobody had before."""
        found: dict[str, int] = {}
        positions: list[int] = []
        new: list[int] = []
        if any(len(row) not in (8, 9) for row in rows):
            raise BrokenStream("rows of another shape")
        for nodeid, file, line, domain, group, serial, limits, scope, *more in rows:
            timeout, foreign_timeout = limits
            occurrence = found.get(nodeid, 0)
            found[nodeid] = occurrence + 1
            key = (nodeid, occurrence)
            position = self._known.get(key)
            if position is None:
                position = self._known[key] = len(self._items)
                location = (file, line, domain)
                need = _need_of(*more[0]) if more else None
                if need is not None:
                    self.needs[position] = need
                self._items.append(
                    Item(
                        nodeid,
                        location,
                        occurrence,
                        group,
                        serial,
                        timeout,
                        foreign_timeout,
                        scope,
                        need,
                    )
                )
                new.append(position)
            positions.append(position)
        places = {position: place for place, position in enumerate(positions)}
        nodeids = [self._items[position].nodeid for position in positions]
        self._by_digest[digest] = Collection(positions, places, nodeids)
        return new

    def missing(self, collection: Collection) -> frozenset[int]:
        """What others have collected and this collection lacks."""
        if len(collection.positions) == len(self._items):
            return frozenset()
        return frozenset(range(len(self._items))) - collection.places.keys()


def _need_of(exclusive: Sequence[str], shared: Sequence[str], weight: int) -> Need:
    alone = frozenset(map(Lock, exclusive))
    together = frozenset(Lock(name, shared=True) for name in shared)
    return Need(alone | together, weight)
