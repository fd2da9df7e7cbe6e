"""The durations that a run uses and saves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from . import notices
from .model import Item
from .planning.durations import read_durations, update_durations
from .planning.estimates import Durations
from .planning.scopes import LEAST_SETUP, module_of, setup_key


class Timekeeper:
    """Reads durations from pytest's cache and from a file that people share; updates both."""

    def __init__(
        self,
        config: pytest.Config,
        cached: Path | None,
        shared: Path | None,
        complain: Callable[[str], None],
    ) -> None:
        self._config = config
        self._cached = cached
        self._shared = shared
        self._complain = complain
        self._seconds: dict[str, float] = {}
        self._setups: dict[str, float] = {}

    def read(self, items: Sequence[Item]) -> Durations:
        """What is known of these tests, what this machine has measured first."""
        known = Durations()
        if self._cached is not None:
            known = read_durations(self._cached, complain=self._complain)
        if self._shared is not None:
            shared = read_durations(self._shared, complain=self._complain, committed=True)
            known = known.filled_up(shared, [item.nodeid for item in items])
        return known

    def note(self, done: notices.TestDone) -> None:
        """Keep what a test has taken by itself, and what the fixtures it set up for others."""
        nodeid = done.item.nodeid
        self._seconds[nodeid] = max(done.seconds - done.shared_seconds, 0.0)
        key = setup_key(done.item)
        if done.setup_seconds >= LEAST_SETUP:
            # A fixture may be asked for by name while the test runs: nobody knew of it before.
            key = key or module_of(nodeid)
            self._setups[key] = max(done.setup_seconds, self._setups.get(key, 0.0))
        elif key:
            self._setups.setdefault(key, 0.0)

    def save(self, items: Sequence[Item], *, deselected: bool) -> None:
        """Update the files where a test was run; `deselected`: there were more in these files."""
        if not self._seconds:
            return
        collected = None
        if not deselected and not self._is_partial():
            collected = [item.nodeid for item in items]
        for path, committed in ((self._cached, False), (self._shared, True)):
            if path is not None:
                update_durations(
                    path,
                    self._seconds,
                    complain=self._complain,
                    collected=collected,
                    root=self._config.rootpath,
                    setups=self._setups,
                    committed=committed,
                )

    def _is_partial(self) -> bool:
        """Whether tests were left out without being called deselected."""
        option: Any = self._config.option
        named = any("::" in argument for argument in self._config.args)
        return named or bool(getattr(option, "lf", False))
