"""Limits on memory, and what the machine has left."""

from __future__ import annotations

import contextlib
import re
import resource
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final, Protocol, final

#: Tells a worker that to run out of memory is an exception there, not the kernel's SIGKILL.
ADDRESS_SPACE: Final = "SHARDRUN_ADDRESS_SPACE"
#: How long the kernel may take to forget the processes of a group that have ended.
SECONDS_TO_FORGET: Final = 1.0

#: What is taken for the size of a worker whose memory has no limit.
USUAL_ATTEMPT: Final = 64 << 20
#: More attempts than anybody starts.
LOTS: Final = 1 << 30


class Limit(Protocol):
    """What keeps an attempt from taking more memory than it may."""

    #: What the worker has to know about it.
    environment: Mapping[str, str]

    def enter(self, pid: int) -> None:
        """Put a process under the limit, and what it will start."""

    def has_struck(self) -> bool:
        """Whether the kernel has ended a process at the limit."""

    def members(self) -> list[int]:
        """The processes under the limit, as far as that is known."""

    def close(self) -> None:
        """Remove the limit, when all of its processes are gone."""


@final
class Unlimited:
    """No limit of ours; others, as a container's, may strike all the same."""

    def __init__(self) -> None:
        self.environment: Mapping[str, str] = {}
        self._before = _kills_around()

    def enter(self, pid: int) -> None:
        pass

    def has_struck(self) -> bool:
        return _kills_around() > self._before

    def members(self) -> list[int]:
        return []

    def close(self) -> None:
        pass


@final
class AddressSpace:
    """What each process may allocate; also counts what it never touches."""

    def __init__(self, size: int) -> None:
        self.environment: Mapping[str, str] = {ADDRESS_SPACE: str(size)}
        self._size = size
        self._unlimited = Unlimited()

    def enter(self, pid: int) -> None:
        # It may be gone already.
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(pid, resource.RLIMIT_AS, (self._size, self._size))

    def has_struck(self) -> bool:
        return self._unlimited.has_struck()

    def members(self) -> list[int]:
        return []

    def close(self) -> None:
        pass


