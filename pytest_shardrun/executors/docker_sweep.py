"""Who owns a container, and which are left over."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, final

from ..records import record

#: Carried by everything that the plugin makes in a daemon.
RUN_LABEL: Final = "pytest-shardrun.run"
OWNER_LABEL: Final = "pytest-shardrun.owner"
#: Carried by images that are kept on purpose.
IMAGE_LABEL: Final = "pytest-shardrun.image"

#: How long a dead container of another machine's run is left alone; seconds.
PATIENCE: Final = 3600.0


@final
@record
class Owner:
    """A process, among all of all machines that may share a daemon."""

    boot: str
    #: Process numbers mean nothing outside.
    namespace: str
    pid: int
    started: str

    def __str__(self) -> str:
        return f"{self.boot} {self.namespace} {self.pid} {self.started}"


def this_process() -> Owner:
    pid = os.getpid()
    return Owner(_boot(), _namespace(), pid, _started(pid))


def labels(run_id: str) -> dict[str, str]:
    """The labels of what this process makes."""
    return {RUN_LABEL: run_id, OWNER_LABEL: str(this_process())}


def is_left_over(label: str, *, runs: bool, created: float, now: float) -> bool:
    """Whether nobody needs what has this owner any more.

    Where the owner may live on another machine, only what is dead and old is left over: agents
    end by themselves when their controller is gone.
    """
    parts = label.split(" ")
    if len(parts) != 4 or not parts[2].isdigit():
        return False
    boot, namespace, pid, started = parts
    if (boot, namespace) == (_boot(), _namespace()) and boot:
        return _started(int(pid)) != started
    return not runs and now - created > PATIENCE


def left_over_containers(found: list[Mapping[str, Any]]) -> list[str]:
    """The ids of containers, as the daemon lists them, that nobody needs any more."""
    return [
        str(each["Id"])
        for each in found
        if is_left_over(
            str((each.get("Labels") or {}).get(OWNER_LABEL, "")),
            runs=each.get("State") in ("running", "paused", "restarting"),
            created=float(each.get("Created") or 0),
            now=time.time(),
        )
    ]


def left_over_volumes(found: list[Mapping[str, Any]]) -> list[str]:
    """The names of volumes that nobody needs any more."""
    # Without a date that is easily read: those of other machines stay.
    return [
        str(each["Name"])
        for each in found
        if is_left_over(
            str((each.get("Labels") or {}).get(OWNER_LABEL, "")),
            runs=True,
            created=0.0,
            now=0.0,
        )
    ]


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _namespace() -> str:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _started(pid: int) -> str:
    """When a process started, in the kernel's ticks; empty where it is gone."""
    try:
        line = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    # The name, in parentheses, may have anything in it.
    fields = line.rpartition(")")[2].split()
    # A zombie has no more to do.
    return "" if fields[0] == "Z" else fields[19]
