"""What pytest says of a conftest that fails."""

from __future__ import annotations

import os

import pytest

# No public name says that a conftest could not be imported, nor which frames are pytest's own.
from _pytest._code import filter_traceback
from _pytest.config import ConftestImportFailure as ConftestImportFailure


def explain(error: ConftestImportFailure) -> str:
    """What plain pytest writes before it leaves."""
    info = pytest.ExceptionInfo.from_exception(error.cause)
    info.traceback = info.traceback.filter(
        lambda entry: filter_traceback(entry) and "importlib" not in str(entry.path).split(os.sep)
    )
    shown = info.getrepr(style="short", chain=False) if info.traceback else info.exconly()
    return f"ImportError while loading conftest '{error.path}'.\n{shown}"
