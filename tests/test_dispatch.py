from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from pytest_shardrun.conflicts import Conflicts
from pytest_shardrun.dispatch import MOST_AHEAD, Batch, Dispatcher
from pytest_shardrun.model import Lock, Need, Plan, ShardPlan, Unit


def module(*positions: int, seconds: float = 1.0) -> Unit:
    return Unit(positions, seconds * len(positions))


def group(*positions: int, seconds: float = 1.0) -> Unit:
    return Unit(positions, seconds * len(positions), divisible=False)


def plan(*shards: Sequence[Unit], serial: Iterable[int] = (), measured: bool = False) -> Plan:
    """The shards count from 1."""
    return Plan(
        tuple(ShardPlan(number, tuple(units)) for number, units in enumerate(shards, start=1)),
        tuple(serial),
        "0f",
        measured,
    )


def dispatcher(
    *shards: Sequence[Unit],
    serial: Iterable[int] = (),
    steal: bool = True,
    joined: Iterable[int] = (),
    measured: bool = False,
) -> Dispatcher:
    made = Dispatcher(plan(*shards, serial=serial, measured=measured), steal=steal)
    for shard in joined:
        made.joined(shard)
    return made


def run_all(dispatch: Dispatcher, shard: int, seconds: float = 1.0) -> list[int]:
    """Let one shard run whatever it gets until it gets nothing; returns that in order."""
    hand: deque[int] = deque()
    ran: list[int] = []
    while True:
        batch = dispatch.next_batch(shard)
        if batch is not None:
            hand.extend(batch.positions)
        if not hand:
            return ran
        ran.append(hand.popleft())
        dispatch.finished(shard, ran[-1], seconds)


def test_a_worker_is_sent_two_tests_first_and_then_one_for_each_that_it_finished() -> None:
    dispatch = dispatcher([module(0, 1, 2, 3)], joined=[1])

    assert dispatch.next_batch(1) == Batch((0, 1), more=True)
    assert dispatch.next_batch(1) is None
    dispatch.finished(1, 0, 1.0)
    assert dispatch.next_batch(1) == Batch((2,), more=True)
    dispatch.finished(1, 1, 1.0)
    assert dispatch.next_batch(1) == Batch((3,), more=False)
    dispatch.finished(1, 2, 1.0)
    assert dispatch.next_batch(1) is None
    assert not dispatch.may_finish(1)
    dispatch.finished(1, 3, 1.0)
    assert dispatch.may_finish(1)
    assert dispatch.remaining() == 0


def test_nothing_is_sent_before_a_shard_has_joined() -> None:
    dispatch = dispatcher([module(0)])

    assert dispatch.next_batch(1) is None
    dispatch.started(1)
    assert dispatch.next_batch(1) is None
    dispatch.joined(1)
    assert dispatch.next_batch(1) == Batch((0,), more=False)


@pytest.mark.parametrize(
    ("seconds", "ahead"), [(0.0, 256), (0.001, 100), (0.01, 10), (0.04, 3), (0.05, 2), (30.0, 2)]
)
def test_a_worker_is_sent_about_a_tenth_of_a_second_ahead(seconds: float, ahead: int) -> None:
    dispatch = dispatcher([module(*range(1000), seconds=0.001)], joined=[1])
    dispatch.next_batch(1)
    dispatch.finished(1, 0, seconds)

    batch = dispatch.next_batch(1)

    # One test is in flight already.
    assert batch is not None
    assert 1 + len(batch.positions) == ahead


def test_a_shard_may_wait_only_where_it_has_little_in_flight() -> None:
    dispatch = dispatcher([module(*range(1000), seconds=0.001), module(2000)], joined=[1, 2])
    for shard in (1, 2):
        dispatch.next_batch(shard)
    assert dispatch.may_wait(1)
    dispatch.finished(1, 0, 0.001)

    dispatch.next_batch(1)

    assert not dispatch.may_wait(1)
    assert dispatch.may_wait(2)


def test_tiny_tests_are_sent_in_batches() -> None:
    dispatch = dispatcher([module(*range(1000), seconds=0.001)], joined=[1])
    batches = 0
    hand: deque[int] = deque()
    while not batches or hand:
        if batch := dispatch.next_batch(1):
            batches += 1
            hand.extend(batch.positions)
        dispatch.finished(1, hand.popleft(), 0.001)

    assert dispatch.remaining() == 0
    assert batches < 100


def test_batches_shrink_towards_the_end_so_that_the_tail_stays_balanced() -> None:
    dispatch = dispatcher([module(*range(40))], [module(*range(40, 80))], joined=[1, 2])
    dispatch.next_batch(1)
    dispatch.finished(1, 0, 0.0)

    batch = dispatch.next_batch(1)

    # 78 are unsent, 2 shards live, 1 test is in flight.
    assert batch is not None
    assert len(batch.positions) == 78 // 4 - 1


def test_a_slow_test_behind_quick_ones_is_not_sent_early_where_durations_are_known() -> None:
    quick = module(*range(10), seconds=0.001)
    slow = [module(position, seconds=60.0) for position in range(10, 100)]
    dispatch = dispatcher([quick, *slow], joined=[1], measured=True)
    assert dispatch.next_batch(1) == Batch(tuple(range(5)), more=True)
    dispatch.finished(1, 0, 0.001)

    assert dispatch.next_batch(1) == Batch(tuple(range(5, 11)), more=True)


def test_tests_known_to_be_done_before_the_next_batch_comes_are_sent_with_this_one() -> None:
    quick = [module(*range(10 * n, 10 * n + 10), seconds=0.001) for n in range(2)]
    dispatch = dispatcher(quick[:1], quick[1:], joined=[1, 2], measured=True)
    for shard, first in ((1, 0), (2, 10)):
        assert dispatch.next_batch(shard) == Batch(tuple(range(first, first + 5)), more=True)
        dispatch.finished(shard, first, 0.001)
        dispatch.finished(shard, first + 1, 0.001)
        assert dispatch.next_batch(shard) is None
        dispatch.finished(shard, first + 2, 0.001)

        assert dispatch.next_batch(shard) == Batch(tuple(range(first + 5, first + 8)), more=True)


