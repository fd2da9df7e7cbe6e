"""Runs pytest as a user does, and looks at everything that the run leaves behind."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import signal
import stat
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

import pytest

PROCESSES_ARE_KNOWN: Final = pytest.mark.skipif(
    not Path("/proc/self/environ").exists(), reason="looks for processes in /proc"
)

MARKER: Final = "SHARDRUN_FAULT_TEST"
#: How long what a run has started may outlive it.
SECONDS_TO_VANISH: Final = 5.0
#: How long a suite may take to get to the point that a test waits for.
SECONDS_TO_APPEAR: Final = 60.0
#: Seconds for a run in which nothing waits for a timeout; the machine may be slow.
SOON: Final = 60.0
#: What the controller may take at its peak, whatever its shards do.
MOST_MEMORY: Final = 200 * 1024 * 1024
#: How the shards' processes are started; empty for the default.
START: Final = os.environ.get("SHARDRUN_FAULTS_START", "")

_START: Final = """\
import ctypes, os, resource, signal, sys
{prelude}
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""

#: As ``prelude``: root without what makes it root, so that permissions hold for it, too.
WITHOUT_PRIVILEGES: Final = "[ctypes.CDLL(None).prctl(24, each, 0, 0, 0) for each in range(64)]"


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
    #: Bytes that the controller took at most.
    peak_memory: int

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
        # Two runs may share the suite.
        self._stdout = directory / f"{self._marker}.stdout"
        self._stderr = directory / f"{self._marker}.stderr"
        self._junit = directory / f"{self._marker}.xml"
        self._peak_memory = 0
        command = ["-m", "pytest", "-p", "pytest_shardrun.plugin", f"--junitxml={self._junit}"]
        command += ["--color=no", *([f"--shard-start={START}"] if START else []), *arguments]
        (directory / _TEMPORARY).mkdir(exist_ok=True)
        # Files, not pipes: what holds a pipe open must not be able to hang these tests.
        with self._stdout.open("wb") as out, self._stderr.open("wb") as err:
            self.popen = subprocess.Popen(
                [sys.executable, "-c", _START.format(prelude=prelude), *command],
                cwd=directory,
                env=_environment(self._marker, directory / _TEMPORARY),
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
            self._watch_memory()
            time.sleep(0.02)
        return path

    def wait_for_output(self, text: str) -> None:
        """Wait until the terminal shows this text."""
        deadline = time.monotonic() + SECONDS_TO_APPEAR
        while text not in _text_of(self._stdout):
            assert self.popen.poll() is None, f"ended without {text}\n{self._describe()}"
            assert time.monotonic() < deadline, f"no {text} in time\n{self._describe()}"
            time.sleep(0.02)

    def press_ctrl_c(self) -> None:
        """Send SIGINT to the foreground's process group, as a terminal does."""
        os.killpg(self.popen.pid, signal.SIGINT)

    def finish(self, *, within: float) -> Finished:
        """Wait for the end, which must come in time, with little memory, and leave nothing."""
        deadline = time.monotonic() + within
        while self.popen.poll() is None:
            assert time.monotonic() < deadline, f"not over after {within} s\n{self._describe()}"
            self._watch_memory()
            time.sleep(0.02)
        deadline = time.monotonic() + SECONDS_TO_VANISH
        while (left := _processes_with(self._marker)) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not left, f"processes are left\n{self._describe()}"
        was_killed = self.popen.returncode == -signal.SIGKILL
        remains = sorted(map(str, _remains(self.directory, was_killed=was_killed)))
        assert not remains, f"files are left: {remains}\n{self._describe()}"
        assert self._peak_memory < MOST_MEMORY, (
            f"the controller took {self._peak_memory >> 20} MiB\n{self._describe()}"
        )
        return Finished(
            code=self.popen.returncode,
            stdout=_text_of(self._stdout),
            stderr=_text_of(self._stderr),
            cases=read_junit(self._junit) if self._junit.exists() else None,
            peak_memory=self._peak_memory,
        )

    def _watch_memory(self) -> None:
        # The system keeps the peak, so nothing between two looks is missed but the very last.
        with contextlib.suppress(OSError):
            status = Path(f"/proc/{self.popen.pid}/status").read_text(encoding="utf-8")
            if peak := re.search(r"VmHWM:\s+(\d+) kB", status):
                self._peak_memory = max(self._peak_memory, int(peak[1]) * 1024)

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
        path = directory / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(textwrap.dedent(source), encoding="utf-8")


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


def run(
    directory: Path, files: Mapping[str, str], *arguments: str, within: float = SOON
) -> Finished:
    """Write a suite, run it to its end and return what is left."""
    write_suite(directory, files)
    with started(directory, *arguments) as going:
        return going.finish(within=within)


def kinds_of(module: str, **kinds: str) -> dict[str, str]:
    """``kinds_of("x", one="passed")`` is ``{"test_x.py::test_one": "passed"}``."""
    return {f"test_{module}.py::test_{name}": kind for name, kind in kinds.items()}


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
    """The node id of a test, or of a module that could not be collected."""
    classname, name = testcase.get("classname", ""), testcase.get("name", "")
    if not classname:
        return f"{name.replace('.', '/')}.py"
    file = testcase.get("file", "")
    classes = classname.removeprefix(file.removesuffix(".py").replace("/", ".")).split(".")
    return "::".join([file, *filter(None, classes), name])


def _case_of(testcase: ElementTree.Element) -> Case:
    for tag, kind in (("error", "error"), ("failure", "failed"), ("skipped", "skipped")):
        for element in testcase.findall(tag):
            given = element.get("type", "")
            return Case(
                kind=given if given in ("crash", "lost", "timeout", "not-run") else kind,
                text=f"{element.get('message', '')}\n{element.text or ''}",
            )
    return Case(kind="passed", text="")


def _environment(marker: str, temporary: Path) -> dict[str, str]:
    """This process's environment, without what an outer pytest or a CI put into it."""
    foreign = ("PYTEST_", "SHARDRUN_", "PYTHONFAULTHANDLER", "COV_", "COVERAGE_", "GITHUB_", "CI")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    return {
        **kept,
        MARKER: marker,
        "TMPDIR": str(temporary),
        # Other plugins take most of the time that a small run has.
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
    }


#: The run's own directory for temporary files, where pytest does not look for tests.
_TEMPORARY: Final = ".tmp"


def _remains(directory: Path, *, was_killed: bool) -> Iterator[Path]:
    """What should not be there when a run is over; pytest itself keeps ``tmp_path``s."""
    for path in (directory / _TEMPORARY).iterdir():
        # A killed controller may have been writing.
        if not path.name.startswith("pytest-of-") and not was_killed:
            yield path
    for path in directory.rglob("*"):
        mode = path.lstat().st_mode
        is_held = path.suffix == ".lock" and stat.S_ISREG(mode) and _is_locked(path)
        is_unfinished = path.name.startswith(".shardrun-") or path.suffix == ".new"
        if stat.S_ISSOCK(mode) or stat.S_ISFIFO(mode) or is_held or is_unfinished:
            yield path


def _is_locked(path: Path) -> bool:
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
    return False


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
