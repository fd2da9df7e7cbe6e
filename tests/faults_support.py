"""Runs pytest as a user does, and looks at everything that the run leaves behind."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, final
from xml.etree import ElementTree

MARKER: Final = "SHARDRUN_FAULT_TEST"
#: How long what a run has started may outlive it.
SECONDS_TO_VANISH: Final = 5.0
#: How long a suite may take to get to the point that a test waits for.
SECONDS_TO_APPEAR: Final = 30.0

_START: Final = """\
import os, resource, signal, sys
{prelude}
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


@final
@dataclass(frozen=True, slots=True)
class Case:
    """One ``<testcase>`` of the JUnit file."""

    #: ``passed``, ``failed``, ``error``, ``skipped``; or ``crash``, ``timeout``, ``not-run``.
    kind: str
    #: Message and body of the failure, error or skip.
    text: str


@final
@dataclass(frozen=True, slots=True)
class Finished:
    """What a run that is over has left behind."""

    code: int
    stdout: str
    stderr: str
    #: By node id; None where there is no JUnit file.
    cases: Mapping[str, Case] | None

    def case(self, nodeid: str) -> Case:
        assert self.cases is not None, f"there is no JUnit file\n{self.describe()}"
        assert nodeid in self.cases, f"{nodeid} is missing\n{self.describe()}"
        return self.cases[nodeid]

    def has_line_with(self, *parts: str) -> bool:
        """Whether one line of the terminal has all these parts in it."""
        return any(all(part in line for part in parts) for line in self.stdout.splitlines())

    def describe(self) -> str:
        """What a person needs to see when an expectation is not met."""
        return (
            f"exit code {self.code}\n"
            f"--- stdout\n{self.stdout[-6000:]}\n--- stderr\n{self.stderr[-3000:]}"
        )


@final
class Run:
    """A controller that was started in a session of its own, and what it started."""

    def __init__(
        self, directory: Path, arguments: tuple[str, ...], stdout: int | None, prelude: str
    ) -> None:
        self.directory = directory
        self._marker = uuid.uuid4().hex
        self._stdout = directory / "controller.stdout"
        self._stderr = directory / "controller.stderr"
        self._junit = directory / "junit.xml"
        command = ["-m", "pytest", f"--junitxml={self._junit}", "--color=no", *arguments]
        # Files, not pipes: what holds a pipe open must not be able to hang these tests.
        with self._stdout.open("wb") as out, self._stderr.open("wb") as err:
            self.popen = subprocess.Popen(
                [sys.executable, "-c", _START.format(prelude=prelude), *command],
                cwd=directory,
                env=_environment(self._marker),
                stdin=subprocess.DEVNULL,
                stdout=out if stdout is None else stdout,
                stderr=err,
                start_new_session=True,
            )

    def wait_for(self, name: str) -> Path:
        """Wait until the suite has made a file of this name."""
        path = self.directory / name
        deadline = time.monotonic() + SECONDS_TO_APPEAR
        while not path.exists():
            assert self.popen.poll() is None, f"ended without {name}\n{self._describe()}"
            assert time.monotonic() < deadline, f"no {name} in time\n{self._describe()}"
            time.sleep(0.02)
        return path

    def press_ctrl_c(self) -> None:
        """Send SIGINT to the foreground's process group, as a terminal does."""
        os.killpg(self.popen.pid, signal.SIGINT)

    def finish(self, *, within: float) -> Finished:
        """Wait for the end, which must come in time and leave no process."""
        try:
            self.popen.wait(timeout=within)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"not over after {within} s\n{self._describe()}") from None
        deadline = time.monotonic() + SECONDS_TO_VANISH
        while (left := _processes_with(self._marker)) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not left, f"processes are left\n{self._describe()}"
        return Finished(
            code=self.popen.returncode,
            stdout=_text_of(self._stdout),
            stderr=_text_of(self._stderr),
            cases=read_junit(self._junit) if self._junit.exists() else None,
        )

    def clean_up(self) -> None:
        """Kill whatever there still is."""
        self.popen.kill()
        self.popen.wait()
        for pid in _processes_with(self._marker):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _describe(self) -> str:
        processes = "\n".join(
            f"{pid} {line}" for pid, line in _processes_with(self._marker).items()
        )
        return (
            f"--- processes\n{processes}\n"
            f"--- stdout\n{_text_of(self._stdout)[-6000:]}\n"
            f"--- stderr\n{_text_of(self._stderr)[-3000:]}"
        )


