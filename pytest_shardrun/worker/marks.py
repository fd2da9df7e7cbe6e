"""A forked process's environment, seen from outside."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence


def show_environment(*, without: Sequence[str] = ()) -> None:
    """Put this process's environment where ``/proc`` shows it, what is short first.

    The system shows what was there when the program started, which is another process's.
    """
    hidden = [os.fsencode(name) for name in without]
    # Kernels that refuse it leave only children that start no program without marks.
    with contextlib.suppress(OSError, ValueError):
        start, end = _place()
        # Nobody may need the old text any more: what is set anew is kept elsewhere.
        for name, value in os.environb.items():
            os.putenv(name, value)
        room = end - start
        block = b""
        variables = [
            name + b"=" + value + b"\0" for name, value in os.environb.items() if name not in hidden
        ]
        for variable in sorted(variables, key=_rank):
            if len(block) + len(variable) > room:
                break
            block += variable
        with open("/proc/self/mem", "r+b", buffering=0) as memory:
            memory.seek(start)
            memory.write(block.ljust(room, b"\0"))


def _rank(variable: bytes) -> tuple[bool, int]:
    return not variable.startswith(b"SHARDRUN_"), len(variable)


def _place() -> tuple[int, int]:
    with open("/proc/self/stat", "rb") as file:
        fields = file.read().rpartition(b")")[2].split()
    # Fields 50 and 51, counted from 1 with the two before the bracket.
    return int(fields[47]), int(fields[48])
