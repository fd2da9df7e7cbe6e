from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_shardrun.cpus import usable_cpus

Files = dict[str, str]


@pytest.fixture
def write(tmp_path: Path) -> Callable[[Files], Path]:
    def write(files: Files) -> Path:
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        return tmp_path

    return write


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 8),
        ({"cpu.max": "max 100000\n"}, 8),
        ({"cpu.max": "200000 100000\n"}, 2),
        # What is left over of a CPU is worth a process.
        ({"cpu.max": "250000 100000\n"}, 3),
        ({"cpu.max": "50000 100000\n"}, 1),
        ({"cpu.max": "1600000 100000\n"}, 8),
        ({"cpu.max": "nonsense"}, 8),
        ({"cpu.max": ""}, 8),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 8),
        ({"cpu/cpu.cfs_quota_us": "300000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 3),
        ({"cpu/cpu.cfs_quota_us": "300000\n"}, 8),
        ({"cpu/cpu.cfs_quota_us": "300000\n", "cpu/cpu.cfs_period_us": "0\n"}, 8),
    ],
    ids=lambda value: str(value).replace("\n", ""),
)
def test_the_quota_of_the_cgroup_cuts_the_affinity(
    files: Files,
    expected: int,
    write: Callable[[Files], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)

    assert usable_cpus(write(files)) == expected


def test_the_affinity_counts_where_there_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3, 5}, raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)

    assert usable_cpus(tmp_path) == 2


@pytest.mark.parametrize(("count", "expected"), [(6, 6), (None, 1)])
def test_all_processors_count_where_there_is_no_affinity(
    count: int | None, expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: count)

    assert usable_cpus(tmp_path) == expected


def test_there_is_always_one_processor() -> None:
    assert usable_cpus() >= 1