def test_tests_of_unknown_duration_are_not_sent_together_towards_the_end() -> None:
    quick = module(*range(4), seconds=0.001)
    dispatch = dispatcher([quick], joined=[1])

    assert dispatch.next_batch(1) == Batch((0, 1), more=True)


def test_tests_that_are_known_to_take_no_time_are_not_sent_all_at_once() -> None:
    dispatch = dispatcher([module(*range(1000), seconds=0.0)], joined=[1], measured=True)

    batch = dispatch.next_batch(1)

    assert batch is not None
    assert len(batch.positions) == MOST_AHEAD


def test_a_worker_is_told_when_its_next_test_was_taken_over_meanwhile() -> None:
    dispatch = dispatcher([module(0, 1, 2)], [module(3)], joined=[1, 2])
    assert dispatch.next_batch(1) == Batch((0, 1), more=True)

    assert dispatch.next_batch(2) == Batch((3, 2), more=False)
    assert dispatch.next_batch(1) == Batch((), more=False)
    assert dispatch.next_batch(1) is None


def test_a_worker_that_was_told_the_end_gets_what_turns_up_later() -> None:
    dispatch = dispatcher([module(0, 1)], [module(2, 3)], joined=[1, 2])
    assert dispatch.next_batch(1) == Batch((0, 1), more=False)
    assert dispatch.next_batch(2) == Batch((2, 3), more=False)
    dispatch.finished(1, 0, 1.0)
    dispatch.finished(1, 1, 1.0)
    assert dispatch.next_batch(1) is None
    assert not dispatch.may_finish(1)

    dispatch.lost(2, blamed=2)

    assert dispatch.next_batch(1) == Batch((3,), more=False)


def test_whole_units_are_taken_from_the_tail_up_to_half_of_the_expected_seconds() -> None:
    units = [module(0, 1), module(2, 3), module(4, 5), module(6, 7)]
    dispatch = dispatcher(units, [], joined=[1, 2])
    dispatch.next_batch(1)

    # 6 s are unsent; two modules would be more than half.
    assert run_all(dispatch, 2)[:2] == [6, 7]


def test_units_that_are_taken_keep_their_order() -> None:
    dispatch = dispatcher([module(position) for position in range(8)], [], joined=[1, 2])
    dispatch.next_batch(1)

    assert dispatch.next_batch(2) == Batch((5, 6), more=True)
    assert dispatch.unfinished(2) == (5, 6, 7)
    assert dispatch.unfinished(1) == (0, 1, 2, 3, 4)


def test_at_least_one_unit_is_taken_however_long_it_is() -> None:
    dispatch = dispatcher([module(0, 1, 2), module(3, seconds=100.0)], [], joined=[1, 2])
    dispatch.next_batch(1)

    assert dispatch.next_batch(2) == Batch((3, 2), more=False)


def test_the_second_half_of_the_only_module_is_taken() -> None:
    dispatch = dispatcher([module(*range(10))], [], joined=[1, 2])
    assert dispatch.next_batch(1) == Batch((0, 1), more=True)

    assert dispatch.next_batch(2) == Batch((6, 7), more=True)
    assert dispatch.unfinished(1) == (0, 1, 2, 3, 4, 5)
    assert dispatch.unfinished(2) == (6, 7, 8, 9)


def test_a_shard_that_asks_first_leaves_the_others_what_they_will_be_sent_at_once() -> None:
    dispatch = dispatcher([module(0)], [module(1), module(2)], [module(3)], joined=[1, 2, 3])

    assert dispatch.next_batch(1) == Batch((0,), more=False)
    assert dispatch.next_batch(2) == Batch((1, 2), more=False)
    assert dispatch.next_batch(3) == Batch((3,), more=False)


def test_a_worker_that_was_not_served_yet_keeps_two_tests_of_several_units() -> None:
    units = [module(1, seconds=100.0), module(2), module(3)]
    dispatch = dispatcher([module(0)], units, joined=[1, 2])

    assert dispatch.next_batch(1) == Batch((0, 3), more=False)
    assert dispatch.next_batch(2) == Batch((1, 2), more=False)


def test_a_shard_with_nothing_at_all_leaves_a_worker_one_test() -> None:
    dispatch = dispatcher([module(0, 1)], [], [], joined=[1, 2, 3])

    assert dispatch.next_batch(2) == Batch((1,), more=False)
    assert dispatch.next_batch(3) is None
    assert dispatch.next_batch(1) == Batch((0,), more=False)


def sharing(*positions: int, seconds: float = 1.0, setup: float | None = None) -> Unit:
    return Unit(positions, seconds * len(positions), setup_seconds=setup)


def test_tests_that_share_a_fixture_are_not_parted_before_the_first_of_them_was_sent() -> None:
    dispatch = dispatcher([sharing(0, 1, 2)], [], joined=[1, 2])

    # It would be left with two of them, for the other shard is to keep one.
    assert dispatch.next_batch(2) is None
    assert not dispatch.may_finish(2)
    assert dispatch.next_batch(1) == Batch((0, 1), more=True)


def test_a_module_whose_fixtures_take_longer_than_its_rest_is_not_taken_apart() -> None:
    dispatch = dispatcher([sharing(*range(8), setup=7.0)], [], joined=[1, 2], measured=True)

    assert dispatch.next_batch(1) == Batch((0, 1), more=True)
    # Six tests are left: to set the fixtures up again and to run three of them takes longer.
    assert dispatch.next_batch(2) is None
    assert not dispatch.may_finish(2)


def test_a_part_of_a_module_is_taken_that_pays_for_its_fixtures() -> None:
    dispatch = dispatcher([sharing(*range(10), setup=4.0)], [], joined=[1, 2], measured=True)

    dispatch.next_batch(1)

    # 4 s + 2 tests there, 6 tests here.
    assert dispatch.next_batch(2) == Batch((8, 9), more=True)


def test_a_begun_module_is_taken_apart_when_it_is_known_what_its_fixtures_take() -> None:
    dispatch = dispatcher([sharing(*range(8), setup=None)], [], joined=[1, 2])

    dispatch.next_batch(1)
    before = dispatch.next_batch(2)
    dispatch.finished(1, 0, 1.0, 0.0)

    assert before is None
    assert dispatch.next_batch(2) == Batch((5, 6), more=True)


