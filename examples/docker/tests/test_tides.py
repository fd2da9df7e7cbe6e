"""Needs the library ``tides``, which only the image has."""

from __future__ import annotations

import os
import socket

import pytest
import tides


@pytest.mark.parametrize("periods", range(4))
def test_high_water_comes_once_in_each_period(periods: int) -> None:
    now = periods * tides.PERIOD + 60.0

    assert tides.next_high_water(0.0, now) == (periods + 1) * tides.PERIOD


def test_the_library_is_in_the_image_and_not_in_the_project() -> None:
    project = os.path.dirname(os.path.dirname(__file__))

    assert not tides.place().startswith(project)


def test_nobody_is_root_and_nobody_is_outside() -> None:
    assert os.getuid() != 0
    assert [name for _, name in socket.if_nameindex()] == ["lo"]
