"""The first process in a container; owns its worker.

Its source is an argument of the container's command, so it needs the standard library alone, and
syntax that every Python 3 from 3.6 on reads: an old one shall be able to say how old it is.

Both directions carry frames: kind, number of the attempt, length, then the content.

    to the agent    T tar, t its end, S start a worker, I its input, K a signal, P ping, Q quit
    from the agent  h hello, r ready, o stream, e output, f file, d its data, x exit, p pong
"""

import errno
import fnmatch
import json
import os
import re
import resource
import select
import shlex
import signal
import stat
import struct
import sys
import tarfile
import time
from typing import Any, Dict, List, NoReturn, Optional, Tuple

HEADER = struct.Struct(">cII")
#: The longest content of a frame.
LONGEST = 1 << 16
#: After this silence of the controller, which pings, the agent gives up; seconds.
SILENCE = 900.0
#: How long the pipes of a worker that is gone are read: something may hold them open.
DRAIN = 2.0
#: How long processes have to notice that their worker is gone, as those of multiprocessing do.
FOLLOW = 0.5
#: Characters of a command line that are told.
LONGEST_COMMAND = 300
#: Bytes that may wait for the controller before the worker has to.
ROOM = 1 << 20
#: What a setup has put into the project, as a tar; in images that --shard-setup has made.
KEPT = "/.shardrun-kept.tar"
#: Directories in which nothing is a result.
CACHES = ("__pycache__", ".pytest_cache", ".git", ".hypothesis", ".mypy_cache", ".ruff_cache")


class Gone(Exception):
    """The controller has left."""


