"""The program `shardrun` as it is used in a shell."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from comparison import AUTOLOAD, CORPUS, run_pytest

from pytest_shardrun import cli
from pytest_shardrun.advice import ADVICE, advice_for


def shardrun(
    *arguments: str, directory: Path, path: str | None = None
) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    if path is not None:
        environment["PYTHONPATH"] = path
    program = "import sys; from pytest_shardrun.cli import main; sys.exit(main())"
    return subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def install(directory: Path, name: str) -> None:
    """Make a distribution with a pytest plugin, as pip would leave it."""
    information = directory / f"{name.replace('-', '_')}-1.2.dist-info"
    information.mkdir(parents=True)
    (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n")
    (information / "entry_points.txt").write_text("[pytest11]\nmade_up = json\n")


def test_the_program_is_installed_under_its_name() -> None:
    (script,) = metadata.entry_points(group="console_scripts", name="shardrun")

    assert script.load() is cli.main


def test_every_command_has_a_line_in_the_help(tmp_path: Path) -> None:
    done = shardrun("--help", directory=tmp_path)

    assert done.returncode == 0
    for command in cli.COMMANDS:
        assert f"{command.name}  " in done.stdout
        assert command.help in " ".join(done.stdout.split())


@pytest.mark.parametrize("command", [command.name for command in cli.COMMANDS])
def test_every_command_explains_itself(command: str, tmp_path: Path) -> None:
    done = shardrun(command, "--help", directory=tmp_path)

    assert done.returncode == 0
    assert done.stdout.startswith(f"usage: shardrun {command}")


@pytest.mark.parametrize("arguments", [[], ["unknown"], ["doctor", "--unknown"]])
def test_what_cannot_be_understood_ends_with_the_exit_code_for_wrong_usage(
    arguments: list[str], tmp_path: Path
) -> None:
    done = shardrun(*arguments, directory=tmp_path)

    assert done.returncode == 4
    assert "error: " in done.stderr


def test_the_doctor_names_plugins_that_need_care_and_the_setting_to_use(tmp_path: Path) -> None:
    install(tmp_path / "site", "pytest_Order")
    install(tmp_path / "site", "pytest-made-up")

    done = shardrun("doctor", directory=tmp_path, path=str(tmp_path / "site"))

    (advice,) = advice_for(["pytest-order"])
    assert done.returncode == 0, done.stderr
    assert "pytest-made-up 1.2" in done.stdout
    assert f"pytest-order\n  {advice.care}\n  → {advice.setting}\n" in done.stdout


def test_the_plan_names_loaded_plugins_that_need_care(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_passes(): pass")
    install(pytester.path.parent / "site", "pytest-order")
    path = f"{pytester.path.parent / 'site'}:{CORPUS}"

    run = run_pytest(
        pytester.path, "--shards=2", "--shard-plan", env={**AUTOLOAD, "PYTHONPATH": path}
    )

    (advice,) = advice_for(["pytest-order"])
    assert f"  → {advice.setting}" in run.stdout, run.show()


def test_advice_is_ordered_by_name_and_tells_what_to_do() -> None:
    names = [advice.distribution for advice in ADVICE]

    assert names == sorted(set(names))
    assert all(advice.care and advice.setting for advice in ADVICE)
