"""Two runs of pytest over the same suite, compared test by test."""

from __future__ import annotations

import difflib
import json
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from xml.etree import ElementTree

CORPUS: Final = Path(__file__).parent / "corpus"

#: For ``run_pytest(env=...)``: load every installed plugin, as pytest does.
AUTOLOAD: Final = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": ""}

#: More than any single run of the tests takes on a busy machine.
_DEADLINE_SECONDS: Final = 120.0


@dataclass(frozen=True, slots=True)
class Phase:
    """One report of one test, as pytest's hooks were told."""

    kind: str
    when: str
    outcome: str
    wasxfail: str | None
    message: str
    crash: str | None
    head_line: str
    sections: tuple[tuple[str, str], ...]
    user_properties: tuple[tuple[str, str], ...]
    keywords: tuple[str, ...]
    location: tuple[str, int | None, str]


@dataclass(frozen=True, slots=True)
class Record:
    """What the reporting hooks of a whole run were told; order lost, repetition kept."""

    tests: Mapping[str, tuple[Phase, ...]]
    #: Failed and skipped collectors: node id, outcome, message, sections.
    collection: Counter[tuple[str, str, str, tuple[tuple[str, str], ...]]]
    #: Category, message, file, line, node id, when, location.
    warnings: Counter[tuple[str, ...]]
    deselected: int
    exitstatus: int
    testscollected: int
    testsfailed: int
    #: ("start" | "report" | "finish", node id), in the order of the hooks' calls.
    order: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Case:
    """Everything a JUnit file says of one (class name, name)."""

    #: Tag, type, message and text of each child but properties, in order.
    details: tuple[tuple[str, str | None, str | None, str], ...]
    properties: tuple[tuple[str, str], ...]
    attributes: Mapping[str, str]
    elements: int


@dataclass(frozen=True, slots=True)
class JUnit:
    """A JUnit file, keyed as its readers key it."""

    cases: Mapping[tuple[str, str], Case]
    suite_properties: frozenset[tuple[str, str]]
    #: The totals that the suites' attributes claim: tests, failures, errors, skipped.
    totals: Mapping[str, int]
    suite_names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Run:
    """A finished run of pytest as a user sees it."""

    arguments: tuple[str, ...]
    directory: Path
    exitcode: int
    stdout: str
    stderr: str
    #: None where pytest ended before it had a session.
    record: Record | None
    junit: JUnit | None
    junit_path: Path
    #: Patterns of what no two runs share, beside what none ever does.
    volatile: tuple[str, ...] = ()

    @property
    def counts(self) -> dict[str, int]:
        """The counts of pytest's last line, ``{"passed": 3}``; empty if there is none."""
        return summary_counts(self.stdout)

    @property
    def outcomes(self) -> dict[str, str]:
        """The word for each reported test: passed, failed, error, skipped, xfailed or xpassed."""
        assert self.record is not None, self.show()
        return {nodeid: _outcome_word(phases) for nodeid, phases in self.record.tests.items()}

    def show(self) -> str:
        """The run for an assertion's message."""
        return (
            f"$ pytest {' '.join(self.arguments)}\n{self.stdout}\n--- stderr ---\n{self.stderr}"
            f"\n--- exit code {self.exitcode} ---"
        )


def run_pytest(
    directory: Path,
    *args: str,
    env: Mapping[str, str] | None = None,
    program: Sequence[str] = (sys.executable, "-m", "pytest"),
    deadline: float = _DEADLINE_SECONDS,
    volatile: tuple[str, ...] = (),
) -> Run:
    """Run pytest in ``directory`` in a process, with a JUnit file and a record of outcomes.

    Both are written outside the directory, so that the suite cannot see them. Of installed
    plugins only this one is loaded, for speed; ``env=AUTOLOAD`` loads all. A run that outlives
    the deadline is killed with its process group, and the assertion that is raised shows what
    it had printed.
    """
    results = directory.parent / f"{directory.name}-results"
    results.mkdir(exist_ok=True)
    number = len(list(results.glob("*.out")))
    record, junit = results / f"{number}.json", results / f"{number}.xml"
    out, err = results / f"{number}.out", results / f"{number}.err"
    arguments = ("-p", "shardrun", "-p", "outcome_recorder", f"--junitxml={junit}", *args)
    environment = _clean_environment()
    environment["OUTCOME_RECORD"] = str(record)
    environment["PYTHONPATH"] = str(CORPUS)
    environment["PYTEST_DEBUG_TEMPROOT"] = str(results)
    environment["COLUMNS"] = "180"
    environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    environment.update(env or {})

    with out.open("wb") as stdout, err.open("wb") as stderr:
        process = subprocess.Popen(
            [*program, *arguments],
            cwd=directory,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            # So that the deadline can kill whatever the run has started and left in its group.
            start_new_session=True,
        )
        try:
            exitcode = process.wait(deadline)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise AssertionError(
                f"pytest {' '.join(arguments)} was not over after {deadline:g} s:\n"
                f"{_read(out)}\n--- stderr ---\n{_read(err)}"
            ) from None

    return Run(
        arguments=arguments,
        directory=directory,
        exitcode=exitcode,
        stdout=_read(out),
        stderr=_read(err),
        record=read_record(record) if record.exists() else None,
        junit=read_junit(junit) if junit.exists() else None,
        junit_path=junit,
        volatile=volatile,
    )


