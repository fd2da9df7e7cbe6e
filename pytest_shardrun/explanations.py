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
        case {"longrepr": {"reprcrash": {"message": str(message)}}}:
            # pytest leaves out the name of this exception, and of no other.
            return f"AssertionError: {message}" if message.startswith("assert ") else message
        case _:
            return ""
