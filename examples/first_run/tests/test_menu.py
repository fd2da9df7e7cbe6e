"""What the cart sells."""

from __future__ import annotations

import pytest
from coffee_cart import menu


@pytest.mark.parametrize("name", menu.PRICES)
def test_every_drink_on_the_menu_can_be_ordered(name: str) -> None:
    assert menu.order(name).price == menu.PRICES[name]


def test_oat_milk_costs_extra() -> None:
    assert menu.order("cappuccino", oat_milk=True).price == 360


def test_case_and_spaces_do_not_matter() -> None:
    assert menu.order("  Flat White ") == menu.order("flat white")


def test_an_unknown_drink_is_answered_with_the_menu() -> None:
    with pytest.raises(menu.NotOnTheMenu, match="no 'bubble tea' here, but: espresso, cappuccino"):
        menu.order("bubble tea")
