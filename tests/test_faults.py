"""What a test, a shard or a person does to a run: the result stays true, and the run ends.

After each run ``Run.finish`` has seen that it ended in time and left no process, and
``check_books`` that every test is in the JUnit file once, with the status it should have.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, final

import pytest
from faults_support import Finished, check_books, started, write_suite

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/environ").exists(), reason="looks for processes in /proc"
)

#: Seconds for a run in which nothing waits for a timeout; the machine may be slow.
SOON: Final = 30.0

TWO_SHARDS: Final = ("--shards=2",)
ONE_SHARD: Final = ("--shards=1",)
SHORT_LIMITS: Final = ("--shard-timeout=3", "--shard-grace=1")

#: Tests that pass, for a module beside the one that is about.
HEALTHY: Final = """
    def test_one():
        pass

    def test_two():
        pass

    def test_three():
        pass
"""
HEALTHY_KINDS: Final = {
    "test_healthy.py::test_one": "passed",
    "test_healthy.py::test_two": "passed",
    "test_healthy.py::test_three": "passed",
}

#: Notes which tests were really run, and how often, whatever becomes of their process.
NOTE_RUNS: Final = """
    import pathlib
    import pytest

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_call(item):
        with pathlib.Path(__file__).with_name("runs").open("a") as file:
            file.write(item.nodeid + "\\n")
