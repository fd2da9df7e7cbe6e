"""The image that a shard's container is made of."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, TypeAlias, final

from ..container_settings import ContainerSettings
from ..records import record
from .base import LaunchError
from .docker_client import Daemon, DaemonError, NotThere
from .docker_sweep import IMAGE_LABEL

Say: TypeAlias = Callable[[str], None]

#: How often progress is told, in seconds.
_SAY_SECONDS: Final = 3.0
#: Lines of a build's or a setup's output that an error shows.
_TAIL: Final = 15


@final
@record
class Ready:
    """An image that the daemon has."""

    #: As the user knows it.
    name: str
    #: Its id, so that it stays the same for the whole run.
    image: str
    #: The names that its interpreter may have, in order.
    pythons: tuple[str, ...]


#: Runs a setup in a container of the image and keeps the result under a repository and a tag.
RunSetup: TypeAlias = Callable[[str, str, str], None]


def make_ready(
    daemon: Daemon, settings: ContainerSettings, run_setup: RunSetup, directory: Path, say: Say
) -> Ready:
    """Get the image that the settings ask for; ``LaunchError`` or ``DaemonError``."""
    if settings.build:
        name, found = _build(daemon, directory / settings.build, say)
    else:
        name, found = settings.image, _find(daemon, settings, say)
    image = str(found["Id"])
    if settings.setup:
        image = _set_up(daemon, settings, name, image, run_setup, directory, say)
    return Ready(name, image, names_of_python(settings))


def names_of_python(settings: ContainerSettings) -> tuple[str, ...]:
    """The names that the interpreter may have, in order."""
    return (settings.python,) if settings.python else ("python3", "python")


def _find(daemon: Daemon, settings: ContainerSettings, say: Say) -> Mapping[str, Any]:
    name = settings.image
    try:
        if settings.pull != "always":
            return daemon.image(name)
    except NotThere:
        if settings.pull == "never":
            raise LaunchError(
                f"there is no image {name} and --shard-pull=never: pull it, build one with "
                "--shard-build, or name another with --shard-image"
            ) from None
    try:
        for line in pull_progress(name, daemon.pull(name), time.monotonic):
            say(line)
    except DaemonError as error:
        raise LaunchError(
            f"{error}: name an image that is there with --shard-image, or build one with "
            "--shard-build"
        ) from error
    return daemon.image(name)


def pull_progress(
    name: str, messages: Iterable[Mapping[str, Any]], clock: Callable[[], float]
) -> Iterator[str]:
    """Lines that say how far a pull is, not too many of them."""
    yield f"pulling {name}"
    layers: dict[str, tuple[int, int]] = {}
    said = clock()
    for message in messages:
        detail = message.get("progressDetail") or {}
        if message.get("status") == "Downloading" and detail.get("total"):
            layers[str(message.get("id"))] = (int(detail["current"]), int(detail["total"]))
        elif message.get("status") == "Download complete" and message.get("id") in layers:
            layer = str(message["id"])
            layers[layer] = (layers[layer][1],) * 2
        if layers and clock() - said >= _SAY_SECONDS:
            said = clock()
            current, total = (sum(each[place] for each in layers.values()) for place in (0, 1))
            yield f"pulling {name}: {current / 1e6:.0f} of {total / 1e6:.0f} MB"


def _build(daemon: Daemon, path: Path, say: Say) -> tuple[str, Mapping[str, Any]]:
    if not path.exists():
        raise LaunchError(f"--shard-build={path} does not exist: name a directory or a Dockerfile")
    directory, file = (path, None) if path.is_dir() else (path.parent, path.name)
    place = hashlib.sha256(str(path.resolve()).encode("utf-8", "surrogateescape")).hexdigest()
    tag = f"shardrun-build:{place[:12]}"
    say(f"building an image from {path}")
    lines: list[str] = []
    try:
        for message in daemon.build(directory, file, tag, {IMAGE_LABEL: "build"}):
            lines += str(message.get("stream", "")).splitlines()
    except DaemonError as error:
        raise LaunchError(_with_tail(str(error), lines)) from error
    return tag, daemon.image(tag)


def _set_up(
    daemon: Daemon,
    settings: ContainerSettings,
    name: str,
    image: str,
    run_setup: RunSetup,
    directory: Path,
    say: Say,
) -> str:
    repository, tag = "shardrun-setup", setup_digest(image, settings, directory)
    try:
        return str(daemon.image(f"{repository}:{tag}")["Id"])
    except NotThere:
        pass
    say(f"setting up {name} once: {settings.setup}")
    started = time.monotonic()
    run_setup(image, repository, tag)
    say(f"kept as {repository}:{tag} after {time.monotonic() - started:.0f} s")
    return str(daemon.image(f"{repository}:{tag}")["Id"])


def setup_digest(image: str, settings: ContainerSettings, directory: Path) -> str:
    """A word that changes with the base image, the command and the content of its inputs."""
    hashed = hashlib.sha256(f"{image}\0{settings.setup}\0".encode())
    for each in settings.setup_inputs:
        found = sorted(directory.glob(each)) if not Path(each).is_absolute() else [Path(each)]
        if not any(path.is_file() for path in found):
            raise LaunchError(
                f"--shard-setup-inputs={each} is no file in {directory}: name files that are there"
            )
        for path in found:
            if path.is_file():
                hashed.update(path.name.encode("utf-8", "surrogateescape") + b"\0")
                hashed.update(hashlib.sha256(path.read_bytes()).digest())
    return hashed.hexdigest()[:16]


def _with_tail(text: str, lines: list[str]) -> str:
    return "\n".join([text, *(f"    {line}" for line in lines[-_TAIL:])])
