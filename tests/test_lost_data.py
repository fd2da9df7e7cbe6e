"""What goes wrong in a plugin is named, turns the run red, and costs no test its status."""

from __future__ import annotations

import re

import pytest
from comparison import Run, differences, run_pytest

PASSES = """
    import pytest

    @pytest.mark.parametrize("number", range(3))
    def test_passes(number): pass
"""
SIX = {"test_one": PASSES, "test_two": PASSES}


def in_junit(run: Run) -> int:
    assert run.junit is not None, run.show()
    return len(run.junit.cases)


def accounted(run: Run) -> int:
    """How many tests the ledger's line has a status for, checked against its own sum."""
    match = re.search(r"^ledger: (\d+) collected = (.+)$", run.stdout, re.MULTILINE)
    assert match is not None, run.show()
    assert int(match[1]) == sum(int(number) for number in re.findall(r"\d+", match[2]))
    return int(match[1])


IN_A_WORKER = "if hasattr({config}, 'workerinput'): raise RuntimeError('told by the hook')"

HOOKS = {
    "pytest_runtest_logreport": "def pytest_runtest_logreport(report):",
    "pytest_runtest_logstart": "def pytest_runtest_logstart(nodeid):",
    "pytest_runtest_logfinish": "def pytest_runtest_logfinish(nodeid):",
    "pytest_runtest_protocol": "def pytest_runtest_protocol(item):",
    "pytest_runtest_makereport": "def pytest_runtest_makereport(item):",
    "pytest_report_teststatus": "def pytest_report_teststatus(report):",
    "pytest_warning_recorded": "def pytest_warning_recorded(warning_message):",
}


@pytest.mark.parametrize("hook", HOOKS)
def test_a_hook_that_raises_in_a_worker_while_tests_run(
    pytester: pytest.Pytester, hook: str
) -> None:
    pytester.makeconftest(
        f"""
        def pytest_configure(config):
            global CONFIG
            CONFIG = config

        {HOOKS[hook]}
            {IN_A_WORKER.format(config="CONFIG")}
        """
    )
    warned = {
        name: text.replace(": pass", ": __import__('warnings').warn('careful')")
        for name, text in SIX.items()
    }
    pytester.makepyfile(**warned)

    run = run_pytest(pytester.path, "--shards=2")

    assert run.exitcode in (1, 3), run.show()
    assert "RuntimeError: told by the hook" in run.stdout, run.show()
    assert accounted(run) == 6, run.show()


@pytest.mark.parametrize("start", ["auto", "spawn"])
@pytest.mark.parametrize("place", [".", "deeper"])
def test_a_conftest_that_raises_in_workers_only_while_none_may_be_replaced(
    pytester: pytest.Pytester, place: str, start: str
) -> None:
    deeper = pytester.mkpydir("deeper")
    (pytester.path / place / "conftest.py").write_text(
        "import os\n"
        "if 'PYTEST_XDIST_WORKER' in os.environ: raise RuntimeError('told by the conftest')\n",
        encoding="utf-8",
    )
    (deeper / "test_deeper.py").write_text("def test_passes(): pass\n", encoding="utf-8")
    pytester.makepyfile(**SIX)

    run = run_pytest(pytester.path, "--shards=2", "--shard-restarts=0", f"--shard-start={start}")

    assert run.exitcode in (1, 2), run.show()
    assert "RuntimeError: told by the conftest" in run.stdout, run.show()
    assert "passed" not in run.counts