"""


def run(directory: Path, files: Mapping[str, str], *arguments: str, within: float) -> Finished:
    """Write a suite, run it to its end and return what is left."""
    write_suite(directory, files)
    with started(directory, *arguments) as going:
        return going.finish(within=within)


def kinds_of(module: str, **kinds: str) -> dict[str, str]:
    """``kinds_of("x", one="passed")`` is ``{"test_x.py::test_one": "passed"}``."""
    return {f"test_{module}.py::test_{name}": kind for name, kind in kinds.items()}


# Dying: every way, in every phase.


@final
@dataclass(frozen=True, slots=True)
class Way:
    """A way in which a process can end itself."""

    statement: str
    #: What the report has to say about it.
    ending: str
    #: The first line of the stack that Python leaves, if it leaves one.
    stack: str = ""

    def __str__(self) -> str:
        return self.statement


WAYS: Final = (
    Way("os._exit(0)", "exit code 0"),
    Way("os._exit(3)", "exit code 3"),
    Way("ctypes.string_at(0)", "SIGSEGV", "Fatal Python error: Segmentation fault"),
    Way("os.abort()", "SIGABRT", "Fatal Python error: Aborted"),
    Way("os.kill(os.getpid(), signal.SIGBUS)", "SIGBUS", "Fatal Python error: Bus error"),
    Way("os.kill(os.getpid(), signal.SIGKILL)", "SIGKILL"),
    Way("os.kill(os.getpid(), signal.SIGTERM)", "SIGTERM"),
)
#: Without a word, with a stack, by a signal from outside.
FEW_WAYS: Final = (WAYS[0], WAYS[2], WAYS[5])

#: In each module, the test called ``test_dies`` is to blame, and the others are innocent.
PHASES: Final = {
    "call": """
        from death import die

        def test_before():
            pass

        def test_dies():
            die()

        def test_after():
            pass
    """,
    "function_setup": """
        import pytest
        from death import die

        @pytest.fixture
        def deadly():
            die()

        def test_before():
            pass

        def test_dies(deadly):
            pass

        def test_after():
            pass
    """,
    "module_setup": """
        import pytest
        from death import die

        @pytest.fixture(scope="module")
        def deadly():
            die()

        def test_before():
            pass

        def test_dies(deadly):
            pass

        def test_after():
            pass
    """,
    "session_setup": """
        import pytest
        from death import die

        @pytest.fixture(scope="session")
        def deadly():
            die()

        def test_before():
            pass

        def test_dies(deadly):
            pass

        def test_after():
            pass
    """,
    "function_teardown": """
        import pytest
        from death import die

        @pytest.fixture
        def deadly():
            yield
            die()

        def test_before():
            pass

        def test_dies(deadly):
            pass

        def test_after():
            pass
    """,
    # The module's fixture is torn down after its last test, so that is where to look.
    "module_teardown": """
        import pytest
        from death import die

        @pytest.fixture(scope="module")
        def deadly():
            yield
            die()

        def test_before():
            pass

        def test_after():
            pass

        def test_dies(deadly):
            pass
    """,
}


def death(way: Way) -> str:
    """The module ``death`` of a suite."""
    return f"import ctypes, os, signal\n\ndef die():\n    {way.statement}\n"


@pytest.fixture(scope="module", params=WAYS, ids=str)
def deaths(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Way, Finished, list[str]]:
    """A run in which one test of each module dies, and which tests it has really run."""
    way: Way = request.param
    directory = tmp_path_factory.mktemp("deaths")
    modules = {f"test_{phase}.py": source for phase, source in PHASES.items()}
    files = {"conftest.py": NOTE_RUNS, "death.py": death(way), **modules}
    finished = run(directory, files, *TWO_SHARDS, within=2 * SOON)
    return way, finished, (directory / "runs").read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("phase", PHASES)
def test_the_test_that_was_running_is_blamed_for_the_death(
    deaths: tuple[Way, Finished, list[str]], phase: str
) -> None:
    way, finished, _ = deaths

    case = finished.case(f"test_{phase}.py::test_dies")

    assert case.kind == "crash"
    assert "crashed" in case.text
    assert way.ending in case.text
    assert way.stack in case.text
    if way.stack:
        assert "in die" in case.text


def test_all_others_pass_and_the_run_is_red(deaths: tuple[Way, Finished, list[str]]) -> None:
    _, finished, _ = deaths

    expected = {
        f"test_{phase}.py::test_{name}": "crash" if name == "dies" else "passed"
        for phase in PHASES
        for name in ("before", "dies", "after")
    }

    check_books(finished, code=1, kinds=expected)


def test_the_terminal_says_who_died_and_how(deaths: tuple[Way, Finished, list[str]]) -> None:
    way, finished, _ = deaths

    for phase in PHASES:
        assert finished.has_line_with(f"test_{phase}.py::test_dies"), finished.describe()
    assert finished.has_line_with("crashed", way.ending), finished.describe()
    assert way.stack in finished.stdout


def test_what_was_finished_before_a_death_is_not_run_again(
    deaths: tuple[Way, Finished, list[str]],
) -> None:
    _, _, runs = deaths

    assert sorted(runs) == sorted(set(runs))


@pytest.mark.parametrize("way", FEW_WAYS, ids=str)
def test_a_death_while_importing_is_a_collection_error_of_that_module(
    tmp_path: Path, way: Way
) -> None:
    files = {
        "death.py": death(way),
        "test_deadly.py": "from death import die\n\ndie()\n\ndef test_never():\n    pass\n",
        "test_healthy.py": HEALTHY,
    }

    finished = run(tmp_path, files, *TWO_SHARDS, within=SOON)

    check_books(finished, code=2, kinds={"test_deadly.py": "error|crash"})
    assert finished.has_line_with("ERROR collecting", "test_deadly.py"), finished.describe()
    assert finished.has_line_with("crashed", "while importing"), finished.describe()
    assert way.ending in finished.stdout
    assert way.stack in finished.stdout


def test_with_continue_on_collection_errors_the_modules_that_can_be_imported_are_run(
    tmp_path: Path,
) -> None:
    files = {f"test_deadly_{number}.py": death(way) for number, way in enumerate(WAYS)}
    files = {name: f"{source}\ndie()\n" for name, source in files.items()}

    finished = run(
        tmp_path,
        {**files, "test_healthy.py": HEALTHY},
        *TWO_SHARDS,
        "--continue-on-collection-errors",
        within=2 * SOON,
    )

    check_books(finished, code=1, kinds={**dict.fromkeys(files, "error|crash"), **HEALTHY_KINDS})
    for number, way in enumerate(WAYS):
        assert way.ending in finished.case(f"test_deadly_{number}.py").text


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


# Dying when all tests are done.


@pytest.mark.parametrize("way", FEW_WAYS, ids=str)
def test_a_death_in_the_session_finish_keeps_all_results_and_names_the_shards(
    tmp_path: Path, way: Way
) -> None:
    files = {
        "death.py": death(way),
        "conftest.py": """
            from death import die

            def pytest_sessionfinish(session):
                if hasattr(session.config, "workerinput"):
                    die()
        """,
        "test_healthy.py": HEALTHY,
        "test_more.py": HEALTHY,
    }

    finished = run(tmp_path, files, *TWO_SHARDS, within=SOON)

    more = kinds_of("more", one="passed", two="passed", three="passed")
    check_books(finished, code=1, kinds={**more, **HEALTHY_KINDS})
    for shard in ("shard 1", "shard 2"):
        assert finished.has_line_with(shard, way.ending), finished.describe()
    assert way.stack in finished.stdout


@pytest.mark.parametrize("way", [WAYS[1], *FEW_WAYS[1:]], ids=str)
def test_a_death_at_exit_keeps_all_results_and_names_the_shards(tmp_path: Path, way: Way) -> None:
    files = {
        "death.py": death(way),
        "conftest.py": """
            import atexit
            from death import die

            def pytest_configure(config):
                if hasattr(config, "workerinput"):
                    atexit.register(die)
        """,
        "test_healthy.py": HEALTHY,
        "test_more.py": HEALTHY,
    }

    finished = run(tmp_path, files, *TWO_SHARDS, within=SOON)

    more = kinds_of("more", one="passed", two="passed", three="passed")
    check_books(finished, code=1, kinds={**more, **HEALTHY_KINDS})
    for shard in ("shard 1", "shard 2"):
        assert finished.has_line_with(shard, way.ending), finished.describe()


def test_exit_code_0_at_exit_is_as_good_as_any_end(tmp_path: Path) -> None:
    files = {
        "conftest.py": """
            import atexit, os

            def pytest_configure(config):
                if hasattr(config, "workerinput"):
                    atexit.register(os._exit, 0)
        """,
        "test_healthy.py": HEALTHY,
    }

    finished = run(tmp_path, files, *TWO_SHARDS, within=SOON)

    check_books(finished, code=0, kinds=HEALTHY_KINDS)


@pytest.mark.parametrize("way", FEW_WAYS, ids=str)
def test_a_death_in_a_session_fixtures_teardown_costs_at_most_the_last_test(
    tmp_path: Path, way: Way
) -> None:
    files = {
        "death.py": death(way),
        "test_healthy.py": """
            import pytest
            from death import die

            @pytest.fixture(scope="session")
            def deadly():
                yield
                die()

            def test_one():
                pass

            def test_two(deadly):
                pass

            def test_three():
                pass
        """,
    }

    finished = run(tmp_path, files, *ONE_SHARD, within=SOON)

    last = {"test_healthy.py::test_three": "passed|crash"}
    check_books(finished, code=1, kinds={**HEALTHY_KINDS, **last})
    assert finished.has_line_with("crashed", way.ending), finished.describe()


# Hanging.


@final
@dataclass(frozen=True, slots=True)
class Hang:
    """A test that never ends."""

    #: The body of a module, whose ``hangs`` is called by the test.
    source: str
    #: Whether Python can still say where it is.
    has_stack: bool = True


HANGS: Final = {
    "a loop in Python": Hang("def hangs():\n    while True:\n        pass"),
    "a sleep": Hang("import time\ndef hangs():\n    time.sleep(1000)"),
    "a lock in C that holds the GIL": Hang(
        """
