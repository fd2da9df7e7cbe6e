#!/usr/bin/env python3
"""Runs the suites of published packages with and without shards and compares them test by test.

    python3 scripts/real_suites.py attrs click 'flask==3.1.*'

Each package is downloaded as a source distribution and installed, with what its tests need, into an
environment of its own. The table goes to stdout as Markdown, progress to stderr. The exit code is 1
when a difference stays without an explanation. Needs only the standard library, pip and venv.
"""

from __future__ import annotations

import argparse
import contextlib
import fnmatch
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
import xml.etree.ElementTree as ET
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

PROJECT: Final = Path(__file__).resolve().parents[1]
RECORDER: Final = PROJECT / "scripts" / "outcome_recorder.py"
RECORD_VARIABLE: Final = "OUTCOME_RECORD"

#: How often plain pytest is run again to see whether it agrees with itself.
PLAIN_RERUNS: Final = 2
#: So many tests with differences are tried alone; more of them have one reason between them.
TRIED_ALONE: Final = 20
#: So many differences of a run are listed.
LISTED: Final = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What a suite needs beyond what its own metadata declares."""

    requirements: tuple[str, ...] = ()
    #: Added to every run's command line.
    arguments: tuple[str, ...] = ()
    #: Differences that are right, as a pattern of node ids -> the reason.
    explained: tuple[tuple[str, str], ...] = ()


#: Suites whose metadata do not say all that is needed; others need no entry.
RECIPES: Final[dict[str, Recipe]] = {
    "httpx": Recipe(
        requirements=(
            "httpx[brotli,cli,http2,socks,zstd]",
            "chardet",
            "cryptography",
            "trio",
            "trustme",
            "uvicorn",
        ),
        explained=(
            ("the whole run", "its server listens on port 8000 and waits forever when it cannot"),
        ),
    ),
    # Its tests import a name that pytest 9 does not have any more.
    "flask": Recipe(requirements=("pytest<9",)),
    "httpcore": Recipe(
        requirements=("httpcore[http2,socks]", "anyio", "pytest-httpbin", "pytest-trio", "trio")
    ),
    "idna": Recipe(requirements=("hypothesis",)),
    "itsdangerous": Recipe(requirements=("freezegun",)),
    "jinja2": Recipe(requirements=("trio",)),
    "marshmallow": Recipe(
        explained=(("*test_invalid_datetime_deserialization[[]*", "its node ids have the time"),)
    ),
    "pygments": Recipe(requirements=("wcag-contrast-ratio",)),
    "pyproject-hooks": Recipe(requirements=("setuptools", "testpath")),
    "pytest-asyncio": Recipe(arguments=("tests",)),
    "pytest-mock": Recipe(requirements=("pytest-asyncio",)),
    "python-dateutil": Recipe(
        requirements=("attrs", "freezegun", "hypothesis", "pytest-cov", "six")
    ),
    "starlette": Recipe(
        requirements=("starlette[full]", "httpx2[zstd]", "blockbuster", "opentelemetry-sdk", "trio")
    ),
    "tomlkit": Recipe(requirements=("PyYAML",)),
    "wcwidth": Recipe(requirements=("pytest-benchmark", "pytest-codspeed", "pytest-cov")),
    # Plain pytest has been seen to hang in the tests that start the development server.
    "werkzeug": Recipe(arguments=("-m", "not dev_server")),
}


@dataclass(frozen=True, slots=True)
class Suite:
    """An unpacked source distribution with an environment in which its tests can run."""

    name: str
    source: Path
    environment: Path
    recipe: Recipe

    @property
    def python(self) -> Path:
        return self.environment / "bin" / "python"

    @property
    def pytest(self) -> Path:
        return self.environment / "bin" / "pytest"


#: The subject of a difference that leaves nothing to compare.
WHOLE_RUN: Final = "the whole run"

#: What was said about one test or collector: sorted (category, message).
Said = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Run:
    """What one run of a suite reported."""

    options: tuple[str, ...]
    #: None for a run that was ended because it took too long; it reported nothing.
    exit_code: int | None
    seconds: float
    reported: Mapping[str, Said]
    deselected: int
    warnings: Mapping[tuple[str, str], int]
    #: Processes that still lived a moment after the run.
    left_behind: int
    #: What the JUnit file has below each test case: (class, name) -> its children.
    junit: Mapping[tuple[str, str], tuple[str, ...]]

    @property
    def title(self) -> str:
        return " ".join(("pytest", *self.options))


@dataclass(frozen=True, slots=True)
class Difference:
    """Something that two runs of a suite say differently."""

    subject: str
    plain: str
    other: str
    #: None while nobody knows why.
    reason: str | None = None
    #: The test or collector that the difference is about, if it is about one.
    nodeid: str | None = None


@dataclass(frozen=True, slots=True)
class Comparison:
    """A run beside the plain run of the same suite."""

    run: Run
    differences: tuple[Difference, ...]

    @property
    def unexplained(self) -> int:
        return sum(difference.reason is None for difference in self.differences)


@dataclass(frozen=True, slots=True)
class Result:
    """All runs of one suite."""

    suite: Suite
    plain: Run
    comparisons: tuple[Comparison, ...]


class SuiteError(Exception):
    """A suite could not be prepared or run at all."""


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    cache = options.cache or Path(tempfile.mkdtemp(prefix="real-suites-"))
    results, broken = [], []
    for name in options.names:
        try:
            suite = prepare(name, cache, options.python)
            results.append(examine(suite, modes(options), options.timeout))
        except SuiteError as error:
            say(f"{name}: {error}")
            broken += ["", f"**{name}** could not be tried: {str(error).splitlines()[0]}"]
    print("\n".join([*table(results), *differences(results), *broken]))
    judged = [
        comparison
        for result in results
        for comparison in result.comparisons
        if "--shards" in comparison.run.options
    ]
    return 1 if broken or any(comparison.unexplained for comparison in judged) else 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="+", metavar="NAME", help="a package, as pip names it")
    parser.add_argument("--cache", type=Path, help="keep what was installed in this directory")
    parser.add_argument("--python", default=sys.executable, help="interpreter of the environments")
    parser.add_argument("--timeout", type=float, default=600, help="seconds for one run of a suite")
    parser.add_argument("--xdist", action="store_true", help="compare pytest -n 2 too")
    parser.add_argument("--plain", action="store_true", help="only run plain pytest")
    return parser.parse_args(arguments)


def modes(options: argparse.Namespace) -> list[tuple[str, ...]]:
    if options.plain:
        return []
    shards = [("--shards", "2"), ("--shards", "4", "--shard-start", "spawn")]
    return [*shards, ("-n", "2")] if options.xdist else list(shards)


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def call(command: Sequence[str | Path], directory: Path) -> None:
    done = subprocess.run(
        [str(word) for word in command],
        cwd=directory,
        env=clean_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    if done.returncode:
        raise SuiteError(f"exit code {done.returncode} of {command}\n{done.stdout[-3000:]}")


def clean_environment() -> dict[str, str]:
    """The environment without what belongs to the run that this script may be a part of."""
    foreign = ("PYTEST_", "PYTHONPATH", "VIRTUAL_ENV", "COV_CORE_", "COVERAGE_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    return {**kept, "COLUMNS": "80", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}


def prepare(requirement: str, cache: Path, python: str) -> Suite:
    """Download, unpack and install a suite, or find it in the cache as it was left."""
    name = re.split(r"[^\w.-]", requirement)[0].lower()
    place = cache.resolve() / re.sub(r"[^\w.]+", "-", requirement)
    suite = Suite(
        name=name,
        source=place / "source",
        environment=place / "environment",
        recipe=RECIPES.get(name, Recipe()),
    )
    ready = place / "ready"
    if not ready.exists() or ready.read_text(encoding="utf-8") != repr(suite.recipe):
        say(f"{name}: downloading and installing")
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        unpack(download(requirement, name, place), suite.source)
        install(suite, python)
        ready.write_text(repr(suite.recipe), encoding="utf-8")
    shutil.copy(RECORDER, site_packages(suite))
    return suite


def download(requirement: str, name: str, place: Path) -> Path:
    """Fetch a source distribution; pip reads its metadata on the way but builds no wheel."""
    pip = (sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", name)
    call((*pip, "--dest", place, requirement), place)
    archives = [*place.glob("*.tar.gz"), *place.glob("*.zip")]
    if len(archives) != 1:
        raise SuiteError(f"no single source distribution: {archives}")
    return archives[0]


def unpack(archive: Path, target: Path) -> None:
    """Unpack a source distribution; its one top directory becomes the target."""
    loose = target.with_name("unpacked")
    if archive.suffix == ".zip":
        shutil.unpack_archive(archive, loose)
    else:
        with tarfile.open(archive) as opened:
            opened.extractall(loose, filter="data")
    (top,) = loose.iterdir()
    top.rename(target)
    loose.rmdir()


def install(suite: Suite, python: str) -> None:
    call((python, "-m", "venv", suite.environment), suite.source)
    pip: tuple[str | Path, ...] = (suite.python, "-m", "pip", "install", "--quiet")
    # Dependency groups came with pip 25.1.
    call((*pip, "--upgrade", "pip>=25.1"), suite.source)
    wanted: list[str] = []
    for group in test_groups(suite.source):
        wanted += ["--group", group]
    # Extras that a package does not have only make pip warn.
    own = "--editable", ".[test,tests,testing]"
    call((*pip, *own, *suite.recipe.requirements, *wanted), suite.source)
    # Last and by itself, so that a suite which pins an old pytest gets one that is supported.
    call((*pip, "--editable", PROJECT, "pytest-xdist"), suite.source)


def test_groups(source: Path) -> list[str]:
    """The dependency groups for tests that a project declares (PEP 735)."""
    path = source / "pyproject.toml"
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    groups = text.partition("[dependency-groups]")[2]
    return re.findall(r"^(tests?|testing)\s*=", groups.partition("\n[")[0], re.MULTILINE)


def site_packages(suite: Suite) -> Path:
    (directory,) = suite.environment.glob("lib/python*/site-packages")
    return directory


def examine(suite: Suite, others: Iterable[tuple[str, ...]], timeout: float) -> Result:
    # Without it the first run would pay for compiling, and look slow beside the others.
    run_suite(suite, ("--collect-only", "-q"), timeout)
    plains = [run_suite(suite, (), timeout)]
    if plains[0].exit_code is None:
        raise SuiteError(f"plain pytest took more than {timeout:g} s")
    comparisons = []
    for options in others:
        run = run_suite(suite, options, timeout)
        found = compare(plains[0], run)
        while found and run.exit_code is not None and len(plains) <= PLAIN_RERUNS:
            plains.append(run_suite(suite, (), timeout))
        comparisons.append(Comparison(run, tuple(explain(suite, found, run, plains, timeout))))
    return Result(suite, plains[0], tuple(shared_with_xdist(comparisons)))


def run_suite(suite: Suite, options: tuple[str, ...], timeout: float) -> Run:
    with tempfile.TemporaryDirectory(prefix="real-suites-") as directory:
        record = Path(directory, "record.json")
        output = Path(directory, "output.txt")
        junit = Path(directory, "junit.xml")
        command = [str(suite.pytest), "-p", "outcome_recorder", *suite.recipe.arguments, *options]
        command += ["--junitxml", str(junit)]
        if "--shards" not in options:
            command += ["-p", "no:shardrun"]
        started = time.monotonic()
        with output.open("wb") as stream:
            try:
                exit_code = subprocess.run(
                    command,
                    cwd=suite.source,
                    env={**clean_environment(), RECORD_VARIABLE: str(record)},
                    stdin=subprocess.DEVNULL,
                    stdout=stream,
                    stderr=subprocess.STDOUT,
                    timeout=timeout,
                    check=False,
                ).returncode
            except subprocess.TimeoutExpired:
                exit_code = None
        seconds = time.monotonic() - started
        left_behind = end_left_behind(str(record), patience=0 if exit_code is None else 3)
        if exit_code is None:
            say(f"{suite.name}: {options} took more than {timeout:g} s\n{tail(output)}")
            return Run(options, None, seconds, {}, 0, {}, 0, {})
        if not record.exists():
            raise SuiteError(f"{options} ended with {exit_code}, no report\n{tail(output)}")
        run = read_run(record, junit, options, seconds, left_behind)
    say(f"{suite.name}: {run.title}: {summary(run)} in {seconds:.1f} s, exit code {run.exit_code}")
    return run


def tail(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")[-3000:]


def end_left_behind(marker: str, *, patience: float) -> int:
    """Kill what a run has left running and return how many processes that were.

    They are known by the environment that they inherited; where there is no /proc none is seen.
    """
    deadline = time.monotonic() + patience
    while left := processes_with(marker):
        if time.monotonic() > deadline:
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            return len(left)
        time.sleep(0.1)
    return 0


def processes_with(marker: str) -> list[int]:
    found = []
    for environment in Path("/proc").glob("[0-9]*/environ"):
        try:
            if marker.encode() in environment.read_bytes():
                found.append(int(environment.parent.name))
        except OSError:
            continue
    return found


def read_run(
    record: Path, junit: Path, options: tuple[str, ...], seconds: float, left_behind: int
) -> Run:
    read = json.loads(record.read_text(encoding="utf-8"))
    return Run(
        options=options,
        exit_code=read["exit"],
        seconds=seconds,
        reported={
            nodeid: tuple(sorted((category, steady(message)) for category, message in said))
            for nodeid, said in read["reported"].items()
        },
        deselected=read["deselected"],
        warnings=Counter((nodeid, steady(message)) for nodeid, message in read["warnings"]),
        left_behind=left_behind,
        junit=read_junit(junit) if junit.exists() else {},
    )


def read_junit(path: Path) -> dict[tuple[str, str], tuple[str, ...]]:
    """What is said below each test case; pytest writes two for a test with two reports."""
    children: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    for case in ET.parse(path).iter("testcase"):
        key = (steady(case.get("classname", "")), steady(case.get("name", "")))
        children[key] += [child.tag for child in case]
    return {key: tuple(sorted(tags)) for key, tags in children.items()}


def steady(message: str) -> str:
    """Return a message without what differs from run to run: addresses, times, directories."""
    message = re.sub(r"0x[0-9a-fA-F]+", "0x…", message)
    message = re.sub(r"\S*pytest-of-\S*?/pytest-\d+/(popen-\w+/)?", "…/", message)
    return re.sub(r"\d+\.\d+", "#.#", message)


def summary(run: Run) -> str:
    counts = Counter(category for said in run.reported.values() for category, _ in said)
    return ", ".join(f"{count} {category}" for category, count in sorted(counts.items()))


def compare(plain: Run, other: Run) -> list[Difference]:
    if other.exit_code is None:
        return [Difference(WHOLE_RUN, "ended", "did not end in time")]
    found = [
        Difference(nodeid, describe(expected), describe(got), nodeid=nodeid)
        for nodeid in sorted({*plain.reported, *other.reported})
        for expected, got in [(plain.reported.get(nodeid), other.reported.get(nodeid))]
        if expected != got
    ]
    for subject, expected_number, got_number in (
        ("exit code", plain.exit_code, other.exit_code),
        ("deselected", plain.deselected, other.deselected),
        ("processes left behind", plain.left_behind, other.left_behind),
    ):
        if expected_number != got_number:
            found.append(Difference(subject, str(expected_number), str(got_number)))
    found += [
        Difference(
            f"JUnit {'::'.join(case)}", *(str(run.junit.get(case)) for run in (plain, other))
        )
        for case in sorted({*plain.junit, *other.junit})
        if plain.junit.get(case) != other.junit.get(case)
    ]
    for nodeid, text in sorted({*plain.warnings, *other.warnings}):
        counts = [run.warnings.get((nodeid, text), 0) for run in (plain, other)]
        if counts[0] != counts[1]:
            subject = f"warning of {nodeid or 'no test'}: {shorten(text)}"
            found.append(Difference(subject, *(f"{count} times" for count in counts)))
    return found


def describe(said: Said | None) -> str:
    if said is None:
        return "nothing"
    return "; ".join(
        f"{category} ({shorten(text)})" if text else category for category, text in said
    )


def shorten(text: str) -> str:
    line = " ".join(text.split()).replace("|", "¦")
    return line if len(line) <= 120 else f"{line[:119]}…"


def explain(
    suite: Suite, found: list[Difference], run: Run, plains: list[Run], timeout: float
) -> list[Difference]:
    """Add the reason to each difference for which one is known or can be found by trying."""
    unsteady = {one.subject for again in plains[1:] for one in compare(plains[0], again)}
    explained = [
        replace(difference, reason=known_reason(suite.recipe, difference, unsteady))
        for difference in found
    ]
    open_ones = [one for one in explained if one.reason is None and one.nodeid is not None]
    if len(open_ones) > TRIED_ALONE:
        return explained
    for difference in open_ones:
        assert difference.nodeid is not None
        alone = run_suite(suite, (difference.nodeid,), timeout)
        if alone.reported.get(difference.nodeid) == run.reported.get(difference.nodeid):
            reason = "plain pytest says the same when it runs this test alone"
            explained[explained.index(difference)] = replace(difference, reason=reason)
    if all(one.reason for one in explained if one.nodeid is not None):
        explained = [
            replace(one, reason="follows from the tests above")
            if one.subject == "exit code" and one.reason is None and open_ones
            else one
            for one in explained
        ]
    return explained


def shared_with_xdist(comparisons: list[Comparison]) -> list[Comparison]:
    """Explain what pytest-xdist, where it was tried, says too: then it is the suite's doing."""
    twins = {
        (one.subject, one.other)
        for comparison in comparisons
        if "-n" in comparison.run.options
        for one in comparison.differences
        if one.nodeid is not None or one.subject == WHOLE_RUN
    }
    return [
        comparison
        if "-n" in comparison.run.options
        else replace(
            comparison,
            differences=tuple(
                replace(one, reason="pytest -n 2 says the same")
                if one.reason is None and (one.subject, one.other) in twins
                else one
                for one in comparison.differences
            ),
        )
        for comparison in comparisons
    ]


