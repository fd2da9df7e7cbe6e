"""The fault matrix: what can go wrong, where, and what has to come of it."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final, final

#: Tests that pass, for a module beside the one that is about.
HEALTHY: Final = """
    def test_one():
        pass

    def test_two():
        pass

    def test_three():
        pass
"""
HEALTHY_KINDS: Final = {
    "test_healthy.py::test_one": "passed",
    "test_healthy.py::test_two": "passed",
    "test_healthy.py::test_three": "passed",
}

TWO_CRASHERS: Final = """
    import os

    def test_a():
        pass

    def test_b():
        os._exit(3)

    def test_c():
        pass

    def test_d():
        os._exit(3)

    def test_e():
        pass
"""

TWO_SHARDS: Final = ("--shards=2",)
ONE_SHARD: Final = ("--shards=1",)
#: For a hang; the process must have time to start before on a slow machine.
SHORT_LIMITS: Final = ("--shard-timeout=6", "--shard-grace=0.5")


@final
@dataclass(frozen=True, slots=True)
class Misbehaviour:
    """What a process can do to itself, to its pytest and to us."""

    name: str
    #: The body of ``misbehave()``.
    source: str
    #: What becomes of a test that does it: of its call, where a fixture's is ``error``.
    kind: str
    #: What the report says about it; any of these.
    says: tuple[str, ...] = ()
    #: The stack names the function, in the report and on the terminal.
    has_stack: bool = False
    arguments: tuple[str, ...] = ()
    #: It may hit pytest itself while it reports, which is an internal error: exit code 3.
    may_break_pytest: bool = False

    def __str__(self) -> str:
        return self.name

    @property
    def is_harmless(self) -> bool:
        return self.kind == "passed"

    @property
    def module(self) -> str:
        """The module ``misbehaviour`` of a suite; ``misbehave_once`` is for hooks of all shards."""
        body = textwrap.indent(textwrap.dedent(self.source).strip("\n"), "    ")
        return _MODULE.format(body=body)

    def kind_in(self, moment: str) -> str:
        """What becomes of a test that does it in its call, or in a fixture's setup or teardown."""
        return "error" if self.kind == "failed" and moment != "call" else self.kind


_MODULE: Final = """\
import ctypes, gc, os, pathlib, re, resource, signal, sys, threading, time

def misbehave():
{body}

def misbehave_once():
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return
    try:
        pathlib.Path(__file__).with_name("struck").touch(exist_ok=False)
    except FileExistsError:
        return
    misbehave()
"""

#: The process is gone from one moment to the next.
DEATHS: Final = (
    Misbehaviour("exit 0", "os._exit(0)", "crash", ("exit code 0",)),
    Misbehaviour("exit 3", "os._exit(3)", "crash", ("exit code 3",)),
    Misbehaviour("SIGSEGV", "ctypes.string_at(0)", "crash", ("SIGSEGV",), has_stack=True),
    Misbehaviour("SIGABRT", "os.abort()", "crash", ("SIGABRT",), has_stack=True),
    Misbehaviour("SIGBUS", "os.kill(os.getpid(), 7)", "crash", ("SIGBUS",), has_stack=True),
    Misbehaviour("SIGKILL", "os.kill(os.getpid(), signal.SIGKILL)", "crash", ("SIGKILL",)),
    Misbehaviour("SIGTERM", "os.kill(os.getpid(), signal.SIGTERM)", "crash", ("SIGTERM",)),
    Misbehaviour(
        "recursion to death",
        """
        class Endless:
            def __repr__(self):
                return repr(self)

        sys.setrecursionlimit(1 << 30)
        # Newer interpreters raise an error in time where the stack is a large one.
        threading.stack_size(32 * 1024)
        thread = threading.Thread(target=repr, args=(Endless(),))
        thread.start()
        thread.join()
        os._exit(1)
        """,
        "crash",
        ("SIGSEGV", "exit code 1"),
    ),
    Misbehaviour(
        "closed descriptors",
        "os.closerange(0, 4096)",
        "crash|failed|error",
        ("Bad file descriptor", "exit code", "stream"),
    ),
)

