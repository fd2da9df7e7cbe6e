"""Fixtures that tests share, and their time."""

from __future__ import annotations

import time
from typing import Any, Final

import pytest

#: Those that a test of another class, module or package sets up anew, the narrowest first.
_SHARED_SCOPES: Final = ("class", "module", "package")
_ABOVE_FUNCTIONS: Final = frozenset({*_SHARED_SCOPES, "session"})


class SharedFixtures:
    """Tells which tests share fixtures, and how much of a test's time went into such fixtures.

    A fixture's setup counts until the next one begins, so that no hook has to be on the stack where
    a fixture fails: a traceback would show it. It would also show one more hook of a test's phases,
    so the reports tell when those begin. What a fixture does after it has asked for another
    one by `getfixturevalue` is therefore taken for a part of that one.
    """

    def __init__(self) -> None:
        self._clock = time.perf_counter
        #: The scope of the fixture that is being set up, or another word.
        self._current = ""
        self._since = 0.0
        #: By the identity of what pytest keeps once for all parameters of a function; kept alive.
        self._known: dict[int, tuple[object, str]] = {}
        #: Seconds since `reset`, in fixtures of any scope above a function's.
        self.seconds = 0.0
        #: Of these, in the setup of fixtures of a class, module or package.
        self.setup_seconds = 0.0

    def reset(self) -> None:
        """Begin a test."""
        self.seconds = self.setup_seconds = 0.0
        self._turn_to("setup")

    def reported(self, report: pytest.TestReport) -> None:
        """A phase of the test is over, or a part of its call."""
        match report.when:
            case "setup":
                self._turn_to("" if report.passed else "teardown")
            case "call":
                self._turn_to("teardown")
            case _:
                # A plugin may run the test once more.
                self._turn_to("setup")

    def scope_of(self, item: pytest.Item) -> str:
        """The widest of class, module and package that a fixture of this test has, or nothing."""
        # Not public, but only here it stands which fixtures the names mean; absent on items that
        # are no functions.
        info: Any = getattr(item, "_fixtureinfo", None)
        if info is None:
            return ""
        known = self._known.get(id(info))
        if known is None:
            scopes = {
                definition.scope
                for definitions in info.name2fixturedefs.values()
                for definition in definitions
            }
            shared = [scope for scope in _SHARED_SCOPES if scope in scopes]
            known = self._known[id(info)] = (info, shared[-1] if shared else "")
        return known[1]

    @pytest.hookimpl(tryfirst=True)
    def pytest_fixture_setup(self, fixturedef: pytest.FixtureDef[Any]) -> None:
        # What a test asks for in its body would take the rest of the test with it.
        if self._current not in ("", "teardown"):
            self._turn_to(fixturedef.scope)

    @pytest.hookimpl
    def pytest_fixture_post_finalizer(self, fixturedef: pytest.FixtureDef[Any]) -> None:
        if self._current:
            now = self._clock()
            if fixturedef.scope in _ABOVE_FUNCTIONS:
                self.seconds += now - self._since
            self._since = now

    def _turn_to(self, what: str) -> None:
        now = self._clock()
        if self._current in _ABOVE_FUNCTIONS:
            self.seconds += now - self._since
            if self._current != "session":
                self.setup_seconds += now - self._since
        self._current = what
        self._since = now
