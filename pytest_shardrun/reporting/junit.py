"""The merged JUnit file."""

# mypy: allow-untyped-calls
# Some of junitparser's constructors carry no annotations.

from __future__ import annotations

import contextlib
import copy
import errno
import io
import os
import platform
import re
import secrets
import shutil
import xml.etree.ElementTree as ET
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timezone
from typing import Any, Final, Literal, TypeAlias, final

import pytest

# Private to pytest, and no public name leads there: it alone knows what pytest's own file says
# about a report, in every version, family and logging mode.
from _pytest.junitxml import LogXML
from junitparser import IntAttr, xunit2

from pytest_shardrun.model import EndingKind, Item, Status

from ..records import record

#: The attribute of a suite that counts a testcase; None where it passed.
_Verdict: TypeAlias = Literal["failures", "errors", "skipped"] | None

_VERDICTS: Final[Mapping[Status, _Verdict]] = {
    Status.PASSED: None,
    Status.XPASSED: None,
    Status.FAILED: "failures",
    Status.ERROR: "errors",
    Status.NOT_RUN: "errors",
    Status.SKIPPED: "skipped",
    # As in pytest's own file, where an expected failure is <skipped type="pytest.xfail">.
    Status.XFAILED: "skipped",
}

#: Element and type for a report that tells how an attempt ended, not what a test said.
_ENDINGS: Final[Mapping[str, tuple[str, str]]] = {
    EndingKind.TIMED_OUT.value: ("failure", "timeout"),
    EndingKind.LOST.value: ("error", "lost"),
    EndingKind.CRASHED.value: ("error", "crash"),
    EndingKind.OUT_OF_MEMORY.value: ("error", "crash"),
}

_INTERIM_RESULTS: Final[Mapping[tuple[str, bool], type[xunit2.InterimResult]]] = {
    ("failure", True): xunit2.FlakyFailure,
    ("error", True): xunit2.FlakyError,
    ("failure", False): xunit2.RerunFailure,
    ("error", False): xunit2.RerunError,
}

_RED_TAGS: Final = ("failure", "error")

#: What XML 1.0 cannot hold (https://www.w3.org/TR/xml/#charsets).
_ILLEGAL: Final = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

_NOT_IN_A_NAME: Final = re.compile(r"[^\w.-]", re.ASCII)

#: In bytes: libxml2, and with it lxml, refuses a text of more than 10,000,000, and an attribute
#: that is longer than that as written, where `"` has six bytes.
_LARGEST_TEXT: Final = 9_000_000
_LARGEST_ATTRIBUTE: Final = 1_500_000

_EXCEPTION: Final = re.compile(r'(?:failed on \w+ with ")?([^\W\d][\w.]*)(?::|"?$)', re.MULTILINE)


class _Merged(xunit2.JUnitXml):
    skipped = IntAttr()


@final
@record
class _Case:
    """One finished <testcase>."""

    shard: int
    verdict: _Verdict
    xml: bytes