def test_what_fixtures_take_is_learned_while_they_are_in_use() -> None:
    dispatch = dispatcher([sharing(*range(8), setup=None)], [], joined=[1, 2])

    dispatch.next_batch(1)
    dispatch.finished(1, 0, 0.01, 5.0)

    assert dispatch.next_batch(2) is None


def test_a_module_with_fixtures_that_was_not_begun_is_taken_whole() -> None:
    dispatch = dispatcher([module(0, 1), sharing(2, 3, 4, setup=5.0)], [], joined=[1, 2])

    dispatch.next_batch(1)

    assert run_all(dispatch, 2) == [2, 3, 4]


def test_what_was_sent_is_never_taken() -> None:
    dispatch = dispatcher([module(0, 1)], [], joined=[1, 2])
    dispatch.next_batch(1)

    assert dispatch.next_batch(2) is None


def test_work_is_taken_from_the_shard_with_the_most_expected_seconds() -> None:
    dispatch = dispatcher(
        [module(0, 1, 2, seconds=1.0)],
        [module(3, 4, 5, seconds=9.0)],
        [module(6, 7, 8, seconds=2.0)],
        [],
        joined=[1, 2, 3, 4],
    )
    for shard in (1, 2, 3):
        dispatch.next_batch(shard)

    assert dispatch.next_batch(4) == Batch((5, 8), more=True)


def test_a_shard_that_never_joined_keeps_its_own() -> None:
    dispatch = dispatcher([module(0)], [module(1, 2, 3, 4)], joined=[1])

    assert dispatch.next_batch(1) == Batch((0,), more=False)
    dispatch.started(2)
    assert dispatch.next_batch(1) is None
    dispatch.joined(2)
    assert dispatch.next_batch(1) == Batch((3,), more=True)


def test_a_shard_that_is_down_does_not_keep_its_own() -> None:
    dispatch = dispatcher([module(0, 1)], [], joined=[1, 2])
    dispatch.next_batch(1)
    dispatch.lost(1, blamed=0)

    assert dispatch.next_batch(2) == Batch((1,), more=False)
    assert dispatch.may_finish(1)


def test_a_group_that_was_begun_stays_where_it_is_even_after_a_loss() -> None:
    dispatch = dispatcher([group(0, 1, 2, 3), module(4)], [], joined=[1, 2])
    dispatch.next_batch(1)
    dispatch.lost(1, blamed=None)

    assert dispatch.next_batch(2) == Batch((4,), more=False)
    dispatch.joined(1)
    assert run_all(dispatch, 1) == [0, 1, 2, 3]


def test_a_group_that_was_begun_is_not_taken_where_other_units_cannot_be() -> None:
    dispatch = dispatcher([group(0, 1, 2, 3), module(4)], [], joined=[1])
    dispatch.joined(2, missing={4})
    dispatch.next_batch(1)

    assert dispatch.next_batch(2) is None


def test_the_last_group_in_a_queue_is_not_taken() -> None:
    dispatch = dispatcher([group(0, 1, 2)], [], joined=[1, 2])

    assert dispatch.next_batch(2) is None
    assert run_all(dispatch, 1) == [0, 1, 2]


def test_a_group_behind_other_units_is_taken_as_a_whole() -> None:
    dispatch = dispatcher([module(0, 1), group(2, 3, 4)], [], joined=[1, 2])

    assert dispatch.next_batch(2) == Batch((2, 3), more=True)
    assert dispatch.unfinished(2) == (2, 3, 4)


def test_tests_that_the_taker_lacks_are_left() -> None:
    dispatch = dispatcher([module(0, 1), module(2, 3, 4), group(5, 6)], [], joined=[1])
    dispatch.joined(2, missing={3, 6})

    assert dispatch.next_batch(2) == Batch((2, 4), more=True)
    assert dispatch.unfinished(1) == (0, 1, 3, 5, 6)


def test_without_stealing_each_shard_runs_exactly_its_plan() -> None:
    dispatch = dispatcher(
        [module(0, 1, 2), group(3)], [module(4), module(5)], [], steal=False, joined=[1, 2, 3]
    )

    assert dispatch.next_batch(3) is None
    assert run_all(dispatch, 2) == [4, 5]
    assert dispatch.may_finish(2)
    assert run_all(dispatch, 1) == [0, 1, 2, 3]


def test_a_shard_that_the_plan_does_not_know_helps() -> None:
    dispatch = dispatcher([module(*range(10))], joined=[1])
    dispatch.next_batch(1)
    dispatch.joined(7)

    assert dispatch.next_batch(7) == Batch((6, 7), more=True)


def test_a_shard_that_the_plan_does_not_know_may_finish_where_it_cannot_help() -> None:
    dispatch = dispatcher([module(0)], joined=[1, 7], steal=False)

    assert dispatch.next_batch(7) is None
    assert dispatch.may_finish(7)


@pytest.mark.parametrize("steal", [True, False])
def test_tests_that_a_shard_lacks_move_to_one_that_has_them(steal: bool) -> None:
    dispatch = dispatcher([module(0, 1, 2)], [module(3)], steal=steal)
    dispatch.joined(1, missing={1})
    assert dispatch.unfinished(1) == (0, 2)
    dispatch.joined(2)

    assert run_all(dispatch, 2)[:2] == [3, 1]


def test_tests_that_a_shard_lacks_wait_for_one_that_may_have_them() -> None:
    dispatch = dispatcher([module(0, 1)], [module(2)], [module(3)])
    dispatch.joined(1, missing={1})
    dispatch.joined(2, missing={1})
    assert dispatch.stranded() == ()
    assert not dispatch.may_finish(3)

    dispatch.joined(3, missing={1})

    assert dispatch.stranded() == (1,)


def test_a_group_that_a_shard_has_in_part_moves_as_a_whole() -> None:
    dispatch = dispatcher([group(0, 1, 2)], [])
    dispatch.joined(1, missing={1})
    dispatch.joined(2)

    assert dispatch.next_batch(1) is None
    assert run_all(dispatch, 2) == [0, 1, 2]


