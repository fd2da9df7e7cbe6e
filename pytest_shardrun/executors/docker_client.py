"""The Docker daemon, as far as shards need it."""

from __future__ import annotations

import contextlib
import getpass
import os
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, TypeAlias

import docker
import docker.errors
import docker.utils
import docker.utils.build
import requests
import urllib3

from .docker_ssh import SshDoor, SshError

Json: TypeAlias = dict[str, Any]

#: Of the API; asked for nothing but the daemon's own.
_FIRST_VERSION: Final = "1.24"
#: How long a call to the daemon may take, in seconds.
CALL_SECONDS: Final = 30.0
#: The same for calls that copy or unpack.
LONG_CALL_SECONDS: Final = 600.0
#: What a daemon says that listens already and is not ready.
_NO_SUCH_PAGE: Final = ("404 page not found", "page not found")
#: What a daemon that is out of reach raises, in any of the layers.
_BROKEN: Final = (requests.RequestException, urllib3.exceptions.HTTPError, OSError)


class DaemonError(Exception):
    """The daemon refused, or could not be reached; the text says which."""


class NotThere(DaemonError):
    """There is no such image, container or volume."""


class Conflict(DaemonError):
    """The name is taken, or the thing is in use."""


class Unreachable(DaemonError):
    """The daemon did not answer, or its answer was cut off."""


