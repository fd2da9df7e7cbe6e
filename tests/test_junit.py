"""The merged JUnit file against pytest's own, and against what may be in an XML file."""

from __future__ import annotations

import copy
import os
import xml.etree.ElementTree as ET
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from junitparser import xunit2
from lxml import etree

from pytest_shardrun.model import Item, Status
from pytest_shardrun.reporting.junit import JUnitWriter

HAS_SUBTESTS = pytest.version_tuple >= (9, 0)
STARTED = 1_700_000_000.25

OUTCOMES = """
    import logging
    import sys
    import unittest

    import pytest

    def speak(phase):
        print("out in", phase)
        print("err in", phase, file=sys.stderr)
        logging.getLogger().warning("log in %s", phase)

    @pytest.fixture
    def talking():
        speak("setup")
        yield
        speak("teardown")

    @pytest.fixture
    def failing_setup(talking):
        raise ValueError("setup broke\\nin two lines")

    @pytest.fixture
    def failing_teardown(talking):
        yield
        raise ValueError("teardown broke")

    @pytest.fixture
    def skipping():
        speak("setup")
        pytest.skip("not on this <machine>")

    def test_passes(talking):
        speak("call")

    def test_fails(talking):
        speak("call")
        assert [1, 2] == [1, 3], "a message & more"

    def test_errors_in_setup(failing_setup):
        pass

    def test_errors_in_teardown(failing_teardown):
        speak("call")

    def test_fails_and_errors_in_teardown(failing_teardown, record_property):
        record_property("where", "call")
        speak("call")
        pytest.fail("the call " + "x" * 2000)

    def test_skips():
        pytest.skip("inside")

    def test_skips_in_setup(skipping):
        pass

    @pytest.mark.skip(reason="by mark")
    def test_is_marked_skip():
        pass

    @pytest.mark.xfail(reason="known bug")
    def test_xfails(talking):
        speak("call")
        assert 0

    @pytest.mark.xfail(reason="known bug, run=no", run=False)
    def test_xfails_without_running():
        assert 0

    @pytest.mark.xfail
    def test_xpasses():
        pass

    @pytest.mark.xfail(strict=True, reason="thought broken")
    def test_xpasses_strictly():
        pass

    def test_xfails_by_call():
        pytest.xfail("by call")

    def test_records(record_property):
        record_property("plain", "value")
        record_property("number", 3)
        record_property("angle", "<&\\"'>")

    def test_raises_a_chain():
        try:
            {}["missing"]
        except KeyError as error:
            raise RuntimeError("outer") from error

    @pytest.mark.parametrize(
        "value",
        ["a b", "a::b", "[x]", "a/b", "<&>\\"'", "\\x1b\\0", "\\n", "é", "a.py", "x" * 4000, ""],
    )
    def test_takes(value):
        assert value != "é"

    class TestMethods:
        class TestInner:
            def test_in_a_class(self):
                assert 0

    class TestOldStyle(unittest.TestCase):
        def test_fails_as_unittest(self):
            self.assertEqual(1, 2)

        def test_skips_as_unittest(self):
            self.skipTest("old reasons")

        @unittest.expectedFailure
        def test_passes_unexpectedly(self):
            pass
"""

SUBTESTS = """
    def test_all_subtests_pass(subtests):
        for number in range(2):
            with subtests.test(number=number):
                pass

    def test_some_subtests_fail(subtests):
        for number in range(4):
            with subtests.test("even", number=number):
                print("output of", number)
                assert number % 2 == 0

    def test_subtests_and_body_fail(subtests):
        with subtests.test("inner"):
            assert "inner" == "wrong"
        assert "body" == "wrong"

    def test_a_subtest_is_skipped(subtests):
        import pytest
        with subtests.test("skipping"):
            pytest.skip("not this one")
"""