class Agent:
    """One container's worker, one after the other, and the stream to the controller."""

    def __init__(self) -> None:
        # Out of the way of the worker, which inherits neither.
        self._in = os.dup(0)
        self._out = os.dup(1)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.dup2(2, 1)
        os.set_blocking(self._in, False)
        os.set_blocking(self._out, False)
        self._wake, wake = os.pipe()
        os.set_blocking(self._wake, False)
        os.set_blocking(wake, False)
        for number in (signal.SIGCHLD, signal.SIGINT, signal.SIGTERM):
            # A handler, not SIG_IGN: that would be inherited.
            signal.signal(number, _do_nothing)
        signal.set_wakeup_fd(wake)
        self._received = bytearray()
        self._pending = bytearray()
        self._heard = time.monotonic()
        self._attempt = 0
        self._order = {}  # type: Dict[str, Any]
        self._worker = 0
        self._status = None  # type: Optional[int]
        self._killed = False
        self._ooms = 0
        self._drained_by = 0.0
        #: Until when what the worker has started may end by itself; 0 when that is over.
        self._follow_by = 0.0
        self._left = []  # type: List[Dict[str, Any]]
        self._stdin = -1
        self._stdin_pending = bytearray()
        self._pipes = {}  # type: Dict[int, bytes]
        self._since = 0
        #: Files of the project that were changed and are not asked for.
        self._stayed = []  # type: List[str]

    def serve(self) -> None:
        """Do what the controller says until it says quit or is gone."""
        self._send(b"h", _describe())
        if os.path.exists(KEPT):
            # Below what comes from the controller, which is newer.
            with tarfile.open(KEPT) as archive:
                try:
                    _extract_all(archive)
                except OSError:
                    # The project is mounted and cannot be written.
                    pass
        while True:
            self._turn()
            while True:
                frame = self._take_frame()
                if frame is None:
                    break
                if frame[0] == b"Q":
                    self._flush()
                    return
                self._obey(*frame)
            if self._worker and self._status is not None:
                self._bury()

    # The stream

    def _send(self, kind: bytes, content: bytes, attempt: int = 0) -> None:
        for start in range(0, len(content) or 1, LONGEST):
            piece = content[start : start + LONGEST]
            self._pending += HEADER.pack(kind, attempt, len(piece)) + piece

    def _flush(self) -> None:
        while self._pending:
            select.select([], [self._out], [], 1.0)
            self._write()

    def _write(self) -> None:
        try:
            del self._pending[: os.write(self._out, self._pending[: 1 << 18])]
        except OSError as error:
            if error.errno != errno.EAGAIN:
                raise Gone()

    def _read(self) -> None:
        try:
            data = os.read(self._in, 1 << 18)
        except OSError as error:
            if error.errno == errno.EAGAIN:
                return
            raise Gone()
        if not data:
            raise Gone()
        self._received += data
        self._heard = time.monotonic()

    def _take_frame(self) -> Optional[Tuple[bytes, int, bytes]]:
        if len(self._received) < HEADER.size:
            return None
        kind, attempt, length = HEADER.unpack_from(self._received)
        end = HEADER.size + length
        if len(self._received) < end:
            return None
        content = bytes(self._received[HEADER.size : end])
        del self._received[:end]
        return kind, attempt, content

    def _turn(self) -> None:
        """Move bytes once, waiting for something to move."""
        readers = [self._in, self._wake]
        if len(self._pending) < ROOM:
            readers += list(self._pipes)
        writers = [self._out] if self._pending else []
        if self._stdin_pending:
            writers.append(self._stdin)
        patience = 30.0
        if self._follow_by:
            patience = 0.02
        elif self._pipes and self._status is not None:
            patience = max(0.0, self._drained_by - time.monotonic())
        readable, writable, _ = select.select(readers, writers, [], patience)
        if self._in in readable:
            self._read()
        elif time.monotonic() - self._heard > SILENCE:
            raise Gone()
        if self._wake in readable:
            os.read(self._wake, 4096)
            self._reap()
        if self._out in writable:
            self._write()
        if self._stdin in writable:
            self._feed()
        for pipe in [each for each in readable if each in self._pipes]:
            data = os.read(pipe, LONGEST)
            if data:
                self._send(self._pipes[pipe], data, self._attempt)
            else:
                os.close(pipe)
                del self._pipes[pipe]

    def _obey(self, kind: bytes, attempt: int, content: bytes) -> None:
        if kind == b"P":
            self._send(b"p", b"")
        elif kind == b"T":
            self._unpack(content)
        elif kind == b"S":
            self._start(attempt, json.loads(content.decode("ascii")))
        elif attempt == self._attempt and self._worker:
            if kind == b"I":
                self._stdin_pending += content
            elif kind == b"K":
                self._signal(content.decode("ascii"))

    # Files

    def _unpack(self, first: bytes) -> None:
        source = Incoming(self, first)
        # A stream's mode reads ahead in blocks; the end of the content stops it.
        archive = tarfile.open(fileobj=source, mode="r|", bufsize=LONGEST)  # type: ignore[call-overload]
        _extract_all(archive)
        while source.read(LONGEST):
            pass
        self._since = _ticked_clock()
        self._send(b"r", b"")

    def next_content(self) -> bytes:
        """The content of the next frame of a tar; empty at its end."""
        while True:
            frame = self._take_frame()
            if frame is None:
                self._turn()
            elif frame[0] == b"T":
                return frame[2]
            elif frame[0] == b"t":
                return b""
            elif frame[0] == b"Q":
                raise Gone()
            else:
                self._obey(*frame)

    def _bring_home(self) -> None:
        """Send the files that the order asks for; whole, so that no frame comes in between."""
        changed = []  # type: List[str]
        self._stayed = []
        for path in self._order.get("files", ()):
            if os.path.isfile(path):
                self._send_file("file", path)
        for root in self._order.get("roots", ()):
            changed += _changed_files(root, self._since, self._order["scratch"])
        self._since = _ticked_clock()
        for path in changed:
            if _matches(path, self._order["roots"], self._order["write_back"]):
                self._send_file("back", path)
            else:
                self._stayed.append(path)
        for path in _collected(self._order.get("collect", ()), self._order["cwd"]):
            self._send_file("collect", path)
        for directory in self._order.get("directories", ()):
            for path in _changed_files(directory, 0):
                self._send_file("file", path)

    def _send_file(self, purpose: str, path: str) -> None:
        try:
            # What is no plain file may never end.
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
        except OSError:
            return
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                return
            head = {"purpose": purpose, "path": path, "mode": status.st_mode & 0o777}
            self._send(b"f", json.dumps(head).encode("ascii"), self._attempt)
            while True:
                data = file.read(LONGEST)
                self._send(b"d", data, self._attempt)
                if not data:
                    return
                while len(self._pending) > ROOM:
                    self._turn()

    # The worker

    def _start(self, attempt: int, order: Dict[str, Any]) -> None:
        self._attempt = attempt
        self._order = order
        self._status = None
        self._killed = False
        self._left = []
        self._ooms = _out_of_memory_kills()
        their_stdin, self._stdin = os.pipe()
        stream, their_stream = os.pipe()
        output, their_output = os.pipe()
        self._stdin_pending = bytearray()
        os.set_blocking(self._stdin, False)
        self._pipes = {stream: b"o", output: b"e"}
        pid = os.fork()
        if pid == 0:
            _become_worker(order, (their_stdin, their_stream, their_output))
        self._worker = pid
        for descriptor in (their_stdin, their_stream, their_output):
            os.close(descriptor)

    def _feed(self) -> None:
        try:
            del self._stdin_pending[: os.write(self._stdin, self._stdin_pending[:LONGEST])]
        except OSError as error:
            if error.errno != errno.EAGAIN:
                # It is gone, or has closed its input; its exit tells.
                del self._stdin_pending[:]

    def _signal(self, name: str) -> None:
        if self._status is not None:
            return
        if name == "KILL":
            self._killed = True
            _kill_all(self._worker)
        elif name == "STACKS":
            os.kill(self._worker, signal.SIGRTMAX - 1)
        else:
            for number in (getattr(signal, "SIG" + name), signal.SIGCONT):
                try:
                    os.killpg(self._worker, number)
                except OSError:
                    pass

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self._worker and self._status is None:
                self._status = status
                if status == 0:
                    self._follow_by = time.monotonic() + FOLLOW
                else:
                    # It could not end what it had started: that is nobody's leak.
                    self._end_the_rest()

    def _end_the_rest(self) -> None:
        _kill_all(self._worker)
        self._follow_by = 0.0
        self._drained_by = time.monotonic() + DRAIN

    def _bury(self) -> None:
        """Say how the worker ended once all that it wrote is sent."""
        if self._follow_by:
            others = _other_processes()
            if others and time.monotonic() < self._follow_by:
                return
            self._left = others
            self._end_the_rest()
        if self._pipes and time.monotonic() < self._drained_by:
            return
        for descriptor in list(self._pipes) + [self._stdin]:
            os.close(descriptor)
        self._pipes = {}
        self._stdin = -1
        self._stdin_pending = bytearray()
        assert self._status is not None
        exit = {"left": self._left}  # type: Dict[str, Any]
        if os.WIFSIGNALED(self._status):
            exit["signal"] = os.WTERMSIG(self._status)
            was_killed = exit["signal"] == signal.SIGKILL and not self._killed
            exit["out_of_memory"] = was_killed and _out_of_memory_kills() > self._ooms
        else:
            exit["code"] = os.WEXITSTATUS(self._status)
        try:
            self._bring_home()
        except (OSError, ValueError) as error:
            exit["remark"] = "its files could not be sent: " + str(error)
        exit["stayed"] = self._stayed[:2]
        self._worker = 0
        self._send(b"x", json.dumps(exit).encode("ascii"), self._attempt)


