"""Shards in containers."""

from __future__ import annotations

import json
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import IO, Any, Final, final

from ..container_settings import ContainerSettings
from ..worker import boot, capturing
from . import (
    docker_images,
    docker_project,
    docker_sandbox,
    docker_setup,
    docker_sweep,
    docker_volume,
)
from .base import LaunchError, LaunchOrder
from .docker_client import Daemon, DaemonError, ignore_rules
from .docker_container import Container, ContainerAttempt, Outage, Recipe
from .docker_home import Wanted
from .docker_project import LIBRARY, Project, ProjectError
from .interpreter import interpreter_flags

#: How many containers the daemon makes at the same time.
_MAKERS: Final = 4
#: How long the end of all containers is waited for, in seconds.
_CLOSE_SECONDS: Final = 20.0
#: A copy that takes longer is told of, in seconds.
_SLOW_COPY: Final = 1.0
_PIECE: Final = 1 << 20

#: The program of a worker.
PROGRAM: Final = f"""{boot.READ_LAUNCH}\
given = [path for path in launch["sys_path"] if path == "" or os.path.exists(path)]
sys.path[:] = [*given, launch["package_path"], *(each for each in sys.path if each)]
import pytest_shardrun.worker.boot as boot
boot.main(launch)
"""


@final
class DockerExecutor:
    """Starts each shard in a container of its own, and its attempts one after the other in it."""

    name = "docker"

    def __init__(
        self,
        run_id: str,
        settings: Sequence[ContainerSettings],
        project: Project,
    ) -> None:
        """``settings`` has one value for each shard, or one for all."""
        self._run_id = run_id
        self._settings = settings
        self._project = project
        self._remarks = _Remarks()
        self._say: Callable[[str], None] = _say_nothing
        self._tree: docker_volume.Tree | None = None
        self._gate = threading.Semaphore(_MAKERS)
        self._outage = Outage(lambda text: self._say(text))
        self._containers: dict[int, Container] = {}
        self._all: list[Container] = []
        self._images: dict[ContainerSettings, docker_images.Ready] = {}
        self._copy: _Copy | None = None
        self._daemon: Daemon
        self._sweeper: threading.Thread | None = None
        self._abilities: docker_sandbox.Abilities
        self._labels: dict[str, str] = {}

    def prepare(self, say: Callable[[str], None]) -> None:
        """Find the daemon, sweep what others have left, get the image ready."""
        self._say = say
        try:
            self._daemon = Daemon()
            self._abilities = docker_sandbox.read_abilities(
                self._daemon.info, is_podman=self._daemon.is_podman
            )
            self._labels = docker_sweep.labels(self._run_id)
            self._copy = _Copy(self._project, self._settings[0], say)
            self._sweeper = threading.Thread(target=self._sweep, name="shardrun sweep", daemon=True)
            self._sweeper.start()
            for each in self._settings:
                if each not in self._images:
                    self._images[each] = self._make_ready(each, say)
            self._fill_volumes()
        except DaemonError as error:
            raise LaunchError(str(error)) from error
        if self._abilities.ignored:
            flags = ", ".join(self._abilities.ignored)
            say(f"the Docker daemon takes no notice of these limits on its machine: {flags}")

    def start(self, order: LaunchOrder) -> ContainerAttempt:
        """Begin an attempt, in the shard's container or in a new one; returns at once."""
        shard, number = order.attempt.shard, order.attempt.number
        launch: dict[str, Any] = json.loads(order.first_line)
        container = self._containers.get(shard)
        if container is None or not container.is_usable:
            container = Container(self._daemon, self._recipe(shard, number, launch))
            self._containers[shard] = container
            self._all.append(container)
        settings = self._settings_of(shard)
        launch["sys_path"] = list(self._project.sys_path)
        launch["package_path"] = LIBRARY
        wanted = self._wanted(shard, launch)
        first = json.dumps(launch, separators=(",", ":")).encode("ascii") + b"\n"
        return container.begin(number, self._order(order, launch, settings, wanted), first, wanted)

    def close(self) -> None:
        """End and remove every container that is left; idempotent."""
        self._outage.hurry()
        containers, self._all = self._all, []
        for container in containers:
            container.close()
        end = time.monotonic() + _CLOSE_SECONDS
        for container in containers:
            if not container.join(max(0.0, end - time.monotonic())):
                self._remarks.add(
                    f"the container {container.name} is left, because the Docker daemon does not "
                    "answer; the next run will remove it"
                )
        if self._tree is not None:
            try:
                self._tree.close()
            except DaemonError as error:
                self._remarks.add(f"the project's volume is left: {error}")
            self._tree = None
        if self._copy is not None:
            self._copy.close()
            self._copy = None
        for remark in self._remarks.take():
            self._say(remark)
        if self._sweeper is not None:
            self._sweeper.join(_CLOSE_SECONDS)
            self._daemon.close()

    def _fill_volumes(self) -> None:
        settings, copy = self._settings[0], self._copy
        assert copy is not None
        if settings.code == "volume":
            self._tree = docker_volume.Tree(
                self._daemon, f"shardrun-{self._run_id}-code", self._project.roots, self._labels
            )
            owner = settings.user or (0, 0)
            self._tree.fill(self._images[settings].image, copy.pieces(), owner)

    def _make_ready(
        self, settings: ContainerSettings, say: Callable[[str], None]
    ) -> docker_images.Ready:
        copy = self._copy
        assert copy is not None
        setup = docker_setup.Setup(
            command=settings.setup,
            name=f"shardrun-{self._run_id}-setup",
            roots=self._project.roots,
            directory=self._project.start,
            # A setup installs things: it gets a network where tests do not.
            network="bridge" if settings.network == "none" else settings.network,
            environment=docker_sandbox.allowed_environment(os.environ, settings),
            labels=self._labels,
            pythons=docker_images.names_of_python(settings),
        )

        def run_setup(image: str, repository: str, tag: str) -> None:
            docker_setup.run_setup(
                self._daemon, setup, copy.entries, copy.pieces(), image, repository, tag
            )

        return docker_images.make_ready(self._daemon, settings, run_setup, self._project.start, say)

    def _settings_of(self, shard: int) -> ContainerSettings:
        return self._settings[(shard - 1) % len(self._settings)]

    def _sweep(self) -> None:
        try:
            for found in docker_sweep.left_over_containers(
                [*self._daemon.containers(docker_sweep.RUN_LABEL)]
            ):
                self._daemon.remove(found)
            for found in docker_sweep.left_over_volumes(
                [*self._daemon.volumes(docker_sweep.RUN_LABEL)]
            ):
                self._daemon.remove_volume(found)
        except DaemonError as error:
            self._remarks.add(f"what earlier runs have left could not be removed: {error}")

    def _recipe(self, shard: int, number: int, launch: dict[str, Any]) -> Recipe:
        settings = self._settings_of(shard)
        ready = self._images[settings]
        copy = self._copy
        assert copy is not None
        is_copied = settings.code == "copy"
        directories = list(self._project.roots) if is_copied else []
        scratch = Path(launch["basetemp"]).parent if launch["basetemp"] else None
        if scratch is not None and not self._project.holds(scratch):
            directories.append(scratch)
        try:
            host = self._daemon.host_config(
                docker_sandbox.host_options(
                    settings,
                    self._abilities,
                    directories=directories,
                    mounts=self._mounts(settings),
                    copied_bytes=copy.expected_bytes if is_copied else 0,
                )
            )
        except DaemonError as error:
            raise LaunchError(str(error)) from error
        options = tuple(
            docker_sandbox.container_options(
                settings,
                image=ready.image,
                python=python,
                shard=shard,
                labels=self._labels,
                host_config=host,
            )
            for python in ready.pythons
        )
        return Recipe(
            name=f"shardrun-{self._run_id}-{shard}-{number}",
            options=options,
            image=ready.name,
            archives=(_library, copy.pieces) if is_copied else (_library,),
            gate=self._gate,
            outage=self._outage,
            remark=self._remarks.add,
        )

    def _mounts(self, settings: ContainerSettings) -> list[dict[str, Any]]:
        if settings.code == "bind":
            return [
                {"Type": "bind", "Source": str(root), "Target": str(root), "ReadOnly": True}
                for root in self._project.roots
            ]
        return self._tree.mounts if self._tree is not None else []

    def _order(
        self,
        order: LaunchOrder,
        launch: dict[str, Any],
        settings: ContainerSettings,
        wanted: Wanted,
    ) -> dict[str, Any]:
        parents = {
            str(Path(launch[name]).parent) for name in ("basetemp", "log_file") if launch[name]
        }
        return {
            "arguments": [*interpreter_flags(), "-c", PROGRAM],
            "environment": docker_sandbox.allowed_environment(order.environment, settings),
            "cwd": str(order.directory),
            "make": sorted(parents),
            "scratch": str(Path(launch["basetemp"]).parent) if launch["basetemp"] else None,
            "files": wanted.files,
            "directories": wanted.directories,
            "roots": wanted.roots,
            "write_back": wanted.write_back,
            "collect": wanted.collect,
        }

    def _wanted(self, shard: int, launch: dict[str, Any]) -> Wanted:
        settings = self._settings_of(shard)
        project = self._project
        return Wanted(
            files=tuple(_scratch_files(launch)),
            directories=(launch["basetemp"],) if project.basetemp and launch["basetemp"] else (),
            roots=() if settings.code == "bind" else tuple(map(str, project.roots)),
            write_back=settings.write_back,
            collect=settings.collect,
            collected=project.start / settings.collect_directory / f"shard-{shard}",
            start=project.start,
        )