class Merging:
    """Hands every report of a plain run, as it would come from a shard, to a writer."""

    def __init__(self, path: Path, attributes: Mapping[str, Mapping[str, str]]) -> None:
        self.path = path
        self.attributes = attributes
        self.items: list[pytest.Item] = []
        self.reports: defaultdict[str, list[pytest.TestReport]] = defaultdict(list)

    def pytest_sessionstart(self, session: pytest.Session) -> None:
        self.config = session.config
        self.writer = JUnitWriter(self.config, str(self.path), started=STARTED)

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self.items = session.items

    def _sent(self, report: Any) -> Any:
        hook = self.config.hook
        data = hook.pytest_report_to_serializable(config=self.config, report=report)
        return hook.pytest_report_from_serializable(config=self.config, data=copy.deepcopy(data))

    # Last: the terminal's reporter changes reports of tests with failed subtests.
    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.reports[report.nodeid].append(self._sent(report))

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        self.writer.add_collect_report(1, self._sent(report))

    def pytest_sessionfinish(self) -> None:
        for position, item in enumerate(self.items):
            reports = self.reports[item.nodeid]
            self.writer.add_test(
                position % 2 + 1,
                position,
                Item(item.nodeid, item.location),
                status_of(reports),
                reports,
                attributes=self.attributes.get(item.name, {}),
            )
        self.writer.write(shard_seconds={1: 1.5, 2: 2.5}, wall_seconds=3)


def status_of(reports: Sequence[pytest.TestReport]) -> Status:
    outcomes = {(report.when == "call", report.outcome) for report in reports}
    if (True, "failed") in outcomes:
        return Status.FAILED
    if (False, "failed") in outcomes:
        return Status.ERROR
    expected = any(hasattr(report, "wasxfail") for report in reports)
    if any(outcome == "skipped" for _, outcome in outcomes):
        return Status.XFAILED if expected else Status.SKIPPED
    return Status.XPASSED if expected else Status.PASSED


def cases_in(path: Path) -> list[ET.Element]:
    # lxml is stricter than the standard library in some ways, and the other way round.
    etree.parse(str(path))
    return list(ET.parse(path).getroot().iter("testcase"))


def address(case: ET.Element) -> tuple[str | None, str | None]:
    return case.get("classname"), case.get("name")


Said = tuple[str, str, tuple[tuple[str, str], ...], tuple[Any, ...]]


def said(element: ET.Element) -> Said:
    children = tuple(said(child) for child in element)
    return element.tag, element.text or "", tuple(sorted(element.attrib.items())), children


def run_both(
    pytester: pytest.Pytester,
    *args: str,
    attributes: Mapping[str, Mapping[str, str]] | None = None,
) -> tuple[list[ET.Element], list[ET.Element]]:
    """The testcases of pytest's own file and of ours, for one run."""
    merging = Merging(pytester.path / "merged.xml", attributes or {})
    # The filters of the outer run hold inside, too.
    quiet = ("-p", "no:cacheprovider", "-W", "default")
    pytester.inline_run("--junitxml=plain.xml", *quiet, *args, plugins=[merging])
    return cases_in(pytester.path / "plain.xml"), cases_in(merging.path)


def assert_everything_is_said(plain: list[ET.Element], merged: list[ET.Element]) -> None:
    cases = {address(case): case for case in merged}
    assert len(cases) == len(merged)
    assert cases.keys() == set(map(address, plain))
    by_address = defaultdict(list)
    for case in plain:
        by_address[address(case)].append(case)
    for key, own in by_address.items():
        case = cases[key]
        for name in set(case.attrib) - set(own[0].attrib):
            assert name in ("file", "line")
        if len(own) == 1:
            assert own[0].attrib.items() <= case.attrib.items()
            assert list(map(said, own[0])) == list(map(said, case))
        else:
            assert {said(child) for one in own for child in one} == set(map(said, case))
            assert [child.tag for child in case].count("properties") <= 1
            seconds = sum(float(one.get("time", "")) for one in own)
            assert float(case.get("time", "")) == pytest.approx(seconds, abs=0.002)


@pytest.mark.parametrize(
    "ini",
    [
        ("junit_logging=no",),
        ("junit_logging=log", "junit_family=xunit1"),
        ("junit_logging=system-out", "junit_family=legacy"),
        ("junit_logging=system-err", "junit_duration_report=call"),
        ("junit_logging=out-err", "junit_log_passing_tests=false"),
        ("junit_logging=all",),
        ("junit_logging=all", "junit_family=xunit1", "junit_log_passing_tests=false"),
    ],
    ids=" ".join,
)
def test_each_testcase_says_what_pytests_own_says(
    pytester: pytest.Pytester, ini: tuple[str, ...]
) -> None:
    pytester.makepyfile(test_outcomes=OUTCOMES)

    plain, merged = run_both(
        pytester, "--junitprefix=pre.fix", *(arg for value in ini for arg in ("-o", value))
    )

    assert len(merged) == 30
    assert len(plain) == 31
    assert_everything_is_said(plain, merged)


