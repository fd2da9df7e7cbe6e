from __future__ import annotations

import os
from typing import Final

import pytest

from pytest_shardrun.container_settings import ContainerSettings, read_container_settings
from pytest_shardrun.worker.options import CONTAINER_OPTIONS


@pytest.fixture(autouse=True)
def _no_options_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)


def settings_of(pytester: pytest.Pytester, *arguments: str) -> ContainerSettings:
    return read_container_settings(pytester.parseconfig(*arguments))


#: Option, what is given, the field and what is in it then.
UNDERSTOOD: Final[list[tuple[str, str, str, object]]] = [
    ("shard_image", "alpine", "image", "alpine"),
    ("shard_pull", "never", "pull", "never"),
    ("shard_build", "docker", "build", "docker"),
    ("shard_setup", "pip install pytest", "setup", "pip install pytest"),
    ("shard_setup_inputs", "requirements.txt", "setup_inputs", ("requirements.txt",)),
    ("shard_python", "pypy3", "python", "pypy3"),
    ("shard_code", "volume", "code", "volume"),
    ("shard_collect_files", "*.png", "collect", ("*.png",)),
    ("shard_collect_dir", "artefacts", "collect_directory", "artefacts"),
    ("shard_write_back", "*.json", "write_back", ("*.json",)),
    ("shard_env", "TOKEN", "environment", ("TOKEN",)),
    ("shard_network", "bridge", "network", "bridge"),
    ("shard_memory", "512m", "memory", 512 << 20),
    ("shard_cpus", "0.5", "cpus", 0.5),
    ("shard_pids", "0", "pids", None),
    ("shard_disk", "2g", "disk", 2 << 30),
    ("shard_user", "1234:99", "user", (1234, 99)),
    ("shard_user", "1234", "user", (1234, 1234)),
    ("shard_user", "root", "user", (0, 0)),
    ("shard_user", "image", "user", None),
    ("shard_docker_opt", 'shm_size="1g"', "options", (("shm_size", '"1g"'),)),
]


@pytest.mark.parametrize(("option", "given", "name", "value"), UNDERSTOOD)
def test_an_option_has_an_ini_name_and_comes_before_it(
    option: str, given: str, name: str, value: object, pytester: pytest.Pytester
) -> None:
    flag = f"--{option.replace('_', '-')}"
    assert getattr(settings_of(pytester, f"{flag}={given}"), name) == value

    pytester.makeini(f"[pytest]\n{option} = {given}\n")
    assert getattr(settings_of(pytester), name) == value

    pytester.makeini(f"[pytest]\n{option} = nonsense\n")
    assert getattr(settings_of(pytester, f"{flag}={given}"), name) == value


def test_every_option_of_containers_was_given() -> None:
    assert {option for option, *_ in UNDERSTOOD} == {
        "shard_memory",
        *(each.dest for each in CONTAINER_OPTIONS),
    }


def test_what_may_be_repeated_is_a_list_in_the_ini_file(pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\nshard_env =\n    HOST\n    PORT=80\n")

    assert settings_of(pytester).environment == ("HOST", "PORT=80")
    assert settings_of(pytester, "--shard-env=A", "--shard-env=B").environment == ("A", "B")


def test_nobody_is_root_in_a_container_without_asking(pytester: pytest.Pytester) -> None:
    me = (os.getuid(), os.getgid())

    assert settings_of(pytester).user == ((1000, 1000) if me[0] == 0 else me)


@pytest.mark.parametrize(
    ("argument", "patterns"),
    [("--snapshot-update", ("*",)), ("--inline-snapshot=fix", ("*",)), ("-v", ())],
)
def test_who_asks_for_new_snapshots_gets_them(
    argument: str, patterns: tuple[str, ...], pytester: pytest.Pytester
) -> None:
    pytester.makeconftest(
        "def pytest_addoption(parser):\n"
        "    parser.addoption('--snapshot-update', action='store_true')\n"
        "    parser.addoption('--inline-snapshot')\n"
    )

    assert settings_of(pytester, argument).write_back == patterns


@pytest.mark.parametrize(
    ("argument", "sentence"),
    [
        (
            "--shard-pull=often",
            "--shard-pull=often is unknown: choose never, missing or always",
        ),
        (
            "--shard-memory=lots",
            "--shard-memory=lots is no size: give bytes, or a number with k, m or g, like 512m",
        ),
        ("--shard-cpus=all", "--shard-cpus=all is no number: give one like 2 or 0.5"),
        (
            "--shard-user=me",
            "--shard-user=me is no number: names are known in the image only; give UID, UID:GID, "
            "root, or image for the image's own user",
        ),
        (
            "--shard-docker-opt=shm_size=1g",
            "--shard-docker-opt=shm_size=1g is no KEY=JSON: write it like 'shm_size=\"256m\"' or "
            "'cap_add=[\"SYS_PTRACE\"]'",
        ),
        (
            '--shard-docker-opt=pid_mode="host"',
            '--shard-docker-opt=pid_mode="host" cannot be: the end of a worker ends every process '
            "that it can see",
        ),
    ],
)
def test_what_cannot_be_is_refused_with_what_to_do_instead(
    argument: str, sentence: str, pytester: pytest.Pytester
) -> None:
    with pytest.raises(pytest.UsageError) as caught:
        settings_of(pytester, argument)

    assert str(caught.value) == sentence


def test_two_answers_to_which_image_are_refused(pytester: pytest.Pytester) -> None:
    with pytest.raises(pytest.UsageError, match="both say which image"):
        settings_of(pytester, "--shard-image=alpine", "--shard-build=.")
