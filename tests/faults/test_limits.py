"""How often processes are replaced, and for how long a run may go on."""

from __future__ import annotations

from pathlib import Path

import pytest

from .support import PROCESSES_ARE_KNOWN, SOON, check_books, kinds_of, run
from .table import HEALTHY, HEALTHY_KINDS, ONE_SHARD, TWO_CRASHERS, TWO_SHARDS

pytestmark = PROCESSES_ARE_KNOWN


@pytest.mark.parametrize(
    ("restarts", "expected"),
    [
        (0, {"a": "passed", "b": "crash", "c": "not-run", "d": "not-run", "e": "not-run"}),
        (1, {"a": "passed", "b": "crash", "c": "passed", "d": "crash", "e": "not-run"}),
        (2, {"a": "passed", "b": "crash", "c": "passed", "d": "crash", "e": "passed"}),
    ],
)
def test_a_crashed_shard_is_replaced_as_often_as_allowed(
    tmp_path: Path, restarts: int, expected: dict[str, str]
) -> None:
    finished = run(
        tmp_path,
        {"test_crashes.py": TWO_CRASHERS},
        *ONE_SHARD,
        f"--shard-restarts={restarts}",
        within=SOON,
    )

    check_books(finished, code=1, kinds=kinds_of("crashes", **expected))
    for name in (name for name, kind in expected.items() if kind == "not-run"):
        case = finished.case(f"test_crashes.py::test_{name}")
        assert "shard 1" in case.text
        assert "exit code 3" in case.text
        assert "--shard-restarts" in case.text
        assert finished.has_line_with(f"NOT RUN test_crashes.py::test_{name}"), finished.describe()


def test_without_restarts_the_other_shard_takes_over_what_it_can(tmp_path: Path) -> None:
    files = {
        "test_crashes.py": """
            import os

            def test_crashes():
                os._exit(3)

            def test_after():
                pass
        """,
        "test_healthy.py": HEALTHY,
    }

    finished = run(tmp_path, files, *TWO_SHARDS, "--shard-restarts=0", within=SOON)

    crashes = kinds_of("crashes", crashes="crash", after="passed|not-run")
    check_books(finished, code=1, kinds={**crashes, **HEALTHY_KINDS})


def test_every_test_of_every_shard_crashes_and_each_is_blamed(tmp_path: Path) -> None:
    source = """
        import os, signal
        import pytest

        @pytest.mark.parametrize("number", range(10))
        def test_crashes(number):
            os.kill(os.getpid(), signal.SIGKILL)
    """

    finished = run(
        tmp_path, {"test_a.py": source, "test_b.py": source}, *TWO_SHARDS, within=2 * SOON
    )

    kinds = {f"test_{m}.py::test_crashes[{n}]": "crash" for m in "ab" for n in range(10)}
    check_books(finished, code=1, kinds=kinds)


def test_5000_tests_that_die_end_in_bounded_time_with_complete_books(tmp_path: Path) -> None:
    """Processes that die of their first test, one after the other, are not replaced for ever."""
    source = """
        import os
        import pytest

        @pytest.mark.parametrize("number", range(2500))
        def test_dies(number):
            os._exit(3)
    """

    finished = run(
        tmp_path, {"test_a.py": source, "test_b.py": source}, *TWO_SHARDS, within=5 * SOON
    )

    kinds = {f"test_{m}.py::test_dies[{n}]": "crash|not-run" for m in "ab" for n in range(2500)}
    check_books(finished, code=1, kinds=kinds)
    assert finished.cases is not None
    crashed = [nodeid for nodeid, case in finished.cases.items() if case.kind == "crash"]
    assert len(crashed) >= 80
    if len(crashed) < 5000:
        assert finished.has_line_with("NOT RUN", "in a row"), finished.describe()