#: The process stays, and does nothing that anybody waits for.
_HANGS: Final = (
    Misbehaviour("loop in Python", "while True:\n    pass", "timeout", has_stack=True),
    Misbehaviour("sleep", "time.sleep(1000)", "timeout", has_stack=True),
    Misbehaviour(
        "lock in C that holds the GIL",
        """
        mutex = ctypes.create_string_buffer(256)
        lock = ctypes.PyDLL(None).pthread_mutex_lock
        lock(mutex)
        lock(mutex)
        """,
        "timeout",
        has_stack=True,
    ),
    Misbehaviour(
        "regular expression that never ends",
        "re.match('(a|a)+$', 'a' * 200 + 'b')",
        "timeout",
        has_stack=True,
    ),
    Misbehaviour(
        "SIGTERM and SIGINT ignored",
        """
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        while True:
            time.sleep(1000)
        """,
        "timeout",
        has_stack=True,
    ),
    Misbehaviour(
        "every signal blocked",
        """
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        while True:
            time.sleep(1000)
        """,
        "timeout",
    ),
    Misbehaviour("SIGSTOP", "os.kill(os.getpid(), signal.SIGSTOP)", "timeout"),
)
HANGS: Final = tuple(
    replace(each, says=("timed out",), arguments=("--shard-test-timeout=2", *SHORT_LIMITS))
    for each in _HANGS
)

#: The process goes on, and what it did must not spoil anything.
NUISANCES: Final = (
    Misbehaviour("exception", "raise RuntimeError('oh no')", "failed", ("oh no",)),
    Misbehaviour(
        "exception without a text",
        """
        class Mute(Exception):
            def __str__(self):
                raise RuntimeError("nothing to say")
            __repr__ = __str__

        raise Mute
        """,
        "failed",
        ("Mute",),
    ),
    Misbehaviour(
        "no memory left",
        """
        pages = int(pathlib.Path("/proc/self/statm").read_text().split()[0])
        most = resource.getrlimit(resource.RLIMIT_AS)[1]
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (64 << 20), most))
        kept = []
        while True:
            kept.append(bytearray(1 << 20))
        """,
        "failed|error|crash",
        ("MemoryError",),
        may_break_pytest=True,
    ),
    Misbehaviour("standard descriptors closed", "os.closerange(0, 3)", "passed"),
    Misbehaviour(
        "10 MB of output",
        """
        for descriptor in (1, 2):
            for _ in range(5_000):
                os.write(descriptor, b"x" * 1023 + b"\\n")
        """,
        "passed",
    ),
    Misbehaviour(
        "bytes that are no text",
        r"""
        for descriptor in (1, 2):
            os.write(descriptor, b"\xff\xfe\x00\x1b[0m\x80\n[0,\"goodbye\",0,{}]\n{")
        """,
        "passed",
    ),
    Misbehaviour(
        "clock set back",
        """
        for name in ("time", "monotonic", "perf_counter"):
            setattr(time, name, lambda: -1e9)
        """,
        "passed",
    ),
)

MISBEHAVIOURS: Final = (*DEATHS, *HANGS, *NUISANCES)