@final
class JUnitWriter:
    """One JUnit file for all shards, with exactly one <testcase> per test."""

    def __init__(self, config: pytest.Config, path: str, *, started: float) -> None:
        expanded = os.path.expanduser(os.path.expandvars(path))
        self._path = os.path.normpath(os.path.abspath(expanded))
        self._started = started
        # Read as pytest_configure in _pytest/junitxml.py does.
        self._prefix: str | None = config.option.junitprefix
        self._suite_name: str = config.getini("junit_suite_name")
        self._logging: Any = config.getini("junit_logging")
        self._duration: Any = config.getini("junit_duration_report")
        self._family: Any = config.getini("junit_family")
        self._log_passing_tests: bool = config.getini("junit_log_passing_tests")
        self._collected: list[_Case] = []
        self._cases: dict[int, _Case] = {}
        self._properties: defaultdict[int, list[tuple[str, str]]] = defaultdict(list)
        self._problems: defaultdict[int, list[str]] = defaultdict(list)

    def add_test(
        self,
        shard: int,
        position: int,
        item: Item,
        status: Status,
        reports: Sequence[pytest.TestReport],
        *,
        attributes: Mapping[str, str] = {},
    ) -> None:
        """Add one finished test from all its reports, those of earlier tries included.

        A try that another try followed ends with a report of the outcome ``rerun``. `attributes`
        are what ``record_xml_attribute`` set. A position is added once.
        """
        *earlier, last = _split_tries(reports or [_stand_in(item)])
        element = self._testcase(last, attributes)
        if status in (Status.FAILED, Status.ERROR) and not _red_children(element):
            # A testcase without children reads as passed.
            message = f"the test ended as {status.value}, and no report says why"
            ET.SubElement(element, "error", type="unexplained", message=message)
        # LogXML counts every report of a test alike.
        seconds = sum(
            getattr(report, "duration", 0.0)
            for report in reports
            if self._duration in ("total", report.when)
        )
        element.set("time", f"{seconds:.3f}")
        flaky = status not in (Status.FAILED, Status.ERROR)
        interim = [_interim_result(self._testcase(tried, {}), flaky=flaky) for tried in earlier]
        xml = _serialise(element, item.location)
        if interim:
            case = xunit2.TestCase.fromstring(xml.decode())
            case.extend(interim)
            xml = case.tostring()
        self._add(position, _Case(shard, _verdict(status, element), xml))

    def add_not_run(
        self, shard: int, position: int, item: Item, reason: str, *, asked: bool
    ) -> None:
        """Add a test that never ran; `asked` where the user wanted the run to stop (``-x``)."""
        self._add_without_report(
            shard, position, item, "skipped" if asked else "error", "not-run", reason
        )

    def add_unread(self, shard: int, position: int, item: Item, reason: str) -> None:
        """Add a test that ran, but whose reports cannot be read."""
        self._add_without_report(shard, position, item, "error", "unread", reason)

    def _add_without_report(
        self, shard: int, position: int, item: Item, tag: str, type_: str, reason: str
    ) -> None:
        log = self._log(log_passing_tests=False)
        log.pytest_runtest_logreport(_stand_in(item))
        element = log.node_reporters_ordered[0].to_xml()
        ET.SubElement(element, tag, type=type_, message=reason)
        verdict: _Verdict = "skipped" if tag == "skipped" else "errors"
        self._add(position, _Case(shard, verdict, _serialise(element, item.location)))

    def add_collect_report(self, shard: int, report: pytest.CollectReport) -> None:
        """Add a failed or skipped collection, as pytest writes it; others say nothing."""
        if report.passed:
            return
        log = self._log(log_passing_tests=self._log_passing_tests)
        log.pytest_collectreport(_with_text(report))
        element = log.node_reporters_ordered[0].to_xml()
        verdict: _Verdict = "errors" if report.failed else "skipped"
        xml = _serialise(element, report.location)
        self._collected.append(_Case(shard, verdict, xml))

    def add_suite_property(self, shard: int, name: str, value: str) -> None:
        """Add what ``record_testsuite_property`` recorded in a shard."""
        name, value = (_clean(text, _LARGEST_ATTRIBUTE) for text in (name, value))
        self._properties[shard].append((name, value))

    def add_shard_problem(self, shard: int, text: str) -> None:
        """Add a text to the <system-err> of the shard's suite."""
        self._problems[shard].append(text)

    def write(self, *, shard_seconds: Mapping[int, float], wall_seconds: float) -> None:
        """Write the file, whole or not at all, with a suite for every shard in `shard_seconds`."""
        cases: defaultdict[int, list[_Case]] = defaultdict(list)
        for case in self._collected:
            cases[case.shard].append(case)
        for _, case in sorted(self._cases.items(), key=lambda entry: entry[0]):
            cases[case.shard].append(case)
        suite_name = "pytest tests" if self._suite_name == "pytest" else self._suite_name
        merged = _Merged(_clean(suite_name))
        for shard in sorted({*shard_seconds, *cases, *self._properties, *self._problems}):
            suite = self._suite(shard, cases[shard], shard_seconds.get(shard, 0.0))
            # junitparser folds equal suites into one; the name keeps them apart.
            merged.add_testsuite(suite)
        _count(merged, [case for shard_cases in cases.values() for case in shard_cases])
        merged.time = round(float(wall_seconds), 3)
        buffer = io.BytesIO()
        merged.write(buffer)
        _write_file(self._path, buffer.getvalue())

    def _suite(self, shard: int, cases: Sequence[_Case], seconds: float) -> xunit2.TestSuite:
        suite = xunit2.TestSuite(f"shard-{shard}")
        suite.hostname = _clean(platform.node())
        started = datetime.fromtimestamp(self._started, timezone.utc)
        suite.timestamp = started.astimezone().isoformat()
        # An attempt that replaces a crashed one records the same properties again.
        for name, value in dict.fromkeys(self._properties.get(shard, ())):
            suite.add_property(name, value)
        suite.extend(xunit2.TestCase.fromstring(case.xml.decode()) for case in cases)
        if shard in self._problems:
            suite.system_err = _clean("\n".join(self._problems[shard]))
        # Set, not computed: update_statistics() would replace the wall time by a sum.
        _count(suite, cases)
        suite.time = round(float(seconds), 3)
        return suite

    def _add(self, position: int, case: _Case) -> None:
        assert position not in self._cases, f"the test at {position} has a testcase already"
        self._cases[position] = case

    def _log(self, *, log_passing_tests: bool) -> LogXML:
        return LogXML(
            self._path,
            self._prefix,
            self._suite_name,
            self._logging,
            self._duration,
            self._family,
            log_passing_tests,
        )

    def _testcase(
        self, tried: Sequence[pytest.TestReport], attributes: Mapping[str, str]
    ) -> ET.Element:
        """What pytest's own file says about one try, in one element."""
        endings = [report for report in tried if _ending(report) is not None]
        reports = [_with_text(report) for report in tried if _ending(report) is None]
        if not reports or reports[-1].when != "teardown":
            reports.append(_closing(tried[-1]))
        # LogXML sees nothing fail where the attempt ended, but the test did not pass.
        log = self._log(log_passing_tests=self._log_passing_tests or bool(endings))
        for name, value in attributes.items():
            log.node_reporter(reports[0]).add_attribute(_attribute_name(name), value)
        for report in reports:
            log.pytest_runtest_logreport(report)
        element = _join(reporter.to_xml() for reporter in log.node_reporters_ordered)
        for report in endings:
            _insert_before_output(element, _ending_element(report))
        return element


