"""Why a test failed, in a line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .events import Reported
from .notices import Blame


def explain(reports: Sequence[Reported], blame: Blame | None = None) -> str:
    """The message of the failure, with the name of its exception; it may have several lines."""
    if blame is not None:
        return f"{blame.ending.reason} ({blame.phase})"
    failed = [report for report in reports if report.outcome == "failed"]
    texts = [text for report in failed if (text := _message(report.data))]
    return texts[0] if texts else "failed without a message"


def _message(data: Any) -> str:
    """What a report serialised by pytest says, as far as it has the usual shape."""
    match data:
        case {"longrepr": str(text)}:
            return text.strip()
        case {"longrepr": {"reprcrash": {"message": str(message)}, **rest}}:
            name = _exception(rest)
            begins = message.partition(":")[0]
            has_name = not name or begins == name or begins.endswith(f".{name}")
            return message if has_name else f"{name}: {message}"
        case _:
            return ""


def _exception(longrepr: Any) -> str:
    match longrepr:
        case {"reprtraceback": {"reprentries": [*_, {"data": {"reprfileloc": {"message": name}}}]}}:
            return str(name)
        case _:
            return ""
