"""What the cart takes, and what it gives back."""

from __future__ import annotations

COINS = (200, 100, 50, 20, 10, 5, 2, 1)


class TooLittle(ValueError):
    """The customer paid less than the price."""


def total(prices: list[int], *, own_cup: bool = False) -> int:
    """Add prices up; whoever brings a cup pays a tenth less, rounded in their favour."""
    full = sum(prices)
    return full * 9 // 10 if own_cup else full


def change(price: int, paid: int) -> dict[int, int]:
    """Return how many coins of each kind to give back, with as few coins as possible."""
    if paid < price:
        raise TooLittle(f"{price - paid} cents are missing")
    rest = paid - price
    coins = {}
    for coin in COINS:
        count, rest = divmod(rest, coin)
        if count:
            coins[coin] = count
    return coins
