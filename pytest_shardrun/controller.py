"""What comes before the course of a run."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Any

import pytest

from .executors.base import BeginsEarly, Executor, LaunchError
from .identity import CACHE_NAME, RunIdentity
from .importing import as_written
from .orders import Orders
from .reporting.hints import coverage_hint
from .reporting.lines import write_line
from .scratch import Scratch
from .settings import Settings

if TYPE_CHECKING:
    from .planning.splitters import Splitter
    from .reporting.junit_report import JUnitReport


class Controller:
    """The plugin of the process that the user started, where shards were asked for.

    It begins the first attempt and leaves all else to the course of the run, whose modules are
    imported while the attempt configures itself and collects.
    """

    def __init__(
        self,
        config: pytest.Config,
        settings: Settings,
        identity: RunIdentity,
        executor: Callable[[str], Executor],
        splitter: Splitter,
        sys_path: Sequence[str],
    ) -> None:
        self._config = config
        self._settings = settings
        self._make_executor = executor
        self._splitter = splitter
        self._run_id = identity.run_id
        self._scratch = Scratch(config)
        self._orders = Orders(config, settings, identity, self._scratch, sys_path)
        self._started = time.time()
        self._clock_started = time.monotonic()
        self._junit: JUnitReport | None = None
        self._open = ExitStack()

    @pytest.hookimpl(trylast=True)
    def pytest_configure(self, config: pytest.Config) -> None:
        reporter: Any = config.pluginmanager.get_plugin("terminalreporter")
        if reporter is not None:
            # Tests of several files end in turn: their letters make one line.
            reporter.showfspath = False
        path = config.getoption("xmlpath", None)
        if path:
            # Imported where it is needed: XML takes longer than a small suite.
            with as_written(config.pluginmanager):
                from .reporting.junit_report import JUnitReport

            self._junit = JUnitReport(config, path, started=self._started)
            config.pluginmanager.register(self._junit, "shardrun-junit")

    @pytest.hookimpl
    def pytest_report_header(self) -> list[str]:
        settings, policy = self._settings, self._settings.policy
        text = f"shards: {settings.shards} ({settings.executor}), split by {settings.split}"
        if policy.jobs < settings.shards:
            text += f", {policy.jobs} at once"
        if policy.shard_timeout_share is not None:
            text += f", shard timeout {policy.shard_timeout_share:.0%} of the plan"
        for name, limit in (
            ("test", policy.test_timeout),
            ("shard", policy.shard_timeout),
            ("run", policy.run_timeout),
        ):
            if limit is not None:
                text += f", {name} timeout {limit:g} s"
        hint = coverage_hint(self._config)
        return [f"{text}, run {self._run_id}", *([hint] if hint is not None else [])]

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection(self, session: pytest.Session) -> bool:
        self._open_cache()
        executor = self._begin()
        with _without_interrupts():
            with as_written(self._config.pluginmanager):
                from .course import Course

            course = Course(
                session,
                self._settings,
                self._run_id,
                executor,
                self._orders,
                self._scratch,
                self._splitter,
                self._junit,
                clock_started=self._clock_started,
            )
            self._config.pluginmanager.register(course, "shardrun-course")
        course.collect()
        return True

    def _open_cache(self) -> None:
        """Make our directory in pytest's cache before anybody collects.

        pytest makes the cache by renaming another directory, which must not come and go meanwhile.
        """
        cache: Any = getattr(self._config, "cache", None)
        if cache is not None:
            # Who wants to write there tells the user.
            with suppress(OSError):
                cache.mkdir(CACHE_NAME)

    def _begin(self) -> Executor:
        """Prepare for attempts, and begin the first one as far as that can be done now."""
        executor = self._make_executor(self._run_id)
        self._open.callback(executor.close)
        try:
            executor.prepare(self._say)
        except LaunchError as error:
            name = self._settings.executor
            raise pytest.UsageError(f"--shard-executor={name}: {error}") from error
        if isinstance(executor, BeginsEarly):
            executor.begin_early(self._orders.write_first())
        return executor

    def _say(self, text: str) -> None:
        """A line of progress."""
        if self._config.get_verbosity() >= 0:
            write_line(self._config.pluginmanager.get_plugin("terminalreporter"), text)

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self) -> None:
        self._open.close()


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """Let Ctrl-C wait until the course of the run can take it.

    In the middle of an import it may hit a line without a number, which pytest cannot show.
    """
    # POSIX only.
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
