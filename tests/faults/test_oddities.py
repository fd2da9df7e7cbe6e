"""What a test or plugin does to its session and its neighbours stays its own affair."""

from __future__ import annotations

from pathlib import Path

import pytest

from .support import PROCESSES_ARE_KNOWN, SOON, check_books, kinds_of, run
from .table import DEATHS, HEALTHY, HEALTHY_KINDS, ONE_SHARD, SHORT_LIMITS, TWO_SHARDS, Misbehaviour

pytestmark = PROCESSES_ARE_KNOWN


@pytest.mark.parametrize("way", DEATHS[:3], ids=str)
def test_a_death_while_importing_ends_the_run_as_a_collection_error_does(
    tmp_path: Path, way: Misbehaviour
) -> None:
    files = {
        "misbehaviour.py": way.module,
        "test_deadly.py": "from misbehaviour import misbehave\n\nmisbehave()\n",
        "test_healthy.py": HEALTHY,
    }

    finished = run(tmp_path, files, *TWO_SHARDS, within=SOON)

    check_books(finished, code=2, kinds={"test_deadly.py": "error|crash"})
    assert finished.has_line_with("ERROR collecting", "test_deadly.py"), finished.describe()
    assert finished.has_line_with("crashed", "while importing"), finished.describe()
    assert way.says[0] in finished.stdout
    assert ("in misbehave" in finished.stdout) == way.has_stack


def test_sys_exit_while_importing_makes_the_run_red_and_names_the_module(tmp_path: Path) -> None:
    files = {"test_deadly.py": "import sys\nsys.exit(0)\n", "test_healthy.py": HEALTHY}

    finished = run(tmp_path, files, *TWO_SHARDS, within=SOON)

    assert finished.code in (2, 3), finished.describe()
    assert "test_deadly.py" in finished.stdout


def test_sys_exit_in_a_test_is_a_plain_failure_and_in_a_fixture_a_plain_error(
    tmp_path: Path,
) -> None:
    files = {
        "test_exits.py": """
            import sys
            import pytest

            @pytest.fixture
            def exits():
                sys.exit(0)

            def test_call():
                sys.exit(0)

            def test_setup(exits):
                pass

            def test_after():
                pass
        """,
        "test_healthy.py": HEALTHY,
    }

    finished = run(tmp_path, files, *TWO_SHARDS, within=SOON)

    exits = kinds_of("exits", call="failed", setup="error", after="passed")
    check_books(finished, code=1, kinds={**exits, **HEALTHY_KINDS})
    assert "SystemExit" in finished.case("test_exits.py::test_call").text


def test_a_keyboard_interrupt_raised_by_a_test_is_that_tests_fault_alone(tmp_path: Path) -> None:
    files = {
        "test_raises.py": """
            def test_before():
                pass

            def test_raises():
                raise KeyboardInterrupt

            def test_after():
                pass
        """,
        "test_healthy.py": HEALTHY,
    }

    finished = run(tmp_path, files, *TWO_SHARDS, within=SOON)

    raises = kinds_of("raises", before="passed", raises="failed|error|crash", after="passed")
    check_books(finished, code=1, kinds={**raises, **HEALTHY_KINDS})
    assert "KeyboardInterrupt" in finished.case("test_raises.py::test_raises").text


def test_a_test_that_kills_its_process_group_hits_its_own_shard_only(tmp_path: Path) -> None:
    files = {
        "test_kills.py": """
            import os, signal

            def test_before():
                pass

            def test_kills():
                os.killpg(0, signal.SIGKILL)

            def test_after():
                pass
        """,
        "test_healthy.py": HEALTHY,
    }

    finished = run(tmp_path, files, *TWO_SHARDS, within=SOON)

    kills = kinds_of("kills", before="passed", kills="crash", after="passed")
    check_books(finished, code=1, kinds={**kills, **HEALTHY_KINDS})


@pytest.mark.parametrize(
    "joins", ["os.setsid()", "os.setpgid(0, os.getpgid(os.getppid()))"], ids=["own", "parents"]
)
def test_nobody_else_is_hit_when_a_test_that_left_its_process_group_is_stopped(
    tmp_path: Path, joins: str
) -> None:
    files = {
        "test_leaves.py": f"""
            import contextlib, os, time

            def test_before():
                pass

            def test_leaves():
                with contextlib.suppress(OSError):
                    {joins}
                time.sleep(1000)

            def test_after():
                pass
        """,
        "test_healthy.py": HEALTHY,
    }

    finished = run(tmp_path, files, *TWO_SHARDS, *SHORT_LIMITS, within=SOON)

    leaves = kinds_of("leaves", before="passed", leaves="timeout", after="passed")
    check_books(finished, code=1, kinds={**leaves, **HEALTHY_KINDS})


