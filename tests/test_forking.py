"""One process collects and is forked: where it may be, and what a fork has for its own."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Final

import pytest
from comparison import Run, run_pytest

from pytest_shardrun.executors.local import SpawnedChild, open_pipes
from pytest_shardrun.executors.subprocess import SubprocessExecutor
from pytest_shardrun.executors.warm import Warm
from pytest_shardrun.model import Exit
from pytest_shardrun.worker.control import connect

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks on Linux only")

#: What speaks against a fork: how the terminal names it, and a conftest.py that does it.
OBSTACLES: Final = {
    "a thread was started": """
        import threading
        threading.Thread(target=threading.Event().wait, daemon=True).start()
    """,
    "a socket was opened": """
        import socket
        kept = socket.socket()
    """,
    "a free port was looked for": """
        import socket
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            port = found.getsockname()[1]
    """,
    "an event poll was opened": """
        import select
        kept = select.epoll()
    """,
    "a pipe was opened": """
        import os
        kept = os.pipe()
    """,
    "a child process was started": """
        import subprocess, sys
        kept = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    """,
    "a file is open for writing": """
        kept = open(__file__ + ".txt", "a")
    """,
    "a temporary file or directory was made": """
        import tempfile
        kept = tempfile.mkdtemp()
    """,
    "memory is shared": """
        import mmap
        kept = mmap.mmap(-1, 4096)
    """,
    "an alarm was set": """
        import signal
        signal.setitimer(signal.ITIMER_REAL, 3600)
    """,
    "a tracer or profiler is active": """
        import sys
        sys.setprofile(lambda *_: None)
    """,
    "PYTEST_XDIST_WORKER was read": """
        import os
        kept = os.environ.get("PYTEST_XDIST_WORKER")
    """,
    'workerinput["workerid"] was read': """
        def pytest_configure(config):
            if hasattr(config, "workerinput"):
                config.kept = config.workerinput["workerid"]
    """,
}

TWO_MODULES: Final = {
    "test_one.py": "def test_a():\n    pass\n\ndef test_b():\n    pass\n",
    "test_two.py": "def test_a():\n    pass\n\ndef test_b():\n    pass\n",
}


def run(directory: Path, files: dict[str, str], *arguments: str) -> Run:
    for name, source in {"pytest.ini": "[pytest]\n", **files}.items():
        (directory / name).write_text(textwrap.dedent(source), encoding="utf-8")
    return run_pytest(directory, "--shards=2", "-v", *arguments)


def lines_of(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


# Where


@pytest.mark.parametrize("obstacle", OBSTACLES)
def test_what_forks_would_share_makes_every_shard_a_fresh_interpreter(
    tmp_path: Path, obstacle: str
) -> None:
    ran = run(tmp_path, {"conftest.py": OBSTACLES[obstacle], **TWO_MODULES})

    line = next(each for each in ran.stdout.splitlines() if each.startswith("shard start: "))
    assert line.startswith("shard start: spawn ("), ran.show()
    assert obstacle in line, ran.show()
    assert ran.counts == {"passed": 4}, ran.show()
    assert ran.exitcode == 0


def test_what_is_over_before_the_fork_is_no_obstacle(tmp_path: Path) -> None:
    conftest = """
        import os, socket, subprocess, sys, tempfile, threading

        # As urllib3 does when it is imported.
        with socket.socket() as tried:
            tried.bind(("127.0.0.1", 0))
        thread = threading.Thread(target=print)
        thread.start()
        thread.join()
        socket.socket().close()
        subprocess.run([sys.executable, "-c", ""], check=True)
        with tempfile.TemporaryDirectory():
            pass
        copied = dict(os.environ)
        known = "PATH" in os.environ
    """

    ran = run(tmp_path, {"conftest.py": conftest, **TWO_MODULES})

    assert "shard start: fork\n" in ran.stdout, ran.show()
    assert ran.counts == {"passed": 4}, ran.show()


def test_an_obstacle_is_remembered_and_the_next_run_collects_once_in_each_shard(
    tmp_path: Path,
) -> None:
    conftest = """
        import os, threading

        def pytest_configure(config):
            if hasattr(config, "workerinput"):
                threading.Thread(target=threading.Event().wait, daemon=True).start()

        def pytest_sessionstart(session):
            if hasattr(session.config, "workerinput"):
                with open("started", "a") as file:
                    file.write(f"{os.getpid()}\\n")
    """
    files = {"conftest.py": conftest, **TWO_MODULES}
    run(tmp_path, files)
    (tmp_path / "started").unlink()

    ran = run(tmp_path, files)

    assert "shard start: spawn (a thread was started" in ran.stdout, ran.show()
    assert len(lines_of(tmp_path / "started")) == 2


# What a fork has for its own


def test_a_fork_is_its_own_shard(tmp_path: Path) -> None:
    conftest = """
        import os, tempfile
        import pytest

        @pytest.fixture(autouse=True)
        def note(request, tmp_path_factory):
            with open("seen", "a") as file:
                file.write(" ".join((
                    os.environ["PYTEST_XDIST_WORKER"],
                    "gw" + os.environ["SHARDRUN_SLOT"],
                    request.config.workerinput["workerid"],
                    str(os.getpid()), str(os.getpgid(0)), str(os.getppid()),
                    str(tmp_path_factory.getbasetemp()), tempfile.gettempdir(),
                )) + "\\n")
    """

    ran = run(tmp_path, {"conftest.py": conftest, **TWO_MODULES})

    assert "shard start: fork\n" in ran.stdout, ran.show()
    seen = {tuple(line.split()) for line in lines_of(tmp_path / "seen")}
    assert {each[0] for each in seen} == {"gw0", "gw1"}
    assert len(seen) == 2
    for variable, slot, told, pid, group, *_ in seen:
        assert variable == slot == told
        assert pid == group
    parents, bases, temporary = zip(*(each[5:] for each in seen), strict=True)
    assert len(set(parents)) == 1
    assert len(set(bases)) == len(set(temporary)) == 2


def test_a_test_in_a_fork_runs_in_the_first_thread_with_as_few_frames_below_as_elsewhere(
    tmp_path: Path,
) -> None:
    source = """
        import inspect, signal, threading

        def test_it():
            assert inspect.stack()[-1].frame.f_globals["__name__"] in ("__main__", "runpy")
            # Only the first thread of a process may do that.
            signal.signal(signal.SIGUSR2, signal.SIG_DFL)
            assert threading.current_thread() is threading.main_thread()
            assert threading.main_thread().name == "MainThread"
            assert threading.enumerate() == [threading.main_thread()]
            with open("frames", "a") as file:
                print(len(inspect.stack()), file=file)
    """
    # As errors: Python warns of forks beside threads.
    ran = run(tmp_path, {"test_it.py": source}, "--shard-start=fork", "-Werror")
    assert ran.outcomes == {"test_it.py::test_it": "passed"}, ran.show()
    spawned = run(tmp_path, {"test_it.py": source}, "--shard-start=spawn")
    assert spawned.outcomes == {"test_it.py::test_it": "passed"}, spawned.show()

    in_a_fork, in_a_program = map(int, lines_of(tmp_path / "frames"))
    assert in_a_fork <= in_a_program + 5


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="Python itself ends such a recursion")
def test_a_recursion_to_death_in_a_fork_shows_its_stack(tmp_path: Path) -> None:
    source = """
        import sys

        def recurse():
            # Through C each time, which is what uses the stack up.
            return max([1], key=lambda _: recurse())

        def test_it():
            sys.setrecursionlimit(10**6)
            recurse()
    """

    ran = run(tmp_path, {"test_it.py": source}, "--shard-start=fork")

    assert "shard start: fork\n" in ran.stdout, ran.show()
    assert "crashed with SIGSEGV" in ran.stdout, ran.show()
    assert "in recurse" in ran.stdout, ran.show()


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_files_that_nobody_closes_are_whole_at_the_end(tmp_path: Path, start: str) -> None:
    source = """
        kept = []

        def test_it():
            kept.append(open("text", "w"))
            kept[-1].write("never flushed")
            kept.append(open("bytes", "wb"))
            kept[-1].write(b"never flushed")
    """

    ran = run(tmp_path, {"test_it.py": source}, f"--shard-start={start}")

    assert ran.exitcode == 0, ran.show()
    assert (tmp_path / "text").read_text() == "never flushed"
    assert (tmp_path / "bytes").read_text() == "never flushed"


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_whatever_stands_for_the_programs_output_is_flushed_at_the_end(
    tmp_path: Path, start: str
) -> None:
    source = """
        import atexit, pathlib, sys

        class Output:
            def write(self, text):
                pass

            def flush(self):
                pathlib.Path("flushed").touch()

        def test_it():
            atexit.register(setattr, sys, "stdout", Output())
    """

    ran = run(tmp_path, {"test_it.py": source}, f"--shard-start={start}")

    assert ran.exitcode == 0, ran.show()
    assert (tmp_path / "flushed").exists()


def test_what_c_does_at_the_exit_is_done_by_a_fresh_interpreter(tmp_path: Path) -> None:
    source = """
        import ctypes, os

        @ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_void_p)
        def last(status, argument):
            os.write(os.open("last", os.O_WRONLY | os.O_CREAT), b"words")

        def test_it():
            ctypes.CDLL(None).on_exit(last, None)
    """

    ran = run(tmp_path, {"test_it.py": source}, "--shard-start=spawn")

    assert ran.exitcode == 0, ran.show()
    assert (tmp_path / "last").read_text() == "words"


def test_a_crash_costs_a_fork_and_no_collection(tmp_path: Path) -> None:
    files = {
        "test_one.py": """
            import os
            with open("imported", "a") as file:
                file.write("once\\n")

            def test_crashes():
                os._exit(3)

            def test_after():
                pass
        """,
        "test_two.py": TWO_MODULES["test_two.py"],
    }

    ran = run(tmp_path, files)

    assert ran.counts == {"passed": 3, "failed": 1}, ran.show()
    assert lines_of(tmp_path / "imported") == ["once"]


def test_exit_handlers_of_the_collection_run_once_and_those_of_tests_in_their_process(
    tmp_path: Path,
) -> None:
    note = "atexit.register(lambda: open('left', 'a').write('{}\\n'))"
    files = {
        "conftest.py": f"""
            import atexit
            def pytest_configure(config):
                if hasattr(config, "workerinput"):
                    {note.format("collection")}
        """,
        "test_one.py": f"import atexit\ndef test_a():\n    {note.format('one')}\n",
        "test_two.py": f"import atexit\ndef test_a():\n    {note.format('two')}\n",
    }

    ran = run(tmp_path, files)

    assert "shard start: fork\n" in ran.stdout, ran.show()
    assert sorted(lines_of(tmp_path / "left")) == ["collection", "one", "two"]


def test_a_seed_is_kept_and_without_one_forks_draw_other_numbers(tmp_path: Path) -> None:
    test = "import random\ndef test_a():\n    open('drawn', 'a').write(f'{random.random()}\\n')\n"
    files = {"test_one.py": test, "test_two.py": test}
    run(tmp_path, files)
    unseeded = lines_of(tmp_path / "drawn")
    (tmp_path / "drawn").unlink()

    run(tmp_path, {"conftest.py": "import random\nrandom.seed(7)\n", **files})

    seeded = lines_of(tmp_path / "drawn")
    assert len(set(unseeded)) == 2
    assert seeded == ["0.32383276483316237"] * 2


def parent_that_gets(signal: str) -> dict[str, str]:
    return {
        "test_one.py": f"""
            import os, signal
            def test_signals_its_parent():
                os.kill(os.getppid(), signal.{signal})

            def test_after():
                pass
        """,
        "test_two.py": TWO_MODULES["test_two.py"],
    }


def test_forks_outlive_the_process_that_collected(tmp_path: Path) -> None:
    ran = run(tmp_path, parent_that_gets("SIGKILL"))

    assert ran.counts["passed"] == 4, ran.show()
    assert "the process that collected ended with SIGKILL" in ran.stdout, ran.show()


def test_a_test_may_stop_the_process_that_collected(tmp_path: Path) -> None:
    ran = run(tmp_path, parent_that_gets("SIGSTOP"))

    assert ran.counts == {"passed": 4}, ran.show()
    assert ran.exitcode == 0, ran.show()


def test_a_process_that_does_not_answer_any_more_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pytest_shardrun.executors.warm.ANSWER_SECONDS", 0.1)
    executor = SubprocessExecutor("20261128-000000-0000")
    pipes = open_pipes()
    control, theirs = connect()
    popen = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    warm = Warm(SpawnedChild(popen), pipes, control, executor.guardian, ("NAME=value",))
    with theirs, popen:
        assert warm.exit_of(1) is None
        assert warm.exit_of(1) is None, "and nobody waits for it again"
        pipes.close_worker_ends()
        assert warm.wait(with_children=False) == Exit(signal=signal.SIGKILL)
        warm.dismiss()
    executor.close()


# Isolation

LEAKY: Final = """
    import pytest
    leaked = []

    @pytest.mark.parametrize("number", range(3))
    def test_clean(number):
        assert not leaked
        leaked.append(number)