def read_record(path: Path) -> Record:
    """What ``outcome_recorder`` wrote."""
    raw: dict[str, Any] = json.loads(path.read_text(encoding="ascii"))
    tests: dict[str, list[Phase]] = {}
    for phase in raw["phases"]:
        nodeid = phase.pop("nodeid")
        tests.setdefault(nodeid, []).append(
            Phase(
                **{
                    **phase,
                    "sections": _pairs(phase["sections"]),
                    "user_properties": _pairs(phase["user_properties"]),
                    "keywords": tuple(phase["keywords"]),
                    "location": tuple(phase["location"]),
                }
            )
        )
    return Record(
        # Two tests with one node id may run at the same time, in any order.
        tests={
            nodeid: tuple(sorted(phases, key=lambda phase: str(phase.location)))
            for nodeid, phases in tests.items()
        },
        collection=Counter(
            (nodeid, outcome, message, _pairs(sections))
            for nodeid, outcome, message, sections in raw["collection"]
        ),
        warnings=Counter(
            tuple(str(value) for value in warning.values()) for warning in raw["warnings"]
        ),
        deselected=raw["deselected"],
        exitstatus=raw["exitstatus"],
        testscollected=raw["testscollected"],
        testsfailed=raw["testsfailed"],
        order=tuple((what, nodeid) for what, nodeid in raw["order"]),
    )


def read_junit(path: Path) -> JUnit:
    """A JUnit file; several elements for one (class name, name) count as one case."""
    root = ElementTree.parse(path).getroot()
    cases: dict[tuple[str, str], Case] = {}
    for element in root.iter("testcase"):
        attributes = {name: value for name, value in element.attrib.items() if name != "time"}
        key = (attributes.pop("classname", ""), attributes.pop("name", ""))
        case = Case(
            details=tuple(
                (child.tag, child.get("type"), child.get("message"), child.text or "")
                for child in element
                if child.tag != "properties"
            ),
            properties=_properties(element),
            attributes=attributes,
            elements=1,
        )
        cases[key] = _united(cases[key], case) if key in cases else case
    suites = list(root.iter("testsuite"))
    return JUnit(
        cases=cases,
        suite_properties=frozenset(pair for suite in suites for pair in _properties(suite)),
        totals={
            name: sum(int(suite.get(name, "0")) for suite in suites)
            for name in ("tests", "failures", "errors", "skipped")
        },
        suite_names=tuple(suite.get("name", "") for suite in suites),
    )


def differences(plain: Run, sharded: Run) -> list[str]:
    """What the sharded run reports differently from the plain one, for people to read."""
    found = list(_compare("exit code", plain.exitcode, sharded.exitcode))
    found += _compare("counts of the last line", plain.counts, sharded.counts)
    if plain.record is None or sharded.record is None:
        if plain.record is not sharded.record:
            found.append(f"only one run had a session:\n{plain.show()}\n{sharded.show()}")
        return found
    found += _record_differences(plain, sharded)
    found += _terminal_differences(plain, sharded)
    found += junit_differences(plain, sharded)
    found += not_contiguous(sharded)
    return found