def test_a_plugin_that_breaks_over_a_test_in_a_shard_costs_that_test_only(tmp_path: Path) -> None:
    files = {
        "conftest.py": """
            def pytest_runtest_protocol(item):
                if item.name == "test_unlucky":
                    raise RuntimeError("the plugin broke")
        """,
        "test_broken.py": """
            def test_before():
                pass

            def test_unlucky():
                pass

            def test_after():
                pass
        """,
        "test_healthy.py": HEALTHY,
    }

    finished = run(tmp_path, files, *TWO_SHARDS, within=SOON)

    broken = kinds_of("broken", before="passed", unlucky="crash|error", after="passed")
    assert finished.code in (1, 3), finished.describe()
    check_books(
        finished, code=finished.code, kinds={**broken, **HEALTHY_KINDS}, internal_error=True
    )
    assert "the plugin broke" in finished.stdout


def test_a_plugin_that_breaks_over_a_report_in_the_controller_leaves_a_complete_file(
    tmp_path: Path,
) -> None:
    files = {
        "conftest.py": """
            import pytest

            def pytest_configure(config):
                if not hasattr(config, "workerinput"):
                    config.pluginmanager.register(Broken())

            class Broken:
                def pytest_runtest_logreport(self, report):
                    if report.nodeid.endswith("test_unlucky"):
                        raise RuntimeError("the plugin broke")
        """,
        "test_broken.py": """
            def test_unlucky():
                pass

            def test_after():
                pass
        """,
        "test_healthy.py": HEALTHY,
    }

    finished = run(tmp_path, files, *TWO_SHARDS, within=SOON)

    assert finished.code == 3, finished.describe()
    assert "the plugin broke" in finished.stdout + finished.stderr
    assert finished.cases is not None, finished.describe()
    assert len(finished.cases) == 5, finished.describe()


@pytest.mark.parametrize(
    "registration",
    [
        "atexit.register(time.sleep, 1000)",
        "threading.Thread(target=time.sleep, args=(1000,)).start()",
    ],
    ids=["an atexit function", "a thread that is no daemon"],
)
def test_a_process_that_cannot_exit_keeps_its_results_but_not_its_life(
    tmp_path: Path, registration: str
) -> None:
    files = {
        "test_hang.py": f"""
            import atexit, threading, time

            def test_before():
                pass

            def test_makes_the_exit_hang():
                {registration}

            def test_after():
                pass
        """,
        "test_healthy.py": HEALTHY,
    }

    finished = run(tmp_path, files, *TWO_SHARDS, *SHORT_LIMITS, within=SOON)

    hang = kinds_of("hang", before="passed", makes_the_exit_hang="passed", after="passed")
    # Whether a process that has said goodbye and does not go makes the run red is left open.
    assert finished.code in (0, 1), finished.describe()
    check_books(finished, code=finished.code, kinds={**hang, **HEALTHY_KINDS})


@pytest.mark.parametrize("hook", ["pytest_configure(config)", "pytest_sessionfinish(session)"])
def test_a_shard_that_hangs_outside_its_tests_is_stopped_and_named(
    tmp_path: Path, hook: str
) -> None:
    files = {
        "conftest.py": f"""
            import os, time

            def {hook}:
                if "PYTEST_XDIST_WORKER" in os.environ:
                    hangs()

            def hangs():
                time.sleep(1000)
        """,
        "test_healthy.py": HEALTHY,
    }

    finished = run(tmp_path, files, *ONE_SHARD, *SHORT_LIMITS, within=SOON)

    check_books(finished, code=1, kinds=HEALTHY_KINDS if "session" in hook else {})
    assert finished.has_line_with("shard 1", "timed out"), finished.describe()
    assert "in hangs" in finished.stdout


def test_a_clock_that_runs_backwards_disturbs_neither_shards_nor_controller(
    tmp_path: Path,
) -> None:
    files = {
        "conftest.py": """
            import time

            now = time.time

            def backwards():
                return 2e9 - now()

            time.time = backwards
        """,
        "test_healthy.py": HEALTHY,
        "test_hangs.py": """
            import time

            def test_hangs():
                time.sleep(1000)
        """,
    }

    finished = run(tmp_path, files, *TWO_SHARDS, *SHORT_LIMITS, within=SOON)

    hangs = kinds_of("hangs", hangs="timeout")
    check_books(finished, code=1, kinds={**hangs, **HEALTHY_KINDS})
