"""Whatever happens in a shard, wherever it happens: the result is true, complete, and in time.

Every run has been checked for its end in time, its memory, its processes and files by ``finish``.
"""

from __future__ import annotations

from typing import Final

import pytest

from .conftest import Outcomes
from .scenario import NOTE_RUNS, Scenario
from .support import PROCESSES_ARE_KNOWN, START, check_books
from .table import (
    DEATHS,
    HANGS,
    HEALTHY,
    HEALTHY_KINDS,
    MISBEHAVIOURS,
    ONE_SHARD,
    PHASES,
    PLACES,
    SHORT_LIMITS,
    TWO_SHARDS,
    Misbehaviour,
    Phase,
    Place,
)

pytestmark = PROCESSES_ARE_KNOWN

# In tests.


#: Both ways to start a shard's process, unless one was asked for.
STARTS: Final = (START,) if START else ("fork", "spawn")


def everywhere(misbehaviour: Misbehaviour, start: str) -> Scenario:
    """A suite in which it happens once in each place."""
    files = {"conftest.py": NOTE_RUNS, "misbehaviour.py": misbehaviour.module}
    for place in PLACES:
        files.update(place.files)
    return Scenario(
        f"{misbehaviour} in tests ({start})",
        files,
        (*TWO_SHARDS, f"--shard-start={start}", *misbehaviour.arguments),
    )


IN_TESTS: Final = {everywhere(each, start): each for start in STARTS for each in MISBEHAVIOURS}
#: The table: what happens, and where.
CASES: Final = [
    pytest.param(scenario, place, id=f"{scenario}-{place}")
    for scenario in IN_TESTS
    for place in PLACES
]


@pytest.mark.parametrize(("scenario", "place"), CASES)
def test_the_test_that_was_running_is_blamed(
    outcome_of: Outcomes, scenario: Scenario, place: Place
) -> None:
    misbehaviour = IN_TESTS[scenario]

    finished = outcome_of(scenario).finished

    case = finished.case(place.nodeid)
    assert case.kind in misbehaviour.kind_in(place.moment).split("|"), case
    if misbehaviour.says:
        assert any(word in case.text for word in misbehaviour.says), case
        assert any(word in finished.stdout for word in misbehaviour.says), finished.describe()
    if misbehaviour.has_stack:
        assert "in misbehave" in case.text, case
    if not misbehaviour.is_harmless:
        assert finished.has_line_with(place.nodeid), finished.describe()


@pytest.mark.parametrize("scenario", IN_TESTS, ids=str)
def test_all_others_pass_and_the_run_is_as_red_as_it_is(
    outcome_of: Outcomes, scenario: Scenario
) -> None:
    misbehaviour = IN_TESTS[scenario]

    finished = outcome_of(scenario).finished

    kinds = {place.nodeid: misbehaviour.kind_in(place.moment) for place in PLACES}
    for name in ("before", "after"):
        kinds |= {place.neighbour(name): "passed" for place in PLACES}
    broke = misbehaviour.may_break_pytest and finished.code == 3
    code = 3 if broke else int(not misbehaviour.is_harmless)
    check_books(finished, code=code, kinds=kinds, internal_error=broke)


@pytest.mark.parametrize("scenario", IN_TESTS, ids=str)
def test_no_test_is_run_twice(outcome_of: Outcomes, scenario: Scenario) -> None:
    runs = outcome_of(scenario).runs

    assert sorted(runs) == sorted(set(runs))


# At the end of a session-scoped fixture.


def at_the_last_teardown(misbehaviour: Misbehaviour) -> Scenario:
    place = Place("session", "teardown")
    return Scenario(
        f"{misbehaviour} in the teardown of a session fixture",
        {"misbehaviour.py": misbehaviour.module, **place.files},
        (*ONE_SHARD, *misbehaviour.arguments),
    )


AT_THE_LAST_TEARDOWN: Final = {
    at_the_last_teardown(each): each
    for each in MISBEHAVIOURS
    if each.name in ("exit 0", "SIGSEGV", "SIGKILL", "sleep", "SIGSTOP", "exception")
}


