"""The slip of paper."""

from __future__ import annotations

import pytest
from coffee_cart.machine import Machine
from coffee_cart.menu import order
from coffee_cart.receipt import print_receipt
from coffee_cart.stock import Beans


def test_a_receipt_lists_what_was_ordered() -> None:
    receipt = print_receipt([order("espresso"), order("flat white", oat_milk=True)])

    assert receipt.splitlines() == [
        "espresso            1.90",
        "flat white          3.90",
        "------------------------",
        "total               5.80",
    ]


@pytest.mark.parametrize("cups", [1, 2, 3, 4])
def test_what_was_brewed_is_on_the_receipt(cups: int) -> None:
    machine = Machine(Beans(grams=200))
    machine.warm_up()
    drinks = [order("cappuccino")] * cups

    brewed = [machine.brew(drink) for drink in drinks]

    assert len(print_receipt(drinks).splitlines()) == len(brewed) + 2


@pytest.mark.xfail(reason="the extra for oat milk has no line of its own yet")
def test_oat_milk_is_named_on_the_receipt() -> None:
    assert "oat milk" in print_receipt([order("flat white", oat_milk=True)])