class _Remarks:
    """What threads have to say when there is time for it, each thing once."""

    def __init__(self) -> None:
        self._texts: dict[str, None] = {}

    def add(self, text: str) -> None:
        self._texts[text] = None

    def take(self) -> list[str]:
        texts, self._texts = list(self._texts), {}
        return texts


def _say_nothing(text: str) -> None:
    pass


class _Copy:
    """The project's archive, made while the first containers start."""

    def __init__(
        self, project: Project, settings: ContainerSettings, say: Callable[[str], None]
    ) -> None:
        self._project = project
        self._owner = settings.user or (0, 0)
        self._say = say
        self._made = threading.Event()
        self._error: Exception | None = None
        # In memory where it is small, on disk where it is not.
        self._file: IO[bytes] = tempfile.SpooledTemporaryFile(max_size=64 << 20)  # noqa: SIM115
        self._lock = threading.Lock()
        self._size = 0
        try:
            rules = project.root / ".dockerignore"
            ignore = ignore_rules(rules)
            self.entries = docker_project.find_entries(project, ignore)
        except OSError as error:
            raise LaunchError(f"the project could not be read: {error}") from error
        self.expected_bytes = sum(entry.status.st_size + 4096 for entry in self.entries)
        threading.Thread(target=self._make, name="shardrun copy", daemon=True).start()

    def pieces(self) -> Iterator[bytes]:
        """The archive, as soon as it is there."""
        self._made.wait()
        if self._error is not None:
            raise LaunchError(f"the project could not be read: {self._error}") from self._error
        position = 0
        while position < self._size:
            with self._lock:
                self._file.seek(position)
                piece = self._file.read(_PIECE)
            position += len(piece)
            yield piece

    def close(self) -> None:
        self._made.wait()
        self._file.close()

    def _make(self) -> None:
        started = time.monotonic()
        try:
            docker_project.write_archive(self._file, self.entries, self._owner)
            self._size = self._file.tell()
        except Exception as error:
            # Raised by whoever waits for the archive.
            self._error = error
        finally:
            self._made.set()
        if time.monotonic() - started > _SLOW_COPY:
            self._say(
                f"{self._project.root} is copied to the shards: {len(self.entries)} files, "
                f"{self._size / 1e6:.0f} MB (.dockerignore can leave some out)"
            )