def test_a_group_that_nobody_has_as_a_whole_runs_in_pieces() -> None:
    dispatch = dispatcher([group(0, 1, 2)], [])
    dispatch.joined(1, missing={1})
    assert dispatch.next_batch(1) is None
    dispatch.joined(2, missing={2})

    assert run_all(dispatch, 1) == [0, 2]
    assert run_all(dispatch, 2) == [1]


def test_a_group_runs_in_pieces_when_the_only_shard_that_had_it_as_a_whole_is_gone() -> None:
    dispatch = dispatcher([group(0, 1, 2)], [], joined=[2])
    dispatch.joined(1, missing={1})
    assert dispatch.next_batch(1) is None
    dispatch.give_up(2)

    assert dispatch.stranded() == (1,)
    assert run_all(dispatch, 1) == [0, 2]


def test_what_every_shard_lacks_is_stranded_and_blocks_nobody() -> None:
    dispatch = dispatcher([module(0, 1)], [module(2, 3)], serial=[4, 5])
    dispatch.joined(1, missing={1, 3, 4})
    dispatch.joined(2, missing={1, 3, 4})

    assert dispatch.stranded() == (1, 3, 4)
    assert run_all(dispatch, 1) == [0]
    assert run_all(dispatch, 2) == [2]
    assert dispatch.may_finish(2)
    dispatch.left(2)
    assert run_all(dispatch, 1) == [5]
    assert dispatch.may_finish(1)
    assert dispatch.remaining() == 3


def test_tests_that_nobody_had_before_go_to_the_shard_that_has_them() -> None:
    dispatch = dispatcher([module(0)], [module(1)], joined=[1])
    dispatch.next_batch(1)
    dispatch.joined(2, extra=[8, 9])
    assert dispatch.remaining() == 4

    assert dispatch.unfinished(2) == (1, 8, 9)
    assert dispatch.next_batch(2) == Batch((1, 8), more=True)
    assert dispatch.next_batch(1) is None


def test_tests_that_a_new_process_no_longer_has_are_stranded() -> None:
    dispatch = dispatcher([module(0)], [module(1)], joined=[1])
    dispatch.joined(2, extra=[9])
    dispatch.lost(2, None)
    dispatch.joined(2, missing={9})

    assert dispatch.stranded() == (9,)


def test_unfinished_tests_return_to_the_head_of_the_queue_in_order_except_the_blamed_one() -> None:
    dispatch = dispatcher([module(0, 1, 2), group(3), module(4, 5)], joined=[1])
    dispatch.next_batch(1)
    dispatch.finished(1, 0, 0.001)
    dispatch.next_batch(1)
    dispatch.finished(1, 1, 0.001)
    assert dispatch.unfinished(1) == (2, 3, 4, 5)

    dispatch.lost(1, blamed=2)

    assert dispatch.unfinished(1) == (3, 4, 5)
    assert dispatch.remaining() == 3
    assert dispatch.next_batch(1) is None
    dispatch.joined(1)
    assert run_all(dispatch, 1) == [3, 4, 5]


def test_a_loss_without_blame_settles_nothing() -> None:
    dispatch = dispatcher([module(0), module(1), module(2)], joined=[1])
    dispatch.next_batch(1)
    dispatch.lost(1, blamed=None)

    assert dispatch.remaining() == 3
    assert dispatch.unfinished(1) == (0, 1, 2)
    dispatch.joined(1)
    assert run_all(dispatch, 1) == [0, 1, 2]


def test_a_shard_that_died_after_its_last_test_needs_no_new_process() -> None:
    dispatch = dispatcher([module(0)], [module(1)], joined=[1, 2])
    dispatch.next_batch(1)
    dispatch.lost(1, blamed=0)

    assert dispatch.may_finish(1)


def test_a_given_up_shard_hands_all_its_tests_to_others() -> None:
    dispatch = dispatcher([group(0, 1, 2), module(3)], [], joined=[1, 2])
    dispatch.next_batch(1)
    dispatch.lost(1, blamed=0)
    dispatch.give_up(1)

    assert dispatch.stranded() == ()
    assert dispatch.unfinished(1) == ()
    assert sorted(run_all(dispatch, 2)) == [1, 2, 3]


def test_a_shard_that_could_not_be_started_hands_its_tests_to_one_that_waits() -> None:
    dispatch = dispatcher([module(0, 1)], [])
    dispatch.started(1)
    dispatch.give_up(1)

    assert dispatch.stranded() == ()
    assert not dispatch.may_finish(2)
    dispatch.joined(2)
    assert sorted(run_all(dispatch, 2)) == [0, 1]


def test_without_stealing_the_tests_of_a_given_up_shard_are_stranded() -> None:
    dispatch = dispatcher([module(0, 1, 2)], [module(3)], steal=False, joined=[1, 2])
    dispatch.next_batch(1)
    dispatch.lost(1, blamed=0)
    dispatch.give_up(1)

    assert dispatch.stranded() == (1, 2)
    assert run_all(dispatch, 2) == [3]
    assert dispatch.may_finish(2)
    assert dispatch.remaining() == 2


@pytest.mark.parametrize("ended", ["left", "given up"])
def test_a_shard_that_ends_early_leaves_its_tests_to_others(ended: str) -> None:
    dispatch = dispatcher([group(0, 1, 2)], [module(3)], joined=[1, 2])
    dispatch.next_batch(1)
    dispatch.finished(1, 0, 1.0)

    for _ in range(2):
        dispatch.left(1) if ended == "left" else dispatch.give_up(1)

    assert run_all(dispatch, 2) == [3, 1, 2]
    assert dispatch.may_finish(2)
    assert dispatch.remaining() == 0


def test_everything_is_stranded_when_the_last_shard_is_given_up() -> None:
    dispatch = dispatcher([module(0, 1)], serial=[2], joined=[1])
    dispatch.next_batch(1)
    dispatch.give_up(1)

    assert dispatch.stranded() == (0, 1, 2)


def test_a_shard_without_work_stays_while_others_could_still_hand_it_some() -> None:
    dispatch = dispatcher([module(0)], [module(1)], joined=[1, 2])
    dispatch.next_batch(1)
    dispatch.next_batch(2)
    dispatch.finished(1, 0, 1.0)

    assert not dispatch.may_finish(1)
    dispatch.finished(2, 1, 1.0)
    assert dispatch.may_finish(1)
    assert dispatch.may_finish(2)


