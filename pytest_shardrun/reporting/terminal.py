"""What a run in shards adds to pytest's terminal."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import pytest

from .. import notices
from ..advice import advice_for, as_lines
from ..explanations import explain
from ..model import Attempt, EndingKind, HaltWhy, Plan, Status
from ..replay import BlameRepr
from .balance import Balance
from .figures import Figures, conclusions, table
from .lines import write_line

#: How many tests that did not run are named; ``-v`` names all.
NAMED_TESTS: Final = 50
#: How many shards have a row in the table and a line to repeat them; ``-v`` shows all.
SHOWN_SHARDS: Final = 20
#: How many numbers are told one by one; of more, the smallest and the largest.
MOST_TOLD: Final = 8

#: Bytes of a line without an end that are shown as they are.
LONGEST_PARTIAL_LINE: Final = 1 << 16
#: Bytes of output that may wait to be shown.
MOST_UNSHOWN: Final = 1 << 20


class ShardTerminal:
    """Writes through pytest's terminal reporter, so that its options hold here, too."""

    def __init__(self, config: pytest.Config, run_id: str) -> None:
        self._config = config
        self._run_id = run_id
        self._reporter: Any = config.pluginmanager.get_plugin("terminalreporter")
        self._unshown: dict[Attempt, bytes] = {}
        self._past_collection: set[Attempt] = set()
        self._problems: list[notices.Problem] = []
        self._leaks: list[notices.Leaked] = []
        self._not_run: list[notices.TestNotRun] = []
        self._tried: list[tuple[notices.TestDone, list[list[pytest.TestReport]]]] = []
        self._collected = 0
        #: Why the run ended early although nothing has failed.
        self._halted = ""
        self._started = time.monotonic()
        self._figures = Figures()
        self._balance = Balance()
        self._replay_command: Callable[[str], str] | None = None
        self._shows_output_at_once = _wants_output(config)

    @property
    def _verbosity(self) -> int:
        return int(self._config.get_verbosity())

    @property
    def _most_shards(self) -> int | None:
        return None if self._verbosity > 0 else SHOWN_SHARDS

    def note(self, notice: notices.Notice) -> None:
        """Take in what the run tells."""
        self._figures.note(notice, time.monotonic())
        self._balance.note(notice)
        self._settle_output(notice)
        match notice:
            case notices.Leaked():
                self._leaks.append(notice)
            case notices.Problem():
                self._problems.append(notice)
            case notices.TestNotRun():
                self._not_run.append(notice)
            case notices.Halted(why, reason) if why is not HaltWhy.FAIL:
                self._halted = reason
            case notices.NoOtherTry(text):
                self._line(text, yellow=True)
            case notices.TestSlow():
                self._line(f"[shard {notice.attempt.shard}] {describe_slow(notice)}", yellow=True)
            case notices.FoundLater(_, items):
                self._collected += len(items)
            case notices.AttemptEnded(attempt, ending) if ending.kind not in (
                EndingKind.COMPLETED,
                EndingKind.STOPPED,
            ):
                self._line(f"[shard {attempt.shard}] {ending.reason}", red=True)
            case _:
                pass

    def collected(self, planned: notices.Planned, errors: int, skipped: int) -> None:
        """Say what was collected as pytest does, then the plan in a line."""
        self._collected = len(planned.items)
        self.count_collected(len(planned.items) + len(planned.deselected))
        if self._reporter is None or self._verbosity < 0:
            return
        deselected = len(planned.deselected)
        found = self._collected + deselected
        parts = [f"collected {found} item{'' if found == 1 else 's'}"]
        if errors:
            parts.append(f"{errors} error{'' if errors == 1 else 's'}")
        if deselected:
            parts.append(f"{deselected} deselected")
        if skipped:
            parts.append(f"{skipped} skipped")
        if found > self._collected:
            parts.append(f"{self._collected} selected")
        self._line(" / ".join(parts), bold=True)
        for line in planned.lines:
            self._line(line)
        if planned.items:
            self._line(describe_plan(planned.plan))

    def tell_start(self, how: str, *, wanted: str) -> None:
        """Say how processes are started where that is not what was to be expected."""
        expected = how == "fork" and wanted in ("auto", "fork")
        if self._reporter is not None and self._verbosity >= (1 if expected else 0):
            self._line(f"shard start: {how}")

    def count_collected(self, count: int) -> None:
        """Make pytest's last line say how many tests were collected."""
        if self._reporter is not None:
            # Counted where pytest collects, which is not in this process.
            self._reporter._numcollected = count

    def show_plan(self, planned: notices.Planned, what_if: Sequence[str]) -> None:
        """Show which test goes to which shard, then these lines; node ids alone with ``-q``."""
        if self._reporter is None:
            return
        by_shard: list[tuple[str, Sequence[int]]] = [
            (
                f"shard {shard.number}: {_tests(len(shard.positions))}"
                + (f", about {shard.expected_seconds:.1f} s" if planned.plan.measured else ""),
                shard.positions,
            )
            for shard in planned.plan.shards
        ]
        if planned.plan.serial:
            count = _tests(len(planned.plan.serial))
            by_shard.append((f"alone, after the others: {count}", planned.plan.serial))
        quiet = self._verbosity < 0
        for title, positions in by_shard:
            if not quiet:
                self._line("")
                self._line(title, bold=True)
            for position in positions:
                nodeid = planned.items[position].nodeid
                self._line(nodeid if quiet else f"  {nodeid}")
        if not quiet and what_if:
            self._line("")
            self._line("what other numbers of shards would take", bold=True)
            for line in what_if:
                self._line(line)
        if not quiet:
            loaded = self._config.pluginmanager.list_plugin_distinfo()
            for line in as_lines(advice_for(each.project_name for _, each in loaded)):
                self._line(line)

    def show_output(self, attempt: Attempt, data: bytes) -> None:
        """Take what a shard writes past pytest's capture; empty data is the end.

        It is shown line by line with the shard's name: at once with ``-s`` and its like, else when
        the test that was running is done, unless it becomes part of the report of a crash.
        """
        unshown = self._unshown.get(attempt, b"") + data
        if len(unshown) > MOST_UNSHOWN:
            unshown = b"(cut)\n" + unshown[-MOST_UNSHOWN:]
        self._unshown[attempt] = unshown
        if self._shows_output_at_once:
            self._show_unshown(attempt, partial=not data)

    def _show_unshown(self, attempt: Attempt, *, partial: bool) -> None:
        *lines, rest = self._unshown.pop(attempt, b"").split(b"\n")
        partial = partial or len(rest) > LONGEST_PARTIAL_LINE
        if rest and partial:
            lines.append(rest)
        elif rest:
            self._unshown[attempt] = rest
        for line in lines:
            text = line.decode("utf-8", "backslashreplace").rstrip("\r")
            self._line(f"[shard {attempt.shard}] {text}")

    def _settle_output(self, notice: notices.Notice) -> None:
        match notice:
            case notices.TestDone(attempt) | notices.TestTried(notices.TestDone(attempt)) if (
                _blame_of(notice) is None
            ):
                # What is shown at once may be behind: the rest of a line can still come.
                self._show_unshown(attempt, partial=not self._shows_output_at_once)
            case notices.AttemptEnded(attempt, ending) if (
                attempt in self._past_collection and ending.kind is EndingKind.COMPLETED
            ):
                self._show_unshown(attempt, partial=True)
            case notices.AttemptCollected(attempt) | notices.AttemptEnded(attempt):
                # Every shard says the same when it starts; what it said when it crashed is shown
                # with the crash, and what pytest refused is said by this process.
                self._past_collection.add(attempt)
                if not self._shows_output_at_once:
                    self._unshown.pop(attempt, None)
            case _:
                pass

    def tried(self, done: notices.TestDone, reports: list[list[pytest.TestReport]]) -> None:
        """Take in the reports of the tries before the last one of a test."""
        if reports:
            self._tried.append((done, reports))

    @pytest.hookimpl(tryfirst=True)
    def pytest_report_teststatus(self, report: pytest.TestReport) -> Any:
        if getattr(report, "shardrun_try", 0):
            # Whatever it is, the test has not come to its end and is counted later.
            again = str(report.outcome) == "rerun"
            return "", "R" if again else "", ("RETRY", {"yellow": True}) if again else ""
        is_flaky = getattr(report, "shardrun_flaky", False)
        if is_flaky and report.when == "call" and report.passed and not hasattr(report, "wasxfail"):
            return "flaky", "f", ("FLAKY", {"yellow": True})
        return None

    def offer_replay(self, command: Callable[[str], str]) -> None:
        """Remember how a shard is run again, by its name."""
        self._replay_command = command

    def add_stats(self) -> None:
        """Put what no report stands for into pytest's own summary line."""
        if self._reporter is None:
            return
        # The public ``stats`` would do, but a category that is new there has no colour and no place
        # in the summary line.
        add = self._reporter._add_stats
        if self._problems:
            add("error", [_report_of(problem) for problem in self._problems])
        if self._not_run:
            add("not run", [_report_of_missing(each) for each in self._not_run])

    @pytest.hookimpl(trylast=True)
    def pytest_terminal_summary(self) -> None:
        if self._reporter is None:
            return
        if self._halted:
            self._reporter.write_sep("!", self._halted, yellow=True)
        self._summarise_tries()
        self._summarise_not_run()
        self._summarise_leaks()
        if self._verbosity >= 0 and self._figures.statuses:
            self._summarise_shards()
        self._offer_replays()

    def _summarise_tries(self) -> None:
        if not self._tried:
            return
        self._section("tests that were tried again", yellow=True)
        for done, tries in self._tried:
            if done.is_flaky and self._config.option.tbstyle not in ("no", "line"):
                for number, reports in enumerate(tries, start=1):
                    self._show_try(done, number, len(tries) + 1, reports)
        for done, _ in self._tried:
            for line in describe_tries(done):
                self._line(line)

    def _show_try(
        self, done: notices.TestDone, number: int, tries: int, reports: list[pytest.TestReport]
    ) -> None:
        self._reporter.write_sep("_", f"{done.item.nodeid}: try {number} of {tries}", yellow=True)
        for report in reports:
            if str(report.outcome) == "rerun":
                # Private, but nothing else shows captured output as --show-capture wants it.
                self._reporter._outrep_summary(report)

    def _summarise_not_run(self) -> None:
        if not self._not_run:
            return
        self._section("tests that were not run", yellow=True)
        named = self._not_run if self._verbosity > 0 else self._not_run[:NAMED_TESTS]
        for each in named:
            shard = f"[shard {each.shard}] " if each.shard else ""
            word = "STOPPED" if each.phase else "NOT RUN"
            self._line(f"{shard}{word} {each.item.nodeid} - {each.reason}")
        if len(named) < len(self._not_run):
            self._line(f"... and {len(self._not_run) - len(named)} more (-v names all)")

    def _summarise_leaks(self) -> None:
        if not self._leaks:
            return
        self._section("processes that were left behind", yellow=True)
        named = self._leaks if self._verbosity > 0 else self._leaks[:NAMED_TESTS]
        for each in named:
            self._line(f"[shard {each.attempt.shard}] {each}")
        if len(named) < len(self._leaks):
            self._line(f"... and {len(self._leaks) - len(named)} more (-v names all)")

    def _summarise_shards(self) -> None:
        wall = time.monotonic() - self._started
        self._section("shards")
        for line in table(self._figures, wall, self._most_shards):
            self._line(line)
        for line in conclusions(self._figures, wall, self._started):
            self._line(line)
        busy = [each.busy_seconds for each in self._figures.shards.values()]
        for line in self._balance.lines(busy):
            self._line(line)
        ledger = describe_ledger(self._collected, self._figures.statuses)
        flaky = self._figures.flaky
        self._line(f"{ledger}; {flaky} of them flaky" if flaky else ledger)

    def _offer_replays(self) -> None:
        failed = [each for each in self._figures.shards.values() if each.failed]
        if not failed or self._replay_command is None:
            return
        failed.sort(key=lambda each: each.number)
        shown = failed[: self._most_shards]
        for figures in shown:
            self._line(
                f"to repeat shard {figures.number} ({figures.failed} failed): "
                f"{self._replay_command(f'{self._run_id}:{figures.number}')}"
            )
        if len(shown) < len(failed):
            self._line(f"... and {len(failed) - len(shown)} more (-v shows all)")

    def _section(self, title: str, **markup: bool) -> None:
        # The line of the last test may still be open.
        self._reporter.ensure_newline()
        self._reporter.section(title, "=", **markup)

    def _line(self, text: str, **markup: bool) -> None:
        write_line(self._reporter, text, **markup)