class Incoming:
    """A tar that comes in frames, as a file."""

    def __init__(self, agent: Agent, first: bytes) -> None:
        self._agent = agent
        self._content = first
        self._ended = False

    def read(self, size: int) -> bytes:
        while len(self._content) < size and not self._ended:
            more = self._agent.next_content()
            self._ended = not more
            self._content += more
        taken, self._content = self._content[:size], self._content[size:]
        return taken


def _do_nothing(number: int, frame: Any) -> None:
    pass


def _describe() -> bytes:
    hello = {
        "python": list(sys.version_info[:3]),
        "executable": sys.executable,
        "pytest": _version_of("pytest"),
        "user": os.getuid(),
    }
    return json.dumps(hello).encode("ascii")


def _version_of(distribution: str) -> Optional[str]:
    # The names of directories say it at once; the import costs more than the rest of the start.
    pattern = re.compile(re.escape(distribution) + r"-(\d[^-]*?)(-py[\d.]+)?\.(dist|egg)-info")
    for directory in sys.path:
        try:
            names = os.listdir(directory)
        except OSError:
            continue
        for name in names:
            match = pattern.fullmatch(name)
            if match:
                return match.group(1)
    try:
        from importlib.metadata import PackageNotFoundError, version
    except ImportError:
        # Python 3.7 and older are refused anyway.
        return None
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def _extract_all(archive: tarfile.TarFile) -> None:
    # Names are absolute without the first slash; the archive comes from our own controller.
    if hasattr(tarfile, "fully_trusted_filter"):
        archive.extractall("/", filter="fully_trusted")
    else:
        archive.extractall("/")


def _ticked_clock() -> int:
    """A time of the file system's clock that no older file has."""
    path = "/.shardrun/clock"
    first = 0
    while True:
        with open(path, "w"):
            pass
        os.utime(path)
        now = os.stat(path).st_ctime_ns
        if first and now > first:
            return now
        first = first or now
        time.sleep(0.002)


