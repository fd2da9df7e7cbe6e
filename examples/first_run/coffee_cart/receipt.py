"""The slip of paper."""

from __future__ import annotations

from coffee_cart.menu import Drink
from coffee_cart.till import total

WIDTH = 24


def print_receipt(drinks: list[Drink]) -> str:
    """Return a line for each drink, in the order in which they were ordered, and the total."""
    rows = [_row(drink.name, drink.price) for drink in drinks]
    return "\n".join([*rows, "-" * WIDTH, _row("total", total([drink.price for drink in drinks]))])


def _row(name: str, cents: int) -> str:
    amount = f"{cents // 100}.{cents % 100:02}"
    return f"{name:<{WIDTH - len(amount)}}{amount}"