import ctypes
def hangs():
    mutex = ctypes.create_string_buffer(256)
    lock = ctypes.PyDLL(None).pthread_mutex_lock
    lock(mutex)
    lock(mutex)
"""
    ),
    "a catastrophic regular expression": Hang(
        "import re\ndef hangs():\n    re.match('(a|a)+$', 'a' * 200 + 'b')"
    ),
    "a test that ignores SIGTERM and SIGINT": Hang(
        """
import signal, time
def hangs():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while True:
        time.sleep(1000)
"""
    ),
    "a test that blocks every signal": Hang(
        """
import signal, time
def hangs():
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    while True:
        time.sleep(1000)
""",
        has_stack=False,
    ),
    "a process that stops itself": Hang(
        "import os, signal\ndef hangs():\n    os.kill(os.getpid(), signal.SIGSTOP)",
        has_stack=False,
    ),
}


@pytest.mark.parametrize("name", HANGS)
def test_a_test_that_hangs_is_stopped_and_shows_where_it_was(tmp_path: Path, name: str) -> None:
    files = {
        "hang.py": HANGS[name].source,
        "test_hang.py": """
            from hang import hangs

            def test_before():
                pass

            def test_hangs():
                hangs()

            def test_after():
                pass
        """,
        "test_healthy.py": HEALTHY,
    }

    finished = run(tmp_path, files, *TWO_SHARDS, *SHORT_LIMITS, within=SOON)

    hang = kinds_of("hang", before="passed", hangs="timeout", after="passed")
    check_books(finished, code=1, kinds={**hang, **HEALTHY_KINDS})
    case = finished.case("test_hang.py::test_hangs")
    assert "timed out" in case.text
    if HANGS[name].has_stack:
        assert "in hangs" in case.text
        assert "in hangs" in finished.stdout


@pytest.mark.parametrize("phase", ["set-up", "tear-down"])
def test_a_fixture_that_hangs_is_blamed_on_its_test(tmp_path: Path, phase: str) -> None:
    body = "hangs()\n    yield" if phase == "set-up" else "yield\n    hangs()"
    files = {
        "test_hang.py": f"""