def _wants_output(config: pytest.Config) -> bool:
    """Whether pytest would show on the terminal what tests and fixtures write there."""
    if config.getoption("capture", "fd") in ("no", "tee-sys"):
        return True
    if config.getoption("setupshow", False) or config.getoption("setuponly", False):
        return True
    if not config.pluginmanager.hasplugin("logging-plugin"):
        return False
    return bool(config.getoption("log_cli_level") or config.getini("log_cli"))


def describe_plan(plan: Plan) -> str:
    """The plan in a line: how many tests, and how long where that is known."""
    counts = [len(shard.positions) for shard in plan.shards]
    text = f"plan {plan.digest[:8]}: {len(counts)} shard{'' if len(counts) == 1 else 's'} of "
    text += f"{_enumerate(counts)} test{'' if set(counts) == {1} else 's'}"
    if plan.serial:
        text += f", {len(plan.serial)} alone at the end"
    if plan.measured:
        seconds = [shard.expected_seconds for shard in plan.shards]
        text += f", expected to take {_enumerate(seconds, digits=1)} s"
    return text


def _blame_of(notice: notices.TestDone | notices.TestTried) -> notices.Blame | None:
    return notice.done.blame if isinstance(notice, notices.TestTried) else notice.blame


def describe_tries(done: notices.TestDone) -> list[str]:
    """What came of each try of a test, in a line each."""
    if not done.is_flaky:
        lines = [f"FAILED {done.item.nodeid} in all of {len(done.earlier) + 1} tries"]
    elif done.is_refused:
        lines = [f"FLAKY {done.item.nodeid}: passed in try {done.number}, which is not enough"]
    else:
        lines = [f"FLAKY {done.item.nodeid}: {done.status.value} in try {done.number}"]
    last = () if done.is_flaky else (done,)
    for tried in (*done.earlier, *last):
        message = explain(tried.reports, tried.blame).partition("\n")[0]
        lines.append(f"  try {tried.number} ({tried.attempt}, {tried.seconds:.2f}s): {message}")
    return lines


