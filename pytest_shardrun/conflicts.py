"""Which tests may be in flight beside others."""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, TypeAlias, final

from .model import Lock, Need, Unit

#: The locks of a test, which are taken all or none.
Request: TypeAlias = frozenset[Lock]


@final
class Answer(enum.Enum):
    """Whether a test may be sent."""

    YES = "yes"
    NO = "no"
    #: When the run has got the locks, which has not been tried yet.
    ASK = "ask"


@final
@dataclass(slots=True)
class _Load:
    """What the tests in flight at one shard need."""

    locks: Counter[Lock] = field(default_factory=Counter)
    weights: Counter[int] = field(default_factory=Counter)

    @property
    def weight(self) -> int:
        # A shard runs one test after the other.
        return max(self.weights, default=0)


@final
class Conflicts:
    """Keeps the locks and weights of tests in flight.

    A lock is held within the run by the shard that has the test, and against other runs by the
    run: the latter has to be asked for and granted before such a test is sent.
    """

    def __init__(self, needs: Mapping[int, Need], capacity: int) -> None:
        """``needs`` may grow; ``capacity`` is how much may run at once."""
        self._needs: Final = needs
        self._capacity: Final = max(1, capacity)
        self._loads: Final[dict[int, _Load]] = {}
        self._units: Final[dict[int, tuple[Unit, frozenset[Need | None]]]] = {}
        #: Whether each lock that this run holds is shared, by name.
        self._granted: Final[dict[str, bool]] = {}
        #: Names that another run waits for: no test with them is sent before they were given back.
        self._yielding: Final[set[str]] = set()
        self._wishes: Final[dict[Request, None]] = {}
        self._asked: Final[set[Request]] = set()
        self._refused: Final[set[Request]] = set()
        self._known = 0
        self._weighs = False

    @property
    def is_active(self) -> bool:
        """Whether there is a test that needs anything."""
        return bool(self._needs)

    # What tests need

    def refuses(self, shard: int, unit: Unit) -> bool:
        """Whether no test of a unit may be sent to this shard now."""
        _, needs = self._units.get(id(unit), (None, None))
        if needs is None:
            needs = frozenset(map(self._needs.get, unit.positions))
            # With the unit, so that its id stays its own.
            self._units[id(unit)] = unit, needs
        return all(self._answer(shard, need) is Answer.NO for need in needs)

    def answer(self, shard: int, position: int) -> Answer:
        """Whether a test may be sent to this shard now."""
        return self._answer(shard, self._needs.get(position))

    def ask_for(self, position: int) -> None:
        """Wish for the locks of a test."""
        request = self._needs[position].locks
        if request not in self._asked:
            self._wishes[request] = None

    def _answer(self, shard: int, need: Need | None) -> Answer:
        if not self._has_room(shard, need):
            return Answer.NO
        if need is None or not need.locks:
            return Answer.YES
        if any(self._is_taken(shard, lock) for lock in need.locks):
            return Answer.NO
        if all(self._is_granted(lock) for lock in need.locks):
            return Answer.YES
        # To hold one lock and wait for another could last for ever.
        is_partly_held = any(lock.name in self._granted for lock in need.locks)
        return Answer.NO if is_partly_held or need.locks in self._refused else Answer.ASK

    def _has_room(self, shard: int, need: Need | None) -> bool:
        if self._known != len(self._needs):
            self._known = len(self._needs)
            self._weighs = any(each.weight > 1 for each in self._needs.values())
        if not self._weighs:
            return True
        weight = min(1 if need is None else need.weight, self._capacity)
        others = sum(load.weight for number, load in self._loads.items() if number != shard)
        own = self._loads.get(shard)
        return others + max(weight, own.weight if own else 0) <= self._capacity

    def _is_taken(self, shard: int, lock: Lock) -> bool:
        if lock.name in self._yielding:
            return True
        exclusive, shared = Lock(lock.name), Lock(lock.name, shared=True)
        return any(
            load.locks[exclusive] > 0 or (not lock.shared and load.locks[shared] > 0)
            for number, load in self._loads.items()
            if number != shard
        )

    def _is_granted(self, lock: Lock) -> bool:
        is_shared = self._granted.get(lock.name)
        return is_shared is not None and (lock.shared or not is_shared)

    # What is in flight

    def sent(self, shard: int, position: int) -> None:
        need = self._needs.get(position)
        load = self._loads.setdefault(shard, _Load())
        load.weights[self._weight(need)] += 1
        if need is not None:
            load.locks.update(need.locks)

    def settled(self, shard: int, position: int) -> None:
        """This test is in flight no more."""
        need = self._needs.get(position)
        load = self._loads.get(shard)
        if load is None:
            return
        load.weights -= Counter([self._weight(need)])
        if need is not None:
            load.locks -= Counter(need.locks)

    def forget(self, shard: int) -> None:
        """Nothing is in flight at this shard any more."""
        self._loads.pop(shard, None)

    def _weight(self, need: Need | None) -> int:
        return min(1 if need is None else need.weight, self._capacity)

    # Other runs

    def take_wishes(self) -> list[Request]:
        """The locks that should be asked for."""
        wishes = list(self._wishes)
        self._wishes.clear()
        self._asked.update(wishes)
        return wishes

    def take_unused(self) -> frozenset[str]:
        """The names of locks that no test in flight needs: they are to be given back."""
        used = {lock.name for load in self._loads.values() for lock in load.locks}
        unused = frozenset(self._granted.keys() - used)
        for name in unused:
            del self._granted[name]
        self._yielding.intersection_update(self._granted)
        return unused

    def granted(self, request: Request) -> None:
        """This run holds the locks that it asked for."""
        self._asked.discard(request)
        self._refused.discard(request)
        self._granted.update((lock.name, lock.shared) for lock in request)

    def refused(self, request: Request) -> None:
        """Another run holds some of the locks; that they are granted may come later."""
        self._refused.add(request)

    def yield_to_others(self, names: Iterable[str]) -> None:
        """Another run waits for these names of ours."""
        self._yielding.update(self._granted.keys() & set(names))
