"""The smallest part that still does something."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

Thing = TypeVar("Thing")


def minimise(things: Sequence[Thing], does_it: Callable[[Sequence[Thing]], bool]) -> list[Thing]:
    """A part of the things, in their order, that does it and from which none can be left out.

    They are known to do it all together. This is delta debugging (Zeller and Hildebrandt): halves
    first, then what is left without one piece after the other, in ever smaller pieces.
    """
    left = list(things)
    pieces = 2
    while len(left) > 1:
        size = -(-len(left) // pieces)
        bounds = [(start, min(start + size, len(left))) for start in range(0, len(left), size)]
        found = _smaller(left, bounds, does_it)
        if found is not None:
            left, was_piece = found
            pieces = 2 if was_piece else max(len(bounds) - 1, 2)
        elif size == 1:
            break
        else:
            pieces = min(len(left), 2 * len(bounds))
    return left


def _smaller(
    left: list[Thing],
    bounds: Sequence[tuple[int, int]],
    does_it: Callable[[Sequence[Thing]], bool],
) -> tuple[list[Thing], bool] | None:
    for start, end in bounds:
        if does_it(left[start:end]):
            return left[start:end], True
    # Of two pieces each is what is left without the other.
    for start, end in bounds if len(bounds) > 2 else ():
        rest = left[:start] + left[end:]
        if does_it(rest):
            return rest, False
    return None
