"""What the cart still has."""

from __future__ import annotations

import pytest
from coffee_cart.stock import Beans, SoldOut


def test_a_cup_takes_its_beans_from_the_hopper() -> None:
    beans = Beans(grams=100)

    assert beans.grind() == 18
    assert beans.grams == 82


def test_half_a_cup_is_no_cup() -> None:
    assert Beans(grams=35).cups_left == 1


def test_an_empty_hopper_is_sold_out() -> None:
    with pytest.raises(SoldOut, match="4 g left"):
        Beans(grams=4).grind()
