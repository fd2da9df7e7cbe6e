"""Disks that are full, and directories that cannot be written."""

from __future__ import annotations

import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Final

import pytest

from .conftest import Outcomes
from .scenario import Scenario
from .support import (
    PROCESSES_ARE_KNOWN,
    WITHOUT_PRIVILEGES,
    check_books,
    kinds_of,
    started,
    write_suite,
)
from .table import HEALTHY, HEALTHY_KINDS, TWO_SHARDS

pytestmark = PROCESSES_ARE_KNOWN

#: As ``prelude``: a file system of a few pages in the directory ``small``, seen by this run alone.
SMALL_DISK: Final = """
libc = ctypes.CDLL(None, use_errno=True)
def check(result):
    if result:
        raise OSError(ctypes.get_errno(), "no small disk")
user, group = os.getuid(), os.getgid()
os.makedirs("small", exist_ok=True)
try:
    check(libc.unshare(0x20000))
except OSError:
    check(libc.unshare(0x20000 | 0x10000000))
    open("/proc/self/setgroups", "w").write("deny")
    open("/proc/self/uid_map", "w").write(f"{user} {user} 1")
    open("/proc/self/gid_map", "w").write(f"{group} {group} 1")
check(libc.mount(None, b"/", None, 0x4000 | 0x40000, None))
check(libc.mount(b"tmpfs", b"small", b"tmpfs", 0, b"size=16k,mode=777"))
"""
FULL_DISK: Final = f"""{SMALL_DISK}
try:
    open("small/filling", "wb", buffering=0).write(b"x" * 65536)
except OSError:
    pass
"""


@cache
def may_mount() -> bool:
    program = f"import ctypes, os, tempfile\nos.chdir(tempfile.mkdtemp())\n{SMALL_DISK}"
    return subprocess.run([sys.executable, "-c", program], capture_output=True).returncode == 0


needs_a_small_disk = pytest.mark.skipif(
    not may_mount(), reason="neither root nor a user namespace may mount a tmpfs here"
)

#: A test for each of pytest's ways to use the disk.
WRITES: Final = """
    def test_passes():
        pass

    def test_prints():
        print("x" * 100_000)

    def test_writes(tmp_path):
        (tmp_path / "file").write_text("x" * 100_000)

    def test_caches(cache):
        cache.set("shardrun/fault", "x" * 100_000)
"""


def writing(name: str, *arguments: str, prelude: str) -> Scenario:
    files = {"test_writes.py": WRITES, "test_healthy.py": HEALTHY}
    return Scenario(name, files, (*TWO_SHARDS, *arguments), prelude=prelude)


FULL_CACHE: Final = writing("full cache", "-o", "cache_dir=small", prelude=FULL_DISK)
FULL_BASETEMP: Final = writing("full base", "--basetemp=small/base", prelude=SMALL_DISK)
FULL_TMPDIR: Final = writing(
    "full TMPDIR", prelude=f"{FULL_DISK}\nos.environ['TMPDIR'] = os.path.abspath('small')"
)
READ_ONLY_CACHE: Final = writing(
    "read-only cache",
    "-o",
    "cache_dir=locked/cache",
    prelude=f"os.mkdir('locked', 0o555)\n{WITHOUT_PRIVILEGES}",
)


@needs_a_small_disk
@pytest.mark.skipif(
    pytest.version_tuple < (9, 0), reason="a full disk under its cache ends pytest itself"
)
@pytest.mark.parametrize("scenario", [FULL_CACHE], ids=str)
def test_a_cache_on_a_full_disk_costs_nothing_but_what_is_kept_there(
    outcome_of: Outcomes, scenario: Scenario
) -> None:
    finished = outcome_of(scenario).finished

    writes = kinds_of("writes", passes="passed", prints="passed", writes="passed", caches="passed")
    check_books(finished, code=0, kinds={**writes, **HEALTHY_KINDS})
    assert "No space left on device" in finished.stdout


@needs_a_small_disk
@pytest.mark.parametrize("scenario", [FULL_BASETEMP], ids=str)
def test_a_full_disk_fails_those_tests_alone_that_write_there(
    outcome_of: Outcomes, scenario: Scenario
) -> None:
    finished = outcome_of(scenario).finished

    # What a shard captures is on the same disk.
    prints = "passed|failed"
    writes = kinds_of("writes", passes="passed", prints=prints, writes="failed", caches="passed")
    check_books(finished, code=1, kinds={**writes, **HEALTHY_KINDS})
    assert "No space left on device" in finished.case("test_writes.py::test_writes").text


@needs_a_small_disk
@pytest.mark.parametrize("scenario", [FULL_TMPDIR], ids=str)
def test_another_directory_serves_where_that_for_temporary_files_is_full(
    outcome_of: Outcomes, scenario: Scenario
) -> None:
    finished = outcome_of(scenario).finished

    writes = kinds_of("writes", passes="passed", prints="passed", writes="passed", caches="passed")
    check_books(finished, code=0, kinds={**writes, **HEALTHY_KINDS})


@pytest.mark.parametrize("scenario", [READ_ONLY_CACHE], ids=str)
def test_a_cache_that_cannot_be_written_costs_nothing_but_what_is_kept_there(
    outcome_of: Outcomes, scenario: Scenario
) -> None:
    finished = outcome_of(scenario).finished

    writes = kinds_of("writes", passes="passed", prints="passed", writes="passed", caches="passed")
    check_books(finished, code=0, kinds={**writes, **HEALTHY_KINDS})
    assert "Permission denied" in finished.stdout


def test_a_suite_in_a_directory_that_cannot_be_written_runs(tmp_path: Path) -> None:
    write_suite(tmp_path, {"suite/test_healthy.py": HEALTHY, "suite/pytest.ini": "[pytest]"})
    (tmp_path / "suite").chmod(0o555)

    with started(
        tmp_path, *TWO_SHARDS, "--rootdir=suite", "suite", prelude=WITHOUT_PRIVILEGES
    ) as going:
        finished = going.finish(within=60)

    assert finished.code == 0, finished.describe()
    assert finished.stdout.count("Permission denied") <= 4, finished.describe()
    (tmp_path / "suite").chmod(0o755)


@pytest.mark.parametrize(
    ("prelude", "target"),
    [
        pytest.param(FULL_DISK, "small/report.xml", marks=needs_a_small_disk, id="full disk"),
        pytest.param(
            f"os.mkdir('locked', 0o555)\n{WITHOUT_PRIVILEGES}", "locked/report.xml", id="read-only"
        ),
        pytest.param("", "/dev/full", id="full device"),
    ],
)
def test_a_junit_file_that_cannot_be_written_is_an_error_of_the_run(
    tmp_path: Path, prelude: str, target: str
) -> None:
    write_suite(tmp_path, {"test_healthy.py": HEALTHY})

    with started(tmp_path, *TWO_SHARDS, f"--junitxml={target}", prelude=prelude) as going:
        finished = going.finish(within=60)

    assert finished.code == 3, finished.describe()
    assert finished.has_line_with("ERROR", target, "could not be written"), finished.describe()
    assert "3 passed" in finished.stdout.splitlines()[-1], finished.describe()
    assert not finished.stderr
