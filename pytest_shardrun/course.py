"""The course of a run, told to pytest."""

from __future__ import annotations

import gc
import itertools
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from . import notices
from .actions import Launch, Stop
from .captured import read_captured
from .cpus import usable_cpus
from .events import Reported, Warned, XmlRecorded
from .executors.base import Executor, LaunchOrder, StartsOneFirst, TellsHow
from .executors.forking import ForkingExecutor
from .executors.memory import room_for_attempts
from .identity import CACHE_NAME
from .lifecycle import after_stop
from .lock_directory import lock_directory
from .locks import Locks
from .model import Attempt, EndingKind, HaltWhy, Item, Plan
from .orders import Orders
from .planning.outlook import counts_to_show, outlooks
from .planning.splitters import Splitter, make_plan
from .repeating import replay_command
from .replay import Replay
from .reporting.balance import what_if
from .reporting.journal import Journal, journal_directory
from .reporting.outputs import OutputFiles
from .reporting.terminal import ShardTerminal
from .run import Run
from .scratch import Scratch
from .settings import Settings
from .starting import remember_obstacle, spare_from_collection
from .supervisor import Supervisor
from .timekeeping import Timekeeper
from .worker import wire

if TYPE_CHECKING:
    from .reporting.junit_report import JUnitReport

#: After how many tests what was kept of them is left out when garbage is looked for.
_FROZEN_TOGETHER: Final = 500


