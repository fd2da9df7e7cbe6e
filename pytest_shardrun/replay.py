"""A run's notices as calls of pytest's hooks."""

from __future__ import annotations

import inspect
import sys
import types
import warnings
from collections import Counter
from collections.abc import Hashable, Sequence
from typing import Any, Final

import pytest

from . import notices
from .events import Reported, Warned
from .explanations import explain
from .model import Attempt
from .nodes import Headings, Node, ReportNode, Scheduler
from .reporting.stacks import shorten_stacks
from .worker import brief, wire

_TERMINAL: Final = "terminalreporter"


class CollectedNode:
    """Stands for a node that a shard has collected; plugins may set attributes of it."""

    def __init__(self, nodeid: str) -> None:
        self.nodeid = nodeid

    @property
    def id(self) -> Any:
        """The node id in parts, where pytest has such: a report of the node has it, too."""
        report: Any = pytest.CollectReport(self.nodeid, "passed", None, [])
        return report.id

    @property
    def name(self) -> str:
        return self.nodeid.rpartition("::")[2]

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.nodeid}>"


class BlameRepr:
    """The explanation of a test that is blamed for something, or of what no test stands for."""

    def __init__(self, message: str, details: str, path: str, line: int) -> None:
        # pytest takes the text of its short summary from here.
        self.reprcrash = types.SimpleNamespace(path=path, lineno=line, message=message)
        self._text = f"{message}\n\n{details}" if details else message

    def __str__(self) -> str:
        return self._text

    def toterminal(self, writer: Any) -> None:
        for line in self._text.splitlines():
            writer.line(line)


class TextRepr:
    """The explanation of a failure that pytest could send as text only."""

    def __init__(self, text: str, *, red: bool) -> None:
        self._text = text
        self._red = red

    def __str__(self) -> str:
        return self._text

    def toterminal(self, writer: Any) -> None:
        writer.line(self._text, red=self._red)


class _Told:
    """What several attempts tell of the same thing counts as often as one of them tells it."""

    def __init__(self) -> None:
        self._most: Counter[Hashable] = Counter()
        self._by_attempt: dict[Attempt, Counter[Hashable]] = {}

    def is_new(self, attempt: Attempt, what: Hashable) -> bool:
        """Take in that the attempt tells it; whether no attempt has told it as often before."""
        told = self._by_attempt.setdefault(attempt, Counter())
        told[what] += 1
        if told[what] <= self._most[what]:
            return False
        self._most[what] = told[what]
        return True

    def forget(self, attempt: Attempt) -> None:
        """This attempt has nothing more to tell."""
        self._by_attempt.pop(attempt, None)


