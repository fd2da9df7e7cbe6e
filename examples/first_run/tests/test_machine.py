"""The machine, which takes its time: most of the seconds of this suite are spent here."""

from __future__ import annotations

import pytest
from coffee_cart import menu
from coffee_cart.machine import Machine
from coffee_cart.stock import Beans


@pytest.fixture
def machine() -> Machine:
    machine = Machine(Beans(grams=200))
    machine.warm_up()
    return machine


@pytest.mark.parametrize("name", menu.PRICES)
def test_every_drink_is_brewed(machine: Machine, name: str) -> None:
    assert machine.brew(menu.order(name)) == f"a cup of {name}"


def test_oat_milk_ends_in_the_cup(machine: Machine) -> None:
    assert machine.brew(menu.order("filter", oat_milk=True)) == "a cup of filter with oat milk"


def test_chocolate_needs_no_beans(machine: Machine) -> None:
    machine.brew(menu.order("hot chocolate"))

    assert machine.beans.grams == 200


def test_a_cold_machine_does_not_brew() -> None:
    with pytest.raises(RuntimeError, match="warm the machine up first"):
        Machine(Beans(grams=200)).brew(menu.order("espresso"))
