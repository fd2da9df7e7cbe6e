"""What a run measures, uses and saves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

SUITE = """
import time
import pytest

@pytest.fixture(scope="module")
def slow_to_make():
    time.sleep(1.0)
    yield
    time.sleep(1.0)

@pytest.fixture(scope="session", autouse=True)
def slow_for_all():
    time.sleep(1.0)

@pytest.fixture
def dynamic(request):
    time.sleep(0.2)
    return request.getfixturevalue("slow_to_make")

def test_first(dynamic): pass
def test_second(slow_to_make): pass
"""


def run(pytester: pytest.Pytester, *arguments: str) -> None:
    done = pytester.runpytest_subprocess("--shards=1", *arguments)

    assert done.ret == 0, done.stdout.str()


def saved(path: Path) -> dict[str, Any]:
    content = json.loads(path.read_text(encoding="utf-8"))
    assert isinstance(content, dict)
    return content


def test_what_shared_fixtures_take_is_not_the_time_of_the_test_that_needs_them_first(
    pytester: pytest.Pytester,
) -> None:
    pytester.makepyfile(test_a=SUITE)

    run(pytester)

    content = saved(pytester.path / ".pytest_cache/d/shardrun/durations.json")
    seconds = content["durations"]
    # The fixture of the one test counts, those of the module and session do not.
    assert 0.2 <= seconds["test_a.py::test_first"] < 1.0
    assert seconds["test_a.py::test_second"] < 1.0
    assert 1.0 <= content["setups"]["test_a.py"] < 2.0


def test_a_fixture_that_fails_and_one_that_is_set_up_again_are_timed(
    pytester: pytest.Pytester,
) -> None:
    pytester.makepyfile(
        test_a="""
        import pytest

        @pytest.fixture(scope="module", params=[1, 2])
        def number(request):
            yield request.param

        @pytest.fixture(scope="class")
        def broken(number):
            raise ValueError(number)

        def test_one(number): pass
        def test_two(number): pass
        class TestThree:
            def test_three(self, broken): pass
        """
    )

    plain = pytester.runpytest_subprocess("-p", "no:shardrun")
    done = pytester.runpytest_subprocess("--shards=1")

    assert done.parseoutcomes() == plain.parseoutcomes() == {"passed": 4, "errors": 2}


def test_a_file_that_a_team_commits_is_written_and_read(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        test_a="""
        import time
        def test_long(): time.sleep(0.5)
        def test_a(): pass
        def test_b(): pass
        """,
        test_b="def test_c(): pass\ndef test_d(): pass",
    )
    pytester.makeini("[pytest]\nshard_durations = durations.json\n")

    run(pytester, "-p", "no:cacheprovider")

    content = saved(pytester.path / "durations.json")
    assert set(content["tests"]) == {"test_a.py::test_long"}
    assert {module: count for module, (count, _) in content["modules"].items()} == {
        "test_a.py": 2,
        "test_b.py": 2,
    }

    done = pytester.runpytest_subprocess("--shards=2", "--shard-plan", "-p", "no:cacheprovider")

    done.stdout.fnmatch_lines(["plan *: 2 shards *, expected to take 0.5 and 0.0 s"])


def test_a_file_of_pytest_split_is_read_as_it_is(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_a="def test_a(): pass\ndef test_b(): pass\ndef test_c(): pass")
    path = pytester.path / ".test_durations"
    path.write_text(
        '{"test_a.py::test_a": 9.0, "test_a.py::test_b": 4.0, "test_a.py::test_c": 5.0}'
    )

    done = pytester.runpytest_subprocess(
        "--shards=2", "--shard-plan", "--shard-durations=.test_durations"
    )

    done.stdout.fnmatch_lines(["*shard 1: 1 test, about 9.0 s", "*shard 2: 2 tests, about 9.0 s"])


def test_a_renamed_test_is_forgotten_but_not_by_a_run_of_a_part(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_a="def test_a(): pass\ndef test_b(): pass")
    path = pytester.path / ".pytest_cache/d/shardrun/durations.json"
    run(pytester)
    pytester.makepyfile(test_a="def test_a(): pass\ndef test_c(): pass")

    run(pytester, "-k", "test_c")
    run(pytester, "test_a.py::test_c")
    after_parts = set(saved(path)["durations"])
    run(pytester)
    after_all = set(saved(path)["durations"])

    assert after_parts == {f"test_a.py::test_{name}" for name in "abc"}
    assert after_all == {f"test_a.py::test_{name}" for name in "ac"}
