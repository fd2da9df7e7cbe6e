"""What speaks against forking a process that has collected."""

from __future__ import annotations

import os
import random
import signal
import socket
import sys
import tempfile
import threading
import warnings
import weakref
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, Final

#: Differ between the shards of a run.
OWN_VARIABLES: Final = (
    "PYTEST_XDIST_WORKER",
    "SHARDRUN_SHARD",
    "SHARDRUN_ATTEMPT",
    "SHARDRUN_SLOT",
)

#: Keys of ``workerinput`` that differ in the same way.
_OWN_INPUT: Final = frozenset(("workerid", "shardrun"))

#: Devices that keep nothing.
_HARMLESS_DEVICES: Final = frozenset(
    f"/dev/{name}" for name in ("null", "zero", "full", "random", "urandom", "tty")
)
#: How often the generator may have been used up before it counts as seeded.
_MOST_TWISTS: Final = 64

_Note = Callable[[str, str], None]


class Watch:
    """Watches a process from its start until it is about to be forked."""

    def __init__(self) -> None:
        self._notes: dict[str, str] = {}
        self._makers: dict[str, str] = {}
        self._descriptors = _descriptors()
        self._shared_memory = _shared_memory()
        self._random = random.getstate()
        self._names = _Names(tempfile._RandomNameSequence())  # type: ignore[attr-defined]
        self._undo: list[Callable[[], None]] = []
        self._bound: weakref.WeakSet[socket.socket] = weakref.WeakSet()
        #: Keys of ``workerinput`` that were asked for by name.
        self.asked: set[str] = set()

    # Watching

    def begin(self) -> None:
        """Look over the shoulder of everybody in this process."""
        _WatchedEnvironment.note = self._note
        os.environ.__class__ = _WatchedEnvironment
        tempfile._name_sequence = self._names  # type: ignore[attr-defined]
        self._wrap(socket.socket, "bind", self._bound.add)
        self._wrap(socket.socket, "getsockname", self._see_address)
        self._wrap(socket.socket, "__init__", self._see_socket)
        self._wrap(threading.Thread, "start", self._see_thread)

    def end(self) -> None:
        """Let everything be as it was."""
        os.environ.__class__ = os._Environ
        if tempfile._name_sequence is self._names:  # type: ignore[attr-defined]
            tempfile._name_sequence = None  # type: ignore[attr-defined]
        while self._undo:
            self._undo.pop()()

    def _wrap(self, owner: type, name: str, see: Callable[[Any], None]) -> None:
        inherited = name not in vars(owner)
        original = getattr(owner, name)

        def wrapped(instance: Any, /, *args: Any, **keywords: Any) -> Any:
            result = original(instance, *args, **keywords)
            see(instance)
            return result

        def undo() -> None:
            # Somebody may have put a wrapper around ours.
            if vars(owner).get(name) is wrapped:
                if inherited:
                    delattr(owner, name)
                else:
                    setattr(owner, name, original)

        setattr(owner, name, wrapped)
        self._undo.append(undo)

    def _see_address(self, asked: socket.socket) -> None:
        # Who takes a port without asking which one wants to know whether that is possible, as
        # urllib3 does when it is imported.
        if asked.family != socket.AF_UNIX and asked in self._bound:
            # Each shard would have found another free port for itself.
            self._note("port", f"a free port was looked for while collecting: {_asker()}")

    def _see_socket(self, made: socket.socket) -> None:
        self._makers[f"socket {made.fileno()}"] = _asker()

    def _see_thread(self, started: threading.Thread) -> None:
        self._makers[f"thread {started.ident}"] = _asker()

    def _note(self, key: str, text: str) -> None:
        self._notes.setdefault(key, text)

    # Looking

    def obstacle(self, own_files: set[tuple[int, int]]) -> str | None:
        """Why this process must not be forked, if so; ``own_files`` are (device, inode)."""
        looks: tuple[Callable[[], str | None], ...] = (
            lambda: next(iter(self._notes.values()), None),
            self._own_input,
            self._named_thread,
            _child,
            lambda: self._open_descriptor(own_files),
            self._temporary_name,
            self._memory,
            _timer,
            _tracer,
            _native_thread,
        )
        for look in looks:
            found = look()
            if found is not None:
                return found
        return None

    def differing_input(self, mine: dict[str, Any], other: dict[str, Any]) -> str | None:
        """What of ``workerinput`` was asked for although another shard's says otherwise."""
        for key in sorted(self.asked):
            if mine.get(key) != other.get(key):
                return f'workerinput["{key}"] was read while collecting'
        return None

    def generator_was_seeded(self) -> bool:
        """Whether ``random`` was seeded, as opposed to used."""
        current = random.getstate()[1][:-1]
        generator = random.Random()
        generator.setstate(self._random)
        for _ in range(_MOST_TWISTS):
            if generator.getstate()[1][:-1] == current:
                return False
            generator.getrandbits(32 * 624)
        return True

    def files_to_reopen(self) -> list[int]:
        """Descriptors of files that are read, and whose place in the file is shared by forks."""
        return [
            number
            for number, link in _descriptors().items()
            if link.startswith("/")
            and not link.startswith("/dev/")
            and self._descriptors.get(number) != link
            and _access(number) == os.O_RDONLY
            and os.path.isfile(f"/proc/self/fd/{number}")
        ]

    def _own_input(self) -> str | None:
        for key in sorted(self.asked & _OWN_INPUT):
            return f'workerinput["{key}"] was read while collecting'
        return None

    def _named_thread(self) -> str | None:
        for thread in threading.enumerate():
            if thread is not threading.main_thread():
                maker = self._makers.get(f"thread {thread.ident}", "before the conftest files")
                return f"a thread was started while collecting: {thread.name}, {maker}"
        return None

    def _open_descriptor(self, own_files: set[tuple[int, int]]) -> str | None:
        for number, link in _descriptors().items():
            if self._descriptors.get(number) == link:
                continue
            try:
                status = os.fstat(number)
            except OSError:
                # The listing's own.
                continue
            if (status.st_dev, status.st_ino) in own_files:
                continue
            if link.startswith("socket:"):
                maker = self._makers.get(f"socket {number}", "not from Python")
                return f"a socket was opened while collecting: {maker}"
            if link.startswith("anon_inode:"):
                what = link.partition(":")[2].strip("[]")
                return f"an event poll was opened while collecting: {what}"
            if link.startswith("pipe:"):
                return "a pipe was opened while collecting"
            if link in _HARMLESS_DEVICES or _access(number) == os.O_RDONLY:
                continue
            return f"a file is open for writing after collecting: {link}"
        return None

    def _temporary_name(self) -> str | None:
        if not self._names.drawn:
            return None
        present = os.listdir(tempfile.gettempdir())
        for name, asker in self._names.drawn.items():
            if any(name in each for each in present):
                return f"a temporary file or directory was made while collecting: {asker}"
        return None

    def _memory(self) -> str | None:
        new = _shared_memory() - self._shared_memory
        return f"memory is shared after collecting: {min(new)}" if new else None


