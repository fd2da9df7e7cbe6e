"""What a test had printed before its process died."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from comparison import Run, run_pytest

from pytest_shardrun.captured import MOST_SHOWN, read_captured

DYING = """
    import logging
    import os
    import signal
    import sys

    import pytest


    @pytest.fixture
    def prepared():
        print("prepared")
        logging.warning("in setup")
        yield
        print("cleaned up")
        if "teardown" in os.environ["DIES"]:
            os.kill(os.getpid(), signal.SIGSEGV)


    def test_before(): print("something else")


    def test_dies(prepared):
        print("about to die")
        logging.warning("the last words")
        os.system("echo from a child >&2")
        if "call" in os.environ["DIES"]:
            os.kill(os.getpid(), signal.SIGKILL)
"""


SETUP = "WARNING  root:test_it.py:12 in setup\n"
CALL = "WARNING  root:test_it.py:24 the last words\n"


def sections(run: Run) -> dict[str, str]:
    """Captured output on the terminal by its title, as far as it is shown."""
    found: dict[str, str] = {}
    title = ""
    for line in run.stdout.splitlines():
        stripped = line.strip("-")
        if stripped != line and stripped.strip().startswith("Captured"):
            title = stripped.strip()
        elif line.startswith(("=", "_", "-")):
            title = ""
        elif title:
            found[title] = f"{found.get(title, '')}{line}\n"
    return found


@pytest.mark.parametrize(
    ("phase", "expected"),
    [
        (
            "call",
            {
                "Captured stdout setup": "prepared\n",
                "Captured log setup": SETUP,
                "Captured stdout call": "about to die\n",
                "Captured stderr call": "from a child\n",
                "Captured log call": CALL,
            },
        ),
        (
            "teardown",
            {
                "Captured stdout setup": "prepared\n",
                "Captured log setup": SETUP,
                "Captured stdout call": "about to die\n",
                "Captured stderr call": "from a child\n",
                "Captured log call": CALL,
                "Captured stdout teardown": "cleaned up\n",
            },
        ),
    ],
)
def test_the_report_of_a_crash_shows_what_the_test_had_printed(
    pytester: pytest.Pytester, phase: str, expected: dict[str, str]
) -> None:
    pytester.makepyfile(test_it=DYING)

    run = run_pytest(pytester.path, "--shards=1", env={"DIES": phase})

    assert sections(run) == expected, run.show()


@pytest.mark.parametrize("start", ["auto", "fork"])
def test_processes_that_were_forked_have_files_of_their_own(
    pytester: pytest.Pytester, start: str
) -> None:
    pytester.makepyfile(test_it=DYING, test_later="def test_later(): assert 0")

    run = run_pytest(pytester.path, "--shards=1", f"--shard-start={start}", env={"DIES": "call"})

    # Neither what holds them nor what the dead one left in them is anybody's obstacle.
    assert "shard start: spawn" not in run.stdout, run.show()
    assert "although" not in run.stdout
    assert "[shard 1] about to die" not in run.stdout
    assert sections(run)["Captured stdout call"] == "about to die\n"
    assert run.counts == {"passed": 1, "failed": 2}


def test_what_was_captured_is_shown_as_the_user_wants_it(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_it=DYING)

    run = run_pytest(pytester.path, "--shards=1", "--show-capture=stderr", env={"DIES": "call"})

    assert sections(run) == {"Captured stderr call": "from a child\n"}, run.show()


@pytest.mark.parametrize("option", ["--capture=sys", "-s", "-pno:tmpdir"])
def test_a_crash_is_told_where_nothing_is_captured_in_files(
    pytester: pytest.Pytester, option: str
) -> None:
    pytester.makepyfile(test_it=DYING)

    run = run_pytest(pytester.path, "--shards=1", option, env={"DIES": "call"})

    assert run.outcomes["test_it.py::test_dies"] == "failed"
    assert "crashed with SIGKILL (call" in run.stdout


def test_the_files_do_not_outlive_the_run(pytester: pytest.Pytester, tmp_path: Path) -> None:
    pytester.makepyfile(test_it=DYING)
    scratch = tmp_path / "scratch"

    run_pytest(pytester.path, "--shards=1", f"--basetemp={scratch}", env={"DIES": "call"})

    assert not list(scratch.glob("captured*"))


def test_of_a_flood_the_end_is_shown(tmp_path: Path) -> None:
    prefix = str(tmp_path / "captured")
    Path(f"{prefix}.out").write_bytes(b"x" * MOST_SHOWN + b"\xff the end")

    ((title, text),) = read_captured(prefix, "call")

    assert title == "Captured stdout call"
    assert text.startswith("(9 bytes left out)\nxxx")
    assert text.endswith("xxx\N{REPLACEMENT CHARACTER} the end")


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="needs forks of one process")
def test_a_later_fork_leaves_alone_what_an_earlier_one_has_captured(
    pytester: pytest.Pytester,
) -> None:
    # The second process of the other shard is forked between the print and the failure.
    pytester.makeconftest(
        """
        import time
        from pathlib import Path

        def wait_for(name):
            end = time.monotonic() + 60
            while not Path(name).exists():
                assert time.monotonic() < end
                time.sleep(0.01)

        def pytest_configure(config):
            config.wait_for = wait_for
        """
    )
    pytester.makepyfile(
        test_one="""
        from pathlib import Path

        def test_prints_and_fails(request):
            print("printed before the fork")
            Path("printed").touch()
            request.config.wait_for("forked")
            assert 0
        """,
        test_two="""
        import os
        from pathlib import Path

        def test_crashes(request):
            request.config.wait_for("printed")
            os._exit(3)

        def test_in_another_fork():
            Path("forked").touch()
        """,
    )

    run = run_pytest(
        pytester.path,
        "--shards=2",
        "--shard-start=fork",
        "--shard-scope=module",
        "--shard-steal=no",
    )

    assert run.counts == {"failed": 2, "passed": 1}, run.show()
    assert "although" not in run.stdout, run.show()
    assert "printed before the fork" in run.stdout, run.show()


@pytest.mark.parametrize("method", ["fd", "sys", "tee-sys"])
@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="needs forks of one process")
def test_streams_that_modules_keep_when_they_are_imported_go_on_in_forks(
    pytester: pytest.Pytester, method: str
) -> None:
    pytester.makepyfile(
        """
        import logging
        import os
        import sys
        from sys import stderr, stdout

        import pytest

        logging.getLogger("own").addHandler(logging.StreamHandler(stderr))

        @pytest.mark.parametrize("stream", [stdout, stderr], ids=["out", "err"])
        def test_is_the_same(stream):
            assert stream in (sys.stdout, sys.stderr)
            print("by the stream", file=stream)
            logging.getLogger("own").warning("by the handler")
            os.system("echo by a child")
            assert 0
        """
    )

    run = run_pytest(pytester.path, "--shards=2", "--shard-start=fork", f"--capture={method}")

    assert run.counts == {"failed": 2}, run.show()
    assert run.stdout.count("assert stream in") == 0 or "\nE       assert 0" in run.stdout
    shown = run.stdout.partition("short test summary")[0]
    assert shown.count("\nby the stream\n") >= 2, run.show()
    assert shown.count("\nby the handler\n") >= 2, run.show()
    assert run.stdout.count("E       assert 0") == 2, run.show()
