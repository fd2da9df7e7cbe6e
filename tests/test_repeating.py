from __future__ import annotations

import sys

import pytest

from pytest_shardrun.repeating import replay_command


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--shards", "4", "tests"], "pytest --shard-replay RUN:1 tests"),
        (["--shards=4", "-k", "a or b"], "pytest --shard-replay RUN:1 -k 'a or b'"),
        (["--shard-plan", "-x"], "pytest --shard-replay RUN:1 -x"),
        (["--junitxml", "report.xml", "-q"], "pytest --shard-replay RUN:1 -q"),
        (["--junit-xml=report.xml", "-q"], "pytest --shard-replay RUN:1 -q"),
        (["--lf", "--last-failed", "-q"], "pytest --shard-replay RUN:1 -q"),
        (["test_a.py::test_1[{x}]"], "pytest --shard-replay RUN:1 'test_a.py::test_1[{x}]'"),
    ],
)
def test_a_shard_is_repeated_with_the_arguments_of_its_run(
    arguments: list[str], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["/usr/bin/pytest"])
    assert replay_command(arguments, "RUN:1") == told


def test_what_was_started_as_a_module_is_repeated_as_one(pytester: pytest.Pytester) -> None:
    pytester.mkpydir("package")
    pytester.makepyfile(**{"tests/test_it": "def test_it():\n    import package\n    assert False"})
    python = (sys.executable, "-m", "pytest", "--import-mode=importlib")

    result = pytester.run(*python, "--shards=1", "-q", "tests")

    told = [line for line in result.outlines if line.startswith("to repeat shard 1")]
    assert " -m pytest --shard-replay" in told[0]
    result.stdout.fnmatch_lines(["FAILED tests/test_it.py::test_it - assert False"])


def test_where_nothing_is_remembered_no_repetition_is_offered(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_it(): assert False")

    result = pytester.runpytest_subprocess("--shards=1", "-p", "no:cacheprovider")

    result.assert_outcomes(failed=1)
    result.stdout.no_fnmatch_line("to repeat*")
