"""faulthandler's stacks, cut to what matters."""

from __future__ import annotations

import re
from typing import Final

_FRAME: Final = re.compile(r'^  File "(?P<path>[^"]*)", line \d+ in ')
#: What runs a test, as opposed to the test.
_MACHINERY: Final = re.compile(
    # A fork begins in a module of the controller, above a frame of the program.
    r"[/\\](_pytest|pluggy|pytest_shardrun)[/\\]|^<string>$"
    r"|[/\\]pytest[/\\]__main__\.py$|[/\\]bin[/\\]pytest$"
)


def shorten_stacks(text: str) -> str:
    """The text with runs of frames of pytest and pluggy replaced by their number."""
    shortened: list[str] = []
    hidden = 0
    for line in text.splitlines():
        frame = _FRAME.match(line)
        if frame and _MACHINERY.search(frame["path"]):
            hidden += 1
            continue
        if hidden:
            shortened.append(_stand_in(hidden))
            hidden = 0
        shortened.append(line)
    if hidden:
        shortened.append(_stand_in(hidden))
    return "\n".join(shortened)


def _stand_in(hidden: int) -> str:
    return f"  ({hidden} frame{'' if hidden == 1 else 's'} of pytest, shown with --full-trace)"
