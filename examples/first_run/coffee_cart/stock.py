"""What the cart still has."""

from __future__ import annotations

GRAMS_PER_CUP = 18


class SoldOut(RuntimeError):
    """Too few beans are left for another cup."""


class Beans:
    """A hopper of beans."""

    def __init__(self, grams: int) -> None:
        self.grams = grams

    @property
    def cups_left(self) -> int:
        return self.grams // GRAMS_PER_CUP

    def grind(self) -> int:
        """Take the beans for one cup and return their weight."""
        if not self.cups_left:
            raise SoldOut(f"{self.grams} g left, a cup takes {GRAMS_PER_CUP} g")
        self.grams -= GRAMS_PER_CUP
        return GRAMS_PER_CUP