def known_reason(recipe: Recipe, difference: Difference, unsteady: set[str]) -> str | None:
    if difference.subject in unsteady:
        return "plain pytest does not agree with itself"
    reasons = (
        reason
        for pattern, reason in recipe.explained
        if fnmatch.fnmatchcase(difference.subject, pattern)
    )
    return next(reasons, None)


def table(results: list[Result]) -> list[str]:
    if not results:
        return []
    titles = [comparison.run.title for comparison in results[0].comparisons]
    lines = [
        "| suite | reported | `pytest` | " + "".join(f"`{title}` | " for title in titles),
        "| --- | --- | --- | " + "--- | " * len(titles),
    ]
    for result in results:
        cells = [
            result.suite.source.resolve().name if not result.suite.name else result.suite.name,
            summary(result.plain),
            f"{result.plain.seconds:.1f} s",
            *(cell(result.plain, comparison) for comparison in result.comparisons),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return [line.rstrip() for line in lines]


def cell(plain: Run, comparison: Comparison) -> str:
    count = len(comparison.differences)
    verdict = "the same" if not count else f"{count} differ, {comparison.unexplained} unexplained"
    return f"{verdict}, {comparison.run.seconds / plain.seconds:.2f} × the time"


def differences(results: list[Result]) -> list[str]:
    lines = []
    for result in results:
        for comparison in result.comparisons:
            if comparison.differences:
                lines += ["", f"**{result.suite.name}**, `{comparison.run.title}`:", ""]
            # Those that nobody can explain come first.
            ordered = sorted(comparison.differences, key=lambda one: one.reason is not None)
            for one in ordered[:LISTED]:
                reason = one.reason or "UNEXPLAINED"
                lines.append(f"* `{one.subject}`: {one.plain} → {one.other}: {reason}")
            if len(ordered) > LISTED:
                lines.append(f"* and {len(ordered) - LISTED} more")
    return lines


if __name__ == "__main__":
    sys.exit(main())
