"""What the cart sells."""

from __future__ import annotations

from dataclasses import dataclass

#: Prices are in cents, so that sums stay exact.
PRICES = {
    "espresso": 190,
    "cappuccino": 320,
    "flat white": 350,
    "filter": 260,
    "hot chocolate": 310,
}
OAT_MILK = 40


class NotOnTheMenu(LookupError):
    """Somebody asked for a drink that the cart does not make."""


@dataclass(frozen=True)
class Drink:
    """One cup, as ordered."""

    name: str
    oat_milk: bool = False

    @property
    def price(self) -> int:
        return PRICES[self.name] + (OAT_MILK if self.oat_milk else 0)


def order(name: str, *, oat_milk: bool = False) -> Drink:
    """Return the drink of that name; case and outer spaces do not matter."""
    name = name.strip().lower()
    if name not in PRICES:
        raise NotOnTheMenu(f"no {name!r} here, but: {', '.join(PRICES)}")
    return Drink(name, oat_milk)