def describe_slow(slow: notices.TestSlow) -> str:
    """A line about a test that has been running for long."""
    limit = f", ended after {slow.limit:g} s" if slow.limit is not None else ""
    return f"SLOW {slow.item.nodeid}: {slow.seconds:.1f} s, in its {slow.phase}{limit}"


def describe_ledger(collected: int, statuses: dict[Status, int]) -> str:
    """The sums of the run, which must be those of the collection."""
    parts = [f"{count} {status.value}" for status in Status if (count := statuses.get(status, 0))]
    return f"ledger: {collected} collected = {' + '.join(parts) or '0'}"


def _report_of(problem: notices.Problem) -> pytest.TestReport:
    name = f"shard {problem.shard}" if problem.shard else "the run"
    # A mere text is not shown in the short summary before pytest 9.
    explanation: Any = BlameRepr(problem.text, problem.output, "", 0)
    return pytest.TestReport(
        nodeid=name,
        location=("", None, name),
        keywords={},
        outcome="failed",
        longrepr=explanation,
        when="teardown",
    )


def _report_of_missing(notice: notices.TestNotRun) -> pytest.TestReport:
    # Plugins walk through all statistics and expect reports there.
    file, line, _ = notice.item.location
    return pytest.TestReport(
        nodeid=notice.item.nodeid,
        location=notice.item.location,
        keywords={},
        outcome="skipped",
        longrepr=(file, line or 0, notice.reason),
        when="setup",
    )


def _tests(count: int) -> str:
    return f"{count} test{'' if count == 1 else 's'}"


def _enumerate(values: Sequence[float], digits: int = 0) -> str:
    texts = [f"{value:.{digits}f}" for value in values]
    if len(set(texts)) == 1:
        return texts[0]
    if len(texts) > MOST_TOLD:
        return f"{min(values):.{digits}f} to {max(values):.{digits}f}"
    return f"{', '.join(texts[:-1])} and {texts[-1]}"