class _Client(docker.APIClient):
    """The SDK's client with a timeout for every call, also for those where it has none."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(timeout=int(CALL_SECONDS), **arguments)
        # A proxy or a CA bundle for the web is not meant for the daemon.
        self.trust_env = False

    def request(self, *args: Any, **keywords: Any) -> Any:
        if keywords.get("timeout") is None:
            keywords["timeout"] = LONG_CALL_SECONDS
        return super().request(*args, **keywords)

    def post(self, url: Any, *args: Any, **keywords: Any) -> Any:
        # attach_socket calls this directly, without the client's timeout.
        if str(url).endswith("/attach"):
            keywords.setdefault("timeout", self.timeout)
        return super().post(url, *args, **keywords)


class Daemon:
    """One daemon; its methods may be called from any thread and raise ``DaemonError`` only."""

    def __init__(self) -> None:
        self._arguments = _connection()
        self.address = str(self._arguments.get("base_url") or "unix:///var/run/docker.sock")
        self._threads = threading.local()
        self._clients: list[_Client] = []
        self._door: SshDoor | None = None
        if self.address.startswith("ssh://"):
            try:
                self._door = SshDoor(self.address)
            except SshError as error:
                raise DaemonError(str(error)) from error
            self._arguments = {"base_url": f"unix://{self._door.path}"}
        try:
            version = self._greet()
        except BaseException:
            self.close()
            raise
        components = [str(each.get("Name", "")) for each in version.get("Components") or ()]
        self.is_podman = any("podman" in name.lower() for name in components)

    def _greet(self) -> Json:
        with self._translating("connect"):
            # To find the version by itself it would ask before it can be told what not to trust.
            with contextlib.closing(_Client(version=_FIRST_VERSION, **self._arguments)) as first:
                version: Json = first.version(api_version=False)
            self._version = str(version["ApiVersion"])
        self.info: Json = self._call("ask for its abilities", self._client.info)
        return version

    # Images

    def image(self, name: str) -> Json:
        """What is known of an image; ``NotThere``."""
        found: Json = self._call(f"inspect the image {name}", self._client.inspect_image, name)
        return found

    def pull(self, name: str) -> Iterator[Json]:
        """Pull an image; yields the daemon's progress messages."""
        repository, tag = docker.utils.parse_repository_tag(name)
        with self._translating(f"pull {name}"):
            yield from _checked(
                self._client.pull(repository, tag=tag or "latest", stream=True, decode=True)
            )

    def build(
        self, directory: Path, file: str | None, tag: str, labels: Mapping[str, str]
    ) -> Iterator[Json]:
        """Build an image from a directory; yields the daemon's messages."""
        with self._translating(f"build {directory}"):
            yield from _checked(
                self._client.build(
                    path=str(directory),
                    dockerfile=file,
                    tag=tag,
                    rm=True,
                    forcerm=True,
                    decode=True,
                    labels=dict(labels),
                    timeout=int(LONG_CALL_SECONDS),
                )
            )

    def commit(self, container: str, repository: str, tag: str, conf: Json) -> str:
        """Make an image of a container; its id."""
        with self._translating(f"keep the image {repository}:{tag}"):
            made = self._client.commit(container, repository=repository, tag=tag, conf=conf)
            return str(made["Id"])

    def images(self, label: str) -> list[Json]:
        with self._translating("list images"):
            found: list[Json] = self._client.images(filters={"label": label})
            return found

    # Containers

    def host_config(self, options: Mapping[str, Any]) -> Json:
        """The SDK's options of a container's host as the API takes them."""
        try:
            made: Json = self._client.create_host_config(**options)
        except (TypeError, ValueError, docker.errors.DockerException) as error:
            raise DaemonError(f"the options of the container do not fit: {error}") from error
        return made

    def create(self, name: str, options: Mapping[str, Any]) -> Json:
        """Create a container with the SDK's options; the answer with its id and warnings."""
        with self._translating(f"create the container {name}"):
            made: Json = self._client.create_container(name=name, **options)
            return made

    def attach(self, container: str) -> Attachment:
        """The streams of a container that has not been started."""
        params = {"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1}
        with self._translating(f"attach to the container {container}"):
            # The SDK describes it as something to read from; it is what the adapter holds.
            raw: Any = self._client.attach_socket(container, params=params)
            return Attachment(raw)

    def start(self, container: str) -> None:
        self._call(f"start the container {container}", self._client.start, container)

    def inspect(self, container: str) -> Json:
        found: Json = self._call(
            f"inspect the container {container}", self._client.inspect_container, container
        )
        return found

    def wait(self, container: str, seconds: int) -> int:
        """The exit code of a container; ``DaemonError`` where it does not end in time."""
        with self._translating(f"wait for the container {container}"):
            return int(self._client.wait(container, timeout=seconds)["StatusCode"])

    def kill(self, container: str) -> None:
        self._call(f"kill the container {container}", self._client.kill, container)

    def remove(self, container: str) -> None:
        """Remove a container with all that is in it, running or not; fine where it is gone."""
        try:
            with self._translating(f"remove the container {container}"):
                self._client.remove_container(container, force=True, v=True)
        except NotThere:
            return
        except Conflict as error:
            # Somebody else was faster.
            if "in progress" not in str(error):
                raise

    def containers(self, label: str) -> list[Json]:
        """All containers with this label, dead ones included."""
        with self._translating("list containers"):
            found: list[Json] = self._client.containers(all=True, filters={"label": label})
            return found

    def put(self, container: str, path: str, archive: Iterator[bytes]) -> None:
        """Unpack a tar in a container that need not run."""
        with self._translating(f"copy into the container {container}"):
            if not self._client.put_archive(container, path, archive):
                raise DaemonError(f"the daemon would not unpack files in {container}")

    def get(self, container: str, path: str) -> Iterator[bytes]:
        """What is below a path of a container, as pieces of a tar."""
        with self._translating(f"copy from the container {container}"):
            pieces, _ = self._client.get_archive(container, path)
            yield from pieces

    # Volumes

    def create_volume(self, name: str, labels: Mapping[str, str]) -> None:
        with self._translating(f"create the volume {name}"):
            self._client.create_volume(name, labels=dict(labels))

    def remove_volume(self, name: str) -> None:
        with contextlib.suppress(NotThere):
            self._call(f"remove the volume {name}", self._client.remove_volume, name)

    def volumes(self, label: str) -> list[Json]:
        with self._translating("list volumes"):
            return list(self._client.volumes(filters={"label": label})["Volumes"] or ())

    @property
    def _client(self) -> _Client:
        # The SDK promises nothing about threads.
        client: _Client | None = getattr(self._threads, "client", None)
        if client is None:
            client = _Client(version=self._version, **self._arguments)
            self._keep(client)
        return client

    def _keep(self, client: _Client) -> None:
        self._threads.client = client
        self._clients.append(client)

    def close(self) -> None:
        """Close all connections; no thread may use it any more."""
        for client in self._clients:
            with contextlib.suppress(*_BROKEN):
                client.close()
        if self._door is not None:
            self._door.close()

    def _call(self, what: str, function: Any, *arguments: Any) -> Any:
        with self._translating(what):
            return function(*arguments)

    @contextlib.contextmanager
    def _translating(self, what: str) -> Iterator[None]:
        try:
            yield
        except docker.errors.NotFound as error:
            if _explanation(error) in _NO_SUCH_PAGE or not error.explanation:
                raise Unreachable(
                    f"could not {what}: what answers at {self.address} is no Docker daemon, or "
                    "has not finished its start"
                ) from error
            raise NotThere(f"could not {what}: {_explanation(error)}") from error
        except docker.errors.APIError as error:
            if "to an HTTPS server" in _explanation(error):
                raise DaemonError(
                    f"the Docker daemon at {self.address} wants certificates: set "
                    "DOCKER_TLS_VERIFY=1, and DOCKER_CERT_PATH to their directory"
                ) from error
            kind = Conflict if error.status_code == 409 else DaemonError
            raise kind(f"could not {what}: {_explanation(error)}") from error
        except (docker.errors.DockerException, *_BROKEN) as error:
            raise Unreachable(self._unreachable(what, error)) from error

    def _unreachable(self, what: str, error: BaseException) -> str:
        causes = list(_causes(error))
        if any(isinstance(each, PermissionError) for each in causes):
            return (
                f"{getpass.getuser()} may not talk to the Docker daemon at {self.address}: add the "
                "user to the group that owns the socket, or set DOCKER_HOST to another daemon"
            )
        if any(isinstance(each, (FileNotFoundError, ConnectionRefusedError)) for each in causes):
            return (
                f"no Docker daemon answers at {self.address}: start one, or set DOCKER_HOST "
                "(podman: podman system service, DOCKER_HOST=unix:///run/podman/podman.sock)"
            )
        if any("timed out" in str(each).lower() for each in causes):
            return f"could not {what}: the Docker daemon at {self.address} does not answer"
        if self._door is not None and (said := self._door.said()):
            return f"could not {what} at {self.address}: ssh says: {said}"
        return f"could not {what} at {self.address}: {causes[-1]}"


class Attachment:
    """Both directions of a container's streams."""

    def __init__(self, raw: Any) -> None:
        self._raw = raw
        # SocketIO over a socket, or an SSL socket itself.
        self._socket = getattr(raw, "_sock", raw)
        # OpenSSL must not read and write one connection at the same time.
        self._lock = threading.Lock() if isinstance(self._socket, ssl.SSLSocket) else None
        self._closed = False

    def receive(self, seconds: float) -> bytes:
        """The next bytes; empty at the end; ``TimeoutError`` after silence."""
        if self._lock is not None:
            return self._receive_encrypted(seconds)
        self._socket.settimeout(seconds)
        data: bytes = self._socket.recv(1 << 18)
        return data

    def _receive_encrypted(self, seconds: float) -> bytes:
        assert self._lock is not None
        end = time.monotonic() + seconds
        while True:
            if not self._socket.pending():
                left = end - time.monotonic()
                if left <= 0 or not select.select([self._socket], [], [], left)[0]:
                    raise TimeoutError
            with self._lock:
                self._socket.settimeout(0.0)
                with contextlib.suppress(ssl.SSLWantReadError):
                    data: bytes = self._socket.recv(1 << 16)
                    return data

    def send(self, data: bytes) -> None:
        """Write all; blocks while the container does not read."""
        if self._lock is None:
            view = memoryview(data)
            while view:
                view = view[self._socket.send(view) :]
            return
        position = 0
        while position < len(data):
            with self._lock:
                self._socket.settimeout(0.0)
                try:
                    position += self._socket.send(data[position : position + (1 << 16)])
                    continue
                except (ssl.SSLWantWriteError, ssl.SSLWantReadError):
                    pass
            select.select([], [self._socket], [], 1.0)

    def close(self) -> None:
        """End both directions; whoever waits in them is woken."""
        if self._closed:
            return
        self._closed = True
        # Over TLS close() alone leaves the connection up: the SDK keeps a reference.
        with contextlib.suppress(OSError, AttributeError):
            self._socket.shutdown(socket.SHUT_RDWR)
        # The response first: closed after its file it would complain when it is collected.
        for each in (getattr(self._raw, "_response", None), self._raw, self._socket):
            with contextlib.suppress(OSError, ValueError):
                if each is not None:
                    each.close()


def ignore_rules(file: Path) -> Callable[[str], bool]:
    """Whether a .dockerignore leaves out a path relative to its directory; nothing without one."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return lambda path: False
    patterns = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    # Its type is declared for paths, but it takes their text.
    matcher: Any = docker.utils.build.PatternMatcher(patterns)
    # A directory that is left out may have something in it that is not.
    exceptions = [each[1:].strip().strip("/") for each in patterns if each.startswith("!")]

    def ignores(path: str) -> bool:
        if any(each.startswith(f"{path}/") for each in exceptions):
            return False
        return bool(matcher.matches(path))

    return ignores


def _connection() -> Json:
    """Where the daemon is: DOCKER_HOST and its like, or the context of the docker command."""
    arguments: Json = {**docker.utils.kwargs_from_env()}
    if arguments.get("base_url"):
        return arguments
    if "DOCKER_CONTEXT" not in os.environ and not (Path.home() / ".docker/contexts").is_dir():
        return arguments
    try:
        context: Any = docker.ContextAPI.get_current_context()
    except (docker.errors.DockerException, OSError, ValueError, KeyError):
        return arguments
    if context is not None and context.Host:
        arguments = {"base_url": context.Host}
        if context.TLSConfig:
            arguments["tls"] = context.TLSConfig
    return arguments


def _checked(messages: Any) -> Iterator[Json]:
    for message in messages:
        if "error" in message:
            raise DaemonError(str(message["error"]).strip())
        yield message


def _explanation(error: docker.errors.APIError) -> str:
    return str(error.explanation or error).strip()


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and all that it came from, also what is only among its arguments."""
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        each = waiting.pop()
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        yield each
        waiting += [each.__cause__, each.__context__]
        waiting += [inner for inner in each.args if isinstance(inner, BaseException)]
        waiting.append(
            getattr(each, "reason", None)
            if isinstance(getattr(each, "reason", None), BaseException)
            else None
        )