import time
import pytest

def hangs():
    time.sleep(1000)

@pytest.fixture
def slow():
    {body}

def test_before():
    pass

def test_hangs(slow):
    pass

def test_after():
    pass
""",
        "test_healthy.py": HEALTHY,
    }

    finished = run(tmp_path, files, *TWO_SHARDS, *SHORT_LIMITS, within=SOON)

    hang = kinds_of("hang", before="passed", hangs="timeout", after="passed")
    check_books(finished, code=1, kinds={**hang, **HEALTHY_KINDS})
    case = finished.case("test_hang.py::test_hangs")
    assert "timed out" in case.text
    assert "in hangs" in case.text


def test_a_module_that_hangs_while_it_is_imported_is_a_collection_error(tmp_path: Path) -> None:
    files = {
        "test_hang.py": """
            import time

            def hangs():
                time.sleep(1000)

            hangs()
        """,
        "test_healthy.py": HEALTHY,
    }

    finished = run(tmp_path, files, *TWO_SHARDS, *SHORT_LIMITS, within=SOON)

    check_books(finished, code=2, kinds={"test_hang.py": "error|timeout|crash"})
    assert finished.has_line_with("ERROR collecting", "test_hang.py"), finished.describe()
    assert "timed out" in finished.stdout
    assert "in hangs" in finished.stdout


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


# Descriptors, output and children.


@pytest.mark.parametrize("capture", ["--capture=fd", "--capture=no"])
def test_a_test_may_close_its_standard_descriptors(tmp_path: Path, capture: str) -> None:
    files = {
        "test_closes.py": """
            import os

            def test_before():
                pass

            def test_closes():
                for descriptor in (0, 1, 2):
                    os.close(descriptor)

            def test_after():
                pass
        """,
        "test_healthy.py": HEALTHY,
    }

    finished = run(tmp_path, files, *TWO_SHARDS, capture, within=SOON)

    closes = kinds_of("closes", before="passed", closes="passed", after="passed")
    check_books(finished, code=0, kinds={**closes, **HEALTHY_KINDS})


def test_a_test_that_closes_every_descriptor_is_blamed_for_it(tmp_path: Path) -> None:
    files = {
        "test_closes.py": """
            import os

            def test_before():
                pass

            def test_closes():
                os.closerange(0, 256)

            def test_after():
                pass
        """,
        "test_healthy.py": HEALTHY,
    }

    finished = run(tmp_path, files, *TWO_SHARDS, *SHORT_LIMITS, within=SOON)

    closes = kinds_of("closes", before="passed", closes="crash|error|failed", after="passed")
    check_books(finished, code=1, kinds={**closes, **HEALTHY_KINDS})


@pytest.mark.parametrize(
    ("line", "capture"),
    [
        (r"b'x' * 1023 + b'\n'", "--capture=fd"),
        (r"b'x' * 1023 + b'\n'", "--capture=no"),
        ("b'x' * 1024", "--capture=no"),
    ],
    ids=["captured lines", "live lines", "one live line"],
)
def test_50_megabytes_of_output_are_no_trouble(tmp_path: Path, line: str, capture: str) -> None:
    files = {
        "test_floods.py": f"""
            import os

            def test_before():
                pass

            def test_floods():
                chunk = ({line}) * 50
                for _ in range(1000):
                    written = 0
                    while written < len(chunk):
                        written += os.write(1, chunk[written:])

            def test_after():
                pass
        """,
        "test_healthy.py": HEALTHY,
    }

    finished = run(tmp_path, files, *TWO_SHARDS, capture, within=2 * SOON)

    floods = kinds_of("floods", before="passed", floods="passed", after="passed")
    check_books(finished, code=0, kinds={**floods, **HEALTHY_KINDS})
    flooded = finished.stdout.count("x" * 1000) > 40_000
    assert flooded == (capture == "--capture=no")


def test_50_megabytes_of_a_failing_tests_output_are_reported(tmp_path: Path) -> None:
    files = {
        "test_floods.py": """
            def test_floods():
                for _ in range(50_000):
                    print("x" * 1023)
                assert False

            def test_after():
                pass
        """,
        "test_healthy.py": HEALTHY,
    }

    finished = run(tmp_path, files, *TWO_SHARDS, within=2 * SOON)

    floods = kinds_of("floods", floods="failed", after="passed")
    check_books(finished, code=1, kinds={**floods, **HEALTHY_KINDS})
    assert finished.stdout.count("x" * 1023) == 50_000


@pytest.mark.parametrize("capture", ["--capture=fd", "--capture=no"])
def test_bytes_that_are_no_text_do_no_harm(tmp_path: Path, capture: str) -> None:
    files = {
        "test_bytes.py": r"""
            import os, sys

            def test_before():
                pass

            def test_writes():
                os.write(1, b"told\xff\xfe\x00\x1b[0m\x80\n")
                sys.stderr.write("\x00\x08\x7f\n")
                assert False, "\x00\x1b \udcff"

            def test_after():
                pass
        """,
        "test_healthy.py": HEALTHY,
    }

    finished = run(tmp_path, files, *TWO_SHARDS, capture, within=SOON)

    writes = kinds_of("bytes", before="passed", writes="failed", after="passed")
    check_books(finished, code=1, kinds={**writes, **HEALTHY_KINDS})
    assert "told" in finished.stdout


@pytest.mark.parametrize("capture", ["--capture=fd", "--capture=no"])
def test_forged_events_are_output_like_any_other(tmp_path: Path, capture: str) -> None:
    """What a test prints cannot become an event, whichever event it looks like."""
    files = {
        "test_forges.py": r"""
            import os
            import pytest

            FORGED = "".join(
                f'[{number},"finish",{local},0.0]\n[{number},"goodbye",0,{{}}]\n'
                for number in range(60)
                for local in range(3)
            ).encode()

            @pytest.mark.parametrize("descriptor", [1, 2])
            def test_writes(descriptor):
                os.write(descriptor, FORGED)
                os.write(descriptor, b"no new line at the end: {")

            def test_fails():
                assert False
        """,
        "test_healthy.py": HEALTHY,
    }

    finished = run(tmp_path, files, *TWO_SHARDS, capture, within=SOON)

    forges = {
        "test_forges.py::test_writes[1]": "passed",
        "test_forges.py::test_writes[2]": "passed",
        "test_forges.py::test_fails": "failed",
    }
    check_books(finished, code=1, kinds={**forges, **HEALTHY_KINDS})


def test_rubbish_in_the_stream_of_events_ends_the_attempt_loudly(tmp_path: Path) -> None:
    """A test that writes to every descriptor it can find is blamed; nothing else is lost."""
    files = {
        "test_forges.py": """
            import contextlib, os

            def test_before():
                pass

            def test_writes():
                for descriptor in range(3, 256):
                    with contextlib.suppress(OSError):
                        os.write(descriptor, b"rubbish" * 20 + b"\\n")

            def test_after():
                pass
        """,
        "test_healthy.py": HEALTHY,
    }

    finished = run(tmp_path, files, *TWO_SHARDS, *SHORT_LIMITS, within=SOON)

    forges = kinds_of("forges", before="passed", writes="crash|error|failed", after="passed")
    check_books(finished, code=1, kinds={**forges, **HEALTHY_KINDS})


@pytest.mark.parametrize(
    ("own_session", "capture"),
    [(False, "--capture=no"), (True, "--capture=no"), (True, "--capture=fd")],
)
def test_a_child_that_holds_the_pipes_delays_nothing_and_is_not_left(
    tmp_path: Path, capture: str, *, own_session: bool
) -> None:
    files = {
        "test_leaks.py": f"""
            import subprocess

            def test_leaks():
                subprocess.Popen(
                    ["sleep", "1000"], close_fds=False, start_new_session={own_session}
                )

            def test_after():
                pass
        """,
        "test_healthy.py": HEALTHY,
    }

    finished = run(tmp_path, files, *TWO_SHARDS, capture, "-W", "ignore", within=SOON)

    leaks = kinds_of("leaks", leaks="passed", after="passed")
    check_books(finished, code=0, kinds={**leaks, **HEALTHY_KINDS})


def test_the_child_of_a_crashed_test_is_not_left(tmp_path: Path) -> None:
    files = {
        "test_leaks.py": """
            import os, subprocess

            def test_leaks():
                subprocess.Popen(["sleep", "1000"])
                os._exit(3)

            def test_after():
                pass
        """,
        "test_healthy.py": HEALTHY,
    }

    finished = run(tmp_path, files, *TWO_SHARDS, within=SOON)

    leaks = kinds_of("leaks", leaks="crash", after="passed")
    check_books(finished, code=1, kinds={**leaks, **HEALTHY_KINDS})


@pytest.mark.parametrize("parent", ["os.wait()", "pass"], ids=["waits", "goes on"])
def test_a_forked_child_that_carries_on_with_the_session_changes_nothing(
    tmp_path: Path, parent: str
) -> None:
    files = {
        "test_forks.py": f"""
            import os

            def test_before():
                pass

            def test_forks():
                if os.fork():
                    {parent}

            def test_after():
                pass
        """,
        "test_healthy.py": HEALTHY,
    }

    finished = run(tmp_path, files, *TWO_SHARDS, *SHORT_LIMITS, within=SOON)

    blamed = kinds_of("forks", before="passed", forks="passed|crash|timeout", after="passed")
    check_books(
        finished,
        code=0 if finished.case("test_forks.py::test_forks").kind == "passed" else 1,
        kinds={**blamed, **HEALTHY_KINDS},
    )


# Restarts.

TWO_CRASHERS: Final = """
    import os

    def test_a():
        pass

    def test_b():
        os._exit(3)

    def test_c():
        pass

    def test_d():
        os._exit(3)

    def test_e():
        pass
