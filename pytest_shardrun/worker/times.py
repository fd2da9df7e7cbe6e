"""Times as users write them."""

from __future__ import annotations

import re
from typing import Final

_UNITS: Final = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}


def read_seconds(text: str) -> float | None:
    """The seconds in ``90``, ``90s``, ``1.5m`` or ``1h``; None where it is no time."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smh]?)", text.strip())
    return float(match[1]) * _UNITS[match[2]] if match else None
