"""A command that is run once in an image."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import IO, Any, Final, cast, final

from ..records import record
from .base import LaunchError
from .docker_agent import KEPT
from .docker_client import Daemon
from .docker_frames import StreamReader
from .docker_project import Entry, pack_files
from .docker_sweep import IMAGE_LABEL

#: How long a command may say nothing, in seconds.
_SILENCE: Final = 1800.0
#: How much of its output an error shows, in lines.
_TAIL: Final = 20
#: Runs the command, and compiles for the first interpreter that is there, which may fail.
_SCRIPT: Final = """\
command=$1 source=$2
shift 2
sh -c "$command" || exit
for python; do
    if command -v "$python" >/dev/null; then
        "$python" -I -c "$source" >/dev/null 2>&1 || :
        exit 0
    fi
done
"""


@final
@record
class Setup:
    """What to run in which container."""

    command: str
    name: str
    roots: tuple[Path, ...]
    directory: Path
    network: str
    environment: Mapping[str, str]
    labels: Mapping[str, str]
    #: The names that the interpreter may have, in order.
    pythons: tuple[str, ...]


def run_setup(
    daemon: Daemon,
    setup: Setup,
    entries: Sequence[Entry],
    archive: Iterable[bytes],
    image: str,
    repository: str,
    tag: str,
) -> None:
    """Run the command as root in a copy of the project, and keep what it leaves as an image.

    What it puts into the project (compiled modules, metadata) is kept beside, because the project
    itself is copied anew for each run. Modules of Python and of pytest's plugins are compiled.
    """
    volumes = {str(root): f"{setup.name}-{number}" for number, root in enumerate(setup.roots)}
    try:
        for volume in volumes.values():
            daemon.create_volume(volume, setup.labels)
        daemon.create(setup.name, _options(daemon, setup, image, volumes))
        daemon.put(setup.name, "/", iter(archive))
        attachment = daemon.attach(setup.name)
        try:
            daemon.start(setup.name)
            said = _read_all(iter(lambda: attachment.receive(_SILENCE), b""))
        except OSError as error:
            raise LaunchError(
                f"--shard-setup={setup.command} was not over after {_SILENCE:g} s of silence"
            ) from error
        finally:
            attachment.close()
        code = daemon.wait(setup.name, 60)
        if code:
            lines = said.decode("utf-8", "replace").splitlines()[-_TAIL:]
            shown = "".join(f"\n    {line}" for line in lines)
            raise LaunchError(f"--shard-setup={setup.command} ended with exit code {code}:{shown}")
        _keep_new_files(daemon, setup, entries)
        daemon.commit(setup.name, repository, tag, {"Labels": {IMAGE_LABEL: "setup"}})
    finally:
        daemon.remove(setup.name)
        for volume in volumes.values():
            daemon.remove_volume(volume)


def compiling_source() -> str:
    """The program that compiles in the image."""
    return resources.files(__package__).joinpath("docker_compiling.py").read_text(encoding="utf-8")


def _options(
    daemon: Daemon, setup: Setup, image: str, volumes: Mapping[str, str]
) -> dict[str, Any]:
    return {
        "image": image,
        "command": ["sh", "-c", _SCRIPT, "sh", setup.command, compiling_source(), *setup.pythons],
        "entrypoint": "",
        "user": "0:0",
        "working_dir": str(setup.directory),
        "environment": dict(setup.environment),
        "labels": dict(setup.labels),
        "stdin_open": False,
        "host_config": daemon.host_config(
            {
                "network_mode": setup.network,
                "security_opt": ["no-new-privileges"],
                "log_config": {"Type": "none"},
                "mounts": [
                    {"Type": "volume", "Source": name, "Target": path}
                    for path, name in volumes.items()
                ],
            }
        ),
    }


def _read_all(pieces: Iterator[bytes]) -> bytes:
    reader = StreamReader()
    tail = b""
    for piece in pieces:
        for _, content in reader.feed(piece):
            tail = (tail + content)[-(1 << 16) :]
    return tail


def _keep_new_files(daemon: Daemon, setup: Setup, entries: Sequence[Entry]) -> None:
    known = {os.fspath(entry.path): entry.status for entry in entries}
    kept = io.BytesIO()
    with tarfile.open(fileobj=kept, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for root in setup.roots:
            source = Pieces(daemon.get(setup.name, str(root)))
            with tarfile.open(fileobj=cast(IO[bytes], source), mode="r|") as tree:
                _copy_new(tree, root.parent, known, archive)
    daemon.put(setup.name, "/", iter([pack_files({KEPT: kept.getvalue()})]))


def _copy_new(
    tree: tarfile.TarFile,
    parent: Path,
    known: Mapping[str, os.stat_result],
    archive: tarfile.TarFile,
) -> None:
    for member in tree:
        path = os.path.join(parent, member.name.rstrip("/"))
        if "__pycache__" in member.name.split("/"):
            continue
        before = known.get(path)
        same = before is not None and (
            not member.isreg()
            or (member.size == before.st_size and int(member.mtime) == int(before.st_mtime))
        )
        if same or (member.isdir() and Path(path) in (parent, *Path(path).parents)):
            continue
        if not (member.isreg() or member.isdir() or member.issym()):
            continue
        member.name = path.lstrip("/")
        member.mode |= 0o444
        archive.addfile(member, tree.extractfile(member) if member.isreg() else None)


class Pieces:
    """Pieces of bytes as a file that is read from front to end."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = iter(pieces)
        self._rest = b""

    def read(self, size: int) -> bytes:
        while len(self._rest) < size:
            piece = next(self._pieces, b"")
            if not piece:
                break
            self._rest += piece
        taken, self._rest = self._rest[:size], self._rest[size:]
        return taken