def test_a_call_that_failed_and_a_teardown_that_errored_share_one_testcase(
    pytester: pytest.Pytester,
) -> None:
    pytester.makepyfile(test_outcomes=OUTCOMES)

    plain, merged = run_both(
        pytester, "-k", "fails_and_errors", "-o", "junit_logging=all", "-o", "junit_family=xunit1"
    )

    assert len(plain) == 2
    [case] = merged
    tags = [child.tag for child in case]
    assert tags == ["properties", "failure", "error", "system-out", "system-err"]


@pytest.mark.skipif(not HAS_SUBTESTS, reason="subtests are built in since pytest 9")
@pytest.mark.parametrize("logging", ["no", "all"])
def test_subtests_are_in_the_testcase_of_their_test(
    pytester: pytest.Pytester, logging: str
) -> None:
    pytester.makepyfile(test_subtests=SUBTESTS)

    plain, merged = run_both(pytester, "-o", f"junit_logging={logging}")

    assert len(merged) == 4
    assert_everything_is_said(plain, merged)
    assert {case.get("name"): len(case.findall("failure")) for case in merged} == {
        "test_all_subtests_pass": 0,
        "test_some_subtests_fail": 3,
        "test_subtests_and_body_fail": 2,
        "test_a_subtest_is_skipped": 0,
    }


def test_collection_errors_and_skipped_modules_are_testcases_as_in_pytest(
    pytester: pytest.Pytester,
) -> None:
    pytester.makepyfile(
        test_broken="import nothing_of_this_name",
        test_skipped="import pytest; pytest.skip('not here', allow_module_level=True)",
        test_fine="def test_fine(): pass",
    )

    plain, merged = run_both(pytester, "--continue-on-collection-errors")

    assert len(merged) == 3
    assert_everything_is_said(plain, merged)
    root = ET.parse(pytester.path / "merged.xml").getroot()
    assert [root.get(name) for name in ("tests", "failures", "errors", "skipped")] == list("3011")


@pytest.mark.parametrize("family", ["xunit1", "xunit2"])
def test_recorded_attributes_are_where_pytest_puts_them(
    pytester: pytest.Pytester, family: str
) -> None:
    pytester.makepyfile(
        """
        def test_attributes(record_xml_attribute):
            record_xml_attribute("assertions", 3)
            record_xml_attribute("classname", "elsewhere")
            record_xml_attribute("file", "another.py")
        """
    )
    attributes = {"assertions": "3", "classname": "elsewhere", "file": "another.py"}

    plain, merged = run_both(
        pytester, "-o", f"junit_family={family}", attributes={"test_attributes": attributes}
    )

    assert_everything_is_said(plain, merged)
    assert merged[0].get("assertions") == ("3" if family == "xunit1" else None)


def test_file_and_line_are_in_every_family(pytester: pytest.Pytester) -> None:
    pytester.mkpydir("pkg").joinpath("test_a.py").write_text("\n\ndef test_a(): pass\n", "utf-8")

    for family in ("xunit1", "xunit2", "legacy"):
        _, [case] = run_both(pytester, "-o", f"junit_family={family}")

        assert (case.get("file"), case.get("line")) == (os.path.join("pkg", "test_a.py"), "2")


