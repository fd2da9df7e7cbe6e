"""How a shard's container is made."""

from __future__ import annotations

import fnmatch
import json
import resource
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Final, final

from ..container_settings import ContainerSettings
from ..records import record

#: The directory of the agent, which the worker's code lies in.
AGENT_DIRECTORY: Final = "/.shardrun"

#: What a container gets of this process's environment without being asked.
ALLOWED: Final = (
    "BUILD_NUMBER",
    "CI",
    "COLORTERM",
    "COLUMNS",
    "FORCE_COLOR",
    "LANG",
    "LANGUAGE",
    "LC_*",
    "LINES",
    "NO_COLOR",
    "PYTEST_*",
    "PYTHONASYNCIODEBUG",
    "PYTHONBREAKPOINT",
    "PYTHONDEVMODE",
    "PYTHONDONTWRITEBYTECODE",
    "PYTHONFAULTHANDLER",
    "PYTHONHASHSEED",
    "PYTHONIOENCODING",
    "PYTHONTRACEMALLOC",
    "PYTHONUTF8",
    "PYTHONWARNINGS",
    "PY_COLORS",
    "SHARDRUN_*",
    "SOURCE_DATE_EPOCH",
    "TERM",
    "TZ",
)
#: Of the controller itself, where it is a test of its own.
_NOT_ALLOWED: Final = ("PYTEST_CURRENT_TEST", "PYTEST_VERSION")

#: Options of a container that are none of its host's, by the SDK's names.
_OF_THE_CONTAINER: Final = (
    "domainname",
    "environment",
    "healthcheck",
    "hostname",
    "labels",
    "mac_address",
    "platform",
    "runtime",
    "stop_signal",
    "user",
    "working_dir",
)
_AGENT_SPACE: Final = 64 << 20


@final
@record
class Abilities:
    """What a daemon can do."""

    is_podman: bool
    cpus: int
    memory: int
    #: Limits that it ignores without a word, by our option.
    ignored: tuple[str, ...]


def read_abilities(info: Mapping[str, Any], *, is_podman: bool) -> Abilities:
    """What ``docker info`` says of limits."""
    known = {
        "MemoryLimit": "--shard-memory",
        "PidsLimit": "--shard-pids",
        "CpuCfsQuota": "--shard-cpus",
    }
    # Podman's answer has these fields, but fills in only some.
    ignored = () if is_podman else [flag for name, flag in known.items() if info.get(name) is False]
    return Abilities(
        is_podman=is_podman,
        cpus=int(info.get("NCPU") or 0),
        memory=int(info.get("MemTotal") or 0),
        ignored=tuple(ignored),
    )


def agent_source() -> str:
    """The program of a container's first process."""
    return resources.files(__package__).joinpath("docker_agent.py").read_text(encoding="utf-8")


def command(python: str) -> list[str]:
    """The command of a container: isolated, so that nothing in the image gets in its way."""
    return [python, "-I", "-u", "-c", agent_source()]


def allowed_environment(
    environment: Mapping[str, str], settings: ContainerSettings
) -> dict[str, str]:
    """What of the worker's environment it gets in a container."""
    patterns = [each for each in settings.environment if "=" not in each]
    allowed = {
        name: value
        for name, value in environment.items()
        if any(fnmatch.fnmatchcase(name, each) for each in (*ALLOWED, *patterns))
        and (name not in _NOT_ALLOWED or name in patterns)
    }
    for each in settings.environment:
        name, equals, value = each.partition("=")
        if equals:
            allowed[name] = value
    return allowed


def host_options(
    settings: ContainerSettings,
    abilities: Abilities,
    *,
    directories: Sequence[Path],
    mounts: Sequence[Mapping[str, Any]],
    copied_bytes: int,
) -> dict[str, Any]:
    """The SDK's options of the host: what a container may do, and how much of it."""
    memory = _memory(settings, abilities, copied_bytes)
    cpus = settings.cpus
    if cpus is not None and abilities.cpus:
        cpus = min(cpus, float(abilities.cpus))
    room = {str(path): settings.disk + 2 * copied_bytes for path in directories}
    room |= {"/tmp": settings.disk, AGENT_DIRECTORY: _AGENT_SPACE}
    options: dict[str, Any] = {
        "network_mode": settings.network,
        "read_only": True,
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges"],
        "ipc_mode": "private",
        "mem_limit": memory,
        # Equal to the limit: no swap.
        "memswap_limit": memory,
        "nano_cpus": int(cpus * 1e9) if cpus is not None else None,
        "pids_limit": settings.pids,
        # The stream of results would be kept on the daemon's disk as well, at half the speed.
        "log_config": {"Type": "none"},
        "tmpfs": {path: _tmpfs(size, settings, abilities) for path, size in room.items()},
        "mounts": list(mounts),
    }
    if abilities.is_podman:
        # Its own defaults are higher than a process without capabilities may set.
        options["ulimits"] = [_limit("nofile", 1 << 20), _limit("nproc", 1 << 15)]
    options |= {
        name: value for name, value in _further(settings).items() if name not in _OF_THE_CONTAINER
    }
    return {name: value for name, value in options.items() if value is not None}


def container_options(
    settings: ContainerSettings,
    *,
    image: str,
    python: str,
    shard: int,
    labels: Mapping[str, str],
    host_config: Mapping[str, Any],
) -> dict[str, Any]:
    """The SDK's options of the container itself."""
    home = (
        {}
        if settings.user in (None, (0, 0))
        else {"HOME": "/tmp", "USER": "shard", "LOGNAME": "shard"}
    )
    options: dict[str, Any] = {
        "image": image,
        "command": command(python),
        # An image's own entry point would get our command as arguments.
        "entrypoint": "",
        "environment": home,
        "hostname": f"shard-{shard}",
        "stdin_open": True,
        "tty": False,
        "labels": dict(labels),
        "stop_signal": "SIGKILL",
        "working_dir": "/",
        "host_config": dict(host_config),
    }
    if settings.user is not None:
        options["user"] = "{}:{}".format(*settings.user)
    for name, value in _further(settings).items():
        if name in _OF_THE_CONTAINER:
            both = isinstance(value, dict) and isinstance(options.get(name), dict)
            options[name] = {**value, **options[name]} if both else value
    return options


def _further(settings: ContainerSettings) -> dict[str, Any]:
    return {name: json.loads(value) for name, value in settings.options}


def _memory(settings: ContainerSettings, abilities: Abilities, copied_bytes: int) -> int | None:
    if settings.memory is None:
        return None
    # The copy is in the container's memory, too.
    memory = settings.memory + copied_bytes
    return min(memory, abilities.memory) if abilities.memory else memory


def _limit(name: str, most: int) -> dict[str, Any]:
    """The limit of this process, which is likely to be podman's as well."""
    _, hard = resource.getrlimit(getattr(resource, f"RLIMIT_{name.upper()}"))
    limit = most if hard == resource.RLIM_INFINITY else min(hard, most)
    return {"Name": name, "Soft": limit, "Hard": limit}


def _tmpfs(size: int, settings: ContainerSettings, abilities: Abilities) -> str:
    options = f"size={size},mode=1777,exec,nosuid,nodev"
    if settings.user is not None and not abilities.is_podman:
        # Where the image has the directory, the runtime takes its mode over.
        options += ",uid={},gid={}".format(*settings.user)
    return options
