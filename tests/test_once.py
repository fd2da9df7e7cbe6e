"""The fixture run_once, in real processes."""

from __future__ import annotations

from collections import Counter
from typing import Final

import pytest

SUITE: Final = """
import os
import pathlib
import time

import pytest

LOG = pathlib.Path(__file__).with_name("log")

def note(word):
    with LOG.open("a") as file:
        print(word, file=file)

def start():
    note("start")
    time.sleep(0.2)
    yield {"pid": os.getpid(), "address": ("localhost", 80)}
    note("stop")

@pytest.fixture(scope="session")
def service(run_once):
    return run_once("service", start)

@pytest.mark.parametrize("number", range(8))
def test_use(service, number):
    os.kill(service["pid"], 0)
    assert service["address"] == ("localhost", 80)
    time.sleep(0.02)
    note("use")

@pytest.mark.shard_serial
def test_use_alone(service):
    os.kill(service["pid"], 0)
    note("use")
"""


def words(pytester: pytest.Pytester) -> list[str]:
    return (pytester.path / "log").read_text().split()


@pytest.mark.parametrize("options", [["--shards=3"], ["--shards=5", "--shard-jobs=1"], []], ids=str)
def test_a_set_up_and_its_clean_up_happen_once_for_all_shards(
    options: list[str], pytester: pytest.Pytester
) -> None:
    pytester.makepyfile(SUITE)

    result = pytester.runpytest_subprocess(*options)

    result.assert_outcomes(passed=9)
    assert words(pytester) == ["start", *["use"] * 9, "stop"]


def test_who_asks_after_the_process_has_died_sets_it_up_again(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        SUITE.replace('    note("use")', '    note("use")\n    number == 3 and os._exit(1)', 1)
    )

    result = pytester.runpytest_subprocess("--shards=1")

    result.assert_outcomes(passed=8, failed=1)
    assert Counter(words(pytester)) == {"start": 2, "use": 9, "stop": 1}
    assert words(pytester)[-1] == "stop"


def test_a_failure_is_the_same_for_all_who_ask(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest

        def fail():
            with open(__file__ + ".log", "a") as file:
                file.write("tried ")
            raise OSError("no service here")

        @pytest.fixture
        def service(run_once):
            return run_once("service", fail)

        @pytest.mark.parametrize("number", range(4))
        def test_use(service, number):
            pass
        """
    )

    result = pytester.runpytest_subprocess("--shards=2")

    result.assert_outcomes(errors=4)
    (log,) = pytester.path.glob("*.log")
    assert log.read_text() == "tried "
    result.stdout.fnmatch_lines(
        ["*OSError: no service here*", "*run_once('service') has failed before: OSError*"],
        consecutive=False,
    )


def test_a_value_that_cannot_be_shared_is_refused(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_it(run_once):\n    run_once('thing', object)\n")

    for options in ([], ["--shards=2"]):
        result = pytester.runpytest_subprocess(*options)

        result.assert_outcomes(failed=1)
        result.stdout.fnmatch_lines(
            ["*TypeError: run_once('thing'): a value of type object cannot be given to*"]
        )
