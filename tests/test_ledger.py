from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from pytest_shardrun.events import Reported
from pytest_shardrun.ledger import Entry, Ledger, status_of
from pytest_shardrun.model import Status


def report(text: str) -> Reported:
    """``call failed``, or ``call skipped xfail``."""
    when, outcome, *xfail = text.split()
    return Reported(0, when, outcome, xfail == ["xfail"], {})


@pytest.mark.parametrize(
    ("reports", "status"),
    [
        ("setup passed, call passed, teardown passed", Status.PASSED),
        ("setup passed, call failed, teardown passed", Status.FAILED),
        ("setup failed, teardown passed", Status.ERROR),
        ("setup passed, call passed, teardown failed", Status.ERROR),
        ("setup passed, call failed, teardown failed", Status.FAILED),
        ("setup failed, teardown failed", Status.ERROR),
        ("setup skipped, teardown passed", Status.SKIPPED),
        ("setup passed, call skipped, teardown passed", Status.SKIPPED),
        ("setup passed, call passed, teardown skipped", Status.PASSED),
        ("setup skipped xfail, teardown passed", Status.XFAILED),
        ("setup passed, call skipped xfail, teardown passed", Status.XFAILED),
        ("setup passed, call passed xfail, teardown passed", Status.XPASSED),
        # What pytest makes of a strict xfail that passed.
        ("setup passed, call failed xfail, teardown passed", Status.FAILED),
        ("setup passed, call skipped xfail, teardown failed", Status.ERROR),
        # Subtests report before the test does.
        ("setup passed, call failed, call passed, teardown passed", Status.FAILED),
        ("setup passed, call skipped, call passed, teardown passed", Status.PASSED),
        ("setup passed, call passed, call skipped, teardown passed", Status.SKIPPED),
        # Tries that were not the last.
        ("setup passed, call rerun, setup passed, call passed, teardown passed", Status.PASSED),
        ("setup passed, call rerun, setup passed, call failed, teardown passed", Status.FAILED),
        ("setup rerun, setup passed, call passed, teardown passed", Status.PASSED),
        # Plugins that leave phases out.
        ("call passed", Status.PASSED),
        ("setup passed, teardown passed", Status.PASSED),
        ("setup passed, call rerun", Status.PASSED),
        ("call rerun", Status.NOT_RUN),
        ("", Status.NOT_RUN),
    ],
)
def test_all_reports_of_a_test_amount_to_one_status(reports: str, status: Status) -> None:
    assert status_of([report(each) for each in reports.split(", ") if each]) is status


@given(
    st.lists(
        st.builds(
            Reported,
            st.just(0),
            st.sampled_from(["setup", "call", "teardown", None]),
            st.sampled_from(["passed", "failed", "skipped", "rerun", "odd"]),
            st.booleans(),
            st.none(),
        )
    )
)
def test_a_failed_report_is_never_forgotten(reports: list[Reported]) -> None:
    status = status_of(reports)

    is_red = status in (Status.FAILED, Status.ERROR)
    assert is_red == any(each.outcome == "failed" for each in reports)


def test_every_test_is_open_until_it_is_closed() -> None:
    ledger = Ledger()
    ledger.open(2)
    ledger.open(1)
    assert ledger.open_positions() == [0, 1, 2]
    assert ledger.entry(1) is None

    ledger.close(1, Entry(Status.PASSED, 1))
    ledger.close(0, Entry(Status.NOT_RUN, 0, "no shard had it"))

    assert len(ledger) == 3
    assert ledger.open_positions() == [2]
    assert ledger.entry(1) == Entry(Status.PASSED, 1)
    assert list(ledger.entries()) == [
        (0, Entry(Status.NOT_RUN, 0, "no shard had it")),
        (1, Entry(Status.PASSED, 1)),
    ]
    assert ledger.sums() == {Status.PASSED: 1, Status.NOT_RUN: 1}


def test_a_test_has_one_end() -> None:
    ledger = Ledger()
    ledger.open(1)
    ledger.close(0, Entry(Status.PASSED, 1))

    with pytest.raises(AssertionError, match="test 0 ended twice"):
        ledger.close(0, Entry(Status.FAILED, 2))
    assert ledger.entry(0) == Entry(Status.PASSED, 1)


def test_an_unknown_test_cannot_end() -> None:
    with pytest.raises(IndexError):
        Ledger().close(0, Entry(Status.PASSED, 1))


@given(st.lists(st.sampled_from(Status)))
def test_the_sums_are_those_of_the_collection(statuses: list[Status]) -> None:
    ledger = Ledger()
    ledger.open(len(statuses))
    for position, status in enumerate(statuses):
        ledger.close(position, Entry(status, 1))

    assert sum(ledger.sums().values()) == len(ledger) == len(statuses)
    assert ledger.open_positions() == []


class AnyBooks(RuleBasedStateMachine):
    """Tests that turn up and end in any order, and ends that come twice or too early."""

    def __init__(self) -> None:
        super().__init__()
        self.ledger = Ledger()
        self.ends: dict[int, Entry] = {}
        self.count = 0

    @rule(count=st.integers(0, 5))
    def collect(self, count: int) -> None:
        self.ledger.open(count)
        self.count += count

    @precondition(lambda self: len(self.ends) < self.count)
    @rule(data=st.data(), status=st.sampled_from(Status), shard=st.integers(0, 4))
    def end(self, data: st.DataObject, status: Status, shard: int) -> None:
        still_open = [at for at in range(self.count) if at not in self.ends]
        position = data.draw(st.sampled_from(still_open))
        entry = self.ends[position] = Entry(status, shard, "a reason")
        self.ledger.close(position, entry)

    @precondition(lambda self: self.ends)
    @rule(data=st.data(), status=st.sampled_from(Status))
    def end_again(self, data: st.DataObject, status: Status) -> None:
        position = data.draw(st.sampled_from(sorted(self.ends)))
        with pytest.raises(AssertionError, match="ended twice"):
            self.ledger.close(position, Entry(status, 1))

    @rule(beyond=st.integers(0, 3))
    def end_what_nobody_collected(self, beyond: int) -> None:
        with pytest.raises(IndexError):
            self.ledger.close(self.count + beyond, Entry(Status.PASSED, 1))

    @invariant()
    def every_test_is_open_or_has_ended_once(self) -> None:
        ledger = self.ledger
        assert len(ledger) == self.count
        assert dict(ledger.entries()) == self.ends
        assert set(ledger.open_positions()) == set(range(self.count)) - self.ends.keys()
        assert sum(ledger.sums().values()) + len(ledger.open_positions()) == self.count
        assert [ledger.entry(at) for at in range(self.count)] == [
            self.ends.get(at) for at in range(self.count)
        ]


TestAnyBooks = AnyBooks.TestCase