def _changed_files(root: str, since: int, scratch: Optional[str] = None) -> List[str]:
    found = []
    for directory, directories, names in os.walk(root):
        directories[:] = sorted(
            each
            for each in directories
            if each not in CACHES and os.path.join(directory, each) != scratch
        )
        for name in sorted(names):
            path = os.path.join(directory, name)
            try:
                status = os.lstat(path)
            except OSError:
                continue
            if stat.S_ISREG(status.st_mode) and status.st_ctime_ns >= since:
                found.append(path)
    return found


def _matches(path: str, roots: List[str], patterns: List[str]) -> bool:
    for root in roots:
        if path.startswith(root + "/"):
            inner = path[len(root) + 1 :]
            return any(fnmatch.fnmatchcase(inner, pattern) for pattern in patterns)
    return False


def _collected(patterns: List[str], directory: str) -> List[str]:
    import glob

    found = set()
    for pattern in patterns:
        for path in glob.glob(os.path.join(directory, pattern), recursive=True):
            inner = _changed_files(path, 0) if os.path.isdir(path) else [path]
            for each in inner:
                found.add(os.path.abspath(each))
    return sorted(found)


def _out_of_memory_kills() -> int:
    """How often the kernel has killed for lack of memory in this container."""
    for path in ("/sys/fs/cgroup/memory.events", "/sys/fs/cgroup/memory/memory.oom_control"):
        try:
            with open(path) as file:
                for line in file:
                    name, _, value = line.partition(" ")
                    if name == "oom_kill":
                        return int(value)
        except (OSError, ValueError):
            pass
    return 0


def _other_processes() -> List[Dict[str, Any]]:
    """What lives in this container besides the agent."""
    found = []
    for name in os.listdir("/proc") if os.getpid() == 1 else ():
        if not name.isdigit() or int(name) == 1:
            continue
        try:
            with open("/proc/" + name + "/stat", errors="backslashreplace") as file:
                head, _, rest = file.read().rpartition(")")
            with open("/proc/" + name + "/cmdline", errors="backslashreplace") as file:
                words = file.read().rstrip("\0").split("\0")
        except OSError:
            continue
        fields = rest.split()
        if fields[0] in "ZX":
            continue
        # A program may overwrite its command line with nothing.
        command = (
            " ".join(map(shlex.quote, words)) if any(words) else "[%s]" % head.partition("(")[2]
        )
        kin = [int(field) for field in fields[1:4]]
        found.append({"pid": int(name), "command": command[:LONGEST_COMMAND], "kin": kin})
    return found


def _kill_all(group: int) -> None:
    try:
        if os.getpid() == 1:
            # Everything else that lives in this container.
            os.kill(-1, signal.SIGKILL)
        else:
            os.killpg(group, signal.SIGKILL)
    except OSError:
        pass


def _become_worker(order: Dict[str, Any], descriptors: Tuple[int, int, int]) -> NoReturn:
    try:
        signal.set_wakeup_fd(-1)
        os.setsid()
        for number, descriptor in enumerate(descriptors):
            os.dup2(descriptor, number)
        for name in ("SIGPIPE", "SIGXFSZ"):
            # Python ignores them for itself, and what is ignored is inherited.
            signal.signal(getattr(signal, name), signal.SIG_DFL)
        # The kernel shall take the worker, not the agent.
        try:
            with open("/proc/self/oom_score_adj", "w") as file:
                file.write("1000")
        except OSError:
            pass
        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
        for directory in order["make"]:
            os.makedirs(directory, exist_ok=True)
        os.chdir(order["cwd"])
        environment = dict(os.environ)
        environment.update(order["environment"])
        arguments = [sys.executable] + order["arguments"]
        os.execve(sys.executable, arguments, environment)
    except BaseException as error:
        os.write(2, ("shardrun: could not start the worker: %s\n" % error).encode("utf-8"))
    finally:
        os._exit(127)


def main() -> None:
    """Serve, and leave nothing alive behind."""
    try:
        Agent().serve()
    except Gone:
        pass
    except BaseException:
        sys.excepthook(*sys.exc_info())
        sys.stderr.flush()
        _kill_all(0)
        os._exit(70)
    if os.getpid() == 1:
        _kill_all(0)
    os._exit(0)


if __name__ == "__main__":
    main()