def test_shards_that_die_before_they_collect_end_the_run_and_are_named(tmp_path: Path) -> None:
    files = {
        "conftest.py": """
            import os

            def pytest_configure(config):
                if hasattr(config, "workerinput"):
                    os._exit(5)
        """,
        "test_healthy.py": HEALTHY,
    }

    finished = run(tmp_path, files, *TWO_SHARDS, within=SOON)

    assert finished.code in (1, 2, 3), finished.describe()
    assert finished.cases is not None, finished.describe()
    for shard in ("shard 1", "shard 2"):
        assert finished.has_line_with(shard, "exit code 5"), finished.describe()


def test_shards_that_die_between_collection_and_tests_name_what_they_did_not_run(
    tmp_path: Path,
) -> None:
    files = {
        "conftest.py": """
            import os
            import pytest

            @pytest.hookimpl(tryfirst=True)
            def pytest_runtestloop(session):
                if hasattr(session.config, "workerinput"):
                    os._exit(5)
        """,
        "test_healthy.py": HEALTHY,
        "test_more.py": HEALTHY,
    }

    finished = run(tmp_path, files, *TWO_SHARDS, within=SOON)

    more = kinds_of("more", one="not-run", two="not-run", three="not-run")
    check_books(finished, code=1, kinds={**dict.fromkeys(HEALTHY_KINDS, "not-run"), **more})
    assert "exit code 5" in finished.case("test_more.py::test_one").text


def test_a_shard_that_is_stopped_between_two_tests_is_replaced(tmp_path: Path) -> None:
    files = {
        "conftest.py": """
            import os, signal

            class Tests(list):
                def __getitem__(self, index):
                    # The worker looks at the third one before it begins the second.
                    if index == 2 and os.environ["SHARDRUN_ATTEMPT"] == "1":
                        os.kill(os.getpid(), signal.SIGSTOP)
                    return super().__getitem__(index)

            def pytest_collection_finish(session):
                if hasattr(session.config, "workerinput"):
                    session.items = Tests(session.items)
        """,
        "test_healthy.py": HEALTHY,
    }

    limits = ("--shard-test-timeout=1", "--shard-grace=1")
    finished = run(tmp_path, files, *ONE_SHARD, *limits, within=SOON)

    check_books(finished, code=1, kinds=HEALTHY_KINDS)
    assert finished.has_line_with("shard 1", "did not go on for 6 s", "between two tests")


def test_an_attempt_without_progress_ends_the_effort(tmp_path: Path) -> None:
    """The first attempt leaves something behind with which no further one can start."""
    files = {
        "conftest.py": """
            import os, pathlib

            LEFT_BEHIND = pathlib.Path(__file__).with_name("left-behind")

            def pytest_configure(config):
                if hasattr(config, "workerinput") and LEFT_BEHIND.exists():
                    os._exit(5)
        """,
        "test_crashes.py": """
            import os
            from conftest import LEFT_BEHIND

            def test_before():
                pass

            def test_crashes():
                LEFT_BEHIND.touch()
                os._exit(3)

            def test_after():
                pass
        """,
    }

    finished = run(tmp_path, files, *ONE_SHARD, "--shard-start=spawn", within=SOON)

    crashes = kinds_of("crashes", before="passed", crashes="crash", after="not-run")
    check_books(finished, code=1, kinds=crashes)
    assert "exit code 5" in finished.case("test_crashes.py::test_after").text


def test_a_run_timeout_stops_everything_and_says_so_of_each_test(tmp_path: Path) -> None:
    files = {
        "test_hang.py": """
            import time

            def test_before():
                pass

            def test_hangs():
                time.sleep(1000)

            def test_after():
                pass
        """,
        "test_healthy.py": HEALTHY,
    }

    finished = run(
        tmp_path, files, *ONE_SHARD, "--shard-run-timeout=3", "--shard-grace=1", within=SOON
    )

    hang = kinds_of("hang", before="passed", hangs="timeout", after="not-run")
    rest = dict.fromkeys(HEALTHY_KINDS, "not-run")
    check_books(finished, code=1, kinds={**hang, **rest})
    assert "test_hangs" in finished.case("test_hang.py::test_hangs").text
    assert "--shard-run-timeout" in finished.case("test_hang.py::test_after").text
    assert finished.has_line_with("NOT RUN test_hang.py::test_after"), finished.describe()