def test_only_as_many_shards_make_room_as_others_wait_for_a_place() -> None:
    dispatch = dispatcher([module(0)], [module(1)], [module(2)], joined=[1, 2])
    run_all(dispatch, 1)
    run_all(dispatch, 2)

    assert dispatch.may_finish(1)
    assert not dispatch.may_finish(2)
    dispatch.left(1)
    dispatch.started(3)
    assert not dispatch.may_finish(2)


def test_a_shard_with_nothing_to_do_is_never_started() -> None:
    dispatch = dispatcher([module(0)], [])

    assert not dispatch.may_finish(1)
    assert dispatch.may_finish(2)


def test_a_dismissed_shard_gets_nothing_any_more() -> None:
    dispatch = dispatcher([module(0, 1)], [], joined=[1], steal=False)
    assert dispatch.may_finish(2)
    dispatch.joined(2, extra=[9])

    assert dispatch.next_batch(2) is None
    assert dispatch.stranded() == (9,)


def test_nothing_is_handed_out_after_a_stop() -> None:
    dispatch = dispatcher([module(0, 1, 2)], [module(3)], serial=[4], joined=[1])
    dispatch.next_batch(1)
    dispatch.stop()
    dispatch.finished(1, 0, 1.0)

    assert dispatch.next_batch(1) is None
    assert not dispatch.may_finish(1)
    assert dispatch.may_finish(2)
    dispatch.lost(1, blamed=1)
    assert dispatch.may_finish(1)
    assert dispatch.remaining() == 3


def test_a_test_that_was_not_in_flight_cannot_finish() -> None:
    dispatch = dispatcher([module(0, 1, 2)], joined=[1])
    dispatch.next_batch(1)

    with pytest.raises(KeyError):
        dispatch.finished(1, 2, 1.0)


def test_serial_tests_run_on_one_shard_after_all_the_others_are_gone() -> None:
    dispatch = dispatcher([module(0)], [module(1)], serial=[2, 3, 4], joined=[1, 2])
    assert dispatch.next_batch(1) == Batch((0,), more=False)
    assert dispatch.next_batch(2) == Batch((1,), more=False)
    dispatch.finished(1, 0, 1.0)
    assert dispatch.next_batch(1) is None
    dispatch.finished(2, 1, 1.0)
    assert dispatch.next_batch(2) is None
    assert not dispatch.may_finish(1)
    assert dispatch.may_finish(2)
    assert dispatch.next_batch(1) is None

    dispatch.left(2)

    assert dispatch.next_batch(1) == Batch((2, 3), more=True)
    dispatch.finished(1, 2, 0.0)
    assert dispatch.next_batch(1) == Batch((4,), more=False)
    dispatch.finished(1, 3, 0.0)
    assert not dispatch.may_finish(1)
    dispatch.finished(1, 4, 0.0)
    assert dispatch.may_finish(1)


def test_a_suite_of_serial_tests_alone_starts_one_shard() -> None:
    dispatch = dispatcher([], [], serial=[0, 1])

    assert not dispatch.may_finish(1)
    assert dispatch.may_finish(2)
    dispatch.joined(1)
    assert run_all(dispatch, 1) == [0, 1]


def test_the_host_of_serial_tests_is_the_lowest_living_shard_that_has_them() -> None:
    dispatch = dispatcher([], [], [], serial=[0])
    dispatch.joined(1, missing={0})
    dispatch.joined(3)
    dispatch.joined(2)

    assert dispatch.may_finish(1)
    assert not dispatch.may_finish(2)
    assert dispatch.may_finish(3)


@pytest.mark.parametrize("jobs", [1, 2])
def test_no_host_of_serial_tests_keeps_the_place_of_a_shard_with_work(jobs: int) -> None:
    dispatch = dispatcher([module(0)], [module(1)], [module(2)], serial=[3])
    dispatch.joined(1)
    if jobs == 2:
        dispatch.joined(2)
        assert run_all(dispatch, 2) == [1]
    assert run_all(dispatch, 1) == [0]

    assert dispatch.may_finish(1)


def test_the_only_shard_that_has_the_serial_tests_stays_while_others_can_make_room() -> None:
    dispatch = dispatcher([module(0)], [module(1)], [group(2, 3)], serial=[4])
    dispatch.joined(1)
    dispatch.joined(2, missing={4})
    dispatch.joined(3, missing={4})
    dispatch.next_batch(3)
    assert run_all(dispatch, 1) == [0]
    assert run_all(dispatch, 2) == [1]
    dispatch.lost(3, blamed=None)

    assert not dispatch.may_finish(1)
    assert dispatch.may_finish(2)
    dispatch.left(2)
    dispatch.joined(3, missing={4})
    assert run_all(dispatch, 3) == [2, 3]
    assert dispatch.may_finish(3)
    dispatch.left(3)
    assert run_all(dispatch, 1) == [4]


def test_serial_tests_are_stranded_when_the_only_shard_that_has_them_must_make_room() -> None:
    dispatch = dispatcher([module(0)], [group(1, 2)], serial=[3], joined=[1])
    dispatch.joined(2, missing={3})
    dispatch.next_batch(2)
    assert run_all(dispatch, 1) == [0]
    dispatch.lost(2, blamed=None)
    assert dispatch.stranded() == ()

    assert dispatch.may_finish(1)
    assert dispatch.stranded() == (3,)


def test_tests_that_turn_up_while_serial_ones_run_wait_for_those_that_were_sent() -> None:
    dispatch = dispatcher([], serial=[0, 1, 2], joined=[1])
    assert dispatch.next_batch(1) == Batch((0, 1), more=True)
    dispatch.joined(7, extra=[9])

    assert dispatch.next_batch(7) is None
    assert dispatch.next_batch(1) == Batch((), more=False)
    dispatch.finished(1, 0, 1.0)
    dispatch.finished(1, 1, 1.0)
    assert dispatch.next_batch(1) is None
    assert run_all(dispatch, 7) == [9]
    assert dispatch.may_finish(7)
    dispatch.left(7)
    assert run_all(dispatch, 1) == [2]


