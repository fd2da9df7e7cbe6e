"""Measures shards in containers: the first test, the whole run, the copy.

    python -m benchmarks.containers [IMAGE]

Needs a Docker daemon; without an image, one with this Python is made by scripts/test_image.py.
"""

from __future__ import annotations

import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

_SCRIPT: Final = Path(__file__).parents[1] / "scripts/test_image.py"
_REPEATS: Final = 3
_TESTS: Final = """
import time
import pytest

@pytest.mark.parametrize("number", range({count}))
def test_it(number):
    print(f"began at {{time.time():.3f}}", flush=True)
    time.sleep({seconds})
"""


def main(arguments: Sequence[str]) -> None:
    image = arguments[0] if arguments else make_image()
    print(f"load of the machine before: {os.getloadavg()[0]:.1f}\n")
    print(
        "| shards | first test in processes | in containers | whole run | |\n|---|---|---|---|---|"
    )
    for shards in (1, 4, 8):
        print(compare(shards, image), flush=True)
    print("\n| project | first test with 4 containers, copied | in a volume |\n|---|---|---|")
    for megabytes in (0, 10, 50, 100):
        print(measure_copy(megabytes, image), flush=True)


def make_image() -> str:
    command = [sys.executable, str(_SCRIPT)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def compare(shards: int, image: str) -> str:
    """A row: the same suite in processes and in containers."""
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch)
        write_suite(directory, files=8, count=10, seconds=0.1)
        containers = ("--shard-executor=docker", f"--shard-image={image}")
        pairs = [
            (measure(directory, shards), measure(directory, shards, *containers))
            for _ in range(_REPEATS)
        ]
    first, first_in, whole, whole_in = (
        statistics.median(pair[place][part] for pair in pairs)
        for part in (0, 1)
        for place in (0, 1)
    )
    return (
        f"| {shards} | {first:.1f} s | {first_in:.1f} s | {whole:.1f} s | {whole_in:.1f} s, "
        f"{whole_in - whole:+.1f} s |"
    )


def measure_copy(megabytes: int, image: str) -> str:
    """A row: a project with this much in it, in files of 20 kB."""
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch)
        write_suite(directory, files=4, count=1, seconds=0.1)
        for number in range(megabytes * 50):
            path = directory / f"data/{number % 100}/{number}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(os.urandom(20_000))
        containers = ("--shard-executor=docker", f"--shard-image={image}")
        copied, shared = (
            statistics.median(
                measure(directory, 4, *containers, f"--shard-code={code}")[0]
                for _ in range(_REPEATS)
            )
            for code in ("copy", "volume")
        )
    return f"| {megabytes} MB | {copied:.1f} s | {shared:.1f} s |"


def write_suite(directory: Path, *, files: int, count: int, seconds: float) -> None:
    for number in range(files):
        text = _TESTS.format(count=count, seconds=seconds)
        (directory / f"test_{number}.py").write_text(text, encoding="utf-8")


def measure(directory: Path, shards: int, *arguments: str) -> tuple[float, float]:
    """Seconds from the start to the first test, and to the end."""
    command = [sys.executable, "-m", "pytest", "-s", "-p", "no:cacheprovider", f"--shards={shards}"]
    began = time.time()
    done = subprocess.run(
        [*command, *arguments], cwd=directory, capture_output=True, text=True, check=False
    )
    ended = time.time()
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    first = min(float(each) for each in re.findall(r"began at ([\d.]+)", done.stdout))
    return first - began, ended - began


if __name__ == "__main__":
    main(sys.argv[1:])
