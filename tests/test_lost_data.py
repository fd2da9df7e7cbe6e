"""What goes wrong in a plugin is named, turns the run red, and costs no test its status."""

from __future__ import annotations

import re

import pytest
from comparison import Run, run_pytest

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
            item.user_properties.append(("connection", Connection()))
        return report
"""


def test_what_a_report_cannot_carry_is_named_and_costs_no_test(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(NO_TEXT_IS_ENOUGH)
    pytester.makepyfile(**SIX)

    run = run_pytest(pytester.path, "--shards=2", "-o", "junit_family=xunit1")

    assert run.counts["passed"] == accounted(run) == 6, run.show()
    assert "connection of type Connection cannot be sent from a shard" in run.stdout
    assert run.junit is not None
    for case in run.junit.cases.values():
        assert ("connection", "a connection") in case.properties


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
    assert "LostValueError: connection of type conftest.Connection could not be sent" in (
        run.stdout + run.stderr
    )
    assert in_junit(run) == 6


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