def stopped_differences(plain: Run, sharded: Run) -> list[str]:
    """``differences`` of what both runs reported before they were stopped half-way."""
    found = list(_compare("exit code", plain.exitcode, sharded.exitcode))
    if plain.record is None or sharded.record is None:
        return found
    clean, clean_sharded = cleaner(plain), cleaner(sharded)
    for nodeid in _finished(plain.record) & _finished(sharded.record):
        found += _test_differences(
            nodeid,
            plain.record.tests[nodeid],
            sharded.record.tests[nodeid],
            clean,
            clean_sharded,
        )
    found += not_contiguous(sharded)
    return found


def _finished(record: Record) -> set[str]:
    return {nodeid for nodeid, phases in record.tests.items() if phases[-1].when == "teardown"}


def _record_differences(plain: Run, sharded: Run) -> list[str]:
    assert plain.record is not None
    assert sharded.record is not None
    ours, theirs = plain.record, sharded.record
    clean, clean_sharded = cleaner(plain), cleaner(sharded)
    found: list[str] = []
    found += [f"lost: {nodeid}" for nodeid in ours.tests.keys() - theirs.tests.keys()]
    found += [f"invented: {nodeid}" for nodeid in theirs.tests.keys() - ours.tests.keys()]
    for nodeid in ours.tests.keys() & theirs.tests.keys():
        found += _test_differences(
            nodeid, ours.tests[nodeid], theirs.tests[nodeid], clean, clean_sharded
        )
    found += _compare_counters(
        "collect report",
        _cleaned_counter(ours.collection, clean),
        _cleaned_counter(theirs.collection, clean_sharded),
    )
    found += _compare_counters(
        "warning",
        _cleaned_counter(ours.warnings, clean),
        _cleaned_counter(theirs.warnings, clean_sharded),
    )
    found += _compare("deselected", ours.deselected, theirs.deselected)
    found += _compare("exit status at sessionfinish", ours.exitstatus, theirs.exitstatus)
    found += _compare("session.testscollected", ours.testscollected, theirs.testscollected)
    kinds = {phase.kind for phases in ours.tests.values() for phase in phases}
    if "SubtestReport" not in kinds:
        # With subtests it depends on whether the terminal was told of a report first.
        found += _compare("session.testsfailed", ours.testsfailed, theirs.testsfailed)
    return found


def _test_differences(
    nodeid: str,
    plain: tuple[Phase, ...],
    sharded: tuple[Phase, ...],
    clean: Callable[[str], str],
    clean_sharded: Callable[[str], str],
) -> list[str]:
    def shape(phases: tuple[Phase, ...]) -> list[tuple[str, str, str]]:
        return [(phase.kind, phase.when, phase.outcome) for phase in phases]

    if shape(plain) != shape(sharded):
        return list(_compare(f"{nodeid}: phases", shape(plain), shape(sharded)))
    found: list[str] = []
    for one, other in zip(plain, sharded, strict=True):
        for name in Phase.__slots__:
            found += _compare(
                f"{nodeid} ({one.when}): {name}",
                _cleaned(getattr(one, name), clean),
                _cleaned(getattr(other, name), clean_sharded),
            )
    return found


def _terminal_differences(plain: Run, sharded: Run) -> list[str]:
    """What only one of the terminals shows, of what the outcomes alone decide."""
    if {"-s", "log_cli=true"} & set(plain.arguments):
        # What tests print at once may look like anything.
        return []
    clean, clean_sharded = cleaner(plain), cleaner(sharded)
    headings = Counter(clean(line) for line in _headings(plain.stdout))
    headings -= Counter(clean_sharded(line) for line in _headings(sharded.stdout))
    told = Counter(clean(text) for text in _told(plain.stdout))
    told_sharded = Counter(clean_sharded(text) for text in _told(sharded.stdout))
    found = [f"missing on the terminal ({n}): {text}" for text, n in headings.items()]
    found += [f"missing on the terminal ({n}): {text}" for text, n in (told - told_sharded).items()]
    found += [
        f"too much on the terminal ({n}): {text}" for text, n in (told_sharded - told).items()
    ]
    return found


#: The elements of a JUnit file that are a test's result, and the totals that count them.
_STATUS_TAGS: Final = {"failure": "failures", "error": "errors", "skipped": "skipped"}
#: The messages of the results that pytest writes for collectors.
_OF_COLLECTORS: Final = ("collection failure", "collection skipped")