"""


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

    finished = run(tmp_path, files, *ONE_SHARD, within=SOON)

    crashes = kinds_of("crashes", before="passed", crashes="crash", after="not-run")
    check_books(finished, code=1, kinds=crashes)
    assert "exit code 5" in finished.case("test_crashes.py::test_after").text


# What happens to the controller, and to shards from outside.

#: One test that never ends and tells so, one that is done before, one that comes after.
WAITING: Final = """
    import pathlib, os, time
    import pytest

    HERE = pathlib.Path(__file__).parent

    @pytest.fixture
    def resource():
        yield
        (HERE / "torn-down").touch()

    def test_before():
        pass

    def test_waits(resource):
        (HERE / "pid").write_text(str(os.getpid()))
        (HERE / "waiting").touch()
        time.sleep(1000)

    def test_after():
        pass
"""
UNFINISHED: Final = "not-run|skipped"


@pytest.mark.parametrize(
    ("number", "whole_group"),
    [(signal.SIGINT, True), (signal.SIGINT, False), (signal.SIGTERM, False)],
    ids=["Ctrl-C", "SIGINT to the controller", "SIGTERM to the controller"],
)
def test_a_stopped_run_tears_down_closes_its_books_and_exits_with_2(
    tmp_path: Path, number: signal.Signals, *, whole_group: bool
) -> None:
    write_suite(tmp_path, {"test_waiting.py": WAITING})

    with started(tmp_path, *ONE_SHARD) as going:
        going.wait_for("waiting")
        if whole_group:
            going.press_ctrl_c()
        else:
            going.popen.send_signal(number)
        finished = going.finish(within=SOON)

    waiting = kinds_of("waiting", before="passed", waits=UNFINISHED, after=UNFINISHED)
    check_books(finished, code=2, kinds=waiting)
    assert (tmp_path / "torn-down").exists(), finished.describe()


def test_a_stop_keeps_what_other_shards_have_finished(tmp_path: Path) -> None:
    files = {
        "test_waiting.py": WAITING,
        "test_other.py": """
            import pathlib, time

            def test_one():
                pass

            def test_waits_too():
                pathlib.Path(__file__).with_name("waiting-too").touch()
                time.sleep(1000)
        """,
    }
    write_suite(tmp_path, files)

    with started(tmp_path, *TWO_SHARDS) as going:
        going.wait_for("waiting")
        going.wait_for("waiting-too")
        going.press_ctrl_c()
        finished = going.finish(within=SOON)

    waiting = kinds_of("waiting", before="passed", waits=UNFINISHED, after=UNFINISHED)
    other = kinds_of("other", one="passed", waits_too=UNFINISHED)
    check_books(finished, code=2, kinds={**waiting, **other})


#: A test that hears every request to stop and ignores it.
STUBBORN: Final = """
    import pathlib, signal, time

    HERE = pathlib.Path(__file__).parent

    def ignore(number, frame):
        (HERE / "asked").touch()

    def test_before():
        pass

    def test_stubborn():
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, ignore)
        (HERE / "waiting").touch()
        while True:
            time.sleep(1000)

    def test_after():
        pass
