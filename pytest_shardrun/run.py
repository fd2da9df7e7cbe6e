"""A run, from launch to closed books."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

from . import events, notices
from .absences import Absences
from .actions import Action, End, FreeLocks, Launch, Send, Stop, TakeLocks, Tell
from .berths import UNKNOWN_ROOM, Berths
from .catalogue import Catalogue
from .conflicts import Conflicts, Request
from .deadlines import Limit, Watch, beginning_limit, farewell_limit, limits_of, shard_limit
from .dispatch import Dispatcher
from .halting import may_fail, reached, stop_of
from .ledger import Entry, Ledger
from .lifecycle import (
    Escalation,
    Life,
    Phase,
    Step,
    after_goodbye,
    after_stop,
    after_timeout,
    at_once,
    origin,
    speaks_of_memory,
    where,
)
from .losses import Losses
from .model import (
    Attempt,
    Ending,
    EndingKind,
    Exit,
    Item,
    LeakPolicy,
    Plan,
    Policy,
    Status,
)
from .records import replace
from .shards import RunningTest, Shard
from .suspects import Suspects
from .tries import Tries, concluded, plan_of, plan_of_rest

#: A shard without a limit is given up when so many processes in a row have died of their first test
#: and that has taken so many seconds: forked ones take no time.
MOST_BARREN: Final = 40
BARREN_SECONDS: Final = 60.0

#: Makes the plan for the tests that the first shard collected.
Planner: TypeAlias = Callable[[Sequence[Item]], Plan]

#: What counts even when the test it comes from has taken too long.
_OF_A_TEST: Final = (events.Reported, events.Warned, events.XmlRecorded)


class Run:
    """All shards of a run; pure: time enters as an argument, and what to do is returned."""

    def __init__(
        self,
        shards: int,
        policy: Policy,
        planner: Planner,
        *,
        plan_only: bool = False,
        one_first: bool = False,
        continue_on_collection_errors: bool = False,
    ) -> None:
        self._policy = policy
        self._planner = planner
        self._plan_only = plan_only
        self._continue_on_collection_errors = continue_on_collection_errors
        self._shards = {number: Shard(number) for number in range(1, shards + 1)}
        waiting = [1] if plan_only else list(self._shards)
        self._berths = Berths(self._shards, policy.jobs, waiting, one_first=one_first)
        self._actions: list[Action] = []
        self._catalogue = Catalogue()
        self._conflicts = Conflicts(self._catalogue.needs, min(policy.jobs, shards))
        #: Of all tests, and of the round that goes on.
        self._first_plan: Plan | None = None
        self._plan: Plan | None = None
        self._dispatcher: Dispatcher | None = None
        self._doomed: dict[str, str] = {}
        self._restarts_left = policy.restarts
        self._stop: Stop | None = None
        self._started = 0.0
        self._books_closed = False
        self._absences = Absences()
        self._losses = Losses()
        self._has_lacked_room = False
        #: An attempt has stopped to take a place, and still lives.
        self._has_freed_place = False
        self._tries = Tries(policy.retries)
        self._suspects = Suspects()
        #: When those that failed are tried again, if nothing else is left to do.
        self._round_due: float | None = None
        self._is_retrying = False
        self._usable_for_round = 0
        #: The first plan is not done, and waits for the tests that are tried again.
        self._is_paused = False
        self.ledger = Ledger()

    # What happens

    def start(self, now: float, room: int = UNKNOWN_ROOM) -> list[Action]:
        """Launch what may run at once; the machine has memory for ``room`` attempts."""
        self._started = now
        self._berths.measured(room)
        self._launch_waiting(now)
        return self._take_actions(now)

    def release(self, now: float) -> list[Action]:
        """No shard need wait for the first one to collect."""
        self._berths.open()
        self._launch_waiting(now)
        return self._take_actions(now)

    def happened(self, attempt: Attempt, event: events.Event, now: float) -> list[Action]:
        """An event arrived from an attempt; those of older attempts are dropped."""
        shard = self._shards[attempt.shard]
        if shard.life is not None and shard.life.attempt == attempt:
            counts = shard.test is not None and isinstance(event, _OF_A_TEST)
            if shard.life.is_condemned and not counts:
                return self._take_actions(now)
            try:
                self._handle(shard, shard.life, event, now)
            except events.BrokenStream as error:
                return self.broke(attempt, f"its stream broke: {error}", now)
            if self._has_freed_place:
                self._launch_waiting(now)
        return self._take_actions(now)

    def broke(self, attempt: Attempt, reason: str, now: float) -> list[Action]:
        """The stream of an attempt cannot be trusted any more: the attempt ends."""
        life = self._shards[attempt.shard].life
        if life is not None and life.attempt == attempt:
            life.escalate(at_once(Ending(EndingKind.CRASHED, f"crashed: {reason}"), now))
            self._take_due_steps(life, now)
        return self._take_actions(now)

    def exited(self, attempt: Attempt, exit: Exit, output: str, now: float) -> list[Action]:
        """The process of an attempt has ended and all of its events have been given."""
        shard = self._shards[attempt.shard]
        life = shard.life
        if life is not None and life.attempt == attempt:
            if self._policy.memory is not None and exit.code != 0 and speaks_of_memory(output):
                life.out_of_memory = True
            ending = life.ending(exit)
            if ending.kind is EndingKind.COMPLETED:
                self._tell_leaks(life, exit)
            self._bury(shard, life, ending, output, now)
        return self._take_actions(now)

    def not_launched(
        self, attempt: Attempt, reason: str, now: float, *, hopeless: bool = False
    ) -> list[Action]:
        """An attempt could not be started; where it is hopeless, no other can be, either."""
        shard = self._shards[attempt.shard]
        life = shard.life
        assert life is not None
        ending = Ending(EndingKind.NOT_LAUNCHED, reason)
        if hopeless:
            self._berths.dismiss_queue()
            if self._stop is not None:
                # It has been said.
                ending = Ending(EndingKind.STOPPED, self._stop.reason)
        self._bury(shard, life, ending, "", now)
        if hopeless and self._stop is None:
            self._stop_now(Stop(reason, asked=False, escalate=_after_refusal), now)
        return self._take_actions(now)

    def measured(self, room: int, now: float) -> list[Action]:
        """The machine has memory for so many more attempts; one may always live."""
        self._berths.measured(room)
        self._launch_waiting(now)
        if self.lacks_room and not self._has_lacked_room:
            self._has_lacked_room = True
            self._tell(
                notices.Remark("the machine is short of memory: new processes wait for others")
            )
        return self._take_actions(now)

    def granted(self, request: Request, now: float) -> list[Action]:
        """The locks that were to be taken are held against other runs."""
        assert self._dispatcher is not None
        self._dispatcher.granted(request)
        self._pump_all(now)
        return self._take_actions(now)

    def refused(self, request: Request, now: float) -> list[Action]:
        """Another run holds some of the locks: they may be granted later."""
        assert self._dispatcher is not None
        self._dispatcher.refused(request)
        self._pump_all(now)
        return self._take_actions(now)

    def contended(self, names: Sequence[str], now: float) -> list[Action]:
        """Other runs wait for these locks: they get them after the tests that are in flight."""
        self._conflicts.yield_to_others(names)
        return self._take_actions(now)

    def stop(self, stop: Stop, now: float) -> list[Action]:
        """End the run early; what is not finished will not run. A faster stop replaces a slower."""
        if self._stop is None:
            self._stop = stop
        self._berths.dismiss_queue()
        self._round_due = None
        if self._dispatcher is not None:
            self._dispatcher.stop()
        for shard in self._shards.values():
            life = shard.life
            if life is None:
                continue
            if life.phase is Phase.LEAVING:
                escalation = stop.escalate(stop.reason, now, self._policy.grace)
                if escalation.steps[0][1] is Step.KILL:
                    life.escalate(escalation)
                    self._take_due_steps(life, now)
                continue
            if stop.escalate is after_stop and life.phase in (Phase.STARTING, Phase.COLLECTING):
                life.escalate(at_once(Ending(EndingKind.STOPPED, stop.reason), now))
            else:
                life.escalate(stop.escalate(stop.reason, now, self._policy.grace))
                if stop.escalate is after_stop and not life.dismissed:
                    life.dismissed = True
                    self._do(Send(life.attempt, events.STOP_COMMAND))
            self._take_due_steps(life, now)
        return self._take_actions(now)

    def time(self, now: float) -> list[Action]:
        """Time has passed: keep the deadlines."""
        limit = self._policy.run_timeout
        if limit is not None and self._stop is None and now >= self._started + limit:
            reason = f"the run timed out after {limit:g} s (--shard-run-timeout)"
            self._tell(notices.Problem(0, reason))
            self._stop_now(Stop(reason, asked=False, escalate=after_timeout), now)
            return self._take_actions(now)
        for shard in self._shards.values():
            life = shard.life
            if life is None:
                continue
            if life.escalation is None and shard.test is not None:
                self._watch(life, shard.test.watch, now)
            if life.escalation is None and life.begins is not None and now >= life.begins.due:
                life.is_condemned = True
                life.escalate(after_timeout(life.begins.reason, now, self._policy.grace))
            if life.escalation is None and life.deadline is not None and now >= life.deadline:
                self._time_out(life, now)
            self._take_due_steps(life, now)
        if self._round_due is not None and now >= self._round_due:
            self._begin_round(now)
        return self._take_actions(now)

    def next_time(self) -> float | None:
        """When ``time`` should be called at the latest."""
        times = [time for shard in self._shards.values() if (time := shard.next_time()) is not None]
        if self._round_due is not None:
            times.append(self._round_due)
        if self._policy.run_timeout is not None and self._stop is None:
            times.append(self._started + self._policy.run_timeout)
        return min(times, default=None)

    # What is known

    @property
    def is_planned(self) -> bool:
        """The tests are known, or nothing will make them known any more."""
        return self._dispatcher is not None or self.is_over

    @property
    def is_over(self) -> bool:
        """No attempt lives or will be launched."""
        if self._round_due is not None:
            return False
        return not self._berths.are_awaited and self._berths.are_empty

    @property
    def lacks_room(self) -> bool:
        """An attempt waits for memory: ``measured`` should be called soon."""
        return self._berths.lack_room

    @property
    def attempts(self) -> set[Attempt]:
        """Those that live, or are about to."""
        return {shard.life.attempt for shard in self._shards.values() if shard.life is not None}

    @property
    def stopped(self) -> Stop | None:
        return self._stop

    @property
    def items(self) -> Sequence[Item]:
        """The tests by position, in the order of collection."""
        return self._catalogue.items

    def close_books(self) -> list[notices.Notice]:
        """Give every test that has none its final status; call it once, when the run is over."""
        if self._books_closed or self._plan_only:
            return []
        self._books_closed = True
        # Those that were to be tried again have failed.
        for waiting in self._tries.last_tries():
            self._conclude(waiting)
        actions, self._actions = self._actions, []
        told = [action.notice for action in actions if isinstance(action, Tell)]
        self._absences.leave(self._dispatcher)
        given_up = {
            shard.number: shard.given_up for shard in self._shards.values() if shard.given_up
        }
        for position in self.ledger.open_positions():
            absence = self._absences.explain(position, self._stop, given_up)
            loss = self._suspects.loss_of(position)
            reason = f"{loss}, and not tried again: {absence.reason}" if loss else absence.reason
            self.ledger.close(position, Entry(Status.NOT_RUN, absence.shard, reason))
            told.append(
                notices.TestNotRun(
                    position,
                    self.items[position],
                    absence.shard,
                    reason,
                    absence.asked,
                    absence.phase,
                )
            )
        return [*told, *self._losses.notices(self.items, self._policy.lost_data)]

    def lost(self, place: str, kind: str, attempt: Attempt, test: int | None = None) -> None:
        """Only the text of a value came over the border; ``test`` is the one that was running."""
        self._losses.note(place, kind, shard=attempt.shard, test=test)

    # Launching

    def _launch_waiting(self, now: float) -> None:
        self._has_freed_place = False
        while (shard := self._berths.next()) is not None:
            if self._dispatcher is not None and self._dispatcher.may_finish(shard.number):
                self._dispatcher.left(shard.number)
            else:
                self._launch(shard, now)

    def _launch_again(self, shard: Shard, now: float) -> None:
        if self._berths.has_memory:
            self._launch(shard, now)
        else:
            self._berths.queue_first(shard.number)

    def _launch(self, shard: Shard, now: float) -> None:
        slot = self._berths.take(shard)
        life = shard.begin(self._doomed, now)
        if self._policy.shard_timeout is not None:
            life.limit = Limit(self._policy.shard_timeout, "--shard-timeout")
            life.deadline = now + life.limit.seconds
        if self._dispatcher is not None:
            self._dispatcher.started(shard.number)
        self._do(Launch(life.attempt, dict(self._doomed), slot))

    # Events

    def _handle(self, shard: Shard, life: Life, event: events.Event, now: float) -> None:
        match event:
            case events.Started(local):
                position = shard.position(local)
                if (
                    position is None
                    or life.running is not None
                    or not self._was_sent(shard, position)
                ):
                    raise events.BrokenStream(f"test {local} cannot start")
                life.running = position
                life.begins = life.last_when = None
                limits = limits_of(self.items[position], self._policy)
                shard.test = RunningTest(Watch(now, limits, self._policy.slow_every))
                self._tell(notices.TestStarted(life.attempt, position))
            case events.Passed():
                for part in event.parts():
                    self._handle(shard, life, part, now)
            case events.Reported():
                if shard.test is None:
                    self._tell(notices.SeenOutsideTests(life.attempt, event))
                else:
                    life.last_when = event.when
                    shard.test.watch.reported(now)
                    shard.test.reports.append(event)
            case events.Finished(local):
                if life.running is None or life.running != shard.position(local):
                    raise events.BrokenStream(f"test {local} does not run and cannot finish")
                self._finish_test(shard, life, event, now)
                self._pump(shard, now)
                self._pump_idle(now)
            case events.Keeping():
                life.keeps = True
            case events.ChildSeen(pid):
                if life.running is not None:
                    life.children[pid] = life.running
            case events.Warned():
                if shard.test is None:
                    self._tell(notices.SeenOutsideTests(life.attempt, event))
                else:
                    shard.test.warnings.append(event)
            case events.XmlRecorded(nodeid):
                if shard.test is None or nodeid is None:
                    self._tell(notices.SeenOutsideTests(life.attempt, event))
                else:
                    shard.test.xml.append(event)
            case events.Hello(info):
                if life.phase not in (Phase.STARTING, Phase.COLLECTING):
                    raise events.BrokenStream("it said hello a second time")
                life.phase = Phase.COLLECTING
                life.start_seconds = now - life.launched
                self._tell(notices.AttemptReady(life.attempt, info))
            case events.Collecting(nodeid):
                life.collecting = nodeid or None
            case events.CollectReport(data):
                self._tell(notices.CollectReported(life.attempt, data))
            case events.Collected(count, digest, errors):
                if life.phase is not Phase.COLLECTING:
                    raise events.BrokenStream("it cannot have collected now")
                self._collected(shard, life, count, digest, errors, now)
            case events.Collection():
                if life.phase is not Phase.COLLECTING:
                    raise events.BrokenStream("nobody asked for its collection")
                self._learn(shard, life, event, now)
            case events.UsageRefused(messages):
                self._tell(notices.CollectionRefused(messages))
                reason = "pytest refused the arguments"
                asked = self._dispatcher is None
                self._stop_now(Stop(reason, asked=asked, escalate=_after_refusal), now)
            case events.Lossy(_, path, type_name):
                self.lost(path, type_name, life.attempt, life.running)
            case events.StopAsked(kind, reason):
                self._tell(notices.StopAskedByTest(kind, reason))
                self._stop_now(Stop(reason, asked=True, escalate=after_stop), now)
            case events.ExitAsked(reason, returncode):
                life.running = shard.test = None
                self._tell(notices.StopAskedByTest("exit", reason, returncode))
                reason = f"pytest.exit: {reason}"
                self._stop_now(Stop(reason, asked=True, escalate=after_stop), now)
            case events.Interrupted(text):
                if life.escalation is None:
                    life.interrupted = True
                    life.trouble = text
            case events.OutOfMemory():
                life.out_of_memory = True
            case events.InternalError(text):
                life.trouble = text
            case events.Finishing():
                life.phase = Phase.FINISHING
                life.begins = None
                life.expect(farewell_limit(self._policy), now)
            case events.Goodbye(status, workeroutput):
                life.phase = Phase.LEAVING
                life.said_goodbye = True
                life.goodbye_status = status
                shard.workeroutput = workeroutput
                life.deadline = life.begins = None
                if life.escalation is None:
                    life.escalate(after_goodbye(now, self._policy.grace, life.start_seconds))

    def _was_sent(self, shard: Shard, position: int) -> bool:
        dispatcher = self._dispatcher
        return dispatcher is not None and dispatcher.is_in_flight(shard.number, position)

    def _finish_test(self, shard: Shard, life: Life, finished: events.Finished, now: float) -> None:
        position = life.running
        assert position is not None
        assert self._dispatcher is not None
        life.finished += 1
        done = shard.finished(self.items[position], finished, self._tries.count(position) + 1)
        own = finished.seconds - finished.shared_seconds
        self._dispatcher.finished(shard.number, position, own, finished.setup_seconds)
        if done.reports:
            self._settle(done, now)
        elif done.number > 1:
            self._conclude_without_another(self._tries.last(position), now)
        else:
            reason = "its plugins reported nothing"
            self.ledger.close(position, Entry(done.status, shard.number, reason))
            self._tell(done)
            self._tell(notices.TestNotRun(position, done.item, shard.number, reason, asked=False))

    # Tries

    def _settle(self, done: notices.TestDone, now: float) -> None:
        """Give a test that ran its final status, or another try."""
        had_refused = bool(self._tries.refusal)
        if self._stop is None and self._tries.keep(done, len(self.items), now):
            self._tell(notices.TestTried(done))
            if may_fail(self._policy.halts, self.ledger.sums(), len(self._tries), len(self.items)):
                self._pause(now)
            return
        self._conclude(done)
        if self._tries.refusal and not had_refused:
            self._tell(notices.NoOtherTry(self._tries.refusal))
            for waiting in self._tries.last_tries():
                self._conclude(waiting)
        self._halt_if_reached(now)

    def _conclude(self, last: notices.TestDone) -> None:
        """This was the last try of a test."""
        tries = self._tries.take(last.position)
        done = concluded(last, tries, self._policy.retries) if tries else last
        reason = done.blame.ending.reason if done.blame is not None else ""
        entry = Entry(done.status, done.attempt.shard, reason, done.number)
        self.ledger.close(done.position, entry)
        self._tell(done)

    def _halt_if_reached(self, now: float) -> None:
        """End the run where the results so far are enough and something is left to end."""
        if not self._policy.halts or self._stop is not None or self.ledger.is_complete:
            return
        sums = self.ledger.sums()
        halt = reached(self._policy.halts, sums, len(self.items))
        if halt is not None:
            stop = stop_of(halt, sums)
            self._tell(notices.Halted(halt.why, stop.reason))
            self._stop_now(stop, now)

    def _pause(self, now: float) -> None:
        """Let the tests that run end and begin no others: first those that failed are tried again.

        They decide whether the run goes on.
        """
        if self._is_retrying or self._is_paused:
            return
        assert self._dispatcher is not None
        self._is_paused = True
        self._berths.dismiss_queue()
        self._absences.leave(self._dispatcher)
        self._dispatcher.stop()
        for shard in self._shards.values():
            life = shard.life
            if life is None or life.dismissed:
                continue
            if life.phase in (Phase.STARTING, Phase.COLLECTING):
                life.dismissed = True
                life.escalate(at_once(Ending(EndingKind.STOPPED, "not needed yet"), now))
                self._take_due_steps(life, now)
            else:
                self._part_with(life, events.STOP_COMMAND, now)

    def _resume(self, now: float) -> None:
        """Go on with the plan where it was left, in fresh processes."""
        self._is_paused = self._is_retrying = False
        left = self.ledger.open_positions()
        if not left or self._first_plan is None:
            return
        self._begin(plan_of_rest(self._first_plan, frozenset(left)), now)

    def _conclude_without_another(self, last: notices.TestDone, now: float) -> None:
        self._conclude(last)
        self._halt_if_reached(now)
        self._tell(notices.NoOtherTry(f"{last.item.nodeid} could not be tried again"))

    def _plan_round(self, now: float) -> None:
        """Foresee who is tried again when nothing else is left to do."""
        berths = self._berths
        if self._stop is not None or berths.are_awaited or not berths.are_empty:
            return
        usable = self._usable()
        if not usable or len(usable) == self._usable_for_round:
            # Where a shard was lost, another may have more luck.
            for last in self._tries.unresolved():
                self._conclude_without_another(last, now)
        if self._stop is not None:
            return
        positions = self._tries.next_round()
        if not positions:
            if self._is_paused:
                self._resume(now)
            return
        self._round_due = self._tries.due(positions)
        if now >= self._round_due:
            self._begin_round(now)

    def _begin_round(self, now: float) -> None:
        """Try tests again, in fresh processes."""
        self._round_due = None
        positions = self._tries.next_round()
        self._tries.begin(positions)
        usable = self._usable()
        self._usable_for_round = len(usable)
        if len(positions) == 1 and (home := self._tries.home(positions[0])) in usable:
            usable = [home]
        if not usable:
            self._plan_round(now)
            return
        seconds = {position: self._tries.seconds(position) for position in positions}
        self._is_retrying = True
        self._begin(plan_of(positions, self.items, usable, seconds), now)

    def _usable(self) -> list[int]:
        """The shards that can be given another process."""
        return [shard.number for shard in self._shards.values() if not shard.given_up]

    def _begin(self, plan: Plan, now: float) -> None:
        """Follow another plan, when everybody has left."""
        self._absences.leave(self._dispatcher)
        self._plan = plan
        self._dispatcher = Dispatcher(plan, steal=self._policy.steal, conflicts=self._conflicts)
        usable = self._usable()
        chosen = [shard.number for shard in plan.shards if shard.units and shard.number in usable]
        chosen = chosen or usable[:1]
        for number in self._shards.keys() - set(chosen):
            self._dispatcher.left(number)
        self._berths.queue(chosen)
        self._launch_waiting(now)

    # Collection and plan

    def _collected(
        self, shard: Shard, life: Life, count: int, digest: str, errors: int, now: float
    ) -> None:
        life.collecting = None
        if life.dismissed or shard.given_up or self._stop is not None:
            return
        if errors and not self._continue_on_collection_errors:
            # The worker ends by itself, as pytest does.
            if self._dispatcher is None:
                life.phase = Phase.RUNNING
                self._tell(notices.CollectionFailed(count, errors))
                reason = "interrupted by collection errors"
                self._stop_now(Stop(reason, asked=True, escalate=after_stop), now)
            else:
                self._give_up(shard, f"{life.attempt} could not collect what the others collected")
            return
        shard.digest = digest
        if self._catalogue.collection(digest) is not None:
            self._join(shard, life, now)
        else:
            self._do(Send(life.attempt, events.LIST_COMMAND))

    def _learn(self, shard: Shard, life: Life, event: events.Collection, now: float) -> None:
        if life.dismissed or shard.given_up or self._stop is not None:
            return
        new = self._catalogue.learn(shard.digest, event.rows)
        items = self._catalogue.items
        self.ledger.open(len(new))
        if self._dispatcher is None:
            plan = self._plan = self._first_plan = self._planner(items)
            self._dispatcher = Dispatcher(plan, steal=self._policy.steal, conflicts=self._conflicts)
            for other in self._shards.values():
                if other.given_up:
                    self._dispatcher.give_up(other.number)
                elif other.life is not None:
                    self._dispatcher.started(other.number)
            self._absences.plan(plan)
            self._tell(notices.Planned(tuple(items), plan, event.deselected, event.lines))
            new = []
            if self._plan_only:
                self._dispatcher.stop()
                life.phase = Phase.RUNNING
                self._part_with(life, events.FINISH_COMMAND, now)
                return
        elif new:
            found_later = tuple(items[position] for position in new)
            self._tell(notices.FoundLater(life.attempt, found_later))
        if self._berths.open():
            self._launch_waiting(now)
        self._join(shard, life, now, new)
        self._dismiss_surplus(now)

    def _join(self, shard: Shard, life: Life, now: float, new: Sequence[int] = ()) -> None:
        assert self._dispatcher is not None
        assert self._plan is not None
        life.phase = Phase.RUNNING
        limit = shard_limit(self._policy, self._plan, shard.number)
        if limit is not None:
            life.limit, life.deadline = limit, now + limit.seconds
        shard.collection = collection = self._catalogue.collection(shard.digest)
        assert collection is not None
        missing = self._catalogue.missing(collection)
        self._tell(notices.AttemptCollected(life.attempt, collection.nodeids))
        self._dispatcher.joined(shard.number, missing, new)
        if missing or new:
            self._pump_all(now)
        else:
            self._pump(shard, now)
            self._pump_idle(now)

    def _dismiss_surplus(self, now: float) -> None:
        """End shards that still collect although the plan has no tests for them."""
        assert self._dispatcher is not None
        for shard in self._shards.values():
            life = shard.life
            if (
                life is not None
                and life.phase in (Phase.STARTING, Phase.COLLECTING)
                and self._dispatcher.may_finish(shard.number)
            ):
                life.dismissed = True
                life.escalate(at_once(Ending(EndingKind.STOPPED, "not needed"), now))
                self._take_due_steps(life, now)

    # Dispatch

    def _pump(self, shard: Shard, now: float) -> None:
        life, dispatcher = shard.life, self._dispatcher
        if life is None or dispatcher is None or life.phase is not Phase.RUNNING:
            return
        if not life.dismissed:
            self._supply(shard, life, dispatcher, now)
        self._expect(life, now)

    def _expect(self, life: Life, now: float) -> None:
        """Foresee until when a process must go on; one that waits for others has all the time."""
        if life.running is not None:
            return
        if life.dismissed:
            limit = farewell_limit(self._policy)
        else:
            assert self._dispatcher is not None
            next_one = self._dispatcher.next_to_begin(life.attempt.shard)
            item = None if next_one is None else self.items[next_one]
            limit = None if item is None else beginning_limit(item, self._policy)
        life.expect(limit, now)

    def _supply(self, shard: Shard, life: Life, dispatcher: Dispatcher, now: float) -> None:
        batch = dispatcher.next_batch(shard.number)
        if batch is not None:
            assert shard.collection is not None
            places = [shard.collection.places[position] for position in batch.positions]
            self._do(Send(life.attempt, events.run_command(places, more=batch.more)))
        elif dispatcher.may_finish(shard.number):
            if life.keeps and self._others_may_need(life):
                life.only_keeps = True
                # Its place is free: nothing waits for the end of its process.
                dispatcher.left(shard.number)
                self._has_freed_place = True
            else:
                self._part_with(life, events.FINISH_COMMAND, now)

    def _others_may_need(self, keeper: Life) -> bool:
        """Whether a test can still run that needs what this attempt has set up for all."""
        return self._berths.are_awaited or any(
            shard.life is not None and shard.life is not keeper and not shard.life.only_keeps
            for shard in self._shards.values()
        )

    def _part_with(self, life: Life, command: bytes, now: float) -> None:
        """Tell a process that has collected to end its session, after its test if it runs one."""
        life.dismissed = True
        life.begins = None
        self._expect(life, now)
        self._do(Send(life.attempt, command))

    def _pump_all(self, now: float) -> None:
        for shard in self._shards.values():
            self._pump(shard, now)

    def _pump_idle(self, now: float) -> None:
        dispatcher = self._dispatcher
        if dispatcher is None:
            return
        for shard in self._shards.values():
            # Of quick tests little more is told than that they are over: to be between two of them
            # is not to wait for others.
            if shard.life is not None and shard.life.is_idle and dispatcher.may_wait(shard.number):
                self._pump(shard, now)

    # Ends

    def _watch(self, life: Life, watch: Watch, now: float) -> None:
        """Keep the time of the test that runs."""
        position = life.running
        assert position is not None
        exceeded = watch.exceeded(now)
        if exceeded is not None:
            life.is_condemned = True
            life.escalate(after_timeout(exceeded.reason, now, self._policy.grace))
        elif watch.is_slow(now):
            limit = watch.shortest
            self._tell(
                notices.TestSlow(
                    life.attempt,
                    position,
                    self.items[position],
                    now - watch.started,
                    life.phase_of_test,
                    limit.seconds if limit is not None else None,
                )
            )

    def _time_out(self, life: Life, now: float) -> None:
        limit = life.limit
        assert limit is not None
        in_flight = self._dispatcher is not None and self._dispatcher.has_in_flight(
            life.attempt.shard
        )
        if life.is_idle and not in_flight:
            # It waits for others, so the time is not its own.
            life.deadline = now + limit.seconds
            return
        life.escalate(after_timeout(limit.reason, now, self._policy.grace))

    def _take_due_steps(self, life: Life, now: float) -> None:
        for step in life.due_steps(now):
            self._do(End(life.attempt, step))

    def _stop_now(self, stop: Stop, now: float) -> None:
        actions = self._take_actions(now)
        self._actions = actions + self.stop(stop, now)

    def _bury(self, shard: Shard, life: Life, ending: Ending, output: str, now: float) -> None:
        shard.life = None
        blamed = self._blame(shard, life, ending, output, now)
        doomed = blamed is None and self._doom(shard, life, ending, output)
        progress = blamed is not None or life.finished > 0
        is_forgiven = self._suspects.forgive(shard.number, life, ending, progress=progress)
        quiet = is_forgiven or ending.kind in (EndingKind.COMPLETED, EndingKind.STOPPED)
        if blamed is None and not doomed and not quiet and self._stop is None:
            self._tell_problem(life, ending, output)
        self._tell(
            notices.AttemptEnded(life.attempt, ending, shard.workeroutput, now - life.launched)
        )
        dispatcher = self._dispatcher
        if dispatcher is not None:
            dispatcher.lost(shard.number, blamed)
        if self._stop is None and not shard.given_up:
            if doomed:
                self._launch_again(shard, now)
            else:
                self._go_on(shard, life, ending, progress=progress or is_forgiven, now=now)
        self._launch_waiting(now)
        self._pump_all(now)
        if self._has_freed_place:
            self._launch_waiting(now)
        self._plan_round(now)

    def _go_on(
        self, shard: Shard, life: Life, ending: Ending, *, progress: bool, now: float
    ) -> None:
        """Decide what follows an attempt of a run that goes on."""
        dispatcher = self._dispatcher
        shard.note_progress(life)
        wanted = ending.kind is EndingKind.STOPPED or (
            ending.kind is EndingKind.COMPLETED and life.dismissed
        )
        if dispatcher is not None and (wanted or dispatcher.may_finish(shard.number)):
            dispatcher.left(shard.number)
        elif ending.kind is EndingKind.COMPLETED and self._policy.isolates and life.finished:
            self._launch_again(shard, now)
        elif ending.kind is EndingKind.COMPLETED:
            if shard.collection is None:
                self._tell(
                    notices.Problem(shard.number, f"{life.attempt} ended without collecting")
                )
            self._give_up(shard, f"{life.attempt} ended without running all of its tests")
        elif not progress or ending.kind is EndingKind.NOT_LAUNCHED:
            self._give_up(shard, f"{life.attempt} {ending.reason} {where(life)}")
        elif self._restarts_left == 0:
            self._give_up(
                shard, f"{life.attempt} {ending.reason}, and --shard-restarts allows no more"
            )
        elif (
            self._restarts_left is None
            and shard.barren >= MOST_BARREN
            and now - shard.barren_since >= BARREN_SECONDS
        ):
            self._give_up(
                shard,
                f"{life.attempt} {ending.reason}, the {shard.barren}th in a row that its first "
                "test ended (--shard-restarts=N allows N in a run)",
            )
        else:
            if self._restarts_left is not None:
                self._restarts_left -= 1
            self._launch_again(shard, now)

    def _give_up(self, shard: Shard, reason: str) -> None:
        shard.given_up = reason
        if self._dispatcher is not None:
            self._dispatcher.give_up(shard.number)

    def _blame(
        self, shard: Shard, life: Life, ending: Ending, output: str, now: float
    ) -> int | None:
        """Settle the test that was running, if its process did not end on our request."""
        position = life.running
        if position is None:
            return None
        if ending.kind is EndingKind.STOPPED:
            self._absences.stop(position, life.phase_of_test)
            return None
        if self._suspects.excuses(position, ending):
            nodeid = self.items[position].nodeid
            self._tell(
                notices.Remark(
                    f"{nodeid} ran when {life.attempt} was {ending.reason}; it is tried again"
                )
            )
            life.running = shard.test = None
            return None
        if ending.kind is EndingKind.LOST:
            ending = replace(ending, reason=f"{ending.reason}, for the second time while it ran")
        number = self._tries.count(position) + 1
        done = shard.blamed(life, self.items[position], ending, output, now, number)
        self._settle(done, now)
        return position

    def _doom(self, shard: Shard, life: Life, ending: Ending, output: str) -> bool:
        """Let the next attempts report what killed this one while it collected."""
        collector = shard.killer(life, ending)
        if collector is None:
            return False
        if self._dispatcher is not None and collector not in self._doomed:
            # Another process could import it: a file is not doomed by one bad day.
            return False
        # Another shard that collected at the same time may have died of it already.
        reason = f"{life.attempt} {ending.reason} while importing {collector}"
        if output:
            reason = f"{reason}\n\n{output}"
        self._doomed.setdefault(collector, reason)
        return True

    def _tell_leaks(self, life: Life, exit: Exit) -> None:
        if self._policy.leak is LeakPolicy.IGNORE:
            return
        for process in exit.left:
            position = origin(life, process)
            nodeid = "" if position is None else self.items[position].nodeid
            leaked = notices.Leaked(life.attempt, process.pid, process.command, nodeid)
            self._tell(leaked)
            if self._policy.leak is LeakPolicy.FAIL:
                self._tell(notices.Problem(life.attempt.shard, str(leaked)))

    def _tell_problem(self, life: Life, ending: Ending, output: str) -> None:
        text = f"{life.attempt} {ending.reason}"
        if ending.kind is not EndingKind.NOT_LAUNCHED:
            text = f"{text} {where(life)}"
        self._tell(
            notices.Problem(life.attempt.shard, text, life.trouble or output, life.broke_internally)
        )

    # Actions

    def _do(self, action: Action) -> None:
        self._actions.append(action)

    def _tell(self, notice: notices.Notice) -> None:
        self._actions.append(Tell(notice))

    def _take_actions(self, now: float) -> list[Action]:
        if self._dispatcher is not None and self._conflicts.is_active:
            conflicts = self._conflicts
            if unused := conflicts.take_unused():
                self._do(FreeLocks(unused))
                # What needs one of them together with others could not ask for them before.
                self._pump_all(now)
            self._actions += [TakeLocks(wish) for wish in conflicts.take_wishes()]
        actions, self._actions = self._actions, []
        return actions


def _after_refusal(reason: str, now: float, grace: float) -> Escalation:
    """SIGKILL, for a run that is stopped."""
    return at_once(Ending(EndingKind.STOPPED, reason), now)
