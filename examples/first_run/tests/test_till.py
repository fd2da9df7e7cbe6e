"""What the cart takes, and what it gives back."""

from __future__ import annotations

import pytest
from coffee_cart import till


@pytest.mark.parametrize(
    ("price", "paid", "coins"),
    [
        pytest.param(190, 200, {10: 1}, id="one coin"),
        pytest.param(320, 500, {100: 1, 50: 1, 20: 1, 10: 1}, id="one of each"),
        pytest.param(260, 260, {}, id="nothing"),
    ],
)
def test_change_is_given_in_as_few_coins_as_possible(
    price: int, paid: int, coins: dict[int, int]
) -> None:
    assert till.change(price, paid) == coins


def test_paying_too_little_is_refused() -> None:
    with pytest.raises(till.TooLittle, match="30 cents are missing"):
        till.change(350, 320)


def test_an_own_cup_saves_a_tenth() -> None:
    assert till.total([190, 320], own_cup=True) == 459


@pytest.mark.skip(reason="the card reader comes in spring")
def test_cards_are_accepted() -> None:
    raise AssertionError
