"""One pytest session that asks for its tests."""

from __future__ import annotations

import contextlib
import hashlib
import linecache
import os
import pdb
import sys
import time
import warnings
from collections import deque
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any, Final

import pytest

# No public name says where the object of a warning was allocated, which only this process knows.
from _pytest.warnings import warning_record_to_str

from . import (
    brief,
    capturing,
    conftests,
    fixture,
    limits,
    needs,
    options,
    stand_ins,
    terminal,
    wire,
    xdist,
)
from .children import Children
from .fixtures import SharedFixtures
from .recorder import record_xml
from .stream import Stream
from .warm import Warm

#: How pytest_shardrun.plugin knows that it is in a worker and has nothing to do.
PLUGIN_NAME: Final = "shardrun-worker"

#: What becomes text without shards, too, so that nothing is lost: in JUnit files, in the names of
#: subtests, and in JSON, where whatever a log record has is written with ``default=str``.
_READ_AS_TEXT: Final = (
    "report.user_properties",
    "report._subtest.context",
    "report._json_report_extra",
)

_GROUP_MARKS: Final = ("shard_group", "xdist_group")


def run_session(stream: Stream, launch: Mapping[str, Any], warm: Warm | None = None) -> int | None:
    """Run pytest; the exit status to leave with where it could not say goodbye."""
    worker = ShardWorker(stream, launch, warm)
    try:
        status = pytest.main(launch["args"], plugins=[worker])
    except Exception as error:
        if not worker.said_goodbye:
            raise
        # All results are with the controller; a plugin failed to clean up behind them.
        sys.stderr.write(f"pytest_unconfigure: {type(error).__name__}: {error}\n")
    else:
        if not worker.said_goodbye:
            return int(status)
    finally:
        worker.close()
    return None