@pytest.mark.parametrize("scenario", AT_THE_LAST_TEARDOWN, ids=str)
def test_the_teardown_of_a_session_fixture_costs_the_last_test_only(
    outcome_of: Outcomes, scenario: Scenario
) -> None:
    misbehaviour = AT_THE_LAST_TEARDOWN[scenario]
    place = Place("session", "teardown")

    finished = outcome_of(scenario).finished

    kinds = {place.neighbour(name): "passed" for name in ("before", "after")}
    kinds[place.nodeid] = misbehaviour.kind_in("teardown")
    check_books(finished, code=1, kinds=kinds)
    assert any(word in finished.stdout for word in misbehaviour.says)


# While a module is imported.


def while_importing(*misbehaviours: Misbehaviour) -> Scenario:
    files = {"test_healthy.py": HEALTHY}
    for number, each in enumerate(misbehaviours):
        files[f"bad{number}/__init__.py"] = ""
        files[f"bad{number}/misbehaviour.py"] = each.module
        files[f"bad{number}/test_bad.py"] = (
            "from .misbehaviour import misbehave\n\nmisbehave()\n\ndef test_never():\n    pass\n"
        )
    return Scenario(
        f"{' and '.join(map(str, misbehaviours))} while importing",
        files,
        (*TWO_SHARDS, "--continue-on-collection-errors", *SHORT_LIMITS),
    )


WHILE_IMPORTING: Final = {
    while_importing(*some): some for some in (DEATHS[:4], DEATHS[4:8], HANGS[:3], HANGS[3:])
}


@pytest.mark.parametrize("scenario", WHILE_IMPORTING, ids=str)
def test_each_module_that_cannot_be_imported_is_a_collection_error_and_the_others_are_run(
    outcome_of: Outcomes, scenario: Scenario
) -> None:
    finished = outcome_of(scenario).finished

    bad = {
        f"bad{number}/test_bad.py": each for number, each in enumerate(WHILE_IMPORTING[scenario])
    }
    check_books(finished, code=1, kinds={**dict.fromkeys(bad, "error"), **HEALTHY_KINDS})
    for nodeid, misbehaviour in bad.items():
        text = finished.case(nodeid).text
        assert any(word in text for word in misbehaviour.says), text
        assert not misbehaviour.has_stack or "in misbehave" in text


# Outside tests.


def at(phase: Phase, misbehaviour: Misbehaviour) -> Scenario:
    files = {
        "misbehaviour.py": misbehaviour.module,
        "conftest.py": phase.conftest,
        "test_healthy.py": HEALTHY,
        "test_more.py": HEALTHY,
    }
    return Scenario(f"{misbehaviour} at {phase}", files, (*TWO_SHARDS, *misbehaviour.arguments))


OUTSIDE: Final = {
    at(phase, each): (phase, each)
    for phase in PHASES
    for each in MISBEHAVIOURS
    if each.name
    in (
        "exit 0",
        "SIGSEGV",
        "SIGKILL",
        "closed descriptors",
        "sleep",
        "SIGSTOP",
        "exception",
        "10 MB of output",
    )
}


@pytest.mark.parametrize("scenario", OUTSIDE, ids=str)
def test_what_happens_to_a_shard_outside_its_tests_costs_no_test(
    outcome_of: Outcomes, scenario: Scenario
) -> None:
    phase, misbehaviour = OUTSIDE[scenario]

    finished = outcome_of(scenario).finished

    more = {nodeid.replace("healthy", "more"): "passed" for nodeid in HEALTHY_KINDS}
    kinds = {**HEALTHY_KINDS, **more}
    codes = (0,) if misbehaviour.is_harmless else (1, 3)
    if phase.is_after_goodbye:
        # What comes then is no longer the suite's.
        codes = (0, 1)
    if phase.is_in_a_test:
        assert finished.cases is not None
        struck = [nodeid for nodeid in kinds if finished.case(nodeid).kind != "passed"]
        assert len(struck) == (0 if misbehaviour.is_harmless else 1), finished.describe()
        kinds |= dict.fromkeys(struck, f"{misbehaviour.kind}|crash")
    assert finished.code in codes, finished.describe()
    check_books(finished, code=finished.code, kinds=kinds, internal_error=finished.code == 3)
    if finished.code:
        says = ("did not exit", "still running", *misbehaviour.says)
        assert any(word in finished.stdout for word in says), finished.describe()
        assert finished.has_line_with("shard "), finished.describe()
