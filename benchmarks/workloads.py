"""The suites that are measured."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from scripts.real_suites import SuiteError, clean_environment, prepare


@dataclass(frozen=True, slots=True)
class Place:
    """A suite that is ready to run."""

    directory: Path
    #: How pytest is called there, without any option of this benchmark's.
    command: tuple[str, ...]


def environment() -> dict[str, str]:
    """The environment of every run: byte code is kept, as on a machine of one's own."""
    return {
        name: value
        for name, value in clean_environment().items()
        if name not in ("PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED")
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """A suite, and how it is to be run."""

    name: str
    title: str
    #: Makes the suite in an empty directory; raises `SuiteError` where that cannot be done.
    build: Callable[[Path], Place]
    #: What wall time divided by that of pytest-xdist's best mode should be at most.
    bar: float
    shards: int = 2
    #: Seconds of the longest test, where it is known to be what holds up all the others.
    longest: float = 0.0
    #: The tests wait, so that more shards than CPUs help.
    waits: bool = False
    #: Durations are forgotten before each run.
    forgets: bool = False
    #: The bar where plain pytest takes less than ten seconds.
    bar_if_short: float | None = None


def _synthetic(write: Callable[[Path], None], *needs: str) -> Callable[[Path], Place]:
    return partial(_build_synthetic, write, needs)


def _build_synthetic(
    write: Callable[[Path], None], needs: tuple[str, ...], directory: Path
) -> Place:
    for name in needs:
        if find_spec(name) is None:
            raise SuiteError(f"{name} is not installed: pip install -e '.[benchmarks]'")
    directory.mkdir(parents=True)
    # An ini file of its own, so that no setting further up has a say.
    (directory / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")
    write(directory)
    return Place(directory, (sys.executable, "-m", "pytest"))


def _write(directory: Path, number: int, text: str) -> None:
    (directory / f"test_{number:03}.py").write_text(text, encoding="utf-8")


def _trivial(directory: Path) -> None:
    for file in range(200):
        _write(directory, file, "".join(f"def test_{n}():\n    pass\n\n\n" for n in range(100)))


def _parameters(directory: Path) -> None:
    text = """
import pytest

@pytest.mark.parametrize("number", range(10_000))
def test_number(number):
    assert number >= 0
"""
    _write(directory, 0, text)


def _imports(directory: Path) -> None:
    text = """
import numpy
import pandas

def test_sum():
    assert numpy.arange(10).sum() == 45

def test_frame():
    assert len(pandas.DataFrame({{"a": [{file}, 2]}})) == 2
"""
    for file in range(200):
        _write(directory, file, text.format(file=file))


def _sleeps(directory: Path) -> None:
    for file in range(8):
        text = "import time\n\n"
        text += "".join(f"def test_{n}():\n    time.sleep(0.25)\n\n" for n in range(8))
        _write(directory, file, text)


LONG_SECONDS: Final = 10.0


def _skewed(directory: Path) -> None:
    for file in range(20):
        text = "import time\n\n"
        text += "".join(f"def test_{n}():\n    time.sleep(0.02)\n\n" for n in range(25))
        if file == 14:
            text += f"def test_long():\n    time.sleep({LONG_SECONDS})\n"
        _write(directory, file, text)


def _fixtures(directory: Path) -> None:
    text = """
import time
import pytest

@pytest.fixture(scope="module")
def expensive():
    time.sleep(0.2)
    return 1

@pytest.mark.parametrize("number", range(10))
def test_uses_it(expensive, number):
    time.sleep(0.005)
"""
    for file in range(40):
        _write(directory, file, text)


def _small(directory: Path) -> None:
    for file in range(3):
        text = "import pytest\n\n@pytest.fixture\ndef three():\n    return 3\n\n"
        text += "".join(f"def test_{n}(three):\n    assert three + {n} > 2\n\n" for n in range(10))
        _write(directory, file, text)


def _crash(directory: Path) -> None:
    head = "import asyncio, email.message, http.client, os, sqlite3, time, unittest.mock\n\n"
    for file in range(40):
        text = head
        text += "".join(f"def test_{n}():\n    time.sleep(0.002)\n\n" for n in range(25))
        if file == 20:
            text += "def test_crash():\n    os.abort()\n"
        _write(directory, file, text)


def _real(name: str, directory: Path) -> Place:
    suite = prepare(name, directory.parent, sys.executable)
    return Place(suite.source, (str(suite.pytest), *suite.recipe.arguments))


def real_suite(name: str) -> Workload:
    """The suite of a package on PyPI."""
    return Workload(
        name=f"real-{name}",
        title=name,
        build=partial(_real, name),
        bar=0.80,
        bar_if_short=0.65,
    )


REAL: Final = ("jinja2", "structlog", "attrs", "more-itertools")

WORKLOADS: Final = (
    Workload(name="small", title="30 fast tests", build=_synthetic(_small), bar=0.70),
    Workload(
        name="trivial",
        title="20,000 trivial tests in 200 files",
        build=_synthetic(_trivial),
        bar=0.60,
    ),
    Workload(
        name="parameters",
        title="a function with 10,000 parameters",
        build=_synthetic(_parameters),
        bar=0.60,
    ),
    Workload(
        name="imports",
        title="200 files that import numpy and pandas, 4 shards",
        build=_synthetic(_imports, "numpy", "pandas"),
        bar=0.60,
        shards=4,
    ),
    Workload(
        name="sleeps",
        title="64 tests that sleep 0.25 s, 8 shards",
        build=_synthetic(_sleeps),
        bar=0.80,
        shards=8,
        waits=True,
    ),
    Workload(
        name="skewed-known",
        title="10 s among 500 of 20 ms, durations known",
        build=_synthetic(_skewed),
        bar=0.75,
        longest=LONG_SECONDS,
        waits=True,
    ),
    Workload(
        name="skewed-unknown",
        title="10 s among 500 of 20 ms, durations unknown",
        build=_synthetic(_skewed),
        bar=0.95,
        longest=LONG_SECONDS,
        waits=True,
        forgets=True,
    ),
    Workload(
        name="fixtures",
        title="40 modules with a module fixture of 0.2 s",
        build=_synthetic(_fixtures),
        bar=0.85,
        waits=True,
    ),
    Workload(
        name="crash",
        title="1,001 tests, one of which aborts its process",
        build=_synthetic(_crash),
        bar=0.70,
        waits=True,
    ),
    *map(real_suite, REAL),
)