@final
@dataclass(frozen=True, slots=True)
class Place:
    """Where in the life of a test it happens."""

    #: ``function`` … ``session``; empty for the call.
    scope: str
    #: ``setup``, ``call`` or ``teardown``.
    moment: str

    def __str__(self) -> str:
        return f"{self.scope}-{self.moment}".strip("-")

    @property
    def nodeid(self) -> str:
        """The test that is to blame."""
        return self.neighbour("misbehaves")

    def neighbour(self, name: str) -> str:
        stem = str(self).replace("-", "_")
        inside = "TestIt::" if self.scope == "class" else ""
        return f"{stem}/test_{stem}.py::{inside}test_{name}"

    @property
    def files(self) -> Mapping[str, str]:
        """A package with one module, where a wide fixture ends with the last test."""
        stem = str(self).replace("-", "_")
        tests = [
            ("before", "self" if self.scope == "class" else "", "pass"),
            (
                "misbehaves",
                ", ".join(
                    (["self"] if self.scope == "class" else []) + (["bad"] if self.scope else [])
                ),
                "pass" if self.scope else "misbehave()",
            ),
            ("after", "self" if self.scope == "class" else "", "pass"),
        ]
        if self.moment == "teardown" and self.scope != "function":
            tests = [tests[0], tests[2], tests[1]]
        functions = "\n".join(
            f"def test_{name}({arguments}):\n    {body}\n" for name, arguments, body in tests
        )
        if self.scope == "class":
            functions = "class TestIt:\n" + textwrap.indent(functions, "    ")
        fixture = _FIXTURE.format(
            scope=self.scope,
            setup="misbehave()" if self.moment == "setup" else "pass",
            teardown="misbehave()" if self.moment == "teardown" else "pass",
        )
        imports = "import pytest\nfrom misbehaviour import misbehave\n\n"
        files = {f"{stem}/__init__.py": "", f"{stem}/test_{stem}.py": imports + functions}
        # A package's fixture lives as long as the package only if it is the package's own.
        home = "conftest" if self.scope == "package" else f"test_{stem}"
        files[f"{stem}/{home}.py"] = (
            imports + (fixture if self.scope else "") + (functions if home != "conftest" else "")
        )
        return files


_FIXTURE: Final = """\
@pytest.fixture(scope="{scope}")
def bad():
    {setup}
    yield
    {teardown}

"""

SCOPES: Final = ("function", "class", "module", "package", "session")
#: One suite has them all; a session's fixture ends with whatever test comes last in a process.
PLACES: Final = (
    Place("", "call"),
    *(Place(scope, "setup") for scope in SCOPES),
    *(Place(scope, "teardown") for scope in SCOPES if scope != "session"),
)


@final
@dataclass(frozen=True, slots=True)
class Phase:
    """A moment in the life of a process at which no test runs."""

    name: str
    #: The hook of a conftest.py, or empty for the import of conftest.py itself.
    hook: str
    #: A test is over for pytest but not for us, so it is blamed.
    is_in_a_test: bool = False
    #: The worker has told everything.
    is_after_goodbye: bool = False

    def __str__(self) -> str:
        return self.name

    @property
    def conftest(self) -> str:
        if not self.hook:
            return "from misbehaviour import misbehave_once\n\nmisbehave_once()\n"
        return _CONFTEST.format(hook=self.hook)


_CONFTEST: Final = """\
import atexit
import pytest
from misbehaviour import misbehave_once

{hook}
"""

PHASES: Final = (
    Phase("import of conftest", ""),
    Phase("configure", "def pytest_configure(config):\n    misbehave_once()"),
    Phase("session start", "def pytest_sessionstart(session):\n    misbehave_once()"),
    Phase("collection", "def pytest_collection_modifyitems(items):\n    misbehave_once()"),
    Phase(
        "before the first test",
        "@pytest.hookimpl(tryfirst=True)\ndef pytest_runtestloop(session):\n    misbehave_once()",
    ),
    Phase(
        "a test's last hook",
        "def pytest_runtest_logfinish(nodeid):\n    misbehave_once()",
        is_in_a_test=True,
    ),
    Phase("session finish", "def pytest_sessionfinish(session):\n    misbehave_once()"),
    Phase(
        "unconfigure",
        "def pytest_unconfigure(config):\n    misbehave_once()",
        is_after_goodbye=True,
    ),
    Phase("interpreter exit", "atexit.register(misbehave_once)", is_after_goodbye=True),
)
