from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.comparing import bound, outcomes
from benchmarks.measuring import measure
from benchmarks.planning import measure_growth
from benchmarks.workloads import WORKLOADS, Place, Workload

ROOT = Path(__file__).parents[1]

needs_proc = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def benchmark(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )


def workload(*, longest: float = 0.0, shards: int = 2, waits: bool = True) -> Workload:
    return Workload(
        name="a",
        title="a",
        build=lambda directory: Place(directory, ()),
        bar=1.0,
        longest=longest,
        shards=shards,
        waits=waits,
    )


@needs_proc
def test_a_small_workload_gets_a_row_with_its_ratios() -> None:
    done = benchmark("small", "--pairs", "1")

    assert done.returncode == 0, done.stderr
    (row,) = [line for line in done.stdout.splitlines() if line.startswith("| 30 fast tests |")]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    ratios = [float(cells[column]) for column in (6, 9, 10)]
    assert all(0.01 < ratio < 100 for ratio in ratios), row
    # All ways to run it have reported the same.
    assert "reported" not in done.stdout


def test_an_unknown_workload_is_answered_with_the_known_ones() -> None:
    done = benchmark("big")

    assert done.returncode == 2
    assert "big is unknown: choose small, trivial" in done.stderr


@needs_proc
def test_the_cost_of_a_command_counts_its_children(tmp_path: Path) -> None:
    spin = "import time\nend = time.process_time() + 0.3\nwhile time.process_time() < end: pass"
    text = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {spin!r}])"

    cost = measure([sys.executable, "-c", text], tmp_path, {}, timeout=60)

    assert cost.exit_code == 0
    assert cost.cpu_seconds > 0.3
    assert cost.peak_bytes > 1_000_000


def test_every_workload_has_a_name_of_its_own() -> None:
    names = [each.name for each in WORKLOADS]

    assert len(set(names)) == len(names)


def test_the_bound_is_a_fair_share_or_the_longest_test() -> None:
    assert bound(workload(), plain=9.0, collected=1.0) == 5.0
    assert bound(workload(longest=7.0), plain=9.0, collected=1.0) == 7.0


def test_outcomes_come_from_the_last_line_without_warnings() -> None:
    output = "test_a.py 3 passed\n==== 1 failed, 2 passed, 4 warnings in 0.10s ====\nmore\n"

    assert outcomes(output) == {"failed": 1, "passed": 2}
    assert outcomes("nothing") == {}


def test_the_decisions_for_every_test_of_a_suite_are_measured() -> None:
    small, large = measure_growth([100, 200])

    assert (small.tests, large.tests) == (100, 200)
    assert small.planning > 0
    assert large.running > 0