def test_serial_tests_that_the_host_lacks_run_afterwards_on_a_shard_that_has_them() -> None:
    dispatch = dispatcher([], [], serial=[0, 1, 2])
    dispatch.joined(1, missing={1})
    dispatch.joined(2)

    assert dispatch.next_batch(2) is None
    assert not dispatch.may_finish(2)
    assert run_all(dispatch, 1) == [0, 2]
    assert dispatch.next_batch(2) is None
    assert dispatch.may_finish(1)
    assert dispatch.next_batch(2) is None
    dispatch.left(1)
    assert run_all(dispatch, 2) == [1]


def test_serial_tests_wait_for_tests_of_a_shard_that_is_down() -> None:
    dispatch = dispatcher([], [group(0, 1)], serial=[2], joined=[1, 2])
    dispatch.next_batch(2)
    dispatch.lost(2, blamed=0)

    assert dispatch.next_batch(1) is None
    dispatch.joined(2)
    assert run_all(dispatch, 2) == [1]
    assert dispatch.next_batch(1) is None
    assert dispatch.may_finish(2)
    dispatch.left(2)
    assert run_all(dispatch, 1) == [2]


def test_a_new_process_of_the_host_continues_with_the_serial_tests() -> None:
    dispatch = dispatcher([module(0)], serial=[1, 2, 3], joined=[1])
    assert dispatch.next_batch(1) == Batch((0,), more=False)
    dispatch.finished(1, 0, 1.0)
    assert dispatch.next_batch(1) == Batch((1, 2), more=True)
    dispatch.lost(1, blamed=1)

    assert not dispatch.may_finish(1)
    dispatch.joined(1)
    assert run_all(dispatch, 1) == [2, 3]


@pytest.mark.parametrize("other", ["alive", "waiting"])
def test_serial_tests_of_a_given_up_host_go_to_another_shard(other: str) -> None:
    dispatch = dispatcher([], [], serial=[0, 1], joined=[1])
    if other == "alive":
        dispatch.joined(2)
    dispatch.next_batch(1)
    dispatch.lost(1, blamed=None)
    dispatch.give_up(1)

    assert dispatch.stranded() == ()
    assert not dispatch.may_finish(2)
    dispatch.joined(2)
    assert run_all(dispatch, 2) == [0, 1]


def test_serial_tests_of_a_given_up_host_are_stranded_when_all_others_are_gone() -> None:
    dispatch = dispatcher([], [], serial=[0, 1], joined=[1, 2])
    assert dispatch.may_finish(2)
    dispatch.left(2)
    dispatch.next_batch(1)
    dispatch.lost(1, blamed=0)
    dispatch.give_up(1)

    assert dispatch.stranded() == (1,)
    assert dispatch.remaining() == 1


@pytest.mark.parametrize("planned", ["single tests", "single tests of one shard", "one module"])
def test_two_hundred_thousand_tests_are_handed_out_in_no_time(planned: str) -> None:
    shards: list[list[Unit]] = [[] for _ in range(16)]
    if planned == "one module":
        shards[0].append(module(*range(200_000), seconds=0.001))
    else:
        for index in range(200_000):
            shards[index % 16 if planned == "single tests" else 0].append(module(index))
    began = time.process_time()
    dispatch = dispatcher(*shards, joined=range(1, 17))
    hands: dict[int, deque[int]] = {shard: deque() for shard in range(1, 17)}

    while dispatch.remaining():
        for shard, hand in hands.items():
            if batch := dispatch.next_batch(shard):
                hand.extend(batch.positions)
            if hand:
                dispatch.finished(shard, hand.popleft(), 0.001)

    # Half of about a second is this loop's; quadratic work would take many minutes.
    assert time.process_time() - began < 30


@dataclass
class Worker:
    """A process of a shard, as the controller would see it."""

    missing: frozenset[int] = frozenset()
    collected: bool = False
    hand: deque[int] = field(default_factory=deque)
    more: bool = True

    @property
    def can_run_next(self) -> bool:
        return len(self.hand) > 1 or (len(self.hand) == 1 and not self.more)


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    count = draw(st.integers(0, 24))
    positions = iter(range(count))
    shards: list[list[Unit]] = [[] for _ in range(draw(st.integers(1, 4)))]
    while unit := tuple(
        position for position, _ in zip(positions, range(draw(st.integers(1, 6))), strict=False)
    ):
        seconds = draw(st.sampled_from([0.0, 0.01, 1.0, 7.5]))
        shards[draw(st.integers(0, len(shards) - 1))].append(
            Unit(
                unit,
                seconds,
                divisible=draw(st.booleans()),
                setup_seconds=draw(st.sampled_from([0.0, 0.0, 0.5, 20.0, None])),
            )
        )
    serial = range(count, count + draw(st.integers(0, 4)))
    return plan(*shards, serial=serial, measured=draw(st.booleans()))


LOCKS: Final = [
    frozenset[Lock](),
    frozenset([Lock("a")]),
    frozenset([Lock("a", shared=True)]),
    frozenset([Lock("b")]),
    frozenset([Lock("a"), Lock("b")]),
    frozenset([Lock("a", shared=True), Lock("b")]),
]


