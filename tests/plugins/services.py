"""Servers that some suites talk to, where the system has them."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

#: An account that may run a server where this process may not: it refuses to run as root.
_ACCOUNT: Final = "postgres"


def postgresql_programs() -> Path | None:
    """The directory with ``pg_ctl`` of the newest installed PostgreSQL, as Debian places it."""
    found = shutil.which("pg_ctl")
    if found is not None:
        return Path(found).parent
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_ctl"))
    return installed[-1].parent if installed else None


@contextlib.contextmanager
def postgresql() -> Iterator[Mapping[str, str]]:
    """A server of its own on a free port; what clients need to know is in the variables."""
    programs = postgresql_programs()
    if programs is None:
        yield {}
        return
    with tempfile.TemporaryDirectory(prefix="shardrun-postgresql-") as name:
        directory = Path(name)
        become: tuple[str, ...] = ()
        if os.getuid() == 0:
            become = ("runuser", "-u", _ACCOUNT, "--")
            shutil.chown(directory, _ACCOUNT)
        port = _free_port()
        control = (*become, str(programs / "pg_ctl"), "--pgdata", str(directory / "data"))
        settings = f"-p {port} -k {directory} -c listen_addresses=127.0.0.1 -c fsync=off"
        _call(*control, "initdb", "-o", "--auth=trust --username=tester")
        _call(*control, "start", "--wait", "--log", str(directory / "log"), "-o", settings)
        try:
            yield {"PGHOST": "127.0.0.1", "PGPORT": str(port), "PGUSER": "tester"}
        finally:
            _call(*control, "stop", "--mode=immediate")


def _free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port: int = listening.getsockname()[1]
        return port


def _call(*command: str) -> None:
    subprocess.run(
        command, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, cwd="/"
    )