class _WatchedEnvironment(os._Environ):  # type: ignore[type-arg]
    """Tells who asks by name for what differs between shards; copies of all are no question."""

    note: _Note
    #: Names that a walk through all of them has come by, as each copy does.
    _passed: ClassVar[set[str]] = set()

    def __getitem__(self, key: str) -> str:
        if key in OWN_VARIABLES:
            if key in self._passed:
                self._passed.discard(key)
            else:
                _WatchedEnvironment.note(key, f"{key} was read while collecting: {_asker()}")
        return super().__getitem__(key)  # type: ignore[no-any-return]

    def __iter__(self) -> Iterator[str]:
        for key in super().__iter__():
            if key in OWN_VARIABLES:
                self._passed.add(key)
            yield key


class WatchedInput(dict[str, Any]):
    """``config.workerinput``, which remembers what was asked for."""

    def __init__(self, values: dict[str, Any], asked: set[str]) -> None:
        super().__init__(values)
        self._asked = asked

    def __getitem__(self, key: str) -> Any:
        self._asked.add(key)
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        self._asked.add(key)
        return super().get(key, default)


class _Names:
    """Draws names as ``tempfile`` does, and remembers for whom."""

    def __init__(self, names: Iterator[str]) -> None:
        self._names = names
        self.drawn: dict[str, str] = {}

    def __iter__(self) -> _Names:
        return self

    def __next__(self) -> str:
        name = next(self._names)
        self.drawn[name] = _asker()
        return name


def _asker() -> str:
    """The module that is behind the call, as far as it is none of the standard library's."""
    frame = sys._getframe(1)
    name = ""
    while frame is not None:
        name = frame.f_globals.get("__name__", "")
        top = name.partition(".")[0]
        if top not in sys.stdlib_module_names and top != "pytest_shardrun":
            break
        frame = frame.f_back  # type: ignore[assignment]
    return name or "unknown"


def _descriptors() -> dict[int, str]:
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            # The listing's own.
            continue
    return found


def _access(descriptor: int) -> int:
    with open(f"/proc/self/fdinfo/{descriptor}", encoding="ascii") as file:
        for line in file:
            name, _, value = line.partition(":")
            if name == "flags":
                return int(value, 8) & os.O_ACCMODE
    return os.O_RDWR


def _shared_memory() -> frozenset[str]:
    found = set()
    with open("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            fields = line.split(None, 5)
            if fields[1][1] == "w" and fields[1][3] == "s":
                found.add(fields[5].strip() if len(fields) > 5 else fields[0])
    return frozenset(found)


def _child() -> str | None:
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return None
    return "a child process was started while collecting"


def _timer() -> str | None:
    if any(signal.getitimer(signal.ITIMER_REAL)):
        return "an alarm was set while collecting"
    return None


def _tracer() -> str | None:
    # It would lose what it has seen in some forks, and count it twice in others.
    coverage: Any = sys.modules.get("coverage")
    if hasattr(coverage, "Coverage") and coverage.Coverage.current() is not None:
        return "coverage is measured"
    if sys.gettrace() is not None or sys.getprofile() is not None:
        return "a tracer or profiler is active"
    return None


def _native_thread() -> str | None:
    if len(os.listdir("/proc/self/task")) == 1:
        return None
    # Libraries that can be forked end their threads before a fork and begin anew behind it.
    trial = fork()
    if trial == 0:
        os._exit(0)
    os.waitpid(trial, 0)
    for task in os.listdir("/proc/self/task"):
        if int(task) != os.getpid():
            with open(f"/proc/self/task/{task}/comm", encoding="utf-8", errors="replace") as file:
                return f"a thread runs after collecting: {file.read().strip()}"
    return None


def fork() -> int:
    """``os.fork`` without the warning about threads, which were looked for."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()
