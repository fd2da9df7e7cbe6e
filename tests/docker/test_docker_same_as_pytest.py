"""The corpus of suites in containers: each reports what plain pytest reports."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Any, Final

import pytest
from comparison import differences, run_pytest, stopped_differences
from test_same_as_pytest import Suite, cases, missing

pytestmark = [pytest.mark.docker, pytest.mark.usefixtures("nothing_left")]

#: Those that depend most on where they run; SHARDRUN_WHOLE_CORPUS=1 takes all.
CHOSEN: Final = (
    "broken_collection",
    "conftest_options",
    "doctests",
    "environment",
    "exit_in_test",
    "fixtures",
    "output",
    "properties",
    "unittests",
    "warnings",
)


def name_of(case: Any) -> str:
    [(suite, _)] = case.values
    return str(suite.name)


def chosen_cases() -> list[object]:
    everything = cases()
    if os.environ.get("SHARDRUN_WHOLE_CORPUS"):
        return everything
    chosen = []
    for name in CHOSEN:
        # The first of its command lines: the others are compared in processes.
        chosen.append(next(each for each in everything if name_of(each) == name))
    return chosen


@pytest.mark.parametrize("case", chosen_cases())
def test_shards_in_containers_report_what_pytest_reports(
    case: tuple[Suite, str], tmp_path: Path, docker_image: str
) -> None:
    suite, arguments = case
    for need in suite.needs:
        if missing(need):
            pytest.skip(f"needs {need}")
    # It names pytest's own files, which are elsewhere in the image.
    args = [each for each in shlex.split(arguments) if each != "--full-trace"]
    plain_directory, sharded_directory = tmp_path / "one/suite", tmp_path / "two/suite"
    suite.write(plain_directory)
    suite.write(sharded_directory)

    plain = run_pytest(plain_directory, *args)
    sharded = run_pytest(
        sharded_directory,
        "--shards=2",
        "--shard-executor=docker",
        f"--shard-image={docker_image}",
        *suite.shard_arguments,
        *args,
    )

    found = (stopped_differences if suite.stops else differences)(plain, sharded)
    if found:
        pytest.fail("\n".join(found) + f"\n\n{plain.show()}\n\n{sharded.show()}", pytrace=False)
