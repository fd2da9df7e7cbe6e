"""Reports in short: nothing of them is lost, and what says more is sent in full."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

import pytest

from pytest_shardrun.worker.brief import abridge, restore, restore_next, text_of

LOCATION: Final = ("test_a.py", 3, "test_one")


class Item:
    """As much of pytest's item as is looked at."""

    nodeid = "test_a.py::test_one"
    location = LOCATION


ITEM: Any = Item()


def report(**changes: Any) -> pytest.TestReport:
    said: dict[str, Any] = {
        "nodeid": ITEM.nodeid,
        "location": LOCATION,
        "keywords": {"test_one": 1, "test_a.py": 1},
        "outcome": "passed",
        "longrepr": None,
        "when": "setup",
        "duration": 0.25,
        "start": 1.0,
        "stop": 1.25,
    }
    return pytest.TestReport(**{**said, **changes})


def content(of: pytest.TestReport) -> Mapping[str, Any]:
    return dict(vars(of))


def test_a_report_that_was_abridged_is_restored_as_it_was() -> None:
    setup, call = report(), report(when="call", duration=0.5)

    short = [abridge(setup, ITEM, is_first=True), abridge(call, ITEM, is_first=False)]

    assert short[0] is not None
    assert short[1] is not None
    restored = restore(short[0], None, ITEM.nodeid, LOCATION, "setup")
    assert content(restored) == content(setup)
    after = restore(short[1], restored, ITEM.nodeid, LOCATION, "call")
    assert content(after) == content(call)


def test_the_next_report_of_a_test_is_restored_as_it_was_and_shares_nothing() -> None:
    setup, call = report(), report(when="call", duration=0.5)
    short = [abridge(setup, ITEM, is_first=True), abridge(call, ITEM, is_first=False)]
    assert short[0] is not None
    assert short[1] is not None

    first = restore(short[0], None, ITEM.nodeid, LOCATION, "setup")
    second = restore_next(short[1], first, "call")

    assert content(second) == content(call)
    second.sections.append(("title", "text"))
    second.user_properties.append(("name", "value"))
    second.keywords["more"] = 1  # type: ignore[index]
    assert content(first) == content(setup)


@pytest.mark.parametrize("is_first", [True, False])
def test_the_text_of_a_report_in_short_is_its_json(is_first: bool) -> None:
    short = abridge(report(keywords={'é\n"': 1, "a": 1}), ITEM, is_first=is_first)

    assert short is not None
    assert json.loads(text_of(short)) == short


def test_the_keywords_are_sent_once() -> None:
    keywords = ["test_one", "test_a.py"]
    assert abridge(report(), ITEM, is_first=True) == [0.25, 1.0, 1.25, keywords]
    assert abridge(report(when="call"), ITEM, is_first=False) == [0.25, 1.0, 1.25, None]


def test_a_teardown_that_is_reported_alone_has_its_keywords() -> None:
    teardown = report(when="teardown")

    short = abridge(teardown, ITEM, is_first=True)

    assert short is not None
    restored = restore(short, None, ITEM.nodeid, LOCATION, "teardown")
    assert content(restored) == content(teardown)


@pytest.mark.parametrize(
    "changes",
    [
        {"outcome": "failed"},
        {"longrepr": "text"},
        {"sections": [("Captured stdout call", "text")]},
        {"user_properties": [("name", "value")]},
        {"wasxfail": "reason"},
        {"added_by_a_plugin": 1},
        {"duration": 1},
        {"start": float("nan")},
        {"when": "collect"},
        {"keywords": {1: 1}},
        {"nodeid": "test_b.py::test_one"},
        {"location": ("test_a.py", 4, "test_one")},
    ],
    ids=str,
)
def test_a_report_that_says_more_is_not_abridged(changes: dict[str, Any]) -> None:
    assert abridge(report(**changes), ITEM, is_first=True) is None
