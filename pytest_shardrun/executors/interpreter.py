"""The options of the running interpreter."""

from __future__ import annotations

import subprocess
import sys


def interpreter_flags() -> list[str]:
    """The ``-O``, ``-W``, ``-X`` and their like that this interpreter was started with."""
    # Private, and what multiprocessing itself relies on.
    flags: list[str] = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
    for name, value in sys._xoptions.items():
        flag = name if value is True else f"{name}={value}"
        if flag not in flags:
            flags += ["-X", flag]
    return flags
