"""What a test does to descriptors, output and child processes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from .support import (
    PROCESSES_ARE_KNOWN,
    SOON,
    check_books,
    kinds_of,
    run,
    started,
    write_suite,
)
from .table import HEALTHY, HEALTHY_KINDS, SHORT_LIMITS, TWO_SHARDS

pytestmark = PROCESSES_ARE_KNOWN


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


def test_50_megabytes_of_a_failing_tests_output_are_reported_but_for_their_middle(
    tmp_path: Path,
) -> None:
    files = {
        "test_floods.py": """
            def test_floods():
                print("it begins")
                for _ in range(50_000):
                    print("x" * 1023)
                print("it ends")
                assert False

            def test_after():
                pass
        """,
        "test_healthy.py": HEALTHY,
    }

    finished = run(tmp_path, files, *TWO_SHARDS, within=2 * SOON)

    floods = kinds_of("floods", floods="failed", after="passed")
    check_books(finished, code=1, kinds={**floods, **HEALTHY_KINDS})
    assert finished.stdout.count("x" * 1023) > 1000
    for line in ("it begins", "characters left out", "it ends"):
        assert finished.has_line_with(line)


@pytest.mark.parametrize("capture", ["--capture=fd", "--capture=no"])
def test_500_megabytes_of_output_do_not_fill_the_controllers_memory(
    tmp_path: Path, capture: str
) -> None:
    files = {
        "test_floods.py": """
            import os
            import pytest

            @pytest.mark.parametrize("passes", [True, False])
            def test_floods(passes):
                chunk = b"x" * 1023 + b"\\n"
                for _ in range(5 if passes else 500):
                    os.write(1, chunk * 1024)
                assert passes

            def test_after():
                pass
        """,
        "test_healthy.py": HEALTHY,
    }
    write_suite(tmp_path, files)

    with (
        Path(os.devnull).open("wb") as nowhere,
        started(tmp_path, *TWO_SHARDS, capture, stdout=nowhere.fileno()) as going,
    ):
        finished = going.finish(within=2 * SOON)

    assert finished.code == 1
    assert finished.cases is not None
    assert {nodeid: case.kind for nodeid, case in finished.cases.items()} == {
        "test_floods.py::test_floods[True]": "passed",
        "test_floods.py::test_floods[False]": "failed",
        "test_floods.py::test_after": "passed",
        **HEALTHY_KINDS,
    }


def test_values_that_nothing_can_carry_become_their_text(tmp_path: Path) -> None:
    files = {
        "conftest.py": """
            import threading
            import pytest

            class Mute:
                def __str__(self):
                    raise RuntimeError("nothing to say")

            @pytest.hookimpl(wrapper=True)
            def pytest_runtest_makereport(item):
                report = yield
                nested = []
                nested.append(nested)
                report.user_properties = [
                    ("lock", threading.Lock()),
                    ("mute", Mute()),
                    ("number", float("nan")),
                    ("surrogate", "\\udcff\\x00"),
                    ("nested", nested),
                    (Mute, {Mute(): b"bytes"}),
                ]
                report.odd = {1: {2, 3}, "self": object()}
                return report
        """,
        "test_healthy.py": HEALTHY,
    }

    finished = run(tmp_path, files, *TWO_SHARDS, within=SOON)

    check_books(finished, code=1, kinds=HEALTHY_KINDS)
    said = ("ERROR the run", "report.odd.self of type builtins.object")
    assert finished.has_line_with(*said), finished.describe()


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
