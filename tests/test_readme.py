"""What the README says is what happens: its commands and its code are run."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from pytest_shardrun.worker.options import OPTIONS

CLONE: Final = Path(__file__).parents[1]
README: Final = (CLONE / "README.md").read_text(encoding="utf-8")

#: Tests that run no README; the test command is told to run these, not all of them once more.
SMALL_TESTS: Final = "tests/test_architecture.py"
EXAMPLE_SUMMARY: Final = "29 passed, 1 skipped, 1 xfailed"


def blocks(*languages: str) -> list[str]:
    found = re.findall(r"^```(\w+)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    return [text.strip() for language, text in found if language in languages]


COMMANDS: Final = [
    line for block in blocks("console", "bash", "sh", "shell") for line in block.splitlines()
]
#: For a fresh clone; the others are for a project into which the plugin is installed.
FRESH_COMMANDS: Final = [command for command in COMMANDS if command.startswith("python3 -m venv")]
PROJECT_COMMANDS: Final = [command for command in COMMANDS if command not in FRESH_COMMANDS]


@dataclass(frozen=True, slots=True)
class Installed:
    """A copy of the clone after the README's first command."""

    directory: Path
    first_run: subprocess.CompletedProcess[str]


def run(
    command: str, directory: Path, *, programs: Path, addopts: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run a line of the README as a person would, in a shell, without what this run was given."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTEST_", "COV_", "COVERAGE_", "PYTHONPATH", "VIRTUAL_ENV"))
    }
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command],
        cwd=directory,
        env={
            **kept,
            "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
            "PYTEST_ADDOPTS": addopts,
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def run_in_clone(
    command: str, directory: Path, *, addopts: str = ""
) -> subprocess.CompletedProcess[str]:
    # "python3" then is the Python that runs this test.
    return run(command, directory, programs=Path(sys.executable).parent, addopts=addopts)


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    directory = tmp_path_factory.mktemp("readme") / "clone"
    unwanted = shutil.ignore_patterns(".git", ".venv", "__pycache__", ".*_cache", ".hypothesis")
    shutil.copytree(CLONE, directory, ignore=unwanted)
    return Installed(directory, run_in_clone(FRESH_COMMANDS[0], directory))


def test_two_commands_do_everything_on_a_fresh_machine() -> None:
    assert len(FRESH_COMMANDS) == 2
    assert all(command.startswith("pytest ") for command in PROJECT_COMMANDS)


def test_the_first_command_installs_and_runs_the_example_in_shards(installed: Installed) -> None:
    done = installed.first_run

    assert done.returncode == 0, done.stdout + done.stderr
    assert EXAMPLE_SUMMARY in done.stdout
    assert re.search(r"\bshard\b", done.stdout)


def test_the_second_command_installs_what_the_tests_need_and_runs_them(
    installed: Installed,
) -> None:
    done = run_in_clone(FRESH_COMMANDS[1], installed.directory, addopts=SMALL_TESTS)

    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"\d+ passed in ", done.stdout)
    assert (installed.directory / ".venv/bin/mypy").exists()


@pytest.mark.parametrize("command", PROJECT_COMMANDS)
def test_a_command_for_a_project_passes_in_the_example(command: str, installed: Installed) -> None:
    programs = installed.directory / ".venv" / "bin"
    done = run(command, installed.directory / "examples/first_run", programs=programs)

    assert done.returncode == 0, done.stdout + done.stderr
    if "--shard-plan" not in command:
        assert EXAMPLE_SUMMARY in done.stdout


@pytest.mark.parametrize("code", blocks("python"))
def test_code_passes_in_shards(code: str, pytester: pytest.Pytester) -> None:
    pytester.makepyfile(code)

    result = pytester.runpytest_subprocess("--shards", "2", "--strict-markers")

    result.assert_outcomes(passed=code.count("def test_"))


def test_the_table_of_options_is_complete() -> None:
    listed = re.findall(r"^\| `(--shard[a-z-]*)", README, re.MULTILINE)

    assert listed == [option.flag for option in OPTIONS]


def test_every_file_that_is_linked_exists() -> None:
    targets = re.findall(r"\]\((?!https?:)([^)#]+)\)", README)

    assert [target for target in targets if not (CLONE / target).exists()] == []
