"""What the user asked for of containers."""

from __future__ import annotations

import json
import os
import re
import sys
from typing import Final, final

import pytest

from .records import record

PULL: Final = ("never", "missing", "always")
CODE: Final = ("copy", "volume", "bind")

_UNITS: Final = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}
#: Options of plugins that ask for files of the project to be written anew.
_WRITING_OPTIONS: Final = (
    "--snapshot-update",
    "--inline-snapshot",
    "--force-regen",
    "--regen-all",
    "--update-goldens",
    "--mpl-generate-path",
)
#: What would break the promises of a shard's container, and what to use instead.
_REFUSED_KEYS: Final = {
    "pid_mode": "the end of a worker ends every process that it can see",
    "init": "the container's first process is already one that reaps",
    "auto_remove": "how a container ended is asked for after its end",
    "stdin_open": "the stream of the tests' results is attached there",
    "tty": "a terminal would change the stream of the tests' results",
    "entrypoint": "use --shard-python for the interpreter's name",
    "command": "use --shard-python for the interpreter's name",
    "name": "containers are named by their run",
    "detach": "it is always so",
    "image": "use --shard-image",
}


@final
@record
class ContainerSettings:
    """The options of one shard's container; sizes are bytes, None is no limit."""

    image: str
    #: A directory or a Dockerfile to build the image from; empty: not built.
    build: str
    pull: str
    setup: str
    setup_inputs: tuple[str, ...]
    #: The interpreter's name; empty: what there is.
    python: str
    code: str
    collect: tuple[str, ...]
    collect_directory: str
    write_back: tuple[str, ...]
    #: Names, NAME=value, or names with ``*``.
    environment: tuple[str, ...]
    network: str
    memory: int | None
    cpus: float | None
    pids: int | None
    disk: int
    #: (uid, gid); None: whatever the image says.
    user: tuple[int, int] | None
    #: Further options by the SDK's names, with their JSON.
    options: tuple[tuple[str, str], ...]


def read_container_settings(config: pytest.Config) -> ContainerSettings:
    """The settings of a shard's container; ``pytest.UsageError`` names the option."""
    image, build = _text(config, "shard_image"), _text(config, "shard_build")
    if image and build:
        raise pytest.UsageError(
            f"--shard-image={image} and --shard-build={build} both say which image: leave out one"
        )
    return ContainerSettings(
        image=image or f"python:{sys.version_info.major}.{sys.version_info.minor}-slim",
        build=build,
        pull=_choice(config, "shard_pull", PULL, "missing"),
        setup=_text(config, "shard_setup"),
        setup_inputs=_texts(config, "shard_setup_inputs"),
        python=_text(config, "shard_python"),
        code=_choice(config, "shard_code", CODE, "copy"),
        collect=_texts(config, "shard_collect_files"),
        collect_directory=_text(config, "shard_collect_dir") or "shard-files",
        write_back=_texts(config, "shard_write_back") or _asked_to_write(config),
        environment=_texts(config, "shard_env"),
        network=_text(config, "shard_network") or "none",
        memory=_size(config, "shard_memory", 4 << 30),
        cpus=_number(config, "shard_cpus", 2.0),
        pids=_pids(config),
        disk=_size(config, "shard_disk", 1 << 30) or 1 << 30,
        user=_user(_text(config, "shard_user")),
        options=_docker_options(_texts(config, "shard_docker_opt")),
    )


def _text(config: pytest.Config, name: str) -> str:
    value = config.getoption(name)
    return str(config.getini(name) if value is None else value).strip()


def _texts(config: pytest.Config, name: str) -> tuple[str, ...]:
    values = config.getoption(name) or config.getini(name)
    return tuple(str(value).strip() for value in values if str(value).strip())


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _choice(config: pytest.Config, name: str, known: tuple[str, ...], default: str) -> str:
    value = _text(config, name) or default
    if value not in known:
        listed = f"{', '.join(known[:-1])} or {known[-1]}"
        raise pytest.UsageError(f"{_flag(name)}={value} is unknown: choose {listed}")
    return value


def _size(config: pytest.Config, name: str, default: int) -> int | None:
    text = _text(config, name)
    if not text:
        return default
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([bkmg]?)b?", text.lower())
    if match is None:
        raise pytest.UsageError(
            f"{_flag(name)}={text} is no size: give bytes, or a number with k, m or g, like 512m"
        )
    return int(float(match[1]) * _UNITS[match[2]]) or None


def _number(config: pytest.Config, name: str, default: float) -> float | None:
    text = _text(config, name)
    if not text:
        return default
    if not re.fullmatch(r"\d+(\.\d+)?", text):
        raise pytest.UsageError(f"{_flag(name)}={text} is no number: give one like 2 or 0.5")
    return float(text) or None


def _pids(config: pytest.Config) -> int | None:
    number = _number(config, "shard_pids", 512.0)
    return None if number is None else int(number)


def _user(text: str) -> tuple[int, int] | None:
    if text == "root":
        return (0, 0)
    if text == "image":
        return None
    if not text:
        uid, gid = os.getuid(), os.getgid()
        return (1000, 1000) if uid == 0 else (uid, gid)
    match = re.fullmatch(r"(\d+)(?::(\d+))?", text)
    if match is None:
        raise pytest.UsageError(
            f"--shard-user={text} is no number: names are known in the image only; give UID, "
            "UID:GID, root, or image for the image's own user"
        )
    return int(match[1]), int(match[2] or match[1])


def _docker_options(given: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    options: dict[str, str] = {}
    for each in given:
        key, equals, value = each.partition("=")
        key = key.strip()
        if key in _REFUSED_KEYS:
            raise pytest.UsageError(f"--shard-docker-opt={each} cannot be: {_REFUSED_KEYS[key]}")
        try:
            if not equals or not key.isidentifier():
                raise ValueError
            json.loads(value)
            options[key] = value
        except ValueError:
            raise pytest.UsageError(
                f"--shard-docker-opt={each} is no KEY=JSON: write it like "
                """'shm_size="256m"' or 'cap_add=["SYS_PTRACE"]'"""
            ) from None
    return tuple(options.items())


def _asked_to_write(config: pytest.Config) -> tuple[str, ...]:
    """Everything but hidden files, where an option asks plugins to change the project."""
    for argument in config.invocation_params.args:
        if str(argument).startswith(_WRITING_OPTIONS):
            return ("*",)
    return ()