def write_suite(directory: Path, files: Mapping[str, str]) -> None:
    """Write a suite whose rootdir is this directory."""
    (directory / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")
    for name, source in files.items():
        (directory / name).write_text(textwrap.dedent(source), encoding="utf-8")


@contextlib.contextmanager
def started(
    directory: Path, *arguments: str, stdout: int | None = None, prelude: str = ""
) -> Iterator[Run]:
    """A run that is going on; nothing of it is left afterwards, whatever happens.

    ``prelude`` is executed in the process that then becomes the controller.
    """
    run = Run(directory, arguments, stdout, prelude)
    try:
        yield run
    finally:
        run.clean_up()


def check_books(
    finished: Finished, *, code: int, kinds: Mapping[str, str], internal_error: bool = False
) -> None:
    """Check that every test is there once, with a right status, and that the run says so.

    ``kinds`` has for each node id the kinds that are right, with ``|`` between them.
    """
    assert finished.cases is not None, f"there is no JUnit file\n{finished.describe()}"
    found = {nodeid: case.kind for nodeid, case in finished.cases.items()}
    wrong = {
        nodeid: f"{found.get(nodeid, 'missing')}, expected {kinds.get(nodeid, 'nothing')}"
        for nodeid in sorted(found.keys() | kinds.keys())
        if found.get(nodeid) not in kinds.get(nodeid, "").split("|")
    }
    assert not wrong, f"{wrong}\n{finished.describe()}"
    assert finished.code == code, f"expected exit code {code}\n{finished.describe()}"
    lines = finished.stdout.splitlines()
    assert re.search(r"\d+ \w+.* in \d+\.\d+s", lines[-1]), (
        f"the last line is not pytest's summary\n{finished.describe()}"
    )
    tests = [nodeid for nodeid in kinds if "::" in nodeid]
    if tests:
        _check_ledger(finished, len(tests))
    if not internal_error:
        assert "INTERNALERROR" not in finished.stdout + finished.stderr, finished.describe()
    assert "Traceback" not in finished.stderr, finished.describe()


def _check_ledger(finished: Finished, tests: int) -> None:
    """Check ``ledger: 4 collected = 2 passed + 1 failed + 1 not run``."""
    assert finished.cases is not None
    ledgers = re.findall(r"^ledger: (\d+) collected = (.*)$", finished.stdout, re.MULTILINE)
    assert len(ledgers) == 1, f"{len(ledgers)} ledgers\n{finished.describe()}"
    collected, sums = ledgers[0]
    by_status = {name: int(count) for count, name in re.findall(r"(\d+) ([a-z ]*[a-z])", sums)}
    assert int(collected) == sum(by_status.values()) == tests, finished.describe()
    for status, kind in (("passed", "passed"), ("not run", "not-run")):
        shown = sum(case.kind == kind for case in finished.cases.values())
        assert by_status.get(status, 0) == shown, f"{status}: {shown}\n{finished.describe()}"


def read_junit(path: Path) -> dict[str, Case]:
    """The tests of a JUnit file, whose sums are right and in which no test is twice."""
    cases: dict[str, Case] = {}
    for suite in ElementTree.parse(path).getroot().iter("testsuite"):
        counted = Counter({"tests": 0, "failures": 0, "errors": 0, "skipped": 0})
        for testcase in suite.findall("testcase"):
            nodeid = _nodeid_of(testcase)
            assert nodeid not in cases, f"{nodeid} is in the JUnit file twice"
            cases[nodeid] = _case_of(testcase)
            counted["tests"] += 1
            counted["failures"] += len(testcase.findall("failure"))
            counted["errors"] += len(testcase.findall("error"))
            counted["skipped"] += len(testcase.findall("skipped"))
        written = {name: int(suite.get(name, "0")) for name in counted}
        assert written == dict(counted), f"wrong sums in <testsuite name={suite.get('name')!r}>"
    return cases


def _nodeid_of(testcase: ElementTree.Element) -> str:
    """The node id of a test function, or of a module that could not be collected."""
    classname, name = testcase.get("classname", ""), testcase.get("name", "")
    if classname:
        return f"{classname.replace('.', '/')}.py::{name}"
    return f"{name.replace('.', '/')}.py"


def _case_of(testcase: ElementTree.Element) -> Case:
    for tag, kind in (("error", "error"), ("failure", "failed"), ("skipped", "skipped")):
        for element in testcase.findall(tag):
            given = element.get("type", "")
            return Case(
                kind=given if given in ("crash", "timeout", "not-run") else kind,
                text=f"{element.get('message', '')}\n{element.text or ''}",
            )
    return Case(kind="passed", text="")


def _environment(marker: str) -> dict[str, str]:
    """This process's environment, without what an outer pytest or a CI put into it."""
    foreign = ("PYTEST_", "PYTHONFAULTHANDLER", "COV_", "COVERAGE_", "GITHUB_", "CI")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    return {**kept, MARKER: marker}


def _processes_with(marker: str) -> dict[int, str]:
    """The command lines of all live processes whose environment has this marker."""
    wanted = f"{MARKER}={marker}".encode()
    found: dict[int, str] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        # A process may end between any two of these lines.
        with contextlib.suppress(OSError):
            if wanted in (entry / "environ").read_bytes().split(b"\0"):
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ")
                found[int(entry.name)] = command.decode("utf-8", errors="replace")[:200]
    return found


def _text_of(path: Path) -> str:
    return path.read_bytes().decode("utf-8", errors="replace")
