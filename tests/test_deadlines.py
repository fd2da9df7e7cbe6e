"""Limits of tests and the moments at which something is due."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pytest_shardrun.deadlines import PATIENCE, Limit, Watch, limits_of
from pytest_shardrun.model import Item, Policy

LIMITS = st.builds(
    Limit,
    st.floats(0.01, 1000.0),
    st.just("a test"),
    st.sampled_from([0.0, PATIENCE]),
)


def item(timeout: float | None = None, foreign_timeout: float | None = None) -> Item:
    return Item("a", ("a.py", 0, "a"), timeout=timeout, foreign_timeout=foreign_timeout)


def test_a_mark_replaces_the_option_and_pytest_timeout_comes_beside() -> None:
    policy = Policy(1, test_timeout=60.0)

    assert [limit.seconds for limit in limits_of(item(), policy)] == [60.0]
    assert [limit.seconds for limit in limits_of(item(timeout=5.0), policy)] == [5.0]
    assert limits_of(item(timeout=0.0), policy) == ()
    both = limits_of(item(timeout=5.0, foreign_timeout=9.0), policy)
    assert [(limit.seconds, limit.patience) for limit in both] == [(5.0, 0.0), (9.0, PATIENCE)]
    assert limits_of(item(), Policy(1)) == ()


@given(
    started=st.floats(0.0, 1e6),
    limits=st.lists(LIMITS, max_size=2),
    slow_every=st.one_of(st.none(), st.floats(0.5, 100.0)),
    reported=st.one_of(st.none(), st.floats(0.0, 2000.0)),
)
def test_whoever_looks_when_it_is_due_finds_something_and_then_later_times_only(
    started: float, limits: list[Limit], slow_every: float | None, reported: float | None
) -> None:
    watch = Watch(started, tuple(limits), slow_every)
    now = started
    if reported is not None:
        watch.reported(started + reported)
    for _ in range(50):
        due = watch.next_time()
        if due is None:
            assert not watch.limits
            assert slow_every is None
            return
        # What is added to a time and taken from it again is not quite the same.
        now = max(now, due) + 1e-6
        exceeded = watch.exceeded(now)
        if exceeded is not None:
            assert now >= started + exceeded.seconds + exceeded.patience
            return
        assert watch.is_slow(now)
        assert not watch.is_slow(now), "told twice"
    assert slow_every is not None


@given(limits=st.lists(LIMITS, min_size=1, max_size=2), elapsed=st.floats(0.0, 2000.0))
def test_no_test_is_ended_before_its_limit(limits: list[Limit], elapsed: float) -> None:
    exceeded = Watch(0.0, tuple(limits)).exceeded(elapsed)

    assert (exceeded is not None) == any(
        elapsed >= limit.seconds + limit.patience for limit in limits
    )