"""
STUBBORN_KINDS: Final = {
    "test_stubborn.py::test_before": "passed",
    "test_stubborn.py::test_stubborn": f"{UNFINISHED}|crash|timeout",
    "test_stubborn.py::test_after": UNFINISHED,
}


def test_ctrl_c_twice_does_not_wait_for_the_grace(tmp_path: Path) -> None:
    write_suite(tmp_path, {"test_stubborn.py": STUBBORN})

    with started(tmp_path, *ONE_SHARD, "--shard-grace=300") as going:
        going.wait_for("waiting")
        going.press_ctrl_c()
        going.wait_for("asked")
        going.press_ctrl_c()
        finished = going.finish(within=10)

    check_books(finished, code=2, kinds=STUBBORN_KINDS)


def test_ctrl_c_once_waits_no_longer_than_the_grace(tmp_path: Path) -> None:
    write_suite(tmp_path, {"test_stubborn.py": STUBBORN})

    with started(tmp_path, *ONE_SHARD, "--shard-grace=1") as going:
        going.wait_for("waiting")
        going.press_ctrl_c()
        finished = going.finish(within=10)

    check_books(finished, code=2, kinds=STUBBORN_KINDS)


def test_ctrl_c_during_collection_ends_the_run(tmp_path: Path) -> None:
    source = """
        import pathlib, time

        pathlib.Path(__file__).with_name("waiting").touch()
        time.sleep(1000)
    """
    write_suite(tmp_path, {"test_slow.py": source})

    with started(tmp_path, *TWO_SHARDS, "--shard-grace=1") as going:
        going.wait_for("waiting")
        going.press_ctrl_c()
        finished = going.finish(within=10)

    assert finished.code == 2, finished.describe()
    assert finished.cases is not None, finished.describe()


def test_ctrl_c_many_times_leaves_a_complete_file(tmp_path: Path) -> None:
    write_suite(tmp_path, {"test_stubborn.py": STUBBORN})

    with started(tmp_path, *ONE_SHARD, "--shard-grace=300") as going:
        going.wait_for("waiting")
        deadline = time.monotonic() + 10
        while going.popen.poll() is None and time.monotonic() < deadline:
            going.press_ctrl_c()
            # Nobody is faster.
            with contextlib.suppress(subprocess.TimeoutExpired):
                going.popen.wait(timeout=0.1)
        finished = going.finish(within=1)

    assert finished.code in (2, -signal.SIGINT), finished.describe()
    assert finished.cases is not None, finished.describe()
    assert finished.cases.keys() == STUBBORN_KINDS.keys()


#: Tests that wait, each in a way that makes it hard to notice that the controller is gone.
ORPHANS: Final = {
    "a sleep": "time.sleep(1000)",
    "a sleep with a child": "subprocess.run(['sleep', '1000'])",
    "a sleep with a child in its own session": (
        "subprocess.run(['sleep', '1000'], start_new_session=True)"
    ),
    "a loop in C that holds the GIL": "re.match('(a|a)+$', 'a' * 200 + 'b')",
    "signals ignored": "ignore(); time.sleep(1000)",
}


@pytest.mark.parametrize("name", ORPHANS)
def test_no_process_outlives_a_killed_controller(tmp_path: Path, name: str) -> None:
    source = f"""
        import pathlib, re, signal, subprocess, time

        def ignore():
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE):
                signal.signal(number, signal.SIG_IGN)

        def test_waits():
            pathlib.Path(__file__).with_name("waiting").touch()
            {ORPHANS[name]}
    """
    write_suite(tmp_path, {"test_waiting.py": source, "test_healthy.py": HEALTHY})

    with started(tmp_path, *TWO_SHARDS) as going:
        going.wait_for("waiting")
        going.popen.kill()

        going.finish(within=5)


def test_a_shard_that_is_killed_from_outside_is_replaced(tmp_path: Path) -> None:
    write_suite(tmp_path, {"test_waiting.py": WAITING, "test_healthy.py": HEALTHY})

    with started(tmp_path, *TWO_SHARDS) as going:
        pid = int(going.wait_for("waiting").with_name("pid").read_text(encoding="utf-8"))
        os.kill(pid, signal.SIGKILL)
        finished = going.finish(within=SOON)

    waiting = kinds_of("waiting", before="passed", waits="crash", after="passed")
    check_books(finished, code=1, kinds={**waiting, **HEALTHY_KINDS})
    assert "SIGKILL" in finished.case("test_waiting.py::test_waits").text


def test_a_reader_that_has_seen_enough_does_not_hang_the_run(tmp_path: Path) -> None:
    """``pytest --shards 2 -v | head -1``"""
    write_suite(tmp_path, {"test_waiting.py": HEALTHY, "test_healthy.py": HEALTHY})
    reading, writing = os.pipe()

    with started(tmp_path, *TWO_SHARDS, "-v", stdout=writing) as going:
        os.close(writing)
        with os.fdopen(reading, "rb", buffering=0) as stream:
            first = stream.read(1)
        going.finish(within=SOON)

    assert first


def test_x_does_not_wait_for_a_slow_test_in_another_shard(tmp_path: Path) -> None:
    files = {
        "test_fails.py": """
            import pathlib, time

            def test_fails():
                deadline = time.monotonic() + 20
                slow = pathlib.Path(__file__).with_name("waiting")
                while not slow.exists() and time.monotonic() < deadline:
                    time.sleep(0.01)
                assert False

            def test_never():
                pass
        """,
        "test_waiting.py": WAITING,
    }
    write_suite(tmp_path, files)

    with started(tmp_path, *TWO_SHARDS, "-x", "--shard-grace=1") as going:
        going.wait_for("waiting")
        finished = going.finish(within=10)

    fails = kinds_of("fails", fails="failed", never=UNFINISHED)
    waiting = kinds_of("waiting", before="passed", waits=UNFINISHED, after=UNFINISHED)
    check_books(finished, code=1, kinds={**fails, **waiting})


def test_x_counts_a_crash_as_a_failure(tmp_path: Path) -> None:
    finished = run(tmp_path, {"test_crashes.py": TWO_CRASHERS}, *ONE_SHARD, "-x", within=SOON)

    kinds = kinds_of("crashes", a="passed", b="crash", c=UNFINISHED, d=UNFINISHED, e=UNFINISHED)
    check_books(finished, code=1, kinds=kinds)


@pytest.mark.parametrize(
    "prelude",
    [
        "os.close(0)",
        "signal.signal(signal.SIGINT, signal.SIG_IGN)",
        "signal.signal(signal.SIGCHLD, signal.SIG_IGN)",
        "signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD, signal.SIGTERM})",
        "resource.setrlimit(resource.RLIMIT_NOFILE, (128, 128))",
    ],
)
def test_an_odd_environment_of_the_controller_changes_nothing(tmp_path: Path, prelude: str) -> None:
    files = {
        "test_odd.py": """
            import os, signal

            def test_before():
                pass

            def test_dies():
                os.kill(os.getpid(), signal.SIGKILL)

            def test_after():
                pass
        """,
        "test_healthy.py": HEALTHY,
    }
    write_suite(tmp_path, files)

    with started(tmp_path, *TWO_SHARDS, prelude=prelude) as going:
        finished = going.finish(within=SOON)

    odd = kinds_of("odd", before="passed", dies="crash", after="passed")
    check_books(finished, code=1, kinds={**odd, **HEALTHY_KINDS})
