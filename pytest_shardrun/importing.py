"""How this package imports its own modules."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest


@contextmanager
def as_written(manager: pytest.PytestPluginManager) -> Iterator[None]:
    """Import modules of ours in this block: pytest does not rewrite their assertions.

    It does that to all modules of its plugins. Ours would take twice as long to import, and ten
    times as long in a fresh environment, where only what pip has compiled is there.
    """
    hook: object = manager.rewrite_hook
    finders = sys.meta_path[:]
    sys.meta_path[:] = [each for each in finders if each is not hook]
    try:
        yield
    finally:
        sys.meta_path[:] = finders
