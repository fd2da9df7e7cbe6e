"""The machine that brews, and takes its time."""

from __future__ import annotations

import time

from coffee_cart.menu import Drink
from coffee_cart.stock import Beans

BREWING_SECONDS = {
    "espresso": 0.1,
    "cappuccino": 0.15,
    "flat white": 0.15,
    "filter": 0.2,
    "hot chocolate": 0.12,
}


class Machine:
    """One coffee machine with its beans; it has to be warm before it brews."""

    def __init__(self, beans: Beans) -> None:
        self.beans = beans
        self.warm = False

    def warm_up(self) -> None:
        time.sleep(0.1)
        self.warm = True

    def brew(self, drink: Drink) -> str:
        """Return the cup, once it is full."""
        if not self.warm:
            raise RuntimeError("warm the machine up first")
        if drink.name != "hot chocolate":
            self.beans.grind()
        time.sleep(BREWING_SECONDS[drink.name])
        milk = " with oat milk" if drink.oat_milk else ""
        return f"a cup of {drink.name}{milk}"