class ShardWorker:
    """The plugin that makes a pytest session take its tests from a stream and report to it."""

    #: pluggy's name of a plugin that is passed as an object.
    __name__ = PLUGIN_NAME

    def __init__(self, stream: Stream, launch: Mapping[str, Any], warm: Warm | None = None) -> None:
        self._stream = stream
        self._launch = launch
        self._warm = warm
        self._config: pytest.Config
        self._session: pytest.Session
        self._scratch: Path | None = None
        self._output = terminal.open_output()
        self._clock = time.perf_counter
        self._fixtures = SharedFixtures()
        self._queue: deque[int] = deque()
        self._more = True
        self._finishing = False
        self._running: int | None = None
        #: What was reported of the running test by phase, as far as there are only times.
        self._briefs: dict[str, str] = {}
        self._has_reported = False
        self._collecting = ""
        self._collectors: list[pytest.CollectReport] = []
        self._deselected: list[str] = []
        self._has_refused = False
        self._workeroutput: dict[str, Any] = {}
        self._has_finished = False
        self._may_abridge = False
        self._children = Children()
        self.said_goodbye = False

    # Options and identity

    @pytest.hookimpl
    def pytest_addoption(self, parser: pytest.Parser) -> None:
        options.add_options(parser)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_load_initial_conftests(
        self, early_config: pytest.Config
    ) -> Generator[None, Any, Any]:
        known = early_config.known_args_namespace
        if hasattr(known, "cov_append"):
            # Old data is cleared by the controller, once. Each process would do that when it
            # starts, and with it clear what other shards have measured until then.
            known.cov_append = True
        try:
            return (yield)
        except conftests.ConftestImportFailure as error:
            # Where the controller has it, this process has crashed like any other.
            if self._launch.get("lacks_conftest"):
                self._refuse(pytest.UsageError(conftests.explain(error)))
            raise

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_cmdline_main(self, config: pytest.Config) -> Generator[None, Any, Any]:
        # Before pytest_configure, where plugins ask who they are.
        self._config = config
        if "workerinput" not in self._launch:
            # The controller was not configured yet when it forked this process.
            assert self._warm is not None
            self._launch = self._warm.wait_for_launch()
        launch = self._launch
        self._scratch = Path(launch["basetemp"]).parent if launch["basetemp"] else None
        if self._warm is None:
            workerinput = wire.unpack(launch["workerinput"])
        else:
            workerinput = self._warm.take_launch(launch)
            self._stream.remember()
        config.workerinput = workerinput  # type: ignore[attr-defined]
        config.workeroutput = self._workeroutput  # type: ignore[attr-defined]
        option = config.option
        option.basetemp = self._launch["basetemp"]
        option.log_file = self._launch["log_file"]
        # Done by the controller, once.
        option.cacheclear = False
        option.usepdb = False
        option.numprocesses = None
        option.dist = "no"
        option.tx = []
        xdist.stand_in_for_xdist(config)
        config.pluginmanager.register(fixture, "shardrun-identity")
        options.add_markers(config)
        try:
            return (yield)
        except pytest.UsageError as error:
            # A plugin refuses what it was asked for in a worker.
            self._refuse(error)
            raise

    def _refuse(self, error: pytest.UsageError) -> None:
        if not self._has_refused:
            self._has_refused = True
            self._send("usage_error", [str(each) for each in error.args])

    @pytest.hookimpl(trylast=True)
    def pytest_configure(self, config: pytest.Config) -> None:
        config.pluginmanager.register(self._fixtures, "shardrun-fixtures")
        self._silence()
        record_xml(config, self._record_xml)

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionstart(self, session: pytest.Session) -> None:
        self._session = session
        # A plugin may have put a reporter of its own in place while it was configured.
        self._silence()
        if self._warm is None:
            self._keep_captured()
        # Where pytest has put its own, as a pytest that a test calls does again for its tests;
        # breakpoint() leads there, too.
        pdb.set_trace = pytest.set_trace = _refuse_debugger
        self._send("hello", wire.PROTOCOL, _describe_python())

    def close(self) -> None:
        """Give back what the interpreter would complain of at its end."""
        # A test may have closed its descriptor.
        with contextlib.suppress(OSError):
            self._output.close()

    def _keep_captured(self) -> None:
        if self._launch["capture"] is not None:
            capturing.capture_into(self._config, self._launch["capture"])

    def _silence(self) -> None:
        terminal.silence(
            self._config,
            self._output,
            markup=self._launch["markup"],
            width=self._launch["width"],
        )

    def tell_keeping(self) -> None:
        """This process has set up something for all shards, and will clean it up."""
        self._send("keeping")

    def _record_xml(self, nodeid: str | None, name: str, value: str) -> None:
        self._stream.put("xml", nodeid, name, value)

    # Collection

    @pytest.hookimpl(tryfirst=True)
    def pytest_ignore_collect(self, collection_path: Path) -> bool | None:
        # A --basetemp among the tests: shards that are ahead make and remove directories there.
        return True if collection_path == self._scratch else None

    @pytest.hookimpl
    def pytest_collectstart(self, collector: pytest.Collector) -> None:
        if isinstance(collector, (pytest.File, pytest.Directory)):
            self._tell_collecting(str(collector.nodeid))

    def _tell_collecting(self, nodeid: str) -> None:
        # At once: what is imported next may end the process.
        self._collecting = nodeid
        self._send("collecting", nodeid)

    @pytest.hookimpl(tryfirst=True)
    def pytest_make_collect_report(
        self, collector: pytest.Collector
    ) -> pytest.CollectReport | None:
        reason = self._launch["doomed"].get(collector.nodeid)
        if reason is None:
            return None
        return pytest.CollectReport(collector.nodeid, "failed", reason, [])

    @pytest.hookimpl
    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.passed:
            # One shard is asked for them; all have the same.
            self._collectors.append(report)
        else:
            self._stream.put("collect_report", self._serialise(report))
        if str(report.nodeid) == self._collecting:
            self._tell_collecting("")

    @pytest.hookimpl
    def pytest_deselected(self, items: list[pytest.Item]) -> None:
        # pytest only counts them: a plugin may pass anything for what it has not even collected.
        self._deselected += [str(getattr(item, "nodeid", "")) for item in items]

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_collection(self, session: pytest.Session) -> Generator[None, Any, Any]:
        if self._warm is not None:
            # The earlier the better: others wait for this process.
            warm, self._warm = self._warm, None
            if warm.can_fork(self._config, self._stream):
                self._warm = warm
            else:
                self._keep_captured()
        try:
            result = yield
            # A mark with an impossible value is refused like an impossible argument.
            digest = _digest(session.items)
        except pytest.UsageError as error:
            self._refuse(error)
            raise
        self._send("collected", len(session.items), digest, session.testsfailed)
        if not _is_interrupted(session):
            if self._warm is not None:
                warm, self._warm = self._warm, None
                if warm.can_fork(self._config, self._stream):
                    self._launch = warm.serve(self._config, self._stream)
                self._keep_captured()
                self._memory_ends = "SHARDRUN_ADDRESS_SPACE" in os.environ
            # The controller may not know these tests yet; what comes next may end the process.
            self._receive(wait=True)
        return result

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        if session.config.option.maxfail != 1 or self._launch["retries"]:
            # One failure is enough in any shard; to count more takes all of them, and one that
            # may be followed by another try is none yet.
            session.config.option.maxfail = 0
        if _is_interrupted(session):
            return True
        self._may_abridge = brief.nobody_else_serialises(session.config)
        while self._prepare_next():
            position = self._queue.popleft()
            nextitem = session.items[self._queue[0]] if self._queue else None
            is_last = self._is_last(session.items[position], nextitem)
            self._run_one(position, None if is_last else nextitem)
            if session.shouldfail or session.shouldstop:
                kind = "fail" if session.shouldfail else "stop"
                self._stream.put("stop", kind, str(session.shouldfail or session.shouldstop))
                break
            if is_last:
                # What is left in the queue is for the next process.
                break
        return True

    def _is_last(self, item: pytest.Item, nextitem: pytest.Item | None) -> bool:
        """Whether this process was started for this test, or up to it."""
        match self._launch["isolate"]:
            case "test":
                return True
            case "module":
                return nextitem is None or _module_of(item) != _module_of(nextitem)
            case _:
                return False

    def _prepare_next(self) -> bool:
        """Wait until a test can run: its successor must be known, or that there is none."""
        while True:
            must_wait = not self._queue or (
                len(self._queue) == 1 and self._more and self._launch["isolate"] != "test"
            )
            if self._finishing:
                return bool(self._queue)
            if not self._receive(wait=must_wait):
                return True

    def _receive(self, *, wait: bool) -> bool:
        """Obey one command, waiting for it or not; False where there was none."""
        if wait:
            self._stream.flush()
        try:
            command = self._stream.receive(wait=wait)
        except EOFError:
            # The controller is gone: nobody wants the rest.
            command = ["stop"]
        if command is not None:
            self._obey(command)
        return command is not None

    def _obey(self, command: list[Any]) -> None:
        match command:
            case ["run", _, _] if self._finishing:
                # Sent before the controller knew that the end was asked for.
                pass
            case ["run", positions, more]:
                self._queue.extend(positions)
                self._more = more
            case ["list"]:
                for report in self._collectors:
                    data = self._serialise(report)
                    data["shardrun_result"] = [_describe_node(node) for node in report.result]
                    self._stream.put("collect_report", data)
                self._send(
                    "collection",
                    _describe_collection(self._session, self._fixtures),
                    *self._extras(),
                )
            case ["finish"]:
                self._finishing = True
            case ["stop"]:
                self._queue.clear()
                self._finishing = True
            case _:
                raise ValueError(f"unknown command {command!r}")

    def _extras(self) -> tuple[list[str], list[str]]:
        lines: list[str] = []
        answers = self._config.hook.pytest_report_collectionfinish(
            config=self._config,
            start_path=self._config.invocation_params.dir,
            items=self._session.items,
        )
        # The last plugin's lines come first, as pytest itself shows them.
        for answer in reversed(answers):
            lines += [answer] if isinstance(answer, str) else answer
        return self._deselected, lines

    # Tests

    def _run_one(self, position: int, nextitem: pytest.Item | None) -> None:
        item = self._session.items[position]
        self._running = position
        # A plugin may keep the report of a set-up to itself, as flaky does.
        self._has_reported = False
        self._briefs.clear()
        # Whatever it does to its process or to the stream, it is known that this test runs.
        self._stream.put_text(f'"start",{position}')
        self._stream.flush()
        first = self._stream.sequence
        self._fixtures.reset()
        started = self._clock()
        self._config.hook.pytest_runtest_protocol(item=item, nextitem=nextitem)
        seconds = self._clock() - started
        # Before the test is over: it is to blame where the stream is gone.
        self._stream.check()
        self._finish(position, first, seconds)
        self._running = None

    def _finish(self, position: int, first: int, seconds: float) -> None:
        stream = self._stream
        for child in self._children.new():
            stream.put("child", child)
        if shared := self._fixtures.seconds:
            stream.put("finish", position, seconds, shared, self._fixtures.setup_seconds)
        elif (
            tuple(self._briefs) == brief.PHASES
            and stream.sequence - first == len(brief.PHASES)
            and stream.holds(first)
        ):
            stream.fold(first, f'"passed",{position},{seconds!r},{",".join(self._briefs.values())}')
        else:
            stream.put_text(f'"finish",{position},{seconds!r}')

    @pytest.hookimpl
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        # Where the test has closed the stream, what is left of it cannot be trusted.
        self._stream.check()
        self._fixtures.reported(report)
        if report.when == "call":
            # Built-in subtests change the report of the whole test in this hook.
            self._config.hook.pytest_report_teststatus(report=report, config=self._config)
        xfail = hasattr(report, "wasxfail")
        data = None
        if self._running is not None and self._may_abridge:
            item = self._session.items[self._running]
            data = brief.abridge(report, item, is_first=not self._has_reported)
        self._has_reported = True
        if data is not None:
            text = brief.text_of(data)
            self._briefs[report.when] = text
            self._stream.put_text(f'"report",{self._running},"{report.when}","passed",false,{text}')
        else:
            data = self._serialise(report)
            self._stream.put("report", self._running, report.when, report.outcome, xfail, data)
        if report.when != "teardown":
            # At once: who sees the process die next must know how far the test had come.
            self._stream.secure()

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_makereport(self, call: pytest.CallInfo[Any]) -> None:
        excinfo = call.excinfo
        # The limit is one on the address space, where no kernel ends the process.
        is_limited = "SHARDRUN_ADDRESS_SPACE" in os.environ
        if is_limited and excinfo is not None and excinfo.errisinstance(MemoryError):
            # What a test still holds would make all after it fail: they go to a new process.
            self._output.write(f"{self._explain(excinfo)}\n")
            self._output.flush()
            self._send("out_of_memory")
            os._exit(1)

    @pytest.hookimpl
    def pytest_warning_recorded(
        self,
        warning_message: warnings.WarningMessage,
        when: str,
        nodeid: str,
        location: tuple[str, int, str] | None,
    ) -> None:
        # The controller is configured in the same way and has these warnings itself.
        if when != "config":
            data = _describe_warning(warning_message)
            self._stream.put("warning", self._running, data, when, str(nodeid), location)

    @pytest.hookimpl
    def pytest_internalerror(self, excrepr: object) -> None:
        self._send("internal_error", str(excrepr))

    @pytest.hookimpl
    def pytest_keyboard_interrupt(self, excinfo: pytest.ExceptionInfo[BaseException]) -> None:
        value = excinfo.value
        if isinstance(value, pytest.exit.Exception):
            self._send("exit", str(value.msg), value.returncode)
        else:
            self._send("interrupted", self._explain(excinfo))

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_sessionfinish(
        self, session: pytest.Session, exitstatus: int
    ) -> Generator[None, Any, Any]:
        self._workeroutput["exitstatus"] = int(exitstatus)
        # A reason may be any object.
        self._workeroutput["shouldfail"] = session.shouldfail and str(session.shouldfail)
        self._workeroutput["shouldstop"] = session.shouldstop and str(session.shouldstop)
        self._send("finishing")
        result = yield
        self._has_finished = True
        return result

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_unconfigure(self) -> Generator[None, Any, Any]:
        # Called after a plugin has raised in pytest_sessionfinish, too: that is no goodbye.
        if self._has_finished:
            self.said_goodbye = True
            if self._warm is not None:
                self._warm.end()
            output = self._pack(self._workeroutput, "workeroutput")
            self._send("goodbye", self._workeroutput["exitstatus"], output)
        return (yield)

    def _explain(self, excinfo: pytest.ExceptionInfo[BaseException]) -> str:
        if self._running is None:
            return str(excinfo.getrepr(style="short"))
        return str(self._session.items[self._running].repr_failure(excinfo))

    def _serialise(self, report: pytest.CollectReport | pytest.TestReport) -> Any:
        data = self._config.hook.pytest_report_to_serializable(config=self._config, report=report)
        if data is None:
            raise TypeError(
                f"no plugin can serialise a {type(report).__name__} for {report.nodeid}: "
                "implement pytest_report_to_serializable"
            )
        explanation = data.get("longrepr")
        if not isinstance(explanation, (str, tuple, dict, type(None))):
            # pytest shows the text of what is no explanation that it knows.
            explanation = data["longrepr"] = stand_ins.texts_of(explanation)[0]
        if isinstance(explanation, str) and not isinstance(report.longrepr, str):
            # pytest keeps the text alone, but shows a text otherwise than an object.
            data["shardrun_text"] = True
        return self._pack(data, "report")

    def _pack(self, value: object, path: str) -> Any:
        told: set[tuple[str, str]] = set()

        def complain(place: str, lost: object) -> None:
            kind = (place, stand_ins.name_of(type(lost)))
            if kind not in told and not _is_text_enough(place):
                told.add(kind)
                self._stream.put("lossy", self._running, *kind)

        return wire.pack(value, complain, path)

    def _send(self, *event: object) -> None:
        self._stream.put(*event)
        self._stream.flush()