def junit_differences(plain: Run, sharded: Run) -> list[str]:
    """What the JUnit files say differently, beyond what is so by design.

    By design a test has one element where pytest writes two for a failed call with a failed
    teardown and an element for each collector where pytest puts the results of those with the
    same node id into one, the suites are the shards, and each element has ``file`` and ``line``.
    """
    if plain.junit is None or sharded.junit is None:
        same = plain.junit is sharded.junit
        return [] if same else [f"only one run wrote a JUnit file:\n{sharded.show()}"]
    ours, theirs = plain.junit, sharded.junit
    clean, clean_sharded = cleaner(plain), cleaner(sharded)
    found = [f"JUnit lost: {key}" for key in ours.cases.keys() - theirs.cases.keys()]
    found += [f"JUnit invented: {key}" for key in theirs.cases.keys() - ours.cases.keys()]
    for key in ours.cases.keys() & theirs.cases.keys():
        one, other = ours.cases[key], theirs.cases[key]
        named = f"JUnit {key}"
        collectors = sum(message in _OF_COLLECTORS for _, _, message, _ in one.details)
        if one.elements == 1 and other.elements > max(1, collectors):
            found.append(f"{named}: {other.elements} elements")
        found += _compare(
            f"{named}: details",
            _cleaned(one.details, clean),
            _cleaned(other.details, clean_sharded),
        )
        found += _compare(
            f"{named}: properties",
            _cleaned(one.properties, clean),
            _cleaned(other.properties, clean_sharded),
        )
        found += _compare(
            f"{named}: attributes",
            dict(one.attributes),
            {name: other.attributes.get(name) for name in one.attributes},
        )
    lost = {_cleaned(pair, clean) for pair in ours.suite_properties}
    lost -= {_cleaned(pair, clean_sharded) for pair in theirs.suite_properties}
    found += [f"JUnit lost the suite's property {pair}" for pair in sorted(lost, key=str)]
    found += junit_inconsistencies(theirs)
    return found


def junit_inconsistencies(junit: JUnit) -> list[str]:
    """Totals of the suites that their test cases do not bear out."""
    found = Counter(dict.fromkeys(("tests", *_STATUS_TAGS.values()), 0))
    for case in junit.cases.values():
        found["tests"] += case.elements
        for tag in {detail[0] for detail in case.details} & _STATUS_TAGS.keys():
            found[_STATUS_TAGS[tag]] += case.elements
    return [
        f"JUnit claims {junit.totals[name]} {name} and has {count}"
        for name, count in found.items()
        # A case that failed and then erred may be counted under both or under one.
        if junit.totals[name] > count or (name == "tests" and junit.totals[name] != count)
    ]


def not_contiguous(run: Run) -> list[str]:
    """Tests whose start, reports and finish were not replayed as one piece."""
    assert run.record is not None, run.show()
    found: list[str] = []
    current: str | None = None
    for what, nodeid in run.record.order:
        if what == "start":
            if current is not None:
                found.append(f"{nodeid} started inside {current}")
            current = nodeid
        elif nodeid != current:
            found.append(f"{what} of {nodeid} inside {current}")
        if what == "finish":
            current = None
    return found


def summary_counts(stdout: str) -> dict[str, int]:
    """The counts of pytest's last line, singular and plural made one; empty without one."""
    for line in reversed(_uncoloured(stdout).splitlines()):
        match = re.fullmatch(r"(?:=+ )?(.+) in \d+(?:\.\d+)?s(?: \(.+\))?(?: =+)?", line.strip())
        if match:
            parts = re.findall(r"(\d+) ([^,]+)", match[1])
            return {re.sub(r"^(error|warning)s$", r"\1", word): int(n) for n, word in parts}
    return {}


def _outcome_word(phases: tuple[Phase, ...]) -> str:
    if any(phase.outcome == "failed" and phase.when != "call" for phase in phases):
        return "error"
    if any(phase.outcome == "failed" for phase in phases):
        return "failed"
    for phase in phases:
        if phase.outcome == "skipped":
            return "skipped" if phase.wasxfail is None else "xfailed"
        if phase.wasxfail is not None and phase.when == "call":
            return "xpassed"
    return "passed"


def _compare(what: str, plain: object, sharded: object) -> Iterable[str]:
    if plain == sharded:
        return
    if isinstance(plain, str) and isinstance(sharded, str):
        diff = difflib.unified_diff(
            plain.splitlines(), sharded.splitlines(), "plain", "sharded", lineterm=""
        )
        yield f"{what}:\n" + "\n".join(diff)
    else:
        yield f"{what}:\n  plain:   {plain!r}\n  sharded: {sharded!r}"