"""


def test_each_test_has_a_process_of_its_own(tmp_path: Path) -> None:
    files = {"test_one.py": LEAKY, "test_two.py": LEAKY}

    ran = run(tmp_path, files, "--shard-isolate=test")

    assert ran.counts == {"passed": 6}, ran.show()
    assert ran.exitcode == 0


def test_each_module_has_a_process_of_its_own(tmp_path: Path) -> None:
    test = """
        import shared
        def test_clean():
            assert not shared.leaked
            shared.leaked.append(1)
    """
    names = [f"test_{number}.py" for number in range(5)]
    files = {"shared.py": "leaked = []\n", **dict.fromkeys(names, test)}

    ran = run(tmp_path, files, "--shard-isolate=module")

    assert ran.counts == {"passed": 5}, ran.show()
    assert ran.exitcode == 0


def test_a_process_for_each_test_is_refused_where_there_are_no_forks(tmp_path: Path) -> None:
    files = {"conftest.py": OBSTACLES["a thread was started"], **TWO_MODULES}

    ran = run(tmp_path, files, "--shard-isolate=test")

    assert ran.exitcode == 4, ran.show()
    assert "--shard-isolate=test needs forks" in ran.stderr, ran.show()
    assert "a thread was started" in ran.stderr


@pytest.mark.parametrize("start", ["auto", "spawn"])
def test_a_process_that_collects_already_ends_where_its_run_never_begins(
    pytester: pytest.Pytester, start: str
) -> None:
    pytester.makeconftest(
        """
        def pytest_configure(config):
            if not hasattr(config, "workerinput"):
                # The name of a plugin that shardrun needs when the first process collects.
                config.pluginmanager.register(object(), "shardrun-headings")
        """
    )
    pytester.makepyfile("import time\n\ntime.sleep(1000)")

    result = pytester.runpytest_subprocess(
        "--shards=2", f"--shard-start={start}", "--junitxml=out.xml", timeout=60
    )

    assert result.ret == pytest.ExitCode.INTERNAL_ERROR
    result.stdout.fnmatch_lines(["INTERNALERROR> ValueError:*shardrun-headings*"])
    assert 'tests="0"' in pytester.path.joinpath("out.xml").read_text()


def test_the_cache_is_there_before_anybody_collects(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(
        """
        def pytest_shardrun_attempt_started(config, attempt):
            # While pytest makes it another directory comes and goes, which a shard would collect.
            assert config.rootpath.joinpath(".pytest_cache", "d", "shardrun").is_dir()
        """
    )
    pytester.makepyfile("def test_it(): pass")

    pytester.runpytest_subprocess("--shards=2").assert_outcomes(passed=1)


def test_a_line_is_sent_although_the_other_end_has_read_it_and_is_gone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ours, theirs = connect()
    send_fds = socket.send_fds

    def send_to_the_quick(
        connection: socket.socket, lines: list[bytes], descriptors: list[int]
    ) -> int:
        sent = send_fds(connection, lines, descriptors)
        assert theirs.recv(1 << 16) == b"".join(lines)
        theirs.close()
        return sent

    monkeypatch.setattr(socket, "send_fds", send_to_the_quick)
    ours.send(b"go on\n", (0,))
    ours.close()


#: Not pytest's own program, so nothing is forked before pytest is configured.
PROGRAM: Final = """
    import sys
    import pytest
    {}
    sys.exit(pytest.main(sys.argv[1:]))
