"""One shard's container and its attempts."""

from __future__ import annotations

import json
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final, final

from ..model import Exit, LeftProcess
from ..records import record, replace
from .base import HopelessLaunch, LaunchError
from .docker_client import Attachment, Conflict, Daemon, DaemonError, NotThere, Unreachable
from .docker_frames import BrokenFrames, Frame, FrameReader, write_frames
from .docker_home import Homecoming, Wanted

#: How often the agent hears from us, and what silence of its means that it is lost; seconds.
PING_SECONDS: Final = 10.0
SILENCE_SECONDS: Final = 60.0
#: How long the agent may be silent while it ends its worker before the container is given up.
KILL_SECONDS: Final = 5.0
#: How long it may take, with the files that it brings home.
FILES_SECONDS: Final = 60.0
#: How long a container may take to end after its stream has.
END_SECONDS: Final = 10
#: How long a daemon that does not answer is waited for: it may be restarted; seconds.
RETURN_SECONDS: Final = 30.0
#: The same when there is nothing left to run.
HURRY_SECONDS: Final = 3.0
#: How many names are tried for a container.
_MOST_NAMES: Final = 5
#: Chunks of a worker that may wait to be taken.
_ROOM: Final = 32
#: Python and pytest that a worker needs.
_LEAST_PYTHON: Final = (3, 10)
_LEAST_PYTEST: Final = (8, 2)


@final
@record
class Recipe:
    """How a container is made and what it gets before its first worker."""

    name: str
    #: The SDK's options for each interpreter's name that may be there, in order.
    options: tuple[Mapping[str, Any], ...]
    image: str
    #: Archives to unpack, each in pieces.
    archives: tuple[Callable[[], Iterable[bytes]], ...]
    #: Held while the daemon makes a container: more at once take longer.
    gate: threading.Semaphore
    outage: Outage
    remark: Callable[[str], None]