class Run(RuleBasedStateMachine):
    """Shards that start, join, finish, die, come back and are given up in any order."""

    @initialize(
        plan=plans(),
        steal=st.booleans(),
        jobs=st.integers(1, 5),
        tells_started=st.booleans(),
        data=st.data(),
    )
    def begin(
        self, plan: Plan, steal: bool, jobs: int, tells_started: bool, data: st.DataObject
    ) -> None:
        self.needs: dict[int, Need] = {}
        heaviest = data.draw(st.sampled_from([0, 1, 3]))
        if heaviest:
            locks, weights = st.sampled_from(LOCKS), st.integers(1, heaviest)
            positions = [p for shard in plan.shards for p in shard.positions] + list(plan.serial)
            for position in positions:
                need = Need(data.draw(locks), data.draw(weights))
                if need != Need():
                    self.needs[position] = need
        self.capacity = data.draw(st.integers(1, 5))
        self.conflicts = Conflicts(self.needs, self.capacity)
        #: The names that are held against other runs, and whether they are shared.
        self.held: dict[str, bool] = {}
        #: The names that another run holds.
        self.others: set[str] = set()
        self.waiting: list[frozenset[Lock]] = []
        self.dispatch = Dispatcher(plan, steal=steal, conflicts=self.conflicts)
        self.steal = steal
        self.jobs = jobs
        self.tells_started = tells_started
        self.serial = set(plan.serial)
        self.open = {p for shard in plan.shards for p in shard.positions} | self.serial
        self.group_of = {
            position: unit.positions
            for shard in plan.shards
            for unit in shard.units
            if not unit.divisible
            for position in unit.positions
        }
        self.planned_for = {p: shard.number for shard in plan.shards for p in shard.positions}
        #: Each shard's own tests that it lacked at least once, with their groups.
        self.given_away: set[int] = set()
        self.host_of_group: dict[tuple[int, ...], int] = {}
        self.torn_groups: set[tuple[int, ...]] = set()
        self.next_extra = 1000
        self.idle = {shard.number for shard in plan.shards}
        # More shards were started than the plan needs.
        self.spare = {9}
        self.gone: set[int] = set()
        self.dismissed: set[int] = set()
        self.workers: dict[int, Worker] = {}

    @rule()
    def ask_again(self) -> None:
        self.ask_everyone()

    @precondition(lambda self: (self.idle or self.spare) and len(self.workers) < self.jobs)
    @rule(data=st.data())
    def start(self, data: st.DataObject) -> None:
        shard = data.draw(st.sampled_from(sorted(self.idle | self.spare)))
        if shard in self.idle and self.dispatch.may_finish(shard):
            self.idle.remove(shard)
            self.gone.add(shard)
        else:
            self.start_process(shard)
        self.ask_everyone()

    @precondition(lambda self: any(not w.collected for w in self.workers.values()))
    @rule(data=st.data())
    def join(self, data: st.DataObject) -> None:
        starting = sorted(n for n, worker in self.workers.items() if not worker.collected)
        shard = data.draw(st.sampled_from(starting))
        missing: frozenset[int] = frozenset()
        if data.draw(st.integers(0, 3)) == 0 and self.open:
            missing = data.draw(st.frozensets(st.sampled_from(sorted(self.open)), max_size=6))
        extra = range(self.next_extra, self.next_extra + max(0, data.draw(st.integers(-8, 2))))
        self.collect(shard, missing, extra)
        self.ask_everyone()

    @precondition(lambda self: any(w.can_run_next for w in self.workers.values()))
    @rule(data=st.data(), seconds=st.sampled_from([0.0, 0.02, 1.0]))
    def run_one(self, data: st.DataObject, seconds: float) -> None:
        busy = sorted(n for n, worker in self.workers.items() if worker.can_run_next)
        self.finish(data.draw(st.sampled_from(busy)), seconds)

    @precondition(lambda self: any(w.can_run_next for w in self.workers.values()))
    @rule(data=st.data(), count=st.integers(2, 12))
    def run_several(self, data: st.DataObject, count: int) -> None:
        for _ in range(count):
            busy = sorted(n for n, worker in self.workers.items() if worker.can_run_next)
            if busy:
                self.finish(data.draw(st.sampled_from(busy)), 0.01)

    @precondition(lambda self: self.workers)
    @rule(data=st.data(), blame=st.booleans(), given_up=st.integers(0, 3))
    def die(self, data: st.DataObject, blame: bool, given_up: int) -> None:
        shard = data.draw(st.sampled_from(sorted(self.workers)))
        worker = self.workers.pop(shard)
        blamed = worker.hand[0] if blame and worker.hand else None
        self.dispatch.lost(shard, blamed)
        if blamed is not None:
            self.open.remove(blamed)
        if given_up == 0:
            self.give_up_on(shard)
        elif shard in self.dismissed or self.dispatch.may_finish(shard):
            self.gone.add(shard)
        else:
            self.idle.add(shard)
        self.ask_everyone()

    @precondition(lambda self: self.idle)
    @rule(data=st.data(), unlikely=st.integers(0, 3))
    def cannot_be_started(self, data: st.DataObject, unlikely: int) -> None:
        if unlikely == 0:
            shard = data.draw(st.sampled_from(sorted(self.idle)))
            self.idle.remove(shard)
            self.give_up_on(shard)
            self.ask_everyone()

    @precondition(lambda self: self.dismissed & self.workers.keys())
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        leaving = sorted(self.dismissed & self.workers.keys())
        self.end_process(data.draw(st.sampled_from(leaving)))
        self.ask_everyone()

    def start_process(self, shard: int) -> None:
        self.idle.discard(shard)
        self.spare.discard(shard)
        self.workers[shard] = Worker()
        if self.tells_started:
            self.dispatch.started(shard)

    def collect(self, shard: int, missing: frozenset[int], extra: Sequence[int]) -> None:
        worker = self.workers[shard]
        worker.collected = True
        worker.missing = missing
        for position in missing:
            if self.planned_for.get(position) == shard:
                self.given_away |= {position, *self.group_of.get(position, ())}
        self.torn_groups |= {self.group_of[p] for p in missing if p in self.group_of}
        self.dispatch.joined(shard, missing, extra)
        for other in self.workers.values():
            if other is not worker and other.collected:
                other.missing |= set(extra)
        self.open |= set(extra)
        self.next_extra += len(extra)

    def finish(self, shard: int, seconds: float) -> None:
        hand = self.workers[shard].hand
        position = hand.popleft()
        self.dispatch.finished(shard, position, seconds, seconds if position % 3 else 0.0)
        self.open.remove(position)
        if hand:
            self.ask(shard)
            if self.needs:
                self.ask_idle()
                self.settle_locks()
        else:
            self.ask_everyone()

    def give_up_on(self, shard: int) -> None:
        self.dispatch.give_up(shard)
        self.gone.add(shard)

    def end_process(self, shard: int) -> None:
        assert not self.workers.pop(shard).hand
        self.dispatch.left(shard)
        self.dispatch.left(shard)
        self.gone.add(shard)

    @rule(name=st.sampled_from(["a", "b"]))
    def another_run_takes_a_lock(self, name: str) -> None:
        if name not in self.held:
            self.others.add(name)

    @precondition(lambda self: self.others)
    @rule(data=st.data())
    def another_run_gives_a_lock_back(self, data: st.DataObject) -> None:
        self.others.remove(data.draw(st.sampled_from(sorted(self.others))))
        self.grant_what_waits()

    @rule(name=st.sampled_from(["a", "b"]))
    def another_run_waits_for_a_lock(self, name: str) -> None:
        self.conflicts.yield_to_others([name])
        self.settle_locks()

    def settle_locks(self) -> None:
        """Do with locks what the supervisor does."""
        if unused := self.conflicts.take_unused():
            for name in unused:
                del self.held[name]
            for shard in sorted(self.workers):
                self.ask(shard)
        for request in self.conflicts.take_wishes():
            if self.can_take(request):
                self.grant(request)
            else:
                self.waiting.append(request)
                self.dispatch.refused(request)
                self.ask_everyone()
        self.grant_what_waits()

    def grant_what_waits(self) -> None:
        for request in list(self.waiting):
            if request in self.waiting and self.can_take(request):
                self.waiting.remove(request)
                self.grant(request)

    def can_take(self, request: frozenset[Lock]) -> bool:
        names = {lock.name for lock in request}
        return not names & (self.held.keys() | self.others)

    def grant(self, request: frozenset[Lock]) -> None:
        self.held.update((lock.name, lock.shared) for lock in request)
        self.dispatch.granted(request)
        self.ask_everyone()

    def ask_idle(self) -> None:
        for shard, worker in sorted(self.workers.items()):
            if worker.collected and not worker.hand:
                self.ask(shard)

    def ask_everyone(self) -> None:
        for shard in sorted(self.workers):
            self.ask(shard)
        self.settle_locks()
        for shard, worker in sorted(self.workers.items()):
            if worker.collected and not worker.hand and self.dispatch.may_finish(shard):
                self.dismissed.add(shard)

    def ask(self, shard: int) -> None:
        worker = self.workers[shard]
        batch = self.dispatch.next_batch(shard)
        if batch is None:
            return
        assert worker.collected
        assert shard not in self.dismissed
        assert batch.positions or (worker.hand and worker.more and not batch.more)
        for position in batch.positions:
            assert position in self.open
            assert position not in worker.missing
            assert all(position not in other.hand for other in self.workers.values())
            self.check_group(shard, position)
            if not self.steal and position not in self.given_away:
                assert self.planned_for.get(position, shard) == shard
            worker.hand.append(position)
        worker.more = batch.more
        if not self.needs:
            assert self.dispatch.next_batch(shard) is None

    def check_group(self, shard: int, position: int) -> None:
        group = self.group_of.get(position)
        if group is None or group in self.torn_groups:
            return
        host = self.host_of_group.setdefault(group, shard)
        assert host == shard or host in self.gone
        self.host_of_group[group] = shard

    @invariant()
    def no_worker_waits_for_a_word(self) -> None:
        for shard, worker in self.workers.items():
            assert not worker.hand or worker.can_run_next, shard

    @invariant()
    def every_test_is_in_one_place(self) -> None:
        known = self.workers.keys() | self.idle | self.gone
        places = [p for shard in sorted(known) for p in self.dispatch.unfinished(shard)]
        places += self.dispatch.stranded()
        assert len(places) == len(set(places))
        assert set(places) <= self.open
        assert self.dispatch.remaining() == len(self.open)
        for shard, worker in self.workers.items():
            unfinished = self.dispatch.unfinished(shard)
            assert unfinished[: len(worker.hand)] == tuple(worker.hand)
            assert not worker.missing.intersection(unfinished)

    @invariant()
    def no_lock_is_violated(self) -> None:
        in_use: dict[str, list[tuple[int, bool]]] = {}
        for shard, worker in self.workers.items():
            for position in worker.hand:
                need = self.needs.get(position)
                for lock in need.locks if need else ():
                    in_use.setdefault(lock.name, []).append((shard, lock.shared))
                    assert lock.name in self.held, "it is not held against other runs"
                    assert lock.shared or not self.held[lock.name]
        for uses in in_use.values():
            shards = {shard for shard, _ in uses}
            assert len(shards) == 1 or all(shared for _, shared in uses)
        assert not self.held.keys() - in_use.keys(), "it is held for nothing"

    @invariant()
    def no_more_runs_at_once_than_there_is_room_for(self) -> None:
        if any(need.weight > 1 for need in self.needs.values()):
            assert sum(map(self.weight_of, self.workers.values())) <= self.capacity

    def weight_of(self, worker: Worker) -> int:
        weights = [
            min(need.weight if (need := self.needs.get(position)) else 1, self.capacity)
            for position in worker.hand
        ]
        return max(weights, default=0)

    @invariant()
    def serial_tests_are_alone(self) -> None:
        hands = [set(worker.hand) for worker in self.workers.values() if worker.hand]
        if any(hand & self.serial for hand in hands):
            assert len(hands) == 1
            assert hands[0] <= self.serial

    def teardown(self) -> None:
        """From here on all goes well: everything must come to an end."""
        if not hasattr(self, "dispatch"):
            return
        self.others.clear()
        self.grant_what_waits()
        for _ in range(500):
            if not self.step_towards_the_end():
                break
        else:
            pytest.fail("the run does not end")
        assert not self.workers
        assert self.dispatch.stranded() == tuple(sorted(self.open))

    def step_towards_the_end(self) -> bool:
        for shard, worker in sorted(self.workers.items()):
            if shard in self.dismissed:
                self.end_process(shard)
            elif not worker.collected:
                self.collect(shard, frozenset(), ())
            elif worker.can_run_next:
                self.finish(shard, 0.01)
            else:
                continue
            self.ask_everyone()
            self.every_test_is_in_one_place()
            self.no_lock_is_violated()
            self.no_more_runs_at_once_than_there_is_room_for()
            self.serial_tests_are_alone()
            self.no_worker_waits_for_a_word()
            return True
        for shard in sorted(self.idle):
            if self.dispatch.may_finish(shard):
                self.idle.remove(shard)
                self.gone.add(shard)
                self.ask_everyone()
                return True
            if len(self.workers) < self.jobs:
                self.start_process(shard)
                self.ask_everyone()
                return True
        return False


AnyRun = Run.TestCase
AnyRun.settings = settings(
    max_examples=150,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