def _is_text_enough(place: str) -> bool:
    """Whether those who read this of a report make it a text in any case."""
    return any(place == known or place.startswith(f"{known}.") for known in _READ_AS_TEXT)


def _module_of(item: pytest.Item) -> str:
    return str(item.nodeid).partition("::")[0]


def _refuse_debugger(*args: object, **keywords: object) -> None:
    raise RuntimeError(
        "a debugger needs a terminal and a shard has none: run this test without --shards"
    )


def _is_interrupted(session: pytest.Session) -> bool:
    """Whether pytest would not run the tests, because of errors in their collection."""
    return bool(session.testsfailed) and not session.config.option.continue_on_collection_errors


def _marked(item: pytest.Item) -> tuple[str | None, bool]:
    names: set[str] = set()
    serial = False
    for mark in item.iter_markers():
        if mark.name == "shard_serial":
            serial = True
        elif mark.name in _GROUP_MARKS:
            names.add(str(mark.args[0] if mark.args else mark.kwargs.get("name", "default")))
    return "_".join(sorted(names)) or None, serial


def _digest(items: list[pytest.Item]) -> str:
    hashed = hashlib.sha256()
    for item in items:
        group, serial = _marked(item)
        line = f"{item.nodeid}\0{group or ''}\0{serial}\0{limits.limits_of(item)}"
        if need := needs.need_of(item):
            line += f"\0{need}"
        line += "\n"
        hashed.update(line.encode("utf-8", "surrogatepass"))
    return hashed.hexdigest()