@final
class ControlGroup:
    """A cgroup of the attempt's own: what all of its processes use together."""

    def __init__(self, directory: Path, size: int) -> None:
        """Make the cgroup; ``OSError`` where this process may not."""
        self.environment: Mapping[str, str] = {}
        self.directory: Final = directory
        directory.mkdir()
        try:
            self._limit(size)
        except OSError:
            directory.rmdir()
            raise
        self._outside = Unlimited()

    def _limit(self, size: int) -> None:
        if (self.directory / "memory.max").exists():
            self._write("memory.max", size)
            with contextlib.suppress(OSError):
                # All of the attempt at once: half a test has no result.
                self._write("memory.oom.group", 1)
            with contextlib.suppress(OSError):
                self._write("memory.swap.max", 0)
            return
        self._write("memory.limit_in_bytes", size)
        # Absent where the kernel does not account for swap.
        with contextlib.suppress(OSError):
            self._write("memory.memsw.limit_in_bytes", size)

    def _write(self, name: str, value: int) -> None:
        (self.directory / name).write_text(f"{value}\n", encoding="ascii")

    def enter(self, pid: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._write("cgroup.procs", pid)

    def has_struck(self) -> bool:
        return (_kills_in(self.directory) or 0) > 0 or self._outside.has_struck()

    def members(self) -> list[int]:
        try:
            text = (self.directory / "cgroup.procs").read_text(encoding="ascii")
        except OSError:
            return []
        return [int(word) for word in text.split()]

    def close(self) -> None:
        deadline = time.monotonic() + SECONDS_TO_FORGET
        while True:
            try:
                self.directory.rmdir()
            except FileNotFoundError:
                return
            except OSError:
                # Still busy with processes that have just been killed.
                if time.monotonic() >= deadline:
                    return
                time.sleep(0.01)
            else:
                return


def open_limit(size: int | None, name: str, parents: Iterable[Path]) -> Limit:
    """A limit of so many bytes: a cgroup below the first parent where one can be made.

    Where none can, the address space of each process is limited.
    """
    if size is None:
        return Unlimited()
    for parent in parents:
        with contextlib.suppress(OSError):
            return ControlGroup(parent / name, size)
    return AddressSpace(size)


def own_cgroups() -> list[Path]:
    """Where this process could make a cgroup that limits memory, the best place first."""
    found: list[Path] = []
    for directory, version in _memory_cgroups():
        if version == 1:
            found.append(directory)
            continue
        # A cgroup that has processes can have none below it that limit memory, unless it is the
        # root of all: the neighbour's place is what is left.
        for parent in (directory, directory.parent):
            with contextlib.suppress(OSError):
                if "memory" in (parent / "cgroup.subtree_control").read_text("ascii").split():
                    found.append(parent)
    return found


def _memory_cgroups() -> Iterator[tuple[Path, int]]:
    """This process's own cgroups that know of memory, with the version of their interface."""
    try:
        lines = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
        mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        version = 1 if controllers else 2
        if version == 1 and "memory" not in controllers.split(","):
            continue
        for mount in mounts:
            fields, _, more = mount.partition(" - ")
            root, point = fields.split()[3:5]
            kind, _, options = more.split(maxsplit=2)
            wanted = "cgroup2" if version == 2 else "cgroup"
            if kind != wanted or (version == 1 and "memory" not in options.split(",")):
                continue
            # In a container the mount may begin below the root, or at a root of its own.
            inside = path.removeprefix(root.rstrip("/")) if path.startswith(root) else path
            directory = Path(_unescaped(point)) / inside.lstrip("/")
            if directory.is_dir():
                yield directory, version
                break


def _unescaped(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


def _kills_in(directory: Path) -> int | None:
    """How many processes the kernel has ended in a cgroup for want of memory."""
    for name in ("memory.events", "memory.oom_control"):
        with contextlib.suppress(OSError):
            found = re.search(
                r"^oom_kill (\d+)$", (directory / name).read_text("ascii"), re.MULTILINE
            )
            if found:
                return int(found[1])
    return None


def _kills_around() -> int:
    """The same in this process's own cgroup, or else on the whole machine."""
    for directory, _ in _memory_cgroups():
        kills = _kills_in(directory)
        if kills is not None:
            return kills
    with contextlib.suppress(OSError):
        text = Path("/proc/vmstat").read_text(encoding="ascii")
        found = re.search(r"^oom_kill (\d+)$", text, re.MULTILINE)
        if found:
            return int(found[1])
    return 0


def available_bytes() -> int | None:
    """What new processes could use: of the machine, and of this process's own cgroups."""
    rooms = [room for directory, _ in _memory_cgroups() if (room := _room_in(directory))]
    with contextlib.suppress(OSError):
        text = Path("/proc/meminfo").read_text(encoding="ascii")
        found = re.search(r"^MemAvailable:\s+(\d+) kB$", text, re.MULTILINE)
        if found:
            rooms.append(int(found[1]) * 1024)
    return min(rooms, default=None)


def _room_in(directory: Path) -> int | None:
    for limit, usage, cached in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        # "max" is no number: there is no limit.
        with contextlib.suppress(OSError, ValueError):
            left = int((directory / limit).read_text("ascii"))
            left -= int((directory / usage).read_text("ascii"))
            text = (directory / "memory.stat").read_text("ascii")
            found = re.search(rf"^{cached} (\d+)$", text, re.MULTILINE)
            return max(left + (int(found[1]) if found else 0), 1)
    return None


def room_for_attempts(size: int | None) -> int:
    """How many more attempts of this size the machine has memory for; without one, of a usual."""
    available = available_bytes()
    return LOTS if available is None else available // (size or USUAL_ATTEMPT)
