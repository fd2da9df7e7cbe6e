"""Who splits the tests, shards or pytest-xdist."""

from __future__ import annotations

import argparse
import enum
import os
import shlex
from collections.abc import Sequence
from typing import Final, final

import pytest

from .records import record


@final
class Place(enum.IntEnum):
    """Where an option may stand; what is nearer to the person wins."""

    CONFIGURATION = 0
    ENVIRONMENT = 1
    COMMAND_LINE = 2

    def __str__(self) -> str:
        return ("the configuration", "PYTEST_ADDOPTS", "the command line")[self]


@final
@record
class Rival:
    """An option of pytest-xdist that was given beside ``--shards``."""

    #: As a person would type it: ``-n 2``.
    text: str
    place: Place
    #: Whether it starts workers; others only say how.
    splits: bool


@final
@record
class Decision:
    """What becomes of ``--shards`` and the options of pytest-xdist."""

    shards_win: bool
    #: What loses and why, for people; empty where there is nothing to say.
    sentence: str


_NOTHING_TO_DECIDE: Final = Decision(shards_win=True, sentence="")


def decide(config: pytest.Config) -> Decision:
    """Who wins where shards were asked for; what stands in the same place is left to be refused."""
    if not config.pluginmanager.hasplugin("xdist"):
        # Without it nobody knows its options.
        return _NOTHING_TO_DECIDE
    given = _given(config)
    shards = next((place for place, each in given if each.shards is not None), Place.CONFIGURATION)
    rivals = _rivals(given)
    stronger = [rival for rival in rivals if rival.splits and rival.place > shards]
    if stronger:
        return Decision(
            shards_win=False,
            sentence=f"shards: none, for {stronger[0].text} stands in {stronger[0].place} and "
            f"--shards in {shards}",
        )
    if not rivals or any(rival.place >= shards for rival in rivals):
        return _NOTHING_TO_DECIDE
    listed = " and ".join(rival.text for rival in rivals)
    return Decision(
        shards_win=True,
        sentence=f"{listed} of pytest-xdist: ignored, for --shards stands in {shards} and not in "
        f"{rivals[0].place}",
    )


def switch_xdist_off(option: argparse.Namespace) -> None:
    """Make pytest-xdist see that it was not asked for."""
    option.numprocesses = None
    option.dist = "no"
    option.tx = []


class OptionsOfXdist:
    """Makes plugins see the options that pytest-xdist would have, were the shards its workers."""

    def __init__(self, shards: int) -> None:
        self._shards = shards

    @pytest.hookimpl(tryfirst=True)
    def pytest_configure(self, config: pytest.Config) -> None:
        config.option.numprocesses = self._shards
        config.option.dist = "load"
        # With nowhere to start workers pytest-xdist itself does nothing.
        config.option.tx = []


def _given(config: pytest.Config) -> list[tuple[Place, argparse.Namespace]]:
    places = (
        (Place.COMMAND_LINE, [str(each) for each in config.invocation_params.args]),
        (Place.ENVIRONMENT, shlex.split(os.environ.get("PYTEST_ADDOPTS", ""))),
        (Place.CONFIGURATION, list(config.getini("addopts"))),
    )
    # Only these options are of interest; what else is there is for pytest.
    return [(place, _PARSER.parse_known_args(arguments)[0]) for place, arguments in places]


def _rivals(given: Sequence[tuple[Place, argparse.Namespace]]) -> list[Rival]:
    found: dict[str, Rival] = {}
    for place, each in given:
        if each.numprocesses is not None:
            found.setdefault("-n", Rival(f"-n {each.numprocesses}", place, splits=True))
        if each.tx:
            found.setdefault("--tx", Rival(f"--tx={each.tx[0]}", place, splits=True))
        if each.dist is not None or each.distload:
            mode = each.dist or "load"
            found.setdefault("--dist", Rival(f"--dist={mode}", place, splits=False))
    return [rival for rival in found.values() if rival.text not in ("-n 0", "--dist=no")]


_PARSER: Final = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
_PARSER.add_argument("--shards")
_PARSER.add_argument("-n", "--numprocesses")
_PARSER.add_argument("--dist")
_PARSER.add_argument("-d", dest="distload", action="store_true")
_PARSER.add_argument("--tx", action="append")