def test_reports_that_a_hook_refuses_to_send(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(
        """
        def pytest_report_to_serializable(report):
            if getattr(report, "when", "") == "call":
                raise RuntimeError("told by the hook")
        """
    )
    pytester.makepyfile(**SIX)

    run = run_pytest(pytester.path, "--shards=2")

    assert run.exitcode in (1, 3), run.show()
    assert "RuntimeError: told by the hook" in run.stdout, run.show()
    assert accounted(run) == 6, run.show()


@pytest.mark.parametrize(
    "hook",
    [
        "pytest_configure(config)",
        "pytest_sessionstart(session)",
        "pytest_collection_modifyitems(session, config, items)",
        "pytest_collection_finish(session)",
        "pytest_itemcollected(item)",
        "pytest_sessionfinish(session)",
    ],
)
def test_a_hook_that_raises_in_a_worker_before_or_after_the_tests(
    pytester: pytest.Pytester, hook: str
) -> None:
    of = next(word for word in ("config", "session", "item") if word in hook.partition("(")[2])
    config = of if of == "config" else f"{of}.config"
    pytester.makeconftest(f"def {hook}:\n    {IN_A_WORKER.format(config=config)}")
    pytester.makepyfile(**SIX)

    run = run_pytest(pytester.path, "--shards=2")

    assert run.exitcode in (1, 3), run.show()
    assert "RuntimeError: told by the hook" in run.stdout, run.show()
    if "sessionfinish" in hook:
        assert run.counts["passed"] == accounted(run) == 6, run.show()


def test_a_hook_that_raises_in_the_controller(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(
        """
        def pytest_runtest_logreport(report):
            if hasattr(report, "node") and report.when == "call":
                raise RuntimeError("told by the hook")
        """
    )
    pytester.makepyfile(**SIX)

    run = run_pytest(pytester.path, "--shards=2")

    assert run.exitcode == 3, run.show()
    assert "told by the hook" in run.stdout + run.stderr
    assert in_junit(run) == 6


def test_an_option_that_a_plugin_refuses_in_a_worker_is_a_usage_error(
    pytester: pytest.Pytester,
) -> None:
    pytester.makeconftest(
        """
        import pytest

        def pytest_configure(config):
            if hasattr(config, "workerinput"):
                raise pytest.UsageError("--this cannot be combined with workers")
        """
    )
    pytester.makepyfile(**SIX)

    run = run_pytest(pytester.path, "--shards=2")

    assert run.exitcode == 4, run.show()
    assert run.stderr.count("--this cannot be combined with workers") == 1, run.show()


NO_TEXT_IS_ENOUGH = """
    import pytest

    class Connection:
        host = "example.org"
        def __str__(self): return "a connection"

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(item):
        report = yield
        if report.when == "call":
            report.connection = Connection()
        return report
"""
SENTENCE = (
    "report.connection of type conftest.Connection cannot be sent between processes and became its "
    "text (test_one.py::test_passes[0] and 5 more tests)"
)


def test_what_a_report_cannot_carry_is_named_and_costs_no_test(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(NO_TEXT_IS_ENOUGH)
    pytester.makepyfile(**SIX)

    run = run_pytest(pytester.path, "--shards=1")

    assert run.exitcode == 1, run.show()
    assert run.counts == {"passed": 6, "error": 1}, run.show()
    assert accounted(run) == in_junit(run) == 6
    assert f"\n{SENTENCE}\n" in run.stdout, run.show()
    assert "--shard-lost-data=warn" in run.stdout
    assert "ERROR the run - report.connection of type conftest.Connection" in run.stdout
    assert SENTENCE in run.junit_path.read_text(encoding="utf-8")


@pytest.mark.parametrize("in_the_file", [False, True])
def test_what_a_report_cannot_carry_may_be_a_warning(
    pytester: pytest.Pytester, in_the_file: bool
) -> None:
    pytester.makeconftest(NO_TEXT_IS_ENOUGH)
    pytester.makepyfile(**SIX)
    if in_the_file:
        pytester.makeini("[pytest]\nshard_lost_data = warn")

    arguments = [] if in_the_file else ["--shard-lost-data=warn"]
    run = run_pytest(pytester.path, "--shards=1", *arguments)

    assert run.exitcode == 0, run.show()
    assert run.counts == {"passed": 6, "warning": 1}, run.show()
    assert f"PytestWarning: shardrun: {SENTENCE}" in run.stdout


def test_as_many_lines_as_kinds_of_values_tell_of_what_was_lost(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(
        """
        import pytest

        @pytest.hookimpl(wrapper=True)
        def pytest_runtest_makereport(item, call):
            report = yield
            report.phases = [object(), object()]
            setattr(report, item.name, {call.when: object()})
            return report
        """
    )
    pytester.makepyfile(
        test_many="""
        import pytest

        @pytest.mark.parametrize("number", range(500))
        def test_many(number): pass
        """
    )

    run = run_pytest(pytester.path, "--shards=2")

    assert run.counts == {"passed": 500, "error": 21}, run.show()
    (line,) = re.findall(r"^report\.phases of type .*$", run.stdout, re.MULTILINE)
    assert "and 499 more tests" in line
    assert "1481 more values cannot be sent and became their texts" in run.stdout
    assert run.stdout.count("cannot be sent") < 50


READ_AS_TEXT = """
    import datetime
    import enum
    import threading
    from collections import OrderedDict, namedtuple
    from decimal import Decimal
    from pathlib import Path
    from uuid import UUID

    import pytest

    class Thing:
        def __str__(self): return "a thing"
        def __repr__(self): return "<Thing>"

    class Level(enum.Enum):
        HIGH = 3

    class Name(str, enum.Enum):
        ADA = "ada"

    class Number(enum.IntEnum):
        ONE = 1

    Pair = namedtuple("Pair", "a b")

    VALUES = [
        Thing(), [Thing()], {"deep": (Thing(),)}, Thing, Level.HIGH, Name.ADA, [Name.ADA],
        Number.ONE, Pair(1, 2), OrderedDict(a=1), Decimal("1.50"), Path("a/b"), [Path("a")],
        UUID(int=7), datetime.datetime(2020, 1, 2), [datetime.timedelta(1)], 1j, b"bytes",
        ValueError("text"), range(3),
    ]
"""


def test_properties_are_written_down_as_without_shards(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        test_properties=READ_AS_TEXT
        + """
    @pytest.mark.parametrize("value", VALUES, ids=map(str, range(len(VALUES))))
    def test_property(value, record_property):
        record_property("value", value)
        """
    )

    plain = run_pytest(pytester.path, "-o", "junit_family=xunit1")
    run = run_pytest(pytester.path, "-o", "junit_family=xunit1", "--shards=2")

    assert run.exitcode == plain.exitcode == 0, run.show()
    assert run.counts == plain.counts == {"passed": 20}
    assert run.junit is not None
    assert plain.junit is not None
    for key, case in plain.junit.cases.items():
        assert run.junit.cases[key].properties == case.properties


def test_properties_that_are_used_beyond_their_text_are_lost(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(
        """
        def pytest_runtest_logreport(report):
            for name, value in report.user_properties:
                value.wait
        """
    )
    pytester.makepyfile(
        test_property="""
        import threading

        def test_property(record_property):
            record_property("event", threading.Event())
        """
    )

    run = run_pytest(pytester.path, "--shards=2")

    assert run.exitcode == 3, run.show()
    said = run.stdout + run.stderr
    assert "LostValueError: report.user_properties of type threading.Event could not be" in said
    assert in_junit(run) == 1


def test_plain_values_on_a_report_arrive_as_what_they_are(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(
        READ_AS_TEXT
        + """
    SENT = {
        "amount": Decimal("1.50"),
        "moment": datetime.datetime(2020, 1, 2, tzinfo=datetime.timezone.utc),
        "day": datetime.date(2020, 1, 2), "took": datetime.timedelta(1, 2, 3), "id": UUID(int=7),
        "files": [Path("a/b")], "number": 1j, "pair": Pair(1, 2), "name": Name.ADA,
    }

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(item):
        report = yield
        report.sent = SENT
        return report

    def pytest_runtest_logreport(report):
        assert report.sent == SENT
        assert report.sent["files"][0].name == "b"
        assert report.sent["moment"].tzinfo is datetime.timezone.utc
        """
    )
    pytester.makepyfile(**SIX)

    run = run_pytest(pytester.path, "--shards=2")

    assert run.exitcode == 0, run.show()
    assert run.counts == {"passed": 6}, run.show()


def test_explanations_that_are_any_object_are_shown_as_without_shards(
    pytester: pytest.Pytester,
) -> None:
    pytester.makeconftest(
        """
        import pytest

        class Explanation:
            def __str__(self): return "explained in its own way"

        class OwnItem(pytest.Item):
            def runtest(self): raise ValueError("for a reason")
            def repr_failure(self, excinfo): return Explanation()

        class OwnFile(pytest.File):
            def collect(self): yield OwnItem.from_parent(self, name="own")

        def pytest_collect_file(file_path, parent):
            if file_path.suffix == ".own":
                return OwnFile.from_parent(parent, path=file_path)
        """
    )
    pytester.makefile(".own", test_it="")

    plain = run_pytest(pytester.path)
    run = run_pytest(pytester.path, "--shards=1")

    assert differences(plain, run) == []
    assert run.counts == {"failed": 1}, run.show()
    assert "explained in its own way" in run.stdout


def test_what_a_collector_s_report_cannot_carry_is_named(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(
        """
        import pytest

        @pytest.hookimpl(wrapper=True)
        def pytest_make_collect_report(collector):
            report = yield
            report.collector = collector
            return report
        """
    )
    pytester.makepyfile(test_good="def test_good(): pass", test_bad="import nothing_of_this_name")

    run = run_pytest(pytester.path, "--shards=2", "--continue-on-collection-errors")

    assert run.exitcode == 1, run.show()
    assert run.counts["passed"] == 1, run.show()
    assert "report.collector of type _pytest.python.Module cannot be sent" in run.stdout


def test_what_a_shard_s_output_cannot_carry_is_named(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(
        """
        import threading

        def pytest_sessionfinish(session):
            if hasattr(session.config, "workeroutput"):
                session.config.workeroutput["lock"] = threading.Lock()
                session.shouldstop = ValueError("no reason to lose anything")
        """
    )
    pytester.makepyfile(**SIX)

    run = run_pytest(pytester.path, "--shards=2")

    assert run.exitcode == 1, run.show()
    assert run.counts == {"passed": 6, "error": 1}, run.show()
    assert "workeroutput.lock of type _thread.lock cannot be sent" in run.stdout
    assert "became its text (shards 1, 2)" in run.stdout


def test_what_a_shard_s_input_cannot_carry_is_named(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(
        """
        import threading

        def pytest_configure_node(node):
            node.workerinput["lock"] = threading.Lock()
        """
    )
    pytester.makepyfile(**SIX)

    run = run_pytest(pytester.path, "--shards=2")

    assert run.exitcode == 1, run.show()
    assert run.counts == {"passed": 6, "error": 1}, run.show()
    assert "workerinput.lock of type _thread.lock cannot be sent" in run.stdout


def test_who_relies_on_what_a_report_could_not_carry_turns_the_run_red(
    pytester: pytest.Pytester,
) -> None:
    pytester.makeconftest(
        NO_TEXT_IS_ENOUGH
        + """
    def pytest_runtest_logreport(report):
        if report.when == "call":
            assert report.connection.host == "example.org"
        """
    )
    pytester.makepyfile(**SIX)

    plain = run_pytest(pytester.path)
    run = run_pytest(pytester.path, "--shards=2")

    assert plain.exitcode == 0, plain.show()
    assert run.exitcode == 3, run.show()
    said = run.stdout + run.stderr
    assert "LostValueError: report.connection of type conftest.Connection could not be sent" in said
    assert in_junit(run) == 6


SUBTESTS = """
    import enum
    import threading
    import unittest

    class Level(enum.Enum):
        HIGH = 3

    class TestUnittest(unittest.TestCase):
        def test_subtests(self):
            for value in (Level.HIGH, threading.Lock, self, {"deep": Level}):
                with self.subTest(value=value):
                    self.assertIs(value, Level.HIGH)

        def test_passes(self): pass
"""


def test_subtests_with_any_object_in_their_names(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_subtests=SUBTESTS, test_one=PASSES)

    plain = run_pytest(pytester.path)
    run = run_pytest(pytester.path, "--shards=2")

    assert (run.exitcode, run.counts) == (plain.exitcode, plain.counts), run.show()
    assert accounted(run) == in_junit(run) == 5
    named = r"^(?:SUB)?FAILED.*test_subtests.*$"
    assert set(re.findall(named, run.stdout, re.MULTILINE)) == set(
        re.findall(named, plain.stdout, re.MULTILINE)
    )


def test_log_records_with_any_object_in_them_cost_nothing(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(
        """
        import logging
        import pytest

        RECORDS = []

        class Handler(logging.Handler):
            def emit(self, record): RECORDS.append(record)

        logging.getLogger().addHandler(Handler())

        @pytest.hookimpl(wrapper=True)
        def pytest_runtest_makereport(item):
            report = yield
            # As pytest-json-report keeps them, for a file in which all else is a text.
            report._json_report_extra = {report.when: {"log": [vars(each) for each in RECORDS]}}
            RECORDS.clear()
            return report
        """
    )
    pytester.makepyfile(
        test_logs="""
        import logging

        class Request: pass

        def test_logs(monkeypatch):
            logging.getLogger().warning("not found", extra={"request": Request()})
        """,
        test_one=PASSES,
    )

    run = run_pytest(pytester.path, "--shards=2")

    assert run.exitcode == 0, run.show()
    assert run.counts == {"passed": 4}, run.show()


def test_a_warning_of_a_class_that_only_a_shard_knows(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        test_warns="""
        import warnings

        class OwnWarning(UserWarning):
            def __init__(self, code, *, text):
                super().__init__(code, text)
            def __str__(self):
                return f"own {self.args[0]}: {self.args[1]}"

        def test_warns(): warnings.warn(OwnWarning(7, text="careful"))
        def test_passes(): pass
        """
    )

    run = run_pytest(pytester.path, "--shards=2")

    assert run.counts == {"passed": 2, "warning": 1}, run.show()
    assert "OwnWarning: own 7: careful" in run.stdout


@pytest.mark.parametrize("variables", [{}, {"PYTHONTRACEMALLOC": "5"}], ids=["untraced", "traced"])
def test_a_warning_about_an_object(pytester: pytest.Pytester, variables: dict[str, str]) -> None:
    pytester.makepyfile(
        test_warns="""
        import warnings

        def make(): return object()

        def test_warns(): warnings.warn("left open", ResourceWarning, source=make())
        """
    )

    plain = run_pytest(pytester.path, "-Walways", env=variables)
    run = run_pytest(pytester.path, "-Walways", "--shards=2", env=variables)

    def told(of: Run) -> str:
        found = re.search(r"^=+ warnings summary =+\n.*?(?=^-- Docs)", of.stdout, re.M | re.S)
        assert found is not None, of.show()
        return found[0]

    assert told(run) == told(plain)
    assert "def make(): return object()" in told(run) or "Enable tracemalloc" in told(run)


def test_what_is_deselected_may_be_no_test(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(
        """
        def pytest_collection_modifyitems(config, items):
            config.hook.pytest_deselected(items=[object(), "text", *items[:1]])
            del items[:1]
        """
    )
    pytester.makepyfile(**SIX)

    run = run_pytest(pytester.path, "--shards=2")

    assert run.exitcode == 0, run.show()
    assert run.counts == {"passed": 5, "deselected": 3}, run.show()


def test_a_class_of_reports_that_nobody_can_send(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(
        """
        import pytest

        class OwnReport(pytest.TestReport):
            pass

        @pytest.hookimpl(wrapper=True)
        def pytest_runtest_makereport(item):
            report = yield
            report.__class__ = OwnReport
            return report

        def pytest_report_to_serializable(report):
            if isinstance(report, OwnReport):
                return {"$report_type": "OwnReport", "nodeid": report.nodeid}
        """
    )
    pytester.makepyfile(**SIX)

    run = run_pytest(pytester.path, "--shards=2")

    assert run.exitcode == 3, run.show()
    assert "OwnReport" in run.stdout
    assert in_junit(run) == 6