def _compare_counters(
    what: str, plain: Counter[tuple[Any, ...]], sharded: Counter[tuple[Any, ...]]
) -> Iterable[str]:
    for value, count in (plain - sharded).items():
        yield f"{what} lost ({count}): {value}"
    for value, count in (sharded - plain).items():
        yield f"{what} too often ({count}): {value}"


def cleaner(run: Run) -> Callable[[str], str]:
    """Takes out of a text what no two runs share: places, addresses, process ids, durations."""
    results = re.escape(str(run.junit_path.parent))
    patterns = (
        (re.compile(rf"{results}[^\s'\"]*"), "<temporary>"),
        (re.compile(re.escape(str(run.directory.parent))), "<parent>"),
        # A container has the same packages elsewhere.
        (re.compile(r"/[^\s'\"]*/(?:site|dist)-packages/"), "<packages>/"),
        (re.compile(r"0x[0-9a-fA-F]{4,}"), "0x…"),
        (re.compile(r"\b(pid[ =:]+)\d+"), r"\1…"),
        (re.compile(r"\b\d+\.\d+ ?s(econds)?\b"), "…s"),
        *((re.compile(pattern), "<volatile>") for pattern in run.volatile),
    )

    def clean(text: str) -> str:
        for pattern, replacement in patterns:
            text = pattern.sub(replacement, text)
        return text

    return clean


def _cleaned(value: object, clean: Callable[[str], str]) -> object:
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, tuple):
        return tuple(_cleaned(part, clean) for part in value)
    return value


def _cleaned_counter(
    counter: Counter[Any], clean: Callable[[str], str]
) -> Counter[tuple[Any, ...]]:
    cleaned: Counter[tuple[Any, ...]] = Counter()
    for value, count in counter.items():
        key = _cleaned(value, clean)
        assert isinstance(key, tuple)
        cleaned[key] += count
    return cleaned


def _headings(stdout: str) -> list[str]:
    """The lines that have a rule on both sides of a title, the very last one excepted."""
    heading = re.compile(r"(?P<rule>[=_!-]{3,}) .+ (?P=rule)[=_!-]?")
    return [
        f"{line[0]} {line.strip('=_!- ')} {line[0]}"
        for line in _uncoloured(stdout).splitlines()
        if heading.fullmatch(line) and not summary_counts(line) and "no tests ran" not in line
    ]


def _told(stdout: str) -> list[str]:
    """What is told of single tests: each failure's text, each line of the short summary."""
    lines = _uncoloured(stdout).splitlines()
    told: list[str] = []
    section = ""
    for line in lines:
        if match := re.fullmatch(r"={3,} (.+?) ={3,}", line):
            section = match[1]
        elif summary_counts(line) or re.match(r"!{3,} .+ !{3,}$|-{3,} generated xml file", line):
            section = ""
        elif section in ("FAILURES", "ERRORS", "PASSES", "XFAILURES", "XPASSES"):
            if re.fullmatch(r"_{3,} .+ _{3,}", line) or not told or not told[-1].endswith("\n"):
                told.append(f"{section}: {line.strip('_ ')}\n")
            elif not line.startswith("[shard "):
                told[-1] += f"{line}\n"
        elif section == "short test summary info":
            told.append(line)
    return told


def _united(one: Case, other: Case) -> Case:
    # The second of pytest's two elements repeats the properties of the first.
    repeated = other.properties[: len(one.properties)] == one.properties
    return Case(
        details=one.details + other.details,
        properties=other.properties if repeated else one.properties + other.properties,
        attributes={**one.attributes, **other.attributes},
        elements=one.elements + other.elements,
    )


def _properties(element: ElementTree.Element) -> tuple[tuple[str, str], ...]:
    return tuple(
        (prop.get("name", ""), prop.get("value", ""))
        for prop in element.findall("./properties/property")
    )


def _pairs(raw: list[list[str]]) -> tuple[tuple[str, str], ...]:
    return tuple((name, value) for name, value in raw)


def _clean_environment() -> dict[str, str]:
    """The environment without what an outer pytest, a CI service or a terminal would change."""
    unwanted = ("PYTEST_", "PYTHONPATH", "CI", "BUILD_NUMBER", "FORCE_COLOR", "NO_COLOR", "PY_COL")
    return {name: value for name, value in os.environ.items() if not name.startswith(unwanted)}


def _uncoloured(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")