def test_tests_of_pytest_rerunfailures_have_one_testcase(pytester: pytest.Pytester) -> None:
    pytest.importorskip("pytest_rerunfailures")
    pytester.makepyfile(
        """
        import pytest
        tries = []

        @pytest.fixture
        def needs_two_tries():
            tries.append(1)
            if len(tries) == 1:
                raise ValueError("first setup")

        def test_needs_two_tries(needs_two_tries):
            print("now fine")

        def test_always_fails():
            print("output of a try")
            assert 1 == 2

        def test_passes():
            pass
        """
    )

    _, merged = run_both(pytester, "--reruns=2", "-o", "junit_logging=system-out")

    cases = {case.get("name"): case for case in merged}
    assert len(cases) == len(merged) == 3
    out, flaky = cases["test_needs_two_tries"]
    assert (out.tag, flaky.tag, flaky.get("type")) == ("system-out", "flakyError", "ValueError")
    assert "first setup" in flaky.findtext("stackTrace", "")
    fails = cases["test_always_fails"]
    assert sorted(child.tag for child in fails) == [
        "failure",
        "rerunFailure",
        "rerunFailure",
        "system-out",
    ]
    for rerun in fails.findall("rerunFailure"):
        assert (rerun.get("type"), rerun.get("message")) == ("AssertionError", "assert 1 == 2")
        assert "assert 1 == 2" in rerun.findtext("stackTrace", "")
        assert "output of a try" in rerun.findtext("system-out", "")
    assert [child.tag for child in cases["test_passes"]] == ["system-out"]


ITEM = Item("tests/test_a.py::test_a", ("tests/test_a.py", 4, "test_a"))
Phase = Literal["setup", "call", "teardown"]


def report(when: Phase, outcome: str = "passed", text: str | None = None, **more: Any) -> Any:
    """A report of `ITEM`, as a shard sends it."""
    outcome_: Any = outcome
    return pytest.TestReport(
        nodeid=ITEM.nodeid,
        location=ITEM.location,
        keywords={},
        outcome=outcome_,
        longrepr=text,
        when=when,
        **{"duration": 0.25, **more},
    )


MakeWriter = Callable[..., JUnitWriter]


@pytest.fixture
def writer_for(pytester: pytest.Pytester) -> MakeWriter:
    def make(*ini: str) -> JUnitWriter:
        config = pytester.parseconfig(*(arg for value in ini for arg in ("-o", value)))
        return JUnitWriter(config, str(pytester.path / "merged.xml"), started=STARTED)

    return make


@pytest.fixture
def written(pytester: pytest.Pytester) -> Callable[[JUnitWriter], ET.Element]:
    def write(writer: JUnitWriter) -> ET.Element:
        writer.write(shard_seconds={1: 12.5}, wall_seconds=20.0)
        path = pytester.path / "merged.xml"
        etree.parse(str(path))
        return ET.parse(path).getroot()

    return write


Written = Callable[[JUnitWriter], ET.Element]


def only_case(root: ET.Element) -> ET.Element:
    [case] = root.iter("testcase")
    return case


def test_a_test_that_passed_in_the_end_is_flaky_and_counts_as_passed(
    writer_for: MakeWriter, written: Written
) -> None:
    writer = writer_for()
    tries = [
        report("setup"),
        report("call", "rerun", "E   ValueError: first"),
        report("teardown"),
        report("setup", "rerun", "ValueError: second"),
        report("setup"),
        report("call"),
        report("teardown"),
    ]

    writer.add_test(1, 0, ITEM, Status.PASSED, tries)

    root = written(writer)
    case = only_case(root)
    assert case.get("time") == "1.750"
    assert [child.tag for child in case] == ["flakyFailure", "flakyError"]
    assert [child.findtext("stackTrace") for child in case] == [
        "E   ValueError: first",
        "ValueError: second",
    ]
    assert case[1].get("type") == "ValueError"
    assert [root.get(name) for name in ("tests", "failures", "errors", "skipped")] == list("1000")
    parsed = xunit2.TestCase.fromstring(ET.tostring(case, encoding="unicode"))
    assert parsed.is_passed
    assert parsed.is_flaky


def test_a_test_that_failed_in_every_try_has_its_failure_and_the_reruns(
    writer_for: MakeWriter, written: Written
) -> None:
    writer = writer_for()
    tries = [
        report("setup"),
        report("call", "rerun", "assert 1"),
        report("setup"),
        report("call", "retried", "assert 2"),
        report("call", "failed", "assert 3"),
        report("teardown"),
    ]

    writer.add_test(1, 0, ITEM, Status.FAILED, tries)

    root = written(writer)
    case = only_case(root)
    assert [child.tag for child in case] == ["failure", "rerunFailure", "rerunFailure"]
    assert [child.get("message") for child in case] == ["assert 3", "assert 1", "assert 2"]
    assert root.get("failures") == "1"