def _scratch_files(launch: dict[str, Any]) -> Iterator[str]:
    """What a worker writes for the controller to read."""
    if launch["log_file"]:
        yield launch["log_file"]
    if launch["capture"]:
        yield from (f"{launch['capture']}.{name}" for name in capturing.STREAMS)


def _library() -> Iterable[bytes]:
    package = Path(__file__).parents[1]
    yield docker_project.library_archive(package, metadata.version("pytest-shardrun"))


def find_project(
    *,
    root: Path,
    start: Path,
    arguments: Sequence[Path],
    config_file: Path | None,
    cache: Path | None,
    sys_path: Sequence[str],
    python_path: str,
    basetemp: Path | None,
) -> Project:
    """The project of a run; ``LaunchError`` where it cannot be put into a container."""
    elsewhere = [
        Path(each)
        for each in python_path.split(":")
        if each and Path(each).is_dir() and "site-packages" not in each
    ]
    outside = [each if each.is_dir() else each.parent for each in arguments]
    candidates = [root, start, *outside, *elsewhere]
    if config_file is not None:
        candidates.append(config_file.parent)
    try:
        roots = docker_project.find_roots([each.absolute() for each in candidates])
    except ProjectError as error:
        raise LaunchError(str(error)) from error
    wanted = [*arguments, *([config_file] if config_file is not None else [])]
    return Project(
        roots=roots,
        wanted=tuple(wanted),
        cache=cache,
        sys_path=tuple(docker_project.travelling_path(sys_path, start, roots)),
        basetemp=basetemp,
        start=start,
    )
