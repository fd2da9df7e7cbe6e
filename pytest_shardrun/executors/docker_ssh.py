"""A Docker daemon behind ssh, as a local socket."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
from pathlib import Path
from typing import Final, final
from urllib.parse import urlsplit

#: Calls its arguments; its name is the socket's directory, which a killed pytest leaves behind.
_SCRIPT: Final = """\
"$@"
kill -0 "$PPID" 2>/dev/null || rm -rf "$0"
"""
#: How much of what ssh has to say is kept, in bytes.
_MOST_SAID: Final = 2000
#: The name of a socket has at most 104 bytes, 92 on some systems.
_LONGEST_DIRECTORY: Final = 50


class SshError(Exception):
    """The address cannot be used; the text says why."""


@final
class SshDoor:
    """A socket each of whose connections goes to the daemon by an ssh of its own.

    The user's own ssh knows keys, agents and hosts; what talks to the socket has timeouts, which
    the SDK has not when it starts ssh itself.
    """

    def __init__(self, address: str) -> None:
        """For an ``ssh://USER@HOST:PORT``; ``SshError``."""
        command = ssh_command(address)
        if shutil.which("ssh") is None:
            raise SshError(
                f"the Docker daemon at {address} needs the ssh command, which is not there: "
                "install OpenSSH's client"
            )
        # A temporary directory of the user's may have too long a name for a socket.
        self._directory = tempfile.TemporaryDirectory(
            prefix="shardrun-ssh-", dir=_short_directory()
        )
        self.path: Final = str(Path(self._directory.name, "docker.sock"))
        self._command = ("sh", "-c", _SCRIPT, self._directory.name, *command)
        self._said = Path(self._directory.name, "said")
        self._listener = socket.socket(socket.AF_UNIX)
        try:
            self._listener.bind(self.path)
        except OSError as error:
            self._listener.close()
            self._directory.cleanup()
            raise SshError(
                f"{error}: {self.path} is to lead to the Docker daemon at {address}; set TMPDIR to "
                "a directory that can hold a socket"
            ) from error
        self._listener.listen(64)
        self._lock = threading.Lock()
        self._processes: list[subprocess.Popen[bytes]] | None = []
        threading.Thread(target=self._serve, name="shardrun ssh", daemon=True).start()

    def said(self) -> str:
        """The last line that ssh has complained with; empty where it has not."""
        try:
            with self._said.open("rb") as file:
                text = file.read()[-_MOST_SAID:].decode("utf-8", "replace")
        except OSError:
            return ""
        return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")

    def close(self) -> None:
        """End all connections; idempotent."""
        with self._lock:
            processes, self._processes = self._processes or [], None
        # A thread that waits in accept() does not notice that the socket is closed.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for each in processes:
            if each.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(each.pid, signal.SIGKILL)
                each.wait()
        self._directory.cleanup()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection, self._lock:
                if self._processes is None:
                    return
                end = connection.fileno()
                with self._said.open("ab") as said:
                    process = subprocess.Popen(
                        self._command,
                        stdin=end,
                        stdout=end,
                        stderr=said,
                        # Ctrl-C is for pytest, which still needs the daemon to clean up.
                        start_new_session=True,
                    )
                alive = [each for each in self._processes if each.poll() is None]
                self._processes = [*alive, process]


def _short_directory() -> str | None:
    """Where directories are made whose sockets may have their whole name; None: the usual place."""
    return "/tmp" if len(tempfile.gettempdir()) > _LONGEST_DIRECTORY else None


def ssh_command(address: str) -> list[str]:
    """How ssh is called to connect its input and output with the daemon's socket; ``SshError``."""
    try:
        parts = urlsplit(address)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise SshError(f"the Docker daemon's address {address} cannot be: {error}") from error
    if not host:
        raise SshError(
            f"the Docker daemon's address {address} names no host: it is like ssh://user@host:port"
        )
    there = ["docker", *(["--host", f"unix://{parts.path}"] if parts.path.strip("/") else [])]
    return [
        "ssh",
        *(["-l", parts.username] if parts.username else []),
        *(["-p", str(port)] if port else []),
        # Nobody answers questions while tests run: who has no key is told at once.
        "-o",
        "BatchMode=yes",
        "--",
        host,
        shlex.join([*there, "system", "dial-stdio"]),
    ]