def test_a_try_in_which_call_and_teardown_failed_is_one_rerun_element(
    writer_for: MakeWriter, written: Written
) -> None:
    writer = writer_for()
    tries = [
        report("setup"),
        report("call", "rerun", "the call"),
        report("teardown", "rerun", "the teardown"),
        report("setup"),
        report("call"),
        report("teardown"),
    ]

    writer.add_test(1, 0, ITEM, Status.PASSED, tries)

    [flaky] = only_case(written(writer))
    assert flaky.tag == "flakyFailure"
    assert flaky.findtext("stackTrace") == "the call\n\nthe teardown"


def test_subtests_that_come_before_the_setup_of_their_try_stay_in_it(
    writer_for: MakeWriter, written: Written
) -> None:
    writer = writer_for()
    tries = [
        report("call", "failed", "first subtest"),
        report("setup"),
        report("call", "rerun"),
        report("teardown"),
        report("call", "failed", "second subtest"),
        report("setup"),
        report("call", "failed", "contains 1 failed subtest"),
        report("teardown"),
    ]

    writer.add_test(1, 0, ITEM, Status.FAILED, tries)

    first, second, rerun = only_case(written(writer))
    assert [first.text, second.text] == ["second subtest", "contains 1 failed subtest"]
    assert (rerun.tag, rerun.findtext("stackTrace")) == ("rerunFailure", "first subtest")


