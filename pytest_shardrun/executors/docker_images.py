"""The image that a shard's container is made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

from ..container_settings import ContainerSettings
from .base import LaunchError
from .docker_client import Daemon, DaemonError, NotThere


@final
@dataclass(frozen=True, slots=True)
class Ready:
    """An image that the daemon has."""

    #: As the user knows it.
    name: str
    #: Its id, so that it stays the same for the whole run.
    image: str
    #: The names that its interpreter may have, in order.
    pythons: tuple[str, ...]


def make_ready(daemon: Daemon, settings: ContainerSettings, say: Callable[[str], None]) -> Ready:
    """Get the image that the settings ask for; ``LaunchError`` or ``DaemonError``."""
    found = _find(daemon, settings, say)
    pythons = (settings.python,) if settings.python else ("python3", "python")
    return Ready(settings.image, str(found["Id"]), pythons)


def _find(
    daemon: Daemon, settings: ContainerSettings, say: Callable[[str], None]
) -> dict[str, object]:
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
    say(f"pulling {name}")
    try:
        for _ in daemon.pull(name):
            pass
    except DaemonError as error:
        raise LaunchError(
            f"{error}: name an image that is there with --shard-image, or build one with "
            "--shard-build"
        ) from error
    return daemon.image(name)