class Replay:
    """Calls the hooks that pytest would have called had the tests run in this process."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._hook = config.hook
        self._collect_reports = _Told()
        self._nodes: dict[str, CollectedNode] = {}
        self._collection_warnings = _Told()
        self._headings = Headings()
        config.pluginmanager.register(self._headings, "shardrun-headings")
        self._node_by_attempt: dict[Attempt, Node] = {}
        self._report_nodes: dict[Attempt, ReportNode] = {}
        self._kinds: dict[str, type[CollectedNode]] = {}
        reporter = config.pluginmanager.get_plugin(_TERMINAL)
        # It announces tests when they start; here a test is shown once, when it is done.
        self._logstart = config.pluginmanager.subset_hook_caller(
            "pytest_runtest_logstart", [reporter] if reporter is not None else []
        )

    def expect(self, attempt: Attempt, node: Node) -> None:
        """Reports of this attempt will come from this node."""
        self._node_by_attempt[attempt] = node
        self._report_nodes[attempt] = ReportNode(attempt, node, self._headings)

    def forget(self, attempt: Attempt) -> None:
        """This attempt has ended."""
        self._collect_reports.forget(attempt)
        self._collection_warnings.forget(attempt)

    def collect_report(self, notice: notices.CollectReported) -> pytest.CollectReport | None:
        """Replay what became of a collector once, however many shards tell of it.

        Two may have one node id: modules of one name in two directories above the root.
        """
        report = self._deserialise(notice.data)
        if not self._collect_reports.is_new(notice.attempt, str(report.nodeid)):
            return None
        self._hook.pytest_collectreport(report=report)
        assert isinstance(report, pytest.CollectReport)
        return report

    def deselected(self, nodeids: Sequence[str]) -> None:
        """Replay the deselection of tests."""
        if nodeids:
            items = [self._nodes.get(nodeid) or CollectedNode(nodeid) for nodeid in nodeids]
            self._hook.pytest_deselected(items=items)

    def reports(
        self,
        done: notices.TestDone,
        captured: Sequence[tuple[str, str]] = (),
        *,
        others_follow: bool = False,
    ) -> list[pytest.TestReport]:
        """The reports of a test, with one of ours where it is blamed for something.

        That one carries what earlier phases and the last, unfinished one have ``captured``.
        Where other tries follow, what has failed in this one is a rerun, as plugins know it.
        """
        reports: list[pytest.TestReport] = []
        is_brief = False
        for event in done.reports:
            before = reports[-1] if reports else None
            reports.append(self._report_of_test(done, event, before, before_is_brief=is_brief))
            is_brief = type(event.data) is list
        if done.blame is not None:
            sections = [*(reports[-1].sections if reports else ()), *captured]
            reports.append(self._blame(done, done.blame, sections))
        if done.is_refused:
            _refuse(reports, done)
        for report in reports:
            if done.is_flaky:
                # Read by reporting.terminal.
                report.shardrun_flaky = True  # type: ignore[attr-defined]
            if others_follow:
                report.shardrun_try = done.number  # type: ignore[attr-defined]
            if others_follow and report.failed:
                report.outcome = "rerun"  # type: ignore[assignment]
        return reports

    def test_done(self, done: notices.TestDone, reports: Sequence[pytest.TestReport]) -> None:
        """Replay all that happened to one test, in one piece."""
        item = done.item
        self._logstart(nodeid=item.nodeid, location=item.location)
        for report in reports:
            self._hook.pytest_runtest_logreport(report=report)
        for warned in done.warnings:
            self.warning(done.attempt, warned)
        self._hook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)

    def stray_report(self, attempt: Attempt, event: Reported) -> None:
        """Replay a report that belongs to no running test."""
        self._hook.pytest_runtest_logreport(report=self._report(attempt, event))

    def warning(self, attempt: Attempt, event: Warned) -> None:
        """Replay a warning; those of the collection once, however many shards saw them."""
        data = event.data
        if event.when == "collect":
            key = (event.nodeid, *(data[name] for name in sorted(data)))
            if not self._collection_warnings.is_new(attempt, key):
                return
        self._hook.pytest_warning_recorded.call_historic(
            kwargs={
                "warning_message": warning_message(data),
                "when": event.when,
                "nodeid": event.nodeid,
                "location": tuple(event.location) if event.location else None,
            }
        )

    def _deserialise(self, data: Any) -> Any:
        unpacked = wire.unpack(data)
        is_text = unpacked.pop("shardrun_text", False)
        result = unpacked.pop("shardrun_result", ())
        report = self._hook.pytest_report_from_serializable(config=self._config, data=unpacked)
        if report is None:
            raise TypeError("no plugin can read a report that a shard sent")
        context = unpacked.get("_subtest.context")
        if context is not None and hasattr(report, "context"):
            # pytest takes the repr of these texts as if they were the values themselves.
            object.__setattr__(report.context, "kwargs", context["kwargs"])
        if result:
            report.result = [self._node(*each) for each in result]
        if is_text:
            # pytest's own colours.
            report.longrepr = TextRepr(report.longrepr, red=report.when == "collect")
        return report

    def _node(self, nodeid: str, kind: str, is_item: bool, line: int | None) -> CollectedNode:
        # Plugins tell the class by its name. A class for each node would take more time and memory
        # than all else about it.
        made = self._kinds.get(kind)
        if made is None:
            made = self._kinds[kind] = type(kind, (CollectedNode,), {})
        node = made(nodeid)
        if is_item:
            node.location = (nodeid.partition("::")[0], line, node.name)  # type: ignore[attr-defined]
            self._nodes[nodeid] = node
        return node

    def _report_of_test(
        self,
        done: notices.TestDone,
        event: Reported,
        before: pytest.TestReport | None,
        *,
        before_is_brief: bool,
    ) -> pytest.TestReport:
        if type(event.data) is not list:
            return self._report(done.attempt, event)
        if before is not None and event.data[3] is None and before_is_brief:
            return brief.restore_next(event.data, before, event.when)
        item = done.item
        report = brief.restore(event.data, before, item.nodeid, item.location, event.when)
        return self._from_shard(done.attempt, report)

    def _report(self, attempt: Attempt, event: Reported) -> pytest.TestReport:
        return self._from_shard(attempt, self._deserialise(event.data))

    def _from_shard(self, attempt: Attempt, report: Any) -> pytest.TestReport:
        node = self._report_nodes[attempt]
        report.node = node
        report.worker_id = node.workerinput["workerid"]
        report.testrun_uid = node.workerinput["testrunuid"]
        assert isinstance(report, pytest.TestReport)
        return report

    def _blame(
        self, done: notices.TestDone, blame: notices.Blame, sections: list[tuple[str, str]]
    ) -> pytest.TestReport:
        item = done.item
        file, line, _ = item.location
        message = f"{blame.ending.reason} ({blame.phase}, shard {done.attempt.shard})"
        output = blame.output
        if not self._config.option.fulltrace:
            output = shorten_stacks(output)
        report = pytest.TestReport(
            nodeid=item.nodeid,
            location=item.location,
            keywords={item.nodeid: 1},
            outcome="failed",
            longrepr=BlameRepr(message, output, file, (line or 0) + 1),  # type: ignore[arg-type]
            when=blame.phase,  # type: ignore[arg-type]
            sections=sections,
            duration=done.seconds,
        )
        # Read by reporting.junit.
        report.shardrun_ending = blame.ending.kind.value  # type: ignore[attr-defined]
        self._from_shard(done.attempt, report)
        # Absent where pytest-xdist's names are forbidden.
        if hasattr(self._hook, "pytest_handlecrashitem"):
            self._hook.pytest_handlecrashitem(
                crashitem=item.nodeid, report=report, sched=Scheduler(self._config)
            )
        return report


def _refuse(reports: list[pytest.TestReport], done: notices.TestDone) -> None:
    """Make the report that decides about a flaky test one of a failure."""
    ends = [report for report in reports if report.when == "call"]
    ends = ends or [report for report in reports if report.skipped] or reports
    report = ends[-1]
    message = f"flaky: passed in try {done.number} (--shard-flaky=fail)"
    lines = [
        f"try {tried.number} failed: {explain(tried.reports, tried.blame)}"
        for tried in done.earlier
    ]
    file, line, _ = done.item.location
    report.outcome = "failed"
    report.longrepr = BlameRepr(message, "\n".join(lines), file, (line or 0) + 1)  # type: ignore[assignment]
    if hasattr(report, "wasxfail"):
        del report.wasxfail


def warning_message(data: dict[str, Any]) -> warnings.WarningMessage:
    """The warning that a shard described; its class is never imported for it."""
    category = _category(data["module"], data["category"])
    if category.__str__ is not Warning.__str__ or not inspect.isbuiltin(category.__new__):
        # It may want more than the text, or show another one.
        category = _stand_in(category.__module__, category.__qualname__)
    message = category.__new__(category)
    message.args = (data["message"],)
    return warnings.WarningMessage(
        message, category, data["filename"], data["lineno"], line=data["line"]
    )


def _category(module: str, qualified_name: str) -> type[Warning]:
    value: Any = sys.modules.get(module)
    for name in qualified_name.split("."):
        value = getattr(value, name, None)
    if isinstance(value, type) and issubclass(value, Warning):
        return value
    return _stand_in(module, qualified_name)


def _stand_in(module: str, qualified_name: str) -> type[Warning]:
    name = qualified_name.rpartition(".")[2]
    return type(name, (Warning,), {"__module__": module, "__qualname__": qualified_name})
