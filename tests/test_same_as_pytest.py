"""`pytest --shards 3` reports, test by test, what `pytest` reports.

Each file in ``corpus`` is a small suite. Its head says what it is about and how it is run:

    run: ARGUMENTS      compare with these arguments, once for each such line
    shards: ARGUMENTS   further arguments of the sharded run alone
    needs: WHAT         skip without this module, or without a pytest that new ("pytest 9.0")
    shows: TEXT         both terminals show this text, equally often
    stops               the run is stopped half-way, so that what ran may differ

Then come the suite's files, each after a line ``-- path --``.
"""

from __future__ import annotations

import importlib.util
import re
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from comparison import CORPUS, Run, differences, run_pytest, stopped_differences


@dataclass(frozen=True, slots=True)
class Suite:
    """One file of the corpus."""

    name: str
    runs: tuple[str, ...]
    shard_arguments: tuple[str, ...]
    needs: tuple[str, ...]
    shows: tuple[str, ...]
    stops: bool
    files: tuple[tuple[str, str], ...]

    def write(self, directory: Path) -> None:
        for name, text in self.files:
            path = directory / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")


@dataclass(frozen=True, slots=True)
class PlainRun:
    """How a suite went without shards."""

    suite: Suite
    arguments: tuple[str, ...]
    #: Has a directory for each run.
    parent: Path
    run: Run


def read_suite(path: Path) -> Suite:
    head, *rest = re.split(r"^-- (.+) --\n", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    said: dict[str, list[str]] = {"run": [], "shards": [], "needs": [], "shows": []}
    for line in head.splitlines():
        word, colon, value = line.partition(":")
        if colon and word in said:
            said[word].append(value.strip())
    return Suite(
        name=path.stem,
        runs=tuple(said["run"]) or ("",),
        shard_arguments=tuple(shlex.split(" ".join(said["shards"]))),
        needs=tuple(said["needs"]),
        shows=tuple(said["shows"]),
        stops="stops" in head.splitlines(),
        files=tuple(zip(rest[::2], rest[1::2], strict=True)),
    )


def missing(need: str) -> bool:
    module, _, version = need.partition(" ")
    if module == "pytest" and version:
        return tuple(map(int, version.split("."))) > pytest.version_tuple[:2]
    return importlib.util.find_spec(module) is None


def cases() -> list[object]:
    suites = [read_suite(path) for path in sorted(CORPUS.glob("*.txtar"))]
    return [
        pytest.param((suite, run), id=f"{suite.name}: pytest {run}".strip())
        for suite in suites
        for run in suite.runs
    ]


# The plain run is made once for all ways to start shards.
@pytest.fixture(scope="module", params=cases())
def plain_run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> PlainRun:
    suite, arguments = request.param
    for need in suite.needs:
        if missing(need):
            pytest.skip(f"needs {need}")
    args = tuple(shlex.split(arguments))
    parent = tmp_path_factory.mktemp("runs")
    suite.write(parent / "plain/suite")
    return PlainRun(suite, args, parent, run_pytest(parent / "plain/suite", *args))


@pytest.mark.parametrize("start", ["fork", "spawn"] if sys.platform == "linux" else ["spawn"])
def test_a_sharded_run_reports_what_pytest_reports(plain_run: PlainRun, start: str) -> None:
    suite, args, plain = plain_run.suite, plain_run.arguments, plain_run.run
    # The directories have the same name, for it is one of the tests' keywords, and paths of the
    # same length, for long messages are cut.
    directory = plain_run.parent / f"{start:_<5}" / "suite"
    suite.write(directory)

    options = ("--shards=3", f"--shard-start={start}", *suite.shard_arguments)
    sharded = run_pytest(directory, *options, *args)

    found = (stopped_differences if suite.stops else differences)(plain, sharded)
    found += [
        f"shown {plain.stdout.count(text)} times by pytest, "
        f"{sharded.stdout.count(text)} times in shards: {text}"
        for text in suite.shows
        if not 0 < plain.stdout.count(text) == sharded.stdout.count(text)
    ]
    if found:
        pytest.fail("\n".join(found) + f"\n\n{plain.show()}\n\n{sharded.show()}", pytrace=False)


def test_the_comparison_sees_every_kind_of_difference(tmp_path: Path) -> None:
    source = """
import warnings

import pytest

def test_passes(record_property):
    print("printed")
    record_property("name", "value")

def test_fails():
    warnings.warn("careful")
    assert 1 == 2

@pytest.mark.xfail(reason="known")
def test_is_expected_to_fail():
    assert 0
"""
    changed = (
        source.replace("printed", "painted")
        .replace('"value"', '"other"')
        .replace("careful", "careless")
        .replace("1 == 2", "1 == 3")
        .replace("known", "unknown")
    )
    runs = []
    for place, text in (("one", source), ("two", source), ("three", changed)):
        directory = tmp_path / place / "suite"
        directory.mkdir(parents=True)
        (directory / "test_it.py").write_text(text)
        runs.append(run_pytest(directory, "-rA"))
    (directory / "test_more.py").write_text("def test_more(): pass")
    more = run_pytest(directory, "-k", "passes")

    same, different = differences(*runs[:2]), "\n".join(differences(runs[0], runs[2]))
    fewer = "\n".join(differences(runs[0], more))

    assert same == []
    for words in (
        "test_passes (call): sections",
        "test_passes (call): user_properties",
        "test_fails (call): message",
        "test_fails (call): crash",
        "test_is_expected_to_fail (call): wasxfail",
        "warning lost (1)",
        "warning too often (1)",
        "missing on the terminal (1): FAILURES: test_fails",
        "too much on the terminal (1): FAILED test_it.py::test_fails - assert 1 == 3",
        "JUnit ('test_it', 'test_passes'): properties",
        "JUnit ('test_it', 'test_fails'): details",
    ):
        assert words in different
    for words in (
        "exit code",
        "counts of the last line",
        "deselected",
        "lost: test_it.py::test_fails",
        "session.testscollected",
        "JUnit lost: ('test_it', 'test_fails')",
    ):
        assert words in fewer