def _split_tries(reports: Sequence[pytest.TestReport]) -> list[list[pytest.TestReport]]:
    """The reports by try; only a report with a rerun's outcome lets another try follow.

    Whether the teardown between two tries is reported depends on the plugin, and subtests of a
    try come before its setup with pytest-rerunfailures.
    """
    current: list[pytest.TestReport] = []
    tries = [current]
    is_interim = False
    for report in reports:
        if is_interim and (report.when != "teardown" or current[-1].when == "teardown"):
            tries.append(current := [])
            is_interim = False
        current.append(report)
        is_interim = is_interim or _is_interim(report)
    return tries


def _is_interim(report: pytest.TestReport) -> bool:
    """Whether another try follows: ``rerun`` (pytest-rerunfailures), ``retried`` (pytest-retry)."""
    return report.outcome not in ("passed", "failed", "skipped")


def _verdict(status: Status, element: ET.Element) -> _Verdict:
    """Where a test is counted; a crash in its call is an error, though pytest says failed."""
    verdict = _VERDICTS[status]
    tags = {child.tag for child in _red_children(element)}
    if verdict == "failures" and "failure" not in tags:
        return "errors"
    if verdict == "errors" and "error" not in tags:
        return "failures"
    return verdict


def _ending(report: pytest.TestReport) -> tuple[str, str] | None:
    return _ENDINGS.get(getattr(report, "shardrun_ending", ""))


def _ending_element(report: pytest.TestReport) -> ET.Element:
    ending = _ending(report)
    assert ending is not None
    tag, type_ = ending
    text = "" if report.longrepr is None else str(report.longrepr)
    crash = getattr(report.longrepr, "reprcrash", None)
    message = text if crash is None else crash.message
    first_line = message.strip().partition("\n")[0]
    element = ET.Element(tag, type=type_, message=first_line)
    element.text = text
    return element


def _with_text(report: Any) -> Any:
    """The report with what LogXML asserts: an outcome of pytest's own, and a fitting longrepr."""
    outcome, longrepr = report.outcome, report.longrepr
    if outcome not in ("passed", "failed", "skipped"):
        # Without a text of its own the try failed by its subtests, which have theirs.
        outcome = "passed" if longrepr is None else "failed"
    if outcome == "failed" and longrepr is None:
        longrepr = ""
    is_skip = outcome == "skipped" and not hasattr(report, "wasxfail")
    if is_skip and not (isinstance(longrepr, tuple) and len(longrepr) == 3):
        file, line, _ = report.location
        longrepr = (file, line, str(longrepr))
    if outcome == report.outcome and longrepr is report.longrepr:
        return report
    changed = copy.copy(report)
    changed.outcome, changed.longrepr = outcome, longrepr
    return changed


def _closing(report: pytest.TestReport) -> pytest.TestReport:
    """The teardown that was not reported: LogXML writes output and properties at teardown."""
    closing = copy.copy(report)
    closing.when, closing.outcome, closing.longrepr = "teardown", "passed", None
    return closing


def _stand_in(item: Item) -> pytest.TestReport:
    """A report that makes LogXML write the test's address and nothing else."""
    return pytest.TestReport(
        nodeid=item.nodeid,
        location=item.location,
        keywords={},
        outcome="passed",
        longrepr=None,
        when="teardown",
    )