def test_each_of_many_subtests_is_looked_at_a_few_times(
    writer_for: MakeWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What one takes does not depend on how many there are."""
    subtests = [report("call") for _ in range(1000)]
    looks: Counter[int] = Counter()

    def look(self: pytest.TestReport) -> str:
        looks[id(self)] += 1
        outcome: str = vars(self)["outcome"]
        return outcome

    looked_at = property(look, lambda self, outcome: vars(self).update(outcome=outcome))
    monkeypatch.setattr(pytest.TestReport, "outcome", looked_at, raising=False)

    writer_for().add_test(
        1, 0, ITEM, Status.PASSED, [report("setup"), *subtests, report("teardown")]
    )

    assert all(1 <= looks[id(each)] < 50 for each in subtests)


@pytest.mark.parametrize("when", ["setup", "call", "teardown"])
@pytest.mark.parametrize(
    ("ending", "tag", "type_"),
    [
        ("timed out", "failure", "timeout"),
        ("crashed", "error", "crash"),
        ("out of memory", "error", "crash"),
    ],
)
def test_the_end_of_an_attempt_is_blamed_on_the_test_whatever_the_phase(
    writer_for: MakeWriter, written: Written, when: Phase, ending: str, tag: str, type_: str
) -> None:
    writer = writer_for("junit_logging=all", "junit_log_passing_tests=false")
    text = "the first line\n\nThread 0x1 (most recent call first):\n  ..."
    blamed = report(
        when,
        "failed",
        text,
        shardrun_ending=ending,
        sections=[("Captured stdout call", "last words")],
        user_properties=[("key", "value")],
    )
    before = [report(phase) for phase in ("setup", "call") if phase < when or when == "teardown"]

    writer.add_test(1, 0, ITEM, Status.ERROR if tag == "error" else Status.FAILED, [blamed])
    writer.add_test(1, 1, ITEM, Status.FAILED, [*before, blamed])

    first, second = written(writer).iter("testcase")
    for case in (first, second):
        assert [child.tag for child in case] == ["properties", tag, "system-out", "system-err"]
        assert case[1].attrib == {"type": type_, "message": "the first line"}
        assert case[1].text == text
        assert "last words" in case.findtext("system-out", "")


def test_a_crash_that_a_later_try_survived_is_a_flaky_error(
    writer_for: MakeWriter, written: Written
) -> None:
    writer = writer_for()
    crash = report("call", "rerun", "crashed with SIGSEGV\nstack", shardrun_ending="crashed")
    tries = [report("setup"), crash, report("setup"), report("call"), report("teardown")]

    writer.add_test(1, 0, ITEM, Status.PASSED, tries)

    [flaky] = only_case(written(writer))
    assert flaky.tag == "flakyError"
    assert flaky.attrib == {"type": "crash", "message": "crashed with SIGSEGV"}


def test_a_crash_in_teardown_does_not_hide_the_failure_of_the_call(
    writer_for: MakeWriter, written: Written
) -> None:
    writer = writer_for()
    crash = report("teardown", "failed", "crashed", shardrun_ending="crashed")

    writer.add_test(
        1, 0, ITEM, Status.FAILED, [report("setup"), report("call", "failed", "wrong"), crash]
    )

    root = written(writer)
    assert [child.tag for child in only_case(root)] == ["failure", "error"]
    assert (root.get("tests"), root.get("failures"), root.get("errors")) == ("1", "1", "0")


@pytest.mark.parametrize("status", [Status.FAILED, Status.ERROR])
@pytest.mark.parametrize("reports", [[], [report("setup")]], ids=["no report", "a setup"])
def test_a_red_test_without_a_failed_report_does_not_read_as_passed(
    writer_for: MakeWriter, written: Written, status: Status, reports: list[pytest.TestReport]
) -> None:
    writer = writer_for()

    writer.add_test(1, 0, ITEM, status, reports)

    [error] = only_case(written(writer))
    assert (error.tag, error.get("type")) == ("error", "unexplained")


@pytest.mark.parametrize(
    "broken",
    [report("call", "failed"), report("call", "skipped"), report("call", "skipped", "a text")],
)
def test_reports_that_pytests_own_writer_asserts_against_are_written(
    writer_for: MakeWriter, written: Written, broken: pytest.TestReport
) -> None:
    writer = writer_for()

    writer.add_test(1, 0, ITEM, Status.FAILED, [report("setup"), broken, report("teardown")])

    assert only_case(written(writer))[0].tag in ("failure", "skipped")


def test_a_test_that_never_ran_is_an_error_unless_the_user_asked_to_stop(
    writer_for: MakeWriter, written: Written
) -> None:
    writer = writer_for("junit_logging=all")
    writer.add_not_run(1, 0, ITEM, "shard 1 was lost", asked=False)
    writer.add_not_run(1, 1, ITEM, "stopping after 1 failure", asked=True)

    root = written(writer)

    lost, asked = root.iter("testcase")
    assert list(map(said, lost)) == [
        ("error", "", (("message", "shard 1 was lost"), ("type", "not-run")), ())
    ]
    assert list(map(said, asked)) == [
        ("skipped", "", (("message", "stopping after 1 failure"), ("type", "not-run")), ())
    ]
    assert lost.attrib == {
        "classname": "tests.test_a",
        "name": "test_a",
        "time": "0.000",
        "file": "tests/test_a.py",
        "line": "4",
    }
    assert [root.get(name) for name in ("tests", "failures", "errors", "skipped")] == list("2011")


def test_suites_are_flat_in_order_and_say_when_and_how_long(
    pytester: pytest.Pytester, writer_for: MakeWriter
) -> None:
    writer = writer_for()
    passed = [report("setup"), report("call"), report("teardown")]
    for position in (5, 1, 3):
        item = Item(f"test_a.py::test_{position}", ("test_a.py", position, f"test_{position}"))
        renamed = [copy.copy(one) for one in passed]
        for one in renamed:
            one.nodeid = item.nodeid
        writer.add_test(2, position, item, Status.PASSED, renamed)
    writer.add_suite_property(2, "ARCH", "PPC")
    writer.add_suite_property(2, "ARCH", "PPC")
    writer.add_suite_property(2, "ARCH", "ARM")
    writer.add_shard_problem(2, "attempt 1 crashed with SIGSEGV")
    writer.add_shard_problem(2, "attempt 2 started")

    writer.write(shard_seconds={10: 0.0, 2: 61.23456, 1: 7}, wall_seconds=70)

    root = ET.parse(pytester.path / "merged.xml").getroot()
    assert root.tag == "testsuites"
    assert root.attrib == {
        "name": "pytest tests",
        "tests": "3",
        "failures": "0",
        "errors": "0",
        "skipped": "0",
        "time": "70.0",
    }
    assert [suite.get("name") for suite in root] == ["shard-1", "shard-2", "shard-10"]
    assert [suite.get("tests") for suite in root] == ["0", "3", "0"]
    assert [suite.get("time") for suite in root] == ["7.0", "61.235", "0.0"]
    for suite in root:
        assert suite.get("hostname")
        timestamp = datetime.fromisoformat(suite.get("timestamp", ""))
        assert timestamp.tzinfo is not None
        assert timestamp == datetime.fromtimestamp(STARTED, timezone.utc)
    full = root[1]
    assert [child.tag for child in full] == ["properties", *["testcase"] * 3, "system-err"]
    assert [case.get("name") for case in full.iter("testcase")] == ["test_1", "test_3", "test_5"]
    assert [prop.get("value") for prop in full.iter("property")] == ["PPC", "ARM"]
    assert full.findtext("system-err") == "attempt 1 crashed with SIGSEGV\nattempt 2 started"


def test_the_users_suite_name_is_the_name_of_all_suites(
    writer_for: MakeWriter, written: Written
) -> None:
    root = written(writer_for("junit_suite_name=nightly"))

    assert root.get("name") == "nightly"
    assert [suite.get("name") for suite in root] == ["shard-1"]


def test_two_testcases_for_one_position_are_refused(writer_for: MakeWriter) -> None:
    writer = writer_for()
    writer.add_not_run(1, 0, ITEM, "lost", asked=False)

    with pytest.raises(AssertionError, match="testcase already"):
        writer.add_test(2, 0, ITEM, Status.PASSED, [report("call")])


nasty = st.text(
    st.one_of(
        st.characters(),
        st.sampled_from("\0\x01\x1b\x7f\x85\r\n\t\ud800\udfff\ufffe\uffff<>&\"']]>:{}= \U0001f600"),
    ),
    max_size=12,
)


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    texts=st.lists(nasty, min_size=16, max_size=16),
    family=st.sampled_from(["xunit1", "xunit2"]),
    url=nasty,
)
def test_no_text_makes_the_file_invalid(
    pytester: pytest.Pytester, texts: list[str], family: str, url: str
) -> None:
    config = pytester.parseconfig(
        "-o", f"junit_family={family}", "-o", "junit_logging=all", f"--junitprefix={texts[0]}"
    )
    writer = JUnitWriter(config, str(pytester.path / "merged.xml"), started=STARTED)
    item = Item(f"{texts[1]}::{texts[2]}", (texts[3], 1, texts[4]))
    more: dict[str, Any] = {
        "sections": [("Captured stdout call", texts[5]), ("Captured log call", texts[6])],
        "user_properties": [(texts[7], texts[8]), (texts[8], texts[7])],
        "nodeid": item.nodeid,
        "location": item.location,
        "url": url,
    }

    def nasty_report(when: Phase, outcome: Any, longrepr: Any, **rest: Any) -> pytest.TestReport:
        return pytest.TestReport(
            keywords={}, outcome=outcome, longrepr=longrepr, when=when, **more, **rest
        )

    tries = [
        nasty_report("call", "rerun", texts[9]),
        nasty_report("setup", "failed", texts[10]),
        nasty_report("call", "skipped", (texts[11], 3, texts[12])),
        nasty_report("call", "failed", texts[13], shardrun_ending="crashed"),
        nasty_report("teardown", "failed", texts[14]),
    ]
    for name in (texts[7], texts[15], texts[8]):
        writer.add_suite_property(1, name, texts[9])
    writer.add_test(1, 0, item, Status.FAILED, tries, attributes={texts[15]: texts[0]})
    writer.add_test(2, 1, item, Status.PASSED, [*tries[:1], nasty_report("call", "passed", None)])
    writer.add_not_run(1, 2, item, texts[9], asked=True)
    collected = pytest.CollectReport(texts[1], "failed", texts[2], None)
    writer.add_collect_report(2, collected)
    writer.add_shard_problem(1, texts[10])

    writer.write(shard_seconds={}, wall_seconds=1.0)

    assert len(cases_in(pytester.path / "merged.xml")) == 4
    parsed = xunit2.JUnitXml.fromfile(str(pytester.path / "merged.xml"))
    assert [len(suite) for suite in parsed] == [2, 2]


def test_control_characters_are_shown_as_pytest_shows_them(
    writer_for: MakeWriter, written: Written
) -> None:
    writer = writer_for()
    recorded = [("na\0me", "va\x1blue"), ("\ud800", "\udcff")]

    writer.add_test(
        1, 0, ITEM, Status.PASSED, [report("call"), report("teardown", user_properties=recorded)]
    )

    properties = [prop.attrib for prop in written(writer).iter("property")]
    assert properties == [
        {"name": "na#x00me", "value": "va#x1Blue"},
        {"name": "#xD800", "value": "#xDCFF"},
    ]


def test_attributes_with_names_that_xml_refuses_get_a_similar_name(
    writer_for: MakeWriter, written: Written
) -> None:
    writer = writer_for("junit_family=xunit1")
    names = ["a b", "x:y", "1st", "", "xmlns", "{uri}tag", "fine"]

    writer.add_test(
        1, 0, ITEM, Status.PASSED, [report("call")], attributes=dict.fromkeys(names, "v")
    )

    case = only_case(written(writer))
    recorded = {name for name, value in case.attrib.items() if value == "v"}
    assert recorded == {"a_b", "x_y", "_1st", "_", "_xmlns", "_uri_tag", "fine"}


def test_output_that_parsers_refuse_for_its_length_is_cut_in_the_middle(
    writer_for: MakeWriter, written: Written
) -> None:
    writer = writer_for("junit_logging=system-out")
    output = "BEGIN" + '"' * 11_000_000 + "END"
    sections = [("Captured stdout call", output)]

    writer.add_test(
        1,
        0,
        ITEM,
        Status.FAILED,
        [
            report("call", "failed", "a short failure"),
            report("teardown", sections=sections, user_properties=[("output", output)]),
        ],
    )

    case = only_case(written(writer))
    out = case.findtext("system-out", "")
    assert "BEGIN" in out
    assert out.rstrip().endswith("END")
    assert "characters left out]" in out
    value = case.findall("properties/property")[0].get("value", "")
    assert value.startswith("BEGIN")
    assert value.endswith("END")


def test_the_file_replaces_an_older_one_and_leaves_nothing_beside_it(
    pytester: pytest.Pytester,
) -> None:
    target = pytester.path / "new" / "sub" / "report.xml"
    config = pytester.parseconfig()
    writer = JUnitWriter(config, str(target), started=STARTED)
    writer.write(shard_seconds={1: 1.0}, wall_seconds=1.0)
    target.chmod(0o640)
    before = target.stat()

    writer.write(shard_seconds={1: 1.0, 2: 2.0}, wall_seconds=2.0)

    assert [path.name for path in target.parent.iterdir()] == ["report.xml"]
    assert len(ET.parse(target).getroot()) == 2
    assert target.stat().st_mode == before.st_mode
    assert target.stat().st_ino != before.st_ino


def test_a_failed_write_keeps_the_older_file(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = pytester.path / "report.xml"
    target.write_text("the older file", "utf-8")
    writer = JUnitWriter(pytester.parseconfig(), str(target), started=STARTED)

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        writer.write(shard_seconds={1: 1.0}, wall_seconds=1.0)

    assert target.read_text("utf-8") == "the older file"
    assert [path.name for path in pytester.path.iterdir()] == ["report.xml"]


@pytest.mark.skipif(os.name == "nt", reason="needs symbolic links and pipes")
def test_a_link_is_followed_and_a_pipe_is_written_to(pytester: pytest.Pytester) -> None:
    real = pytester.path / "real.xml"
    link = pytester.path / "link.xml"
    link.symlink_to(real)
    JUnitWriter(pytester.parseconfig(), str(link), started=STARTED).write(
        shard_seconds={1: 1.0}, wall_seconds=1.0
    )

    assert link.is_symlink()
    assert ET.parse(real).getroot().tag == "testsuites"

    reading, writing = os.pipe()
    piped = JUnitWriter(pytester.parseconfig(), f"/dev/fd/{writing}", started=STARTED)
    piped.write(shard_seconds={1: 1.0}, wall_seconds=1.0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        assert ET.fromstring(pipe.read()).tag == "testsuites"


def test_the_path_is_expanded_as_pytest_expands_it(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(pytester.path))
    monkeypatch.setenv("BUILD", "build-7")
    writer = JUnitWriter(pytester.parseconfig(), "~/$BUILD/x.xml", started=STARTED)
    monkeypatch.chdir("/")

    writer.write(shard_seconds={}, wall_seconds=0.0)

    assert (pytester.path / "build-7" / "x.xml").is_file()