def _describe_collection(session: pytest.Session, fixtures: SharedFixtures) -> list[Any]:
    described = []
    for item in session.items:
        group, serial = _marked(item)
        file, line, domain = item.location
        found = limits.limits_of(item)
        scope = fixtures.scope_of(item)
        row: list[Any] = [str(item.nodeid), file, line, domain, group, serial, list(found), scope]
        if need := needs.need_of(item):
            row.append(need)
        described.append(row)
    return described


def _describe_node(node: pytest.Item | pytest.Collector) -> list[Any]:
    line = node.location[1] if isinstance(node, pytest.Item) else None
    return [str(node.nodeid), type(node).__name__, isinstance(node, pytest.Item), line]


def _describe_python() -> dict[str, Any]:
    return {
        "version": sys.version,
        "version_info": list(sys.version_info),
        "sysplatform": sys.platform,
        "executable": sys.executable,
        "cwd": os.getcwd(),
        "pytest": pytest.__version__,
        "pid": os.getpid(),
    }


def _describe_warning(recorded: warnings.WarningMessage) -> dict[str, Any]:
    category = recorded.category
    return {
        "message": str(recorded.message),
        "module": category.__module__,
        "category": category.__qualname__,
        "filename": str(recorded.filename),
        "lineno": recorded.lineno,
        "line": recorded.line if recorded.source is None else _line_with_source(recorded),
    }


def _line_with_source(recorded: warnings.WarningMessage) -> str:
    """The line of the code, with what pytest says of the object that the warning is about."""
    message = str(recorded.message), recorded.category, recorded.filename, recorded.lineno
    line = recorded.line
    if line is None:
        line = linecache.getline(recorded.filename, recorded.lineno)
    told = warning_record_to_str(recorded).removeprefix(warnings.formatwarning(*message, line))
    return f"{line.strip()}\n{told}"