class Course:
    """The plugin that runs the tests of a session in shards."""

    def __init__(
        self,
        session: pytest.Session,
        settings: Settings,
        run_id: str,
        executor: Executor,
        orders: Orders,
        scratch: Scratch,
        splitter: Splitter,
        junit: JUnitReport | None,
        *,
        clock_started: float,
    ) -> None:
        """``executor`` is prepared and closed by somebody else.

        ``clock_started`` is the monotonic time at which the run began.
        """
        config = self._config = session.config
        self._session = session
        self._settings = settings
        self._run_id = run_id
        self._executor = executor
        self._orders = orders
        self._scratch = scratch
        self._splitter = splitter
        self._junit_report = junit
        self._junit = None if junit is None else junit.writer
        self._open = ExitStack()
        self._collected_after = 0.0
        self._clock_started = clock_started
        #: Processes that ran tests or tried to.
        self._workers = 0
        self._planned: notices.Planned | None = None
        self._refused: list[str] | None = None
        self._collection_errors = 0
        self._stop_asked: notices.StopAskedByTest | None = None
        self._remarks: set[str] = set()
        #: The reports of each failed try of tests that have no final status yet.
        self._tried: dict[int, list[list[pytest.TestReport]]] = {}
        self._broken = False
        self._replayed = 0
        self._red = False
        self._internal_error = False
        self._journal: Journal | None = None
        self._outputs: OutputFiles | None = None
        self._terminal = ShardTerminal(config, run_id)
        if config.pluginmanager.hasplugin("cacheprovider"):
            arguments = [str(each) for each in config.invocation_params.args]
            self._terminal.offer_replay(lambda name: replay_command(arguments, name))
        config.pluginmanager.register(self._terminal, "shardrun-terminal")
        self._open_journal()
        self._replay = Replay(config)
        self._timekeeper = Timekeeper(
            config, self._durations_file(), settings.durations, self._complain
        )
        self._run = Run(
            settings.shards,
            settings.policy,
            self._plan,
            plan_only=settings.plan_only,
            one_first=isinstance(executor, StartsOneFirst),
            continue_on_collection_errors=config.option.continue_on_collection_errors,
        )
        self._supervisor = Supervisor(
            self._run,
            executor,
            self._order_for,
            self._tell,
            self._take_output,
            self._wanted_stop,
            lambda: room_for_attempts(settings.policy.memory),
            Locks(lock_directory()),
            self._rest,
        )
        self._open.enter_context(self._supervisor.signals())

    # The run

    def collect(self) -> None:
        """Let shards collect until there is a plan."""
        self._run_until(lambda: self._run.is_planned)
        if self._refused is not None:
            self._supervisor.close()
            raise pytest.UsageError(*self._refused)

    def _run_until(self, is_reached: Callable[[], bool]) -> None:
        try:
            self._supervisor.run_until(is_reached)
        except BaseException:
            # A plugin's hook raised in this process: the books are closed without its like.
            self._broken = True
            raise

    def _durations_file(self) -> Path | None:
        # Absent with -p no:cacheprovider.
        cache = getattr(self._config, "cache", None)
        if cache is None:
            return None
        try:
            return Path(cache.mkdir(CACHE_NAME)) / "durations.json"
        except OSError as error:
            self._complain(f"durations are not kept: {error}")
            return None

    def _open_journal(self) -> None:
        cache = getattr(self._config, "cache", None)
        if cache is None:
            return
        try:
            self._journal = Journal(journal_directory(cache), self._run_id, self._complain)
        except OSError as error:
            self._complain(f"the journal is not kept: {error}")
            return
        self._open.callback(self._journal.close)
        self._outputs = OutputFiles(self._journal.path.with_suffix(""))
        self._open.callback(self._outputs.close)
        self._journal.write(
            "run",
            {
                "format": 1,
                "run": self._run_id,
                "arguments": [str(each) for each in self._config.invocation_params.args],
                "directory": str(self._config.invocation_params.dir),
                "rootdir": str(self._config.rootpath),
                "shards": self._settings.shards,
                "executor": self._settings.executor,
            },
        )

    def _take_output(self, attempt: Attempt, data: bytes) -> None:
        if self._outputs is not None:
            self._outputs.write(attempt, data)
        self._terminal.show_output(attempt, data)

    def _complain(self, text: str) -> None:
        self._config.issue_config_time_warning(pytest.PytestWarning(f"shardrun: {text}"), 2)

    def _remark(self, text: str) -> None:
        # Each report of a test carries the same properties.
        if text not in self._remarks:
            self._remarks.add(text)
            self._complain(text)

    def _plan(self, items: Sequence[Item]) -> Plan:
        try:
            return make_plan(
                items,
                self._timekeeper.read(items),
                shards=self._settings.shards,
                splitter=self._splitter,
                scope=self._settings.scope,
            )
        except ValueError as error:
            raise pytest.UsageError(f"--shard-split={self._settings.split}: {error}") from error

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        self._run_until(lambda: False)
        self._close_books()
        self._config.hook.pytest_shardrun_finished(config=self._config, run_id=self._run_id)
        self._terminal.add_stats()
        if self._settings.plan_only and self._planned is not None:
            self._terminal.show_plan(self._planned, self._what_if(self._planned))
        self._raise_early_end(session)
        if self._red and not session.testsfailed:
            # pytest's exit code 1, although no test has failed.
            session.testsfailed = 1
        return True

    def _what_if(self, planned: notices.Planned) -> list[str]:
        if not planned.plan.measured:
            return []
        found = outlooks(
            planned.items,
            self._timekeeper.read(planned.items),
            counts_to_show(self._settings.shards, len(planned.items)),
            splitter=self._splitter,
            scope=self._settings.scope,
        )
        return what_if(found, self._collected_after, usable_cpus())

    def _close_books(self) -> None:
        for notice in self._run.close_books():
            self._tell(notice)

    def _raise_early_end(self, session: pytest.Session) -> None:
        """End the session as pytest would have, had it run the tests itself."""
        if self._refused is not None:
            # A test or a hook between the tests has found the options or settings at fault.
            raise pytest.UsageError(*self._refused)
        number = self._supervisor.signalled
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        if number is not None:
            pytest.exit(f"received {signal.Signals(number).name}", returncode=2)
        if self._collection_errors:
            plural = "" if self._collection_errors == 1 else "s"
            raise session.Interrupted(f"{self._collection_errors} error{plural} during collection")
        asked = self._stop_asked
        if asked is not None and asked.kind == "exit":
            pytest.exit(asked.reason, returncode=asked.returncode)
        if session.shouldfail:
            raise session.Failed(session.shouldfail)
        if session.shouldstop:
            raise session.Interrupted(session.shouldstop)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Any:
        # Also after an exception in a hook of this process: no shard survives, no test is lost.
        self._supervisor.close()
        self._close_books()
        self._save()
        if self._junit_report is not None:
            # As long as Ctrl-C cannot be in the way.
            self._junit_report.write(session)
        # Plugins compare it with the number of workers that they have heard of.
        self._config.option.numprocesses = max(1, self._workers)
        self._open.close()
        if self._internal_error and session.exitstatus in (0, 1):
            session.exitstatus = pytest.ExitCode.INTERNAL_ERROR
        return (yield)

    def _save(self) -> None:
        deselected = self._planned is not None and bool(self._planned.deselected)
        deselected = deselected or bool(self._collection_errors)
        self._timekeeper.save(self._run.items, deselected=deselected)

    # Attempts

    def _order_for(self, launch: Launch) -> LaunchOrder:
        attempt = launch.attempt
        order = self._orders.order(attempt, launch.slot, launch.doomed)
        for place, kind in self._orders.lost.pop(attempt):
            self._run.lost(place, kind, attempt)
        self._replay.expect(attempt, self._orders.nodes[attempt])
        return order

    # Notices

    def _tell(self, notice: notices.Notice) -> None:
        # What is kept comes first: nothing that others do with a notice may cost it its place.
        if self._journal is not None:
            self._journal.note(notice)
        match notice:
            case notices.TestDone() if self._broken:
                reports = self._reports(notice, others_follow=False)
                self._keep(notice, reports, others_follow=False)
            case notices.TestTried(done) if self._broken:
                self._keep(done, self._reports(done, others_follow=True), others_follow=True)
            case notices.TestNotRun(position, item, shard, reason, asked):
                self._red = self._red or not asked
                if self._junit is not None:
                    self._junit.add_not_run(shard or 1, position, item, reason, asked=asked)
            case notices.Problem(shard, text, _, internal):
                self._red = True
                self._internal_error = self._internal_error or internal
                if self._junit is not None:
                    self._junit.add_shard_problem(shard or 1, text)
            case _:
                pass
        if not self._broken:
            self._terminal.note(notice)
            self._pass_on(notice)

    def _pass_on(self, notice: notices.Notice) -> None:
        hook = self._config.hook
        match notice:
            case notices.TestDone():
                self._replay_test(notice, others_follow=False)
            case notices.TestTried(done):
                self._replay_test(done, others_follow=True)
            case notices.CollectReported(attempt):
                report = self._replay.collect_report(notice)
                if report is not None and not report.passed and self._junit is not None:
                    self._junit.add_collect_report(attempt.shard, report)
            case notices.Planned():
                self._take_plan(notice)
            case notices.FoundLater(attempt, items):
                self._session.testscollected += len(items)
                self._complain(
                    f"{attempt} collected {len(items)} tests that were not in the plan, "
                    f"{items[0].nodeid} the first of them; it runs them itself"
                )
            case notices.CollectionRefused(messages):
                self._refused = messages
            case notices.CollectionFailed(count, errors):
                self._session.testscollected = count
                self._collection_errors = errors
                self._terminal.count_collected(count)
            case notices.SeenOutsideTests(attempt, event):
                self._see(attempt.shard, notice, event)
            case notices.AttemptReady(attempt, info):
                node = self._orders.nodes[attempt]
                node.workerinfo = {**info, "id": node.gateway.id}
                if hasattr(hook, "pytest_testnodeready"):
                    hook.pytest_testnodeready(node=node)
            case notices.AttemptCollected(attempt, nodeids):
                if hasattr(hook, "pytest_xdist_node_collection_finished"):
                    hook.pytest_xdist_node_collection_finished(
                        node=self._orders.nodes[attempt], ids=nodeids
                    )
            case notices.AttemptEnded():
                self._end_attempt(notice)
            case notices.Remark(text):
                self._remark(text)
            case notices.StopAskedByTest():
                self._note_stop(notice)
            case notices.Halted(why, reason):
                if why is HaltWhy.FAIL:
                    # As pytest itself does it for -x: exit code 1.
                    self._session.shouldfail = self._session.shouldfail or reason
            case _:
                pass

    def _note_stop(self, asked: notices.StopAskedByTest) -> None:
        if self._stop_asked is not None:
            # In one process the second would not have come to ask.
            return
        self._stop_asked = asked
        if asked.kind == "fail":
            self._session.shouldfail = self._session.shouldfail or asked.reason
        elif asked.kind == "stop":
            self._session.shouldstop = self._session.shouldstop or asked.reason

    def _replay_test(self, done: notices.TestDone, *, others_follow: bool) -> None:
        self._replayed += 1
        if self._replayed % _FROZEN_TOGETHER == 0:
            # pytest keeps all reports, and to look for garbage among them over and over takes
            # longer than to replay them.
            gc.freeze()
        if done.blame is not None and done.blame.internal and not others_follow:
            self._internal_error = True
        reports = self._reports(done, others_follow=others_follow)
        try:
            self._replay.test_done(done, reports)
        finally:
            # After the hooks, in which plugins change reports, but also where one of them raises.
            self._keep(done, reports, others_follow=others_follow)

    def _reports(self, done: notices.TestDone, *, others_follow: bool) -> list[pytest.TestReport]:
        captured: list[tuple[str, str]] = []
        if done.blame is not None:
            prefix = self._scratch.capture_prefix(done.attempt)
            if prefix is not None:
                captured = read_captured(prefix, done.blame.phase)
        try:
            return self._replay.reports(done, captured, others_follow=others_follow)
        except Exception as error:
            if self._junit is not None and not others_follow:
                reason = f"{done.status.value}, but its report cannot be read: {error!r}"
                self._junit.add_unread(done.attempt.shard, done.position, done.item, reason)
            if not self._broken:
                raise
            return []

    def _keep(
        self, done: notices.TestDone, reports: list[pytest.TestReport], *, others_follow: bool
    ) -> None:
        if others_follow:
            self._tried.setdefault(done.position, []).append(reports)
        elif reports:
            tried = self._tried.pop(done.position, [])[: len(done.earlier)]
            self._terminal.tried(done, tried)
            self._keep_test(done, [*itertools.chain(*tried), *reports])

    def _keep_test(self, done: notices.TestDone, reports: Sequence[pytest.TestReport]) -> None:
        if done.blame is None and reports:
            self._timekeeper.note(done)
        if self._junit is not None and reports:
            attributes = {each.name: each.value for each in done.xml}
            self._junit.add_test(
                done.attempt.shard,
                done.position,
                done.item,
                done.status,
                reports,
                attributes=attributes,
            )

    def _take_plan(self, planned: notices.Planned) -> None:
        self._planned = planned
        spare_from_collection(self._config)
        if self._junit_report is not None:
            self._junit_report.shards = [shard.number for shard in planned.plan.shards]
        self._collected_after = time.monotonic() - self._clock_started
        self._session.testscollected = len(planned.items)
        self._replay.deselected(planned.deselected)
        nodeids = [item.nodeid for item in planned.items]
        newest: Any = self._config.pluginmanager.get_plugin("nfplugin")
        if newest is not None:
            # --nf remembers what it has seen where it collects, which is not in this process.
            # Since pytest 9.1 they are no texts, and the same one as a text is another one.
            known = {str(each) for each in newest.cached_nodeids}
            newest.cached_nodeids.update(each for each in nodeids if each not in known)
        reporter: Any = self._config.pluginmanager.get_plugin("terminalreporter")
        stats = {} if reporter is None else reporter.stats
        self._terminal.collected(
            planned, len(stats.get("error", ())), len(stats.get("skipped", ()))
        )
        if isinstance(self._executor, TellsHow):
            self._terminal.tell_start(self._executor.how(), wanted=self._settings.start)
            remember_obstacle(self._config, self._executor)
        if self._settings.isolate == "test" and isinstance(self._executor, ForkingExecutor):
            self._refuse_isolation(self._executor.obstacle, len(planned.items))
        self._config.hook.pytest_shardrun_planned(
            config=self._config, plan=planned.plan, items=planned.items
        )

    def _refuse_isolation(self, obstacle: str, tests: int) -> None:
        if obstacle:
            self._refused = [
                f"--shard-isolate=test needs forks, and there are none here ({obstacle}): a fresh "
                f"interpreter would collect {tests} tests again for each of them; remove the "
                "obstacle, or use --shard-isolate=module"
            ]

    def _see(self, shard: int, notice: notices.SeenOutsideTests, event: object) -> None:
        match event:
            case Reported():
                self._replay.stray_report(notice.attempt, event)
            case Warned():
                self._replay.warning(notice.attempt, event)
            case XmlRecorded(None, name, value) if self._junit is not None:
                self._junit.add_suite_property(shard, name, value)
            case _:
                pass

    def _end_attempt(self, ended: notices.AttemptEnded) -> None:
        node = self._orders.nodes[ended.attempt]
        error = None
        if ended.workeroutput is not None:
            node.workeroutput = wire.unpack(ended.workeroutput)
        else:
            error = ended.ending.reason
        is_surplus = error is not None and ended.ending.kind is EndingKind.STOPPED
        if not is_surplus or self._run.stopped is not None:
            self._workers += 1
        hook = self._config.hook
        if hasattr(hook, "pytest_testnodedown"):
            hook.pytest_testnodedown(node=node, error=error)
        self._replay.forget(ended.attempt)
        self._scratch.take_in(ended.attempt)
        hook.pytest_shardrun_attempt_ended(
            config=self._config, attempt=ended.attempt, ending=ended.ending
        )

    def _rest(self) -> None:
        """There is nothing to do but wait, for a test that hangs perhaps."""
        if self._journal is not None:
            self._journal.flush()

    def _wanted_stop(self) -> Stop | None:
        """What -x, --maxfail or a plugin has set while reports were replayed."""
        reason = self._session.shouldfail or self._session.shouldstop
        # Errors of the collection end the run as pytest does it, when all are known.
        if not reason or self._run.stopped is not None or self._planned is None:
            return None
        return Stop(str(reason), asked=True, escalate=after_stop)
