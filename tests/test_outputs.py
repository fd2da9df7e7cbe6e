"""The files that have what shards wrote."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_shardrun.model import Attempt
from pytest_shardrun.reporting.outputs import MOST, OutputFiles


def test_each_shard_has_a_file_with_what_all_of_its_attempts_wrote(tmp_path: Path) -> None:
    outputs = OutputFiles(tmp_path / "run")
    assert not (tmp_path / "run").exists()

    outputs.write(Attempt(1, 1), b"one ")
    outputs.write(Attempt(2, 1), b"two")
    outputs.write(Attempt(1, 2), b"again")
    outputs.write(Attempt(3, 1), b"")
    outputs.close()

    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
        "shard-1.txt",
        "shard-2.txt",
    ]
    assert (tmp_path / "run" / "shard-1.txt").read_bytes() == b"one again"


def test_a_flood_is_cut(tmp_path: Path) -> None:
    outputs = OutputFiles(tmp_path)

    for _ in range(MOST // (1 << 20) + 3):
        outputs.write(Attempt(1, 1), b"x" * (1 << 20))
    outputs.close()

    kept = (tmp_path / "shard-1.txt").read_bytes()
    assert kept.endswith(b"x\n(cut)\n")
    assert len(kept) == MOST + len(b"\n(cut)\n")


def test_where_nothing_can_be_written_the_run_goes_on_without(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file in the way")
    outputs = OutputFiles(tmp_path / "run")

    outputs.write(Attempt(1, 1), b"lost")
    outputs.close()

    assert (tmp_path / "run").read_text() == "a file in the way"


def test_what_a_shard_writes_past_the_capture_is_in_its_file(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_it():\n    print('said aloud')\n")

    pytester.runpytest_subprocess("--shards=1", "-s")

    (file,) = pytester.path.glob(".pytest_cache/d/shardrun/runs/*/shard-1.txt")
    assert "said aloud" in file.read_text()
