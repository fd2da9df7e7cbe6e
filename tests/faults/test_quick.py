"""Quick tests, whose results wait to be sent when their process meets its end."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Final

import pytest

from .scenario import NOTE_RUNS, Scenario
from .support import PROCESSES_ARE_KNOWN, check_books

pytestmark = PROCESSES_ARE_KNOWN

COUNT: Final = 500

QUICK: Final = f"""
    import os
    import signal
    import time

    import pytest

    @pytest.mark.parametrize("number", range({COUNT}))
    def test_quick(number):
        pass

    @pytest.fixture
    def cleaned():
        yield
        if "teardown" in os.environ["DIES"]:
            os.kill(os.getpid(), signal.SIGKILL)

    def test_dies(cleaned):
        match os.environ["DIES"]:
            case "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            case "crash":
                os.kill(os.getpid(), signal.SIGSEGV)
            case "exit":
                os._exit(0)
            case "abort":
                os.abort()
            case "stopped":
                os.kill(os.getpid(), signal.SIGSTOP)
            case "hangs":
                time.sleep(1000)

    def test_after():
        pass
"""

#: Nothing larger can be written, so there is no memory to share.
NO_SPOOL: Final = "resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000)); "


@pytest.mark.parametrize("start", ["fork", "spawn"])
@pytest.mark.parametrize(
    ("dies", "kind"),
    [
        ("killed", "crash"),
        ("crash", "crash"),
        ("exit", "crash"),
        ("abort", "crash"),
        ("teardown", "crash"),
        ("stopped", "timeout"),
        ("hangs", "timeout"),
    ],
)
def test_all_that_passed_before_counts_and_the_right_test_is_blamed(
    dies: str, kind: str, start: str, tmp_path: Path
) -> None:
    check(dies, kind, start, tmp_path)


@pytest.mark.parametrize("dies", ["killed", "hangs"])
def test_nothing_is_lost_where_no_memory_can_be_shared(dies: str, tmp_path: Path) -> None:
    kind = "timeout" if dies == "hangs" else "crash"
    check(dies, kind, "auto", tmp_path, prelude=NO_SPOOL)


def check(dies: str, kind: str, start: str, directory: Path, prelude: str = "") -> None:
    outcome = Scenario(
        dies,
        {"test_it.py": QUICK, "conftest.py": NOTE_RUNS},
        ("--shards=1", f"--shard-start={start}", "--shard-test-timeout=3"),
        prelude=f"{prelude}os.environ['DIES'] = {dies!r}",
    ).play(directory)

    tests = [f"test_it.py::test_quick[{number}]" for number in range(COUNT)]
    kinds = dict.fromkeys([*tests, "test_it.py::test_after"], "passed")
    check_books(outcome.finished, code=1, kinds={**kinds, "test_it.py::test_dies": kind})
    assert Counter(outcome.runs) == dict.fromkeys([*kinds, "test_it.py::test_dies"], 1)
    if dies == "teardown":
        assert "teardown" in outcome.finished.case("test_it.py::test_dies").text