"""


def test_what_a_process_that_goes_on_has_written_is_shown(pytester: pytest.Pytester) -> None:
    hello = "\nimport os\nos.write(2, b'hello from above\\n')"
    pytester.makeconftest(textwrap.dedent(OBSTACLES["a thread was started"]) + hello)
    program = pytester.makepyfile(program=PROGRAM.format(""), test_one="def test_passes(): pass")

    result = pytester.run(sys.executable, program, "-s", "--shards=1", timeout=60)

    assert "[shard 1] hello from above" in result.stdout.lines
    result.assert_outcomes(passed=1)


@pytest.mark.parametrize(
    ("broken", "exitcode"),
    [
        pytest.param("raise OSError('gone')", pytest.ExitCode.INTERNAL_ERROR, id="trouble"),
        pytest.param("self._control.close()", pytest.ExitCode.TESTS_FAILED, id="gone"),
    ],
)
def test_a_run_ends_although_nobody_tells_a_process_to_go_on(
    pytester: pytest.Pytester, broken: str, exitcode: pytest.ExitCode
) -> None:
    pytester.makeconftest(OBSTACLES["a thread was started"])
    program = pytester.makepyfile(
        program=PROGRAM.format(
            f"""
    from pytest_shardrun.executors.warm import Warm

    def go_on(self, place, worker_ends):
        {broken}

    Warm.go_on = go_on
            """
        ),
        test_one="def test_passes(): pass",
    )

    result = pytester.run(sys.executable, program, "--shards=2", timeout=60)

    assert result.ret == exitcode
