"""A project in volumes that all shards share."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, final

from .docker_client import Daemon


@final
class Tree:
    """The roots of a project, each in a volume of its own, for the time of a run."""

    def __init__(
        self, daemon: Daemon, name: str, roots: Sequence[Path], labels: Mapping[str, str]
    ) -> None:
        self._daemon = daemon
        self._name = name
        self._labels = labels
        self._volumes = {str(root): f"{name}-{number}" for number, root in enumerate(roots, 1)}

    @property
    def mounts(self) -> list[dict[str, Any]]:
        """The mounts of a container that needs the project, as the API takes them."""
        return [
            {"Type": "volume", "Source": name, "Target": root}
            for root, name in self._volumes.items()
        ]

    def fill(self, image: str, archive: Iterable[bytes], owner: tuple[int, int]) -> None:
        """Make the volumes and unpack the archive there, by a container that never runs."""
        for volume in self._volumes.values():
            self._daemon.create_volume(volume, self._labels)
        self._daemon.create(
            self._name,
            {
                "image": image,
                "command": ["true"],
                "entrypoint": "",
                "labels": dict(self._labels),
                "host_config": self._daemon.host_config({"mounts": self.mounts}),
            },
        )
        try:
            self._daemon.put(self._name, "/", iter([_owned(self._volumes, owner)]))
            self._daemon.put(self._name, "/", iter(archive))
        finally:
            self._daemon.remove(self._name)

    def close(self) -> None:
        """Remove the volumes; no container may use them any more."""
        for volume in self._volumes.values():
            self._daemon.remove_volume(volume)


def _owned(roots: Iterable[str], owner: tuple[int, int]) -> bytes:
    """An archive that makes the roots somebody's: a new volume belongs to root."""
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for root in roots:
            member = tarfile.TarInfo(root.lstrip("/"))
            member.type, member.mode = tarfile.DIRTYPE, 0o777
            member.uid, member.gid = owner
            archive.addfile(member)
    return target.getvalue()