def _join(elements: Iterable[ET.Element]) -> ET.Element:
    """One <testcase> of the two that LogXML makes where both call and teardown failed."""
    first, *others = elements
    for other in others:
        for child in other:
            if child.tag == "properties":
                # A later report repeats what an earlier one recorded.
                for earlier in first.findall("properties"):
                    first.remove(earlier)
                first.insert(0, child)
            elif child.tag in _RED_TAGS or child.text not in [
                said.text for said in first if said.tag == child.tag
            ]:
                first.append(child)
    return first


def _insert_before_output(element: ET.Element, child: ET.Element) -> None:
    tags = [other.tag for other in element]
    outputs = [index for index, tag in enumerate(tags) if tag in ("system-out", "system-err")]
    element.insert(outputs[0] if outputs else len(tags), child)


def _red_children(element: ET.Element) -> list[ET.Element]:
    return [child for child in element if child.tag in _RED_TAGS]


def _interim_result(element: ET.Element, *, flaky: bool) -> xunit2.InterimResult:
    """An earlier try as Surefire writes it, from the element of that try."""
    red = _red_children(element)
    tag = red[0].tag if red else "failure"
    message = red[0].get("message", "") if red else "failed, and no report says why"
    type_ = red[0].get("type") if red else None
    result = _INTERIM_RESULTS[tag, flaky](
        _clean(message, _LARGEST_ATTRIBUTE), type_ or _exception_name(message, default=tag)
    )
    result.stack_trace = _clean("\n\n".join(child.text or "" for child in red))
    for output in ("system-out", "system-err"):
        texts = [child.text or "" for child in element.findall(output)]
        if texts and output == "system-out":
            result.system_out = _clean("\n".join(texts))
        elif texts:
            result.system_err = _clean("\n".join(texts))
    return result


def _exception_name(message: str, *, default: str) -> str:
    """The exception that a message of pytest's begins with; the rerun elements need a type."""
    if message.startswith("assert "):
        return "AssertionError"
    match = _EXCEPTION.match(message)
    return match[1] if match else default


def _serialise(element: ET.Element, location: tuple[str, int | None, str] | None) -> bytes:
    if location is not None:
        file, line, _ = location
        # CircleCI and GitLab read these, and pytest leaves them out of the xunit2 family.
        element.attrib.setdefault("file", file)
        if line is not None:
            element.attrib.setdefault("line", str(line))
    for node in element.iter():
        for name, value in node.attrib.items():
            node.set(name, _clean(value, _LARGEST_ATTRIBUTE))
        if node.text is not None:
            node.text = _clean(node.text)
    return ET.tostring(element, encoding="unicode").encode()


def _clean(text: str, limit: int = _LARGEST_TEXT) -> str:
    """The text with what no XML file can hold shown as pytest shows it, cut where too long."""
    text = _ILLEGAL.sub(lambda match: f"#x{ord(match[0]):02X}", str(text))
    if len(text) * 4 <= limit or len(text.encode()) <= limit:
        return text
    kept = limit // 10
    left_out = f"[{len(text) - 2 * kept} characters left out]"
    return f"{text[:kept]}\n{left_out}\n{text[-kept:]}"


def _attribute_name(name: str) -> str:
    """A name that needs no namespace, since none is declared."""
    cleaned = _NOT_IN_A_NAME.sub("_", name[:1000])
    if not cleaned or not (cleaned[0].isalpha() or cleaned[0] == "_") or cleaned == "xmlns":
        return f"_{cleaned}"
    return cleaned


def _count(parent: xunit2.TestSuite | _Merged, cases: Sequence[_Case]) -> None:
    verdicts = Counter(case.verdict for case in cases)
    parent.tests = len(cases)
    parent.failures = verdicts["failures"]
    parent.errors = verdicts["errors"]
    parent.skipped = verdicts["skipped"]


def _write_file(path: str, data: bytes) -> None:
    """Write the data beside the target and rename it, where the target can be renamed onto."""
    exists = os.path.exists(path)
    if exists and not os.path.isfile(path):
        # A pipe, or /dev/stdout: a rename would replace the device.
        _write_in_place(path, data)
        return
    target = os.path.realpath(path)
    os.makedirs(os.path.dirname(target), exist_ok=True)
    beside = os.path.join(os.path.dirname(target), f".shardrun-{secrets.token_hex(8)}.tmp")
    try:
        with open(beside, "xb") as file:
            file.write(data)
        if exists:
            shutil.copymode(target, beside)
        os.replace(beside, target)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(beside)
        # A file that is a mount point, or writable in a directory that is not.
        refused = (errno.EACCES, errno.EPERM, errno.EBUSY, errno.EXDEV)
        if not (exists and isinstance(error, OSError) and error.errno in refused):
            raise
        _write_in_place(target, data)


def _write_in_place(target: str, data: bytes) -> None:
    with open(target, "wb") as file:
        file.write(data)
