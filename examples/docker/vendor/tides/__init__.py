"""When the water is high; a stand-in for a library that this machine does not have."""

from __future__ import annotations

import os

#: Seconds between two high waters.
PERIOD = 44_714


def next_high_water(last: float, now: float) -> float:
    """The time of the first high water after ``now``."""
    periods = int((now - last) // PERIOD) + 1
    return last + periods * PERIOD


def place() -> str:
    """Where this copy of the library is installed."""
    return os.path.dirname(__file__)