class Outage:
    """For how long the daemon has not answered anybody; shared by the containers of a run."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._lock = threading.Lock()
        self._since: float | None = None
        self._patience = RETURN_SECONDS

    def hurry(self) -> None:
        """The run is over: only removals wait."""
        self._patience = min(self._patience, HURRY_SECONDS)

    def is_over(self) -> None:
        """The daemon has answered."""
        with self._lock:
            self._since = None

    def may_end(self, wait: Callable[[float], object]) -> bool:
        """Whether to ask once more, which is after a wait; the daemon has not answered."""
        now = time.monotonic()
        with self._lock:
            is_first = self._since is None
            self._since = since = now if self._since is None else self._since
        if now - since >= self._patience:
            return False
        if is_first and self._patience == RETURN_SECONDS:
            self._say(
                "the Docker daemon does not answer: "
                f"waiting {RETURN_SECONDS:g} s for it to come back"
            )
        wait(1.0)
        return True


class Container:
    """Lives as long as its shard needs it; calls return at once, threads do what takes time."""

    def __init__(self, daemon: Daemon, recipe: Recipe) -> None:
        self._daemon = daemon
        self._recipe = recipe
        self._name = recipe.name
        #: When it last said something.
        self.heard = time.monotonic()
        #: Under this name, as far as we know.
        self._is_created = False
        self._outgoing: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._attachment: Attachment | None = None
        self._attempt: ContainerAttempt | None = None
        #: Why it can take no further attempt.
        self._over: LaunchError | Exit | None = None
        self._closing = threading.Event()
        #: Nothing more will be created.
        self._opened = threading.Event()
        self._gone = threading.Event()
        self._thread = threading.Thread(
            target=self._live, name=f"shardrun {recipe.name}", daemon=True
        )
        self._thread.start()

    @property
    def name(self) -> str:
        return self._name

    @property
    def is_usable(self) -> bool:
        with self._lock:
            return self._over is None and not self._closing.is_set()

    def begin(
        self, number: int, order: Mapping[str, Any], first: bytes, wanted: Wanted
    ) -> ContainerAttempt:
        """Start a worker as soon as the container can."""
        attempt = ContainerAttempt(self, number, wanted, self._recipe.remark)
        with self._lock:
            self._attempt = attempt
            over = self._over
        if over is not None:
            attempt.finish(over)
        self._outgoing.put(b"".join(write_frames(b"S", json.dumps(order).encode("ascii"), number)))
        self.send(b"I", first, number)
        return attempt

    def send(self, kind: bytes, content: bytes, number: int) -> None:
        for frame in write_frames(kind, content, number):
            self._outgoing.put(frame)

    def give_up(self, reason: str) -> None:
        """Cut the connection, which ends the agent, and remove the container."""
        self._end_with(Exit(remark=reason))
        self._close_attachment()
        self.close()

    def close(self) -> None:
        """Begin to end and remove the container."""
        if not self._closing.is_set():
            self._closing.set()
            self._outgoing.put(b"".join(write_frames(b"Q", b"")))
            self._outgoing.put(None)
            threading.Thread(
                target=self._remove, name=f"shardrun remove {self._recipe.name}", daemon=True
            ).start()

    def join(self, seconds: float) -> bool:
        """Wait until the container is gone."""
        return self._gone.wait(seconds)

    # In the container's own thread

    def _live(self) -> None:
        try:
            try:
                attachment = self._open()
            finally:
                self._opened.set()
            reader = FrameReader()
            writer = threading.Thread(
                target=self._write,
                args=(attachment,),
                name=f"shardrun to {self._recipe.name}",
                daemon=True,
            )
            writer.start()
            self._end_with(self._read(attachment, reader))
        except LaunchError as error:
            self._end_with(error)
        except BaseException as error:
            # Without this whoever waits for an attempt would wait for ever.
            self._end_with(Exit(remark=f"trouble of the plugin itself: {error!r}"))
            raise
        finally:
            self.close()

    def _open(self) -> Attachment:
        while True:
            try:
                attachment = self._create_and_start()
            except Unreachable as error:
                self._close_attachment()
                if self._closing.is_set() or not self._recipe.outage.may_end(self._closing.wait):
                    raise LaunchError(str(error)) from error
            else:
                self._recipe.outage.is_over()
                return attachment

    def _create_and_start(self) -> Attachment:
        recipe = self._recipe
        for position, options in enumerate(recipe.options):
            try:
                with recipe.gate:
                    self._create(options)
                    if self._closing.is_set():
                        raise LaunchError("the run ended")
                    # Before the start: nothing that it says can be lost.
                    attachment = self._daemon.attach(self._name)
                    with self._lock:
                        self._attachment = attachment
                    self._daemon.start(self._name)
                return attachment
            except Unreachable:
                raise
            except DaemonError as error:
                is_last = position == len(recipe.options) - 1
                self._close_attachment()
                if is_last or "executable file not found" not in str(error):
                    raise self._explain_start(str(error)) from error
                try:
                    self._daemon.remove(self._name)
                except DaemonError as trouble:
                    raise LaunchError(str(trouble)) from trouble
        raise LaunchError(f"no interpreter was named for {recipe.image}")

    def _create(self, options: Mapping[str, Any]) -> None:
        """Create it under the first name that nobody else has."""
        for number in range(1, _MOST_NAMES + 1):
            if self._closing.is_set():
                raise LaunchError("the run ended")
            try:
                self._daemon.create(self._name, options)
                self._is_created = True
                return
            except Unreachable:
                # It may have happened all the same.
                self._is_created = True
                raise
            except Conflict:
                if number == _MOST_NAMES:
                    raise
            if self._is_ours(options):
                # From a call that was not answered.
                self._daemon.remove(self._name)
            else:
                self._name = f"{self._recipe.name}-{number}"

    def _is_ours(self, options: Mapping[str, Any]) -> bool:
        try:
            labels = self._daemon.inspect(self._name)["Config"]["Labels"] or {}
        except NotThere:
            return False
        return all(labels.get(name) == value for name, value in options["labels"].items())

    def _explain_start(self, text: str) -> LaunchError:
        if "executable file not found" in text:
            names = [str(options["command"][0]) for options in self._recipe.options]
            return HopelessLaunch(
                f"{self._recipe.image} has no {' or '.join(names)}: name its interpreter with "
                "--shard-python, or take an image with Python"
            )
        if "bind source path does not exist" in text:
            return HopelessLaunch(
                f"{text}: --shard-code=bind needs a daemon on this machine, copy does not"
            )
        return LaunchError(text)

    def _read(self, attachment: Attachment, reader: FrameReader) -> LaunchError | Exit:
        trouble, is_lost = "", True
        try:
            while True:
                data = attachment.receive(SILENCE_SECONDS)
                if not data:
                    break
                self.heard = time.monotonic()
                for frame in reader.feed(data):
                    refusal = self._take(frame)
                    if refusal is not None:
                        return refusal
        except TimeoutError:
            trouble = f"has been silent for {SILENCE_SECONDS:g} s"
        except BrokenFrames as error:
            # A test may have written into the stream.
            trouble, is_lost = str(error), False
        except OSError as error:
            trouble = f"the connection to it broke: {error}"
        if self._closing.is_set():
            return Exit(remark="its container was ended")
        end = self._explain_end(trouble, reader.complaints.decode("utf-8", "replace").strip())
        return replace(end, is_lost=is_lost and not end.out_of_memory)

    def _take(self, frame: Frame) -> LaunchError | None:
        match frame.kind:
            case b"h":
                return self._greet(json.loads(frame.content))
            case b"p" | b"r":
                return None
        attempt = self._attempt
        if attempt is None or attempt.number != frame.attempt:
            return None
        match frame.kind:
            case b"o":
                attempt.stream.put(frame.content)
            case b"e":
                attempt.output.put(frame.content)
            case b"f":
                attempt.homecoming.begin(frame.content)
            case b"d":
                attempt.homecoming.add(frame.content)
            case b"x":
                exit = _read_exit(frame.content)
                self._remark_files(json.loads(frame.content))
                with self._lock:
                    self._attempt = None
                attempt.finish(exit)
                if exit.code == 0:
                    # Nothing is left for this shard to do; if it is, there is another container.
                    self.close()
            case _:
                raise BrokenFrames(f"a frame of unknown kind {frame.kind!r}")
        return None

    def _remark_files(self, said: Mapping[str, Any]) -> None:
        stayed = [str(each) for each in said.get("stayed", ())]
        if stayed:
            more = ", …" if len(stayed) > 1 else ""
            self._recipe.remark(
                f"files of the project that tests changed or made stayed in a container "
                f"({stayed[0]}{more}): --shard-write-back=GLOB brings them home"
            )
        if said.get("remark"):
            self._recipe.remark(str(said["remark"]))

    def _greet(self, hello: Mapping[str, Any]) -> LaunchError | None:
        python = tuple(int(each) for each in hello["python"])
        image = self._recipe.image
        refusal = None
        if python < _LEAST_PYTHON:
            refusal = HopelessLaunch(
                f"{image} has Python {'.'.join(map(str, python))}: shards need "
                f"{'.'.join(map(str, _LEAST_PYTHON))} or newer"
            )
        elif not hello["pytest"]:
            refusal = HopelessLaunch(
                f"{image} has no pytest for {hello['executable']}: take an image that has it with "
                "--shard-image, or install it with --shard-setup, like "
                "--shard-setup 'pip install pytest'"
            )
        elif _numbers(str(hello["pytest"])) < _LEAST_PYTEST:
            refusal = HopelessLaunch(
                f"{image} has pytest {hello['pytest']}: shards need "
                f"{'.'.join(map(str, _LEAST_PYTEST))} or newer"
            )
        return refusal

    def _explain_end(self, trouble: str, complaints: str) -> Exit:
        """How a container ended that nobody asked to."""
        try:
            if not trouble:
                # The stream may end before the daemon knows.
                self._daemon.wait(self._name, END_SECONDS)
            state = self._daemon.inspect(self._name)["State"]
        except NotThere:
            state = {"Status": "removing"}
        except DaemonError as error:
            return Exit(remark=trouble or str(error))
        if state.get("Status") == "removing":
            return Exit(remark="its container was removed by somebody else")
        if state.get("OOMKilled") and not trouble:
            return Exit(signal=9, out_of_memory=True)
        if trouble:
            return Exit(remark=f"its container {trouble}")
        said = f": {complaints.splitlines()[-1]}" if complaints else ""
        return Exit(remark=f"its container ended with exit code {state.get('ExitCode')}{said}")

    def _end_with(self, reason: LaunchError | Exit) -> None:
        with self._lock:
            self._over = self._over or reason
            attempt, self._attempt = self._attempt, None
        if attempt is not None:
            attempt.finish(self._over)

    # In the writer's thread

    def _write(self, attachment: Attachment) -> None:
        try:
            for data in self._everything_to_send():
                attachment.send(data)
        except LaunchError as error:
            self._end_with(error)
            self.close()
        except OSError:
            # The reader notices the end of the connection.
            self._close_attachment()

    def _everything_to_send(self) -> Iterator[bytes]:
        for archive in self._recipe.archives:
            for piece in archive():
                yield from write_frames(b"T", piece)
                if self._closing.is_set():
                    return
            yield from write_frames(b"t", b"")
        while True:
            try:
                data = self._outgoing.get(timeout=PING_SECONDS)
            except queue.Empty:
                data = b"".join(write_frames(b"P", b""))
            if data is None:
                return
            yield data

    # In the remover's thread

    def _remove(self) -> None:
        try:
            # What is created after the removal would be left; every call has a timeout.
            self._opened.wait()
            # The agent that was told to quit ends faster than the daemon kills.
            self._thread.join(1.0)
            self._close_attachment()
            if self._is_created:
                self._remove_in_the_end()
        finally:
            self._gone.set()

    def _remove_in_the_end(self) -> None:
        left = 3
        while True:
            try:
                # By name: a creation that timed out may have happened all the same.
                self._daemon.remove(self._name)
            except Unreachable as error:
                if self._recipe.outage.may_end(time.sleep):
                    continue
                trouble: DaemonError = error
            except DaemonError as error:
                left -= 1
                if left:
                    continue
                trouble = error
            else:
                self._recipe.outage.is_over()
                return
            self._recipe.remark(
                f"the container {self._name} is left, the next run will remove it: {trouble}"
            )
            return

    def _close_attachment(self) -> None:
        with self._lock:
            attachment, self._attachment = self._attachment, None
        if attachment is not None:
            attachment.close()


class Pipe:
    """Bytes from one thread to another, who waits where too many wait."""

    def __init__(self) -> None:
        self._chunks: deque[bytes] = deque()
        self._is_closed = False
        self._changed = threading.Condition()

    def put(self, data: bytes) -> None:
        """Add bytes, as soon as there is room; they are dropped after the end."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._chunks) < _ROOM or self._is_closed)
            if not self._is_closed:
                self._chunks.append(data)
                self._changed.notify_all()

    def take(self) -> bytes:
        """All bytes that wait, as soon as there are some; empty at the end."""
        with self._changed:
            self._changed.wait_for(lambda: bool(self._chunks) or self._is_closed)
            data = b"".join(self._chunks)
            self._chunks.clear()
            self._changed.notify_all()
            return data

    def close(self) -> None:
        """Nothing more comes."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()


class ContainerAttempt:
    """A worker in a container."""

    def __init__(
        self, container: Container, number: int, wanted: Wanted, remark: Callable[[str], None]
    ) -> None:
        self.number = number
        self.homecoming = Homecoming(wanted, remark)
        self._container = container
        #: Filled by the container's thread.
        self.stream = Pipe()
        self.output = Pipe()
        self._end: LaunchError | Exit | None = None
        self._ended = threading.Event()

    def send(self, data: bytes) -> None:
        self._container.send(b"I", data, self.number)

    def receive(self) -> bytes:
        return self.stream.take()

    def receive_output(self) -> bytes:
        return self.output.take()

    def wait(self) -> Exit:
        self._ended.wait()
        if isinstance(self._end, LaunchError):
            raise self._end
        assert self._end is not None
        return self._end

    def dump_stacks(self) -> None:
        self._signal("STACKS")

    def interrupt(self) -> None:
        self._signal("INT")

    def terminate(self) -> None:
        self._signal("TERM")

    def kill(self) -> None:
        self._signal("KILL")
        threading.Thread(target=self._make_sure, name="shardrun kill", daemon=True).start()

    def finish(self, end: LaunchError | Exit | None) -> None:
        """Nothing more comes; only the first end counts."""
        if self._end is None:
            self._end = end
            self.homecoming.abandon()
            self.stream.close()
            self.output.close()
            self._ended.set()

    def _signal(self, name: str) -> None:
        if not self._ended.is_set():
            self._container.send(b"K", name.encode("ascii"), self.number)

    def _make_sure(self) -> None:
        # It may have files to bring home.
        by = time.monotonic() + KILL_SECONDS
        last = time.monotonic() + FILES_SECONDS
        while not self._ended.wait(max(0.0, by - time.monotonic())):
            by = min(self._container.heard + KILL_SECONDS, last)
            if time.monotonic() >= by:
                self._container.give_up("its container did not obey and was removed")
                return


def _read_exit(content: bytes) -> Exit:
    said: Mapping[str, Any] = json.loads(content)
    left = tuple(
        LeftProcess(int(each["pid"]), str(each["command"]), tuple(map(int, each["kin"])))
        for each in said.get("left", ())
    )
    if said.get("signal") is not None:
        return Exit(signal=int(said["signal"]), out_of_memory=bool(said.get("out_of_memory")))
    return Exit(code=int(said["code"]), left=left)


def _numbers(version: str) -> tuple[int, ...]:
    parts = version.split(".")[:2]
    return tuple(int(part) if part.isdigit() else 0 for part in parts)
