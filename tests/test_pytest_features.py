"""What pytest's options do, and what the options of shards do, as a user sees it."""

from __future__ import annotations

import importlib.util
import itertools
import json
import re
import sys
from collections import Counter
from pathlib import Path

import pytest
from comparison import AUTOLOAD, Run, differences, junit_inconsistencies, run_pytest

MIXED = {
    "test_first": """
        import pytest

        def test_passes(): pass

        @pytest.mark.slow
        def test_is_slow(): pass

        def test_fails(): assert 0
    """,
    "test_second": """
        import pytest

        class TestClass:
            def test_passes(self): pass

            @pytest.mark.slow
            def test_is_slow_and_fails(self): assert 0
    """,
    "test_third": """
        def test_passes(): pass
    """,
}

WRITING = "from pathlib import Path\n\ndef test_writes(): Path('ran').touch()"

SLOW_MARK = """
    [pytest]
    markers = slow: takes long
"""

#: Three modules with a failure each at the start, and many tests behind it.
MANY = {
    f"test_{name}": """
        import time

        import pytest

        def test_fails(): assert 0

        @pytest.mark.parametrize("number", range(60))
        def test_takes_its_time(number): time.sleep(0.05)
    """
    for name in ("first", "second", "third")
}

#: Tests that tell in which process, and between which times, they ran.
TELLING = """
    import os
    import time

    import pytest


    @pytest.fixture(autouse=True)
    def telling(request):
        begin = time.monotonic()
        yield
        told = {"process": os.getpid(), "begin": begin, "end": time.monotonic()}
        request.node.user_properties += told.items()
"""


def needs(module: str) -> pytest.MarkDecorator:
    absent = importlib.util.find_spec(module) is None
    return pytest.mark.skipif(absent, reason=f"needs {module}")


def told(run: Run, name: str) -> dict[str, str]:
    """What each test recorded as the property of this name."""
    assert run.record is not None, run.show()
    return {
        nodeid: dict(phases[-1].user_properties)[name]
        for nodeid, phases in run.record.tests.items()
    }


def shards_of(run: Run) -> dict[str, list[str]]:
    """The names of the tests in each suite of the JUnit file."""
    from xml.etree import ElementTree

    return {
        suite.get("name", ""): [case.get("name", "") for case in suite.iter("testcase")]
        for suite in ElementTree.parse(run.junit_path).getroot().iter("testsuite")
    }


def started(run: Run) -> list[str]:
    """The tests in the order in which they were told to start."""
    assert run.record is not None, run.show()
    return [nodeid for what, nodeid in run.record.order if what == "start"]


@pytest.mark.parametrize(
    ("arguments", "expected", "deselected"),
    [
        (["-k", "passes"], {"test_passes"}, 3),
        (["-m", "slow"], {"test_is_slow", "test_is_slow_and_fails"}, 4),
        (["--deselect=test_first.py", "--deselect=test_second.py::TestClass"], {"test_passes"}, 5),
    ],
)
def test_deselecting_takes_tests_away_and_counts_them(
    pytester: pytest.Pytester, arguments: list[str], expected: set[str], deselected: int
) -> None:
    pytester.makepyfile(**MIXED)
    pytester.makeini(SLOW_MARK)

    run = run_pytest(pytester.path, "--shards=2", *arguments)

    assert {nodeid.split("::")[-1] for nodeid in run.outcomes} == expected, run.show()
    assert run.counts["deselected"] == deselected


def test_tests_can_be_given_as_node_ids(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(**MIXED)

    run = run_pytest(
        pytester.path, "--shards=2", "test_second.py::TestClass::test_passes", "test_third.py"
    )

    assert run.outcomes == {
        "test_second.py::TestClass::test_passes": "passed",
        "test_third.py::test_passes": "passed",
    }


def test_last_failed_runs_what_failed_in_shards_and_the_other_way_round(
    pytester: pytest.Pytester,
) -> None:
    pytester.makepyfile(**MIXED)
    pytester.makeini(SLOW_MARK)
    failed = {"test_first.py::test_fails", "test_second.py::TestClass::test_is_slow_and_fails"}

    first = run_pytest(pytester.path, "--shards=2")
    in_shards = run_pytest(pytester.path, "--shards=2", "--lf")
    plain = run_pytest(pytester.path, "--lf")
    cache = json.loads((pytester.path / ".pytest_cache/v/cache/lastfailed").read_text())
    pytester.makepyfile(test_first=MIXED["test_first"].replace("assert 0", "pass"))
    repaired = run_pytest(pytester.path, "--shards=2", "--lf")
    rest = run_pytest(pytester.path, "--shards=2", "--lf")

    assert first.counts == {"passed": 4, "failed": 2}, first.show()
    assert set(in_shards.outcomes) == failed, in_shards.show()
    assert "rerun previous 2 failures" in in_shards.stdout
    assert set(plain.outcomes) == failed, plain.show()
    assert set(cache) == failed
    assert Counter(repaired.outcomes.values()) == {"passed": 1, "failed": 1}
    assert set(rest.outcomes) == {"test_second.py::TestClass::test_is_slow_and_fails"}


def test_each_test_that_was_seen_is_remembered_once(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_a="def test_a(): pass", test_b="def test_b(): pass")

    for _ in range(3):
        run_pytest(pytester.path, "--shards=2")

    cache = json.loads((pytester.path / ".pytest_cache/v/cache/nodeids").read_text())
    assert cache == ["test_a.py::test_a", "test_b.py::test_b"]


def test_a_module_that_could_not_be_imported_is_forgotten_once_it_can_be(
    pytester: pytest.Pytester,
) -> None:
    pytester.makepyfile(test_a="import nothing", test_b="def test_b(): pass")
    cache = pytester.path / ".pytest_cache/v/cache/lastfailed"

    broken = run_pytest(pytester.path, "--shards=2")
    assert broken.counts == {"error": 1}, broken.show()
    assert json.loads(cache.read_text()) == {"test_a.py": True}
    pytester.makepyfile(
        test_a="""
            import pytest

            @pytest.mark.parametrize("name", ["a", "b::c[d]"])
            def test_a(name): assert name == "a"
        """
    )
    repaired = run_pytest(pytester.path, "--shards=2")

    assert repaired.counts == {"passed": 2, "failed": 1}, repaired.show()
    assert json.loads(cache.read_text()) == {"test_a.py::test_a[b::c[d]]": True}


def test_a_selection_keeps_the_failures_that_it_did_not_run(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(**MIXED)
    pytester.makeini(SLOW_MARK)
    run_pytest(pytester.path, "--shards=2")

    run_pytest(pytester.path, "--shards=2", "test_third.py")

    cache = json.loads((pytester.path / ".pytest_cache/v/cache/lastfailed").read_text())
    assert len(cache) == 2


def test_failed_first_runs_failed_tests_first_in_each_shard(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(**MIXED)
    pytester.makeini(SLOW_MARK)
    run_pytest(pytester.path, "--shards=2")

    run = run_pytest(pytester.path, "--shards=1", "--ff")

    assert set(started(run)[:2]) == {
        "test_first.py::test_fails",
        "test_second.py::TestClass::test_is_slow_and_fails",
    }
    assert len(started(run)) == 6


def test_new_first_runs_the_tests_of_new_files_first(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(**MIXED)
    pytester.makeini(SLOW_MARK)
    run_pytest(pytester.path, "--shards=2")
    pytester.makepyfile(test_zebra="def test_is_new(): pass")

    run = run_pytest(pytester.path, "--shards=1", "--nf")

    assert started(run)[0] == "test_zebra.py::test_is_new", run.show()


def test_stepwise_stops_at_a_failure_and_goes_on_from_it(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(**MIXED)
    pytester.makeini(SLOW_MARK)

    first = run_pytest(pytester.path, "--shards=2", "--sw")
    pytester.makepyfile(test_first=MIXED["test_first"].replace("assert 0", "pass"))
    second = run_pytest(pytester.path, "--shards=2", "--sw")

    assert first.exitcode == second.exitcode == 2, first.show() + second.show()
    assert first.outcomes["test_first.py::test_fails"] == "failed"
    assert "test_second.py::TestClass::test_is_slow_and_fails" not in first.outcomes
    assert "test_first.py::test_passes" not in second.outcomes
    assert second.outcomes["test_first.py::test_fails"] == "passed"
    assert second.outcomes["test_second.py::TestClass::test_is_slow_and_fails"] == "failed"


def test_the_cache_that_tests_write_in_shards_is_there_in_the_next_run(
    pytester: pytest.Pytester,
) -> None:
    pytester.makepyfile(
        test_cache="""
        def test_remembers(cache, record_property):
            record_property("found", cache.get("suite/value", "nothing"))
            cache.set("suite/value", "something")
        """
    )

    first = run_pytest(pytester.path, "--shards=2")
    second = run_pytest(pytester.path, "--shards=2")

    assert set(told(first, "found").values()) == {"nothing"}
    assert set(told(second, "found").values()) == {"something"}


@pytest.mark.parametrize("arguments", [["-x"], ["--maxfail=2"]])
def test_the_run_stops_promptly_and_accounts_for_every_test(
    pytester: pytest.Pytester, arguments: list[str]
) -> None:
    pytester.makepyfile(**MANY)

    run = run_pytest(pytester.path, "--shards=3", *arguments)

    assert run.exitcode == 1, run.show()
    assert "stopping after" in run.stdout
    # A handful is under way in each shard when the news of the failure arrives.
    assert len(run.outcomes) < 30, run.show()
    assert run.junit is not None
    assert len(run.junit.cases) == 3 * 61
    assert junit_inconsistencies(run.junit) == []
    not_run = [case for case in run.junit.cases.values() if "not-run" in str(case.details)]
    assert len(not_run) == 3 * 61 - len(run.outcomes)
    assert {case.details[0][0] for case in not_run} == {"skipped"}
    assert f"{len(not_run)} not run" in run.stdout


def test_a_failure_in_the_last_test_leaves_nothing_to_stop(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_only="def test_fails(): assert 0")

    run = run_pytest(pytester.path, "--shards=2", "-x")

    assert (run.exitcode, run.counts) == (1, {"failed": 1}), run.show()


def test_verbose_lines_carry_their_shard(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(**MIXED)
    pytester.makeini(SLOW_MARK)

    run = run_pytest(pytester.path, "--shards=2", "-v")

    words = r"(?=.*(?:PASSED|FAILED))(?=.*\[shard (\d)\]).*test_\w+\.py::"
    lines = [match[1] for line in run.stdout.splitlines() if (match := re.match(words, line))]
    assert len(lines) == 6, run.show()
    assert set(lines) == {"1", "2"}
    assert run.stderr == ""


def test_quiet_runs_say_no_more_than_pytest_does(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_passes(): pass", test_other="def test_passes(): pass")

    run = run_pytest(pytester.path, "--shards=2", "-q")
    plain = run_pytest(pytester.path, "-q")

    assert len(run.stdout.splitlines()) <= len(plain.stdout.splitlines()) + 3, run.show()
    assert "2 passed in" in run.stdout.splitlines()[-1]


def test_the_start_and_the_end_of_a_run_tell_of_its_shards(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(**MIXED)
    pytester.makeini(SLOW_MARK)

    run = run_pytest(pytester.path, "--shards=2")

    head, _, tail = run.stdout.partition("FAILURES")
    assert re.search(r"2 shards|shards: ?2", head), run.show()
    assert "collected 6 items" in head
    assert "" not in head.splitlines()[:4], run.show()
    for shard in (1, 2):
        assert re.search(rf"^ +{shard} +\d+ +\d+ +[\d.]+s +\d+% ", tail, re.MULTILINE), run.show()
    assert "2 failed, 4 passed in" in run.stdout.splitlines()[-1]


def test_tb_styles_look_like_those_of_pytest(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_one="def test_fails():\n    value = 1\n    assert value == 2")

    short = run_pytest(pytester.path, "--shards=2", "--tb=short")
    line = run_pytest(pytester.path, "--shards=2", "--tb=line")
    no = run_pytest(pytester.path, "--shards=2", "--tb=no")

    assert "test_one.py:3: in test_fails\n    assert value == 2" in short.stdout, short.show()
    assert re.search(r"test_one.py:3: assert 1 == 2$", line.stdout, re.MULTILINE), line.show()
    assert "FAILURES" not in no.stdout
    assert "FAILED test_one.py::test_fails" in no.stdout


def test_the_slowest_phases_are_told(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import time

        def test_is_slow(): time.sleep(0.2)
        def test_is_fast(): pass
        """
    )

    run = run_pytest(pytester.path, "--shards=2", "--durations=1")

    assert "slowest 1 durations" in run.stdout, run.show()
    assert re.search(r"0\.[2-9]\d?s call +\S+::test_is_slow", run.stdout), run.show()


def test_colour_reaches_the_terminal_and_not_the_reports(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(**MIXED)
    pytester.makeini(SLOW_MARK)

    coloured = run_pytest(pytester.path, "--shards=2", "--color=yes")
    plain = run_pytest(pytester.path, "--color=yes")

    def failing_lines(run: Run) -> Counter[str]:
        return Counter(
            line for line in run.stdout.splitlines() if "assert" in line and "\x1b" in line
        )

    assert failing_lines(coloured) == failing_lines(plain), coloured.show()
    assert failing_lines(coloured)
    assert "\x1b" not in coloured.junit_path.read_text()


def test_live_output_carries_its_shard_line_by_line(pytester: pytest.Pytester) -> None:
    for name in ("one", "two"):
        pytester.makepyfile(
            **{
                f"test_{name}": f"""
                import os, subprocess, sys

                def test_prints():
                    for number in range(200):
                        print("{name}", number, "x" * 200, "end")
                    print("{name} aside", file=sys.stderr)
                    subprocess.run(["echo", "{name} from a child"])
                    sys.stdout.write("{name} without an end of line")
                """
            }
        )

    run = run_pytest(pytester.path, "--shards=2", "--shard-scope=module", "-s")

    lines = run.stdout.splitlines() + run.stderr.splitlines()
    printed = [line for line in lines if re.search(r"\b(one|two) (\d+ x|aside|from|without)", line)]
    assert len(printed) == 2 * 203, run.show()
    for name in ("one", "two"):
        of_name = [line for line in printed if re.search(rf"\b{name} ", line)]
        assert len({re.findall(r"shard (\d)", line)[0] for line in of_name}) == 1
        numbers = [
            int(m[1]) for line in of_name if (m := re.search(rf"{name} (\d+) x+ end$", line))
        ]
        assert numbers == list(range(200))


def test_output_that_a_test_shows_past_the_capture_is_shown(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        def test_shows(capsys):
            with capsys.disabled():
                print("shown at once")
        """
    )

    run = run_pytest(pytester.path, "--shards=2")

    assert run.stdout.count("shown at once") == 1, run.show()
    assert run.exitcode == 0


def test_the_junit_file_has_a_suite_for_each_shard(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(**MIXED)
    pytester.makeini(SLOW_MARK)

    run = run_pytest(pytester.path, "--shards=2", "--junitxml=new/directory/junit.xml")

    from xml.etree import ElementTree

    root = ElementTree.parse(pytester.path / "new/directory/junit.xml").getroot()
    assert root.tag == "testsuites"
    assert [suite.get("name") for suite in root] == ["shard-1", "shard-2"], run.show()
    cases = list(root.iter("testcase"))
    assert len(cases) == 6
    assert {case.get("file") for case in cases} == {f"{name}.py" for name in MIXED}
    assert all(case.get("line") for case in cases)
    assert all(suite.get("timestamp") and suite.get("hostname") for suite in root)


def test_a_value_that_cannot_be_sent_is_recorded_as_its_text(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        class Thing:
            def __repr__(self):
                return "a thing"

        def test_records(record_property):
            record_property("thing", Thing())
        """
    )

    run = run_pytest(pytester.path, "--shards=2", "-o", "junit_family=xunit1")

    assert told(run, "thing") == {f"{pytester.path.name[:-1]}.py::test_records": "a thing"}
    assert run.counts == {"passed": 1}, run.show()
    assert run.exitcode == 0, run.show()


def test_a_log_file_has_the_records_of_all_shards(pytester: pytest.Pytester) -> None:
    for name in ("one", "two"):
        pytester.makepyfile(
            **{f"test_{name}": f"import logging\n\ndef test_logs(): logging.warning('from {name}')"}
        )

    run = run_pytest(pytester.path, "--shards=2", "--log-file=run.log")

    log = (pytester.path / "run.log").read_text()
    assert "from one" in log, run.show()
    assert "from two" in log, run.show()


def test_collect_only_lists_the_tests_and_runs_none(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(WRITING)

    run = run_pytest(pytester.path, "--shards=2", "--collect-only")

    assert run.exitcode == 0, run.show()
    assert "test_writes" in run.stdout
    assert not (pytester.path / "ran").exists()


def test_built_in_plugins_can_be_switched_off(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(**MIXED)
    pytester.makeini(SLOW_MARK)
    names = (
        "cacheprovider",
        "warnings",
        "logging",
        "doctest",
        "faulthandler",
        "unraisableexception",
    )

    run = run_pytest(
        pytester.path, "--shards=2", *(word for name in names for word in ("-p", f"no:{name}"))
    )

    assert run.exitcode == 1, run.show()
    assert run.counts == {"passed": 4, "failed": 2}
    assert not (pytester.path / ".pytest_cache").exists()


def test_a_run_without_a_terminal_reporter_still_writes_its_files(
    pytester: pytest.Pytester,
) -> None:
    pytester.makepyfile(**MIXED)
    pytester.makeini(SLOW_MARK)

    run = run_pytest(pytester.path, "--shards=2", "-p", "no:terminal")

    assert run.exitcode == 1, run.show()
    assert "Traceback" not in run.stdout + run.stderr
    assert run.junit is not None
    assert len(run.junit.cases) == 6


def test_all_installed_plugins_together_report_the_same(tmp_path: Path) -> None:
    for place in ("one", "two"):
        directory = tmp_path / place / "suite"
        directory.mkdir(parents=True)
        (directory / "test_one.py").write_text(
            "import pytest\n\n"
            "def test_passes(): pass\n"
            "@pytest.mark.parametrize('n', range(5))\n"
            "def test_fails_sometimes(n): assert n % 2, 'even'\n"
        )

    plain = run_pytest(tmp_path / "one/suite", env=AUTOLOAD)
    sharded = run_pytest(tmp_path / "two/suite", "--shards=2", env=AUTOLOAD)

    assert differences(plain, sharded) == [], sharded.show()
    assert sharded.counts == {"passed": 3, "failed": 3}


@needs("pytest_cov")
def test_coverage_is_the_same_as_without_shards(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        library="""
        def first(): return 1

        def second(): return 2

        def third(): return 3
        """,
        test_one="import library\n\ndef test_first(): assert library.first()",
        test_two="import library\n\ndef test_second(): assert library.second()",
    )
    arguments = ("-p", "pytest_cov", "--cov=library", "--cov-report=term-missing")

    plain = run_pytest(pytester.path, *arguments)
    sharded = run_pytest(pytester.path, "--shards=2", *arguments)

    def line(run: Run) -> list[str]:
        return [
            line for line in run.stdout.splitlines() if line.startswith(("library.py", "TOTAL"))
        ]

    assert line(plain)
    assert line(sharded) == line(plain), sharded.show()


def test_shards_can_be_asked_for_in_the_environment(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(**MIXED)
    pytester.makeini(SLOW_MARK)

    run = run_pytest(pytester.path, env={"PYTEST_ADDOPTS": "--shards 2 -k 'passes or fails'"})

    assert run.junit is not None
    assert run.junit.suite_names == ("shard-1", "shard-2"), run.show()
    assert run.counts == {"passed": 3, "failed": 2, "deselected": 1}


@pytest.mark.parametrize("line", ["addopts = --shards=2", "shards = 2"])
def test_shards_can_be_asked_for_in_the_configuration(pytester: pytest.Pytester, line: str) -> None:
    pytester.makepyfile(**MIXED)
    pytester.makeini(SLOW_MARK + f"    {line}\n")

    run = run_pytest(pytester.path)

    assert run.junit is not None
    assert run.junit.suite_names == ("shard-1", "shard-2"), run.show()
    assert run.counts == {"passed": 4, "failed": 2}


def test_the_command_line_wins_over_the_configuration(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(**MIXED)
    pytester.makefile(".ini", other=SLOW_MARK + "    shards = 3\n")

    run = run_pytest(pytester.path, "-c", "other.ini", "--shards=2", "-o", "junit_family=xunit1")

    assert run.junit is not None
    assert run.junit.suite_names == ("shard-1", "shard-2"), run.show()


def test_without_shards_nothing_is_different(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(**MIXED)
    pytester.makeini(SLOW_MARK)

    run = run_pytest(pytester.path)

    # The directory may lie in that of a shard.
    output = run.stdout.replace(str(pytester.path), "")
    assert not re.search(r"\bshards?\b", output), run.show()
    assert run.junit is not None
    assert run.junit.suite_names == ("pytest",)


def test_a_program_that_runs_pytest_has_its_garbage_collected_afterwards(
    pytester: pytest.Pytester,
) -> None:
    pytester.makepyfile(
        test_one="def test_passes(): pass",
        program="""
        import gc, weakref
        import pytest

        class Node: pass

        node = Node()
        node.itself = node
        dead = weakref.ref(node)
        pytest.main(["--shards=1"])
        del node
        gc.collect()
        print("collected:", dead() is None)
        """,
    )

    result = pytester.run(sys.executable, "program.py")

    result.stdout.fnmatch_lines(["* 1 passed in *", "collected: True"])


@pytest.mark.parametrize("start", ["auto", "spawn"])
def test_a_debugger_is_refused_with_a_sentence(pytester: pytest.Pytester, start: str) -> None:
    pytester.makepyfile(
        """
        import pdb, pytest

        def test_breakpoint():
            breakpoint()
            print("not reached")

        def test_pdb():
            pdb.set_trace()
            print("not reached")

        def test_pytest():
            pytest.set_trace()
            print("not reached")
        """
    )

    run = run_pytest(pytester.path, "--shards=1", f"--shard-start={start}")

    assert run.counts == {"failed": 3}, run.show()
    assert run.stdout.count("E       RuntimeError: a debugger needs a terminal") == 3


def test_a_pytest_in_a_test_has_its_debugger(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import sys
        import pytest

        pytest_plugins = ["pytester"]

        class Debugger:
            def __init__(self, *args, **keywords): pass
            def set_trace(self, frame): print("asked at line", frame.f_lineno)
            do_debug = do_continue = do_quit = None

        def test_breakpoint(pytester, monkeypatch):
            monkeypatch.setattr(sys, "Debugger", Debugger, raising=False)
            pytester.makepyfile("def test_it():\\n    breakpoint()")
            result = pytester.runpytest_inprocess("-s", "--pdbcls=sys:Debugger")
            result.stdout.fnmatch_lines(["asked at line 2"])

        def test_afterwards():
            with pytest.raises(RuntimeError, match="needs a terminal"):
                breakpoint()
        """
    )

    run = run_pytest(pytester.path, "--shards=1")

    assert run.counts == {"passed": 2}, run.show()


def test_python_has_nothing_to_complain_of_at_its_end(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(
        """
        import atexit, warnings

        # As in development mode, but past the end of pytest's own filters.
        atexit.register(warnings.simplefilter, "always", ResourceWarning)
        """
    )
    pytester.makepyfile("def test_passes(): pass")

    run = run_pytest(pytester.path, "--shards=1", "--shard-start=spawn")

    assert run.counts == {"passed": 1}
    assert "Warning" not in run.stdout + run.stderr, run.show()


def test_the_run_can_be_started_in_a_subdirectory(pytester: pytest.Pytester) -> None:
    pytester.makeini(SLOW_MARK)
    directory = pytester.mkdir("below")
    (directory / "test_below.py").write_text("def test_passes(tmp_path): assert 0")
    pytester.makepyfile(**MIXED)

    run = run_pytest(directory, "--shards=2", "..", "--rootdir=..")

    assert "below/test_below.py::test_passes" in run.outcomes, run.show()
    assert "test_first.py::test_passes" in run.outcomes
    assert "FAILED test_below.py::test_passes" in run.stdout


def test_the_working_directory_can_be_imported_from_just_when_pytest_can(
    pytester: pytest.Pytester,
) -> None:
    pytester.makepyfile(
        library="VALUE = 1", **{"tests/test_library": "import library\n\ndef test_uses(): pass"}
    )
    script = pytester.mkdir("bin") / "pytest_script.py"
    script.write_text("import sys\nimport pytest\n\nsys.exit(pytest.console_main())\n")

    as_module = run_pytest(pytester.path, "--shards=2", "tests")
    as_script = run_pytest(
        pytester.path, "--shards=2", "tests", program=(sys.executable, str(script))
    )

    assert as_module.exitcode == 0, as_module.show()
    assert as_script.exitcode == 2, as_script.show()
    assert "No module named 'library'" in as_script.stdout


def test_interpreter_options_reach_the_shards(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import sys

        def test_sees_them():
            assert sys.flags.dev_mode
            assert sys._xoptions["suite"] == "value"
            assert "ignore::ImportWarning" in sys.warnoptions
        """
    )
    options = ("-X", "dev", "-X", "suite=value", "-W", "ignore::ImportWarning")

    run = run_pytest(
        pytester.path, "--shards=2", program=(sys.executable, *options, "-m", "pytest")
    )

    assert run.exitcode == 0, run.show()


def test_plugins_written_for_xdist_find_what_they_look_for(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import os

        def test_sees_a_worker(worker_id, testrun_uid, request):
            assert worker_id == os.environ["PYTEST_XDIST_WORKER"]
            assert worker_id.startswith("gw")
            assert testrun_uid == os.environ["PYTEST_XDIST_TESTRUNUID"]
            assert os.environ["PYTEST_XDIST_WORKER_COUNT"] == "2"
            assert request.config.workerinput["workerid"] == worker_id

        def test_sees_one_too(worker_id):
            assert worker_id != "master"
        """
    )

    run = run_pytest(pytester.path, "--shards=2")

    assert run.counts == {"passed": 2}, run.show()


@pytest.mark.parametrize("arguments", [[], ["--basetemp=temporary"]])
def test_every_test_has_a_temporary_directory_of_its_own(
    pytester: pytest.Pytester, arguments: list[str]
) -> None:
    source = """
        import pytest

        @pytest.mark.parametrize("number", range(10))
        def test_has_the_same_name(number, tmp_path, tmp_path_factory, record_property):
            assert list(tmp_path.iterdir()) == []
            (tmp_path / "file").touch()
            record_property("path", tmp_path)
            record_property("other", tmp_path_factory.mktemp("other"))
    """
    pytester.makepyfile(test_one=source, test_two=source, test_three=source)

    run = run_pytest(pytester.path, "--shards=3", *arguments)

    paths = [*told(run, "path").values(), *told(run, "other").values()]
    assert run.exitcode == 0, run.show()
    assert len(set(paths)) == 60
    assert all(Path(path).exists() for path in paths)
    if arguments:
        assert all(Path(path).is_relative_to(pytester.path / "temporary") for path in paths)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--shards=2", "--pdb"], ["--pdb", "--shards"]),
        (["--shards=2", "--trace"], ["--trace", "--shards"]),
        (["--shards=many"], ["--shards=many", "auto"]),
        (["--shards=-1"], ["--shards=-1"]),
        (["--shards=1.5"], ["--shards=1.5"]),
        (["--shards=2", "--shard-jobs=0"], ["--shard-jobs=0"]),
        (["--shards=2", "--shard-split=nonsense"], ["nonsense", "duration", "count", "hash"]),
        (["--shards=2", "--shard-executor=nonsense"], ["nonsense", "subprocess"]),
        (["--shards=2", "--shard-scope=nonsense"], ["nonsense", "module", "package"]),
        (["--shards=2", "--shard-timeout=soon"], ["--shard-timeout=soon", "90s"]),
        (["--shards=2", "--shard-run-timeout=-5"], ["--shard-run-timeout=-5"]),
        (["--shards=2", "--shard-grace=long"], ["--shard-grace=long"]),
        (["--shards=2", "--shard-restarts=-1"], ["--shard-restarts=-1"]),
        (["--shard-replay=nonsense"], ["--shard-replay"]),
        (["--shard-replay=last:1"], ["--shard-replay"]),
        (["--shards=2", "-p", "xdist", "-n", "2"], ["-n 2", "--shards"]),
    ],
    ids=lambda value: " ".join(value),
)
def test_what_cannot_be_is_refused_with_a_sentence_before_anything_runs(
    pytester: pytest.Pytester, arguments: list[str], words: list[str]
) -> None:
    if "xdist" in arguments:
        pytest.importorskip("xdist")
    pytester.makepyfile(WRITING)

    run = run_pytest(pytester.path, *arguments)

    assert run.exitcode == 4, run.show()
    assert "Traceback" not in run.stderr
    for word in words:
        assert word in run.stderr, run.show()
    assert not (pytester.path / "ran").exists()


@needs("xdist")
def test_xdist_may_be_installed_and_switched_off(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(**MIXED)
    pytester.makeini(SLOW_MARK)

    run = run_pytest(pytester.path, "-p", "xdist", "-n", "0", "--shards=2")

    assert run.counts == {"passed": 4, "failed": 2}, run.show()


def test_every_option_is_in_the_help_under_one_heading(pytester: pytest.Pytester) -> None:
    run = run_pytest(pytester.path, "--help")

    heading = re.search(
        r"^\S.*shard.*:\n((?:[ \n].*\n?)+)", run.stdout, re.MULTILINE | re.IGNORECASE
    )
    assert heading is not None
    for option in (
        *("--shards", "--shard-jobs", "--shard-executor", "--shard-split", "--shard-scope"),
        *("--shard-timeout", "--shard-run-timeout", "--shard-grace", "--shard-restarts"),
        *("--shard-plan", "--shard-replay"),
    ):
        assert re.search(rf"^  {option}\b", heading[1], re.MULTILINE), option


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("--fixtures", "tmp_path"),
        ("--markers", "@pytest.mark.shard_group"),
        ("--version", "pytest"),
    ],
)
def test_options_that_only_list_something_still_do(
    pytester: pytest.Pytester, option: str, words: str
) -> None:
    pytester.makepyfile(WRITING)

    run = run_pytest(pytester.path, "--shards=2", option)

    assert run.exitcode == 0, run.show()
    assert words in run.stdout
    assert not (pytester.path / "ran").exists()


def test_automatic_shards_are_never_more_than_tests(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_passes(): pass")

    run = run_pytest(pytester.path, "--shards=auto")

    assert run.counts == {"passed": 1}, run.show()
    assert run.junit is not None
    assert run.junit.suite_names == ("shard-1",)


def test_one_shard_keeps_a_crash_away_from_the_report(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import os

        def test_passes(): pass
        def test_leaves(): os._exit(0)
        def test_passes_too(): pass
        """
    )

    run = run_pytest(pytester.path, "--shards=1")

    outcomes = {nodeid.split("::")[1]: outcome for nodeid, outcome in run.outcomes.items()}
    assert run.exitcode == 1, run.show()
    assert outcomes["test_passes"] == outcomes["test_passes_too"] == "passed"
    assert outcomes["test_leaves"] in ("failed", "error")


def test_more_shards_than_tests_are_no_error(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_one(): pass\ndef test_two(): assert 0")

    run = run_pytest(pytester.path, "--shards=6")

    assert run.exitcode == 1, run.show()
    assert run.counts == {"passed": 1, "failed": 1}
    assert run.junit is not None
    assert junit_inconsistencies(run.junit) == []


@pytest.mark.parametrize("scope", ["module", "class", "package", "group"])
def test_a_scope_keeps_its_tests_in_one_process(pytester: pytest.Pytester, scope: str) -> None:
    pytester.makeconftest(TELLING)
    source = """
        import pytest

        class TestOne:
            @pytest.mark.parametrize("number", range(3))
            def test_one(self, number): pass

        class TestTwo:
            @pytest.mark.parametrize("number", range(3))
            def test_two(self, number): pass

        @pytest.mark.shard_group("free")
        @pytest.mark.parametrize("number", range(3))
        def test_in_a_group(number): pass
    """
    files = {f"{package}/test_{name}": source for package in "ab" for name in ("one", "two")}
    pytester.makepyfile(**{"a/__init__": "", "b/__init__": ""}, **files)

    run = run_pytest(pytester.path, "--shards=3", f"--shard-scope={scope}")

    processes: dict[str, set[str]] = {}
    for nodeid, process in told(run, "process").items():
        path, *names = nodeid.split("::")
        if "test_in_a_group" in nodeid:
            key = "the group"
        elif scope == "package":
            key = path.split("/")[0]
        elif scope == "module":
            key = path
        elif scope == "class":
            key = f"{path}::{names[0]}"
        else:
            continue
        processes.setdefault(key, set()).add(process)
    assert len(run.outcomes) == 36, run.show()
    assert {key: len(found) for key, found in processes.items()} == dict.fromkeys(processes, 1)


@pytest.mark.parametrize("mark", ["shard_group", "xdist_group"])
def test_a_group_stays_in_one_process(pytester: pytest.Pytester, mark: str) -> None:
    pytester.makeconftest(TELLING)
    source = f"""
        import pytest

        @pytest.mark.{mark}("database")
        @pytest.mark.parametrize("number", range(3))
        def test_in_the_group(number): pass

        @pytest.mark.{mark}(name="network")
        def test_in_another_group(): pass

        @pytest.mark.parametrize("number", range(3))
        def test_is_free(number): pass
    """
    pytester.makepyfile(test_one=source, test_two=source, test_three=source)

    run = run_pytest(pytester.path, "--shards=3", "--strict-markers")

    processes = told(run, "process")
    assert run.exitcode == 0, run.show()
    for name in ("test_in_the_group", "test_in_another_group"):
        assert len({process for nodeid, process in processes.items() if name in nodeid}) == 1
    assert len(set(processes.values())) > 1


def test_a_serial_test_runs_alone_after_the_others(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(TELLING)
    source = """
        import time

        import pytest

        @pytest.mark.shard_serial
        def test_is_serial(): time.sleep(0.1)

        @pytest.mark.parametrize("number", range(3))
        def test_is_free(number): time.sleep(0.05)
    """
    pytester.makepyfile(test_one=source, test_two=source, test_three=source)

    run = run_pytest(pytester.path, "--shards=3")

    begin = {nodeid: float(value) for nodeid, value in told(run, "begin").items()}
    end = {nodeid: float(value) for nodeid, value in told(run, "end").items()}
    serial = sorted((nodeid for nodeid in begin if "is_serial" in nodeid), key=begin.__getitem__)
    free = [nodeid for nodeid in begin if nodeid not in serial]
    assert run.counts == {"passed": 12}, run.show()
    assert max(end[nodeid] for nodeid in free) <= begin[serial[0]]
    assert all(end[one] <= begin[other] for one, other in itertools.pairwise(serial))


def test_the_plan_is_shown_and_nothing_runs(pytester: pytest.Pytester) -> None:
    for name in ("one", "two"):
        pytester.makepyfile(**{f"test_{name}": WRITING})

    run = run_pytest(pytester.path, "--shards=2", "--shard-plan")

    assert run.exitcode == 0, run.show()
    for words in ("shard 1", "shard 2", "test_one.py", "test_two.py"):
        assert words in run.stdout, run.show()
    assert not (pytester.path / "ran").exists()


@pytest.mark.parametrize("split", ["duration", "count", "hash"])
def test_a_splitter_gives_every_test_to_one_shard(pytester: pytest.Pytester, split: str) -> None:
    pytester.makepyfile(
        "import pytest\n\n@pytest.mark.parametrize('n', range(12))\ndef test_passes(n): pass"
    )

    run = run_pytest(
        pytester.path,
        "--shards=2",
        f"--shard-split={split}",
        "--shard-scope=test",
        "--shard-steal=no",
    )

    shards = shards_of(run)
    assert run.counts == {"passed": 12}, run.show()
    assert sum(len(names) for names in shards.values()) == 12
    assert len([names for names in shards.values() if names]) == 2


def test_a_failing_run_tells_how_to_repeat_the_shard_that_failed(
    pytester: pytest.Pytester,
) -> None:
    pytester.makeconftest(TELLING)
    pytester.makepyfile(**MIXED)
    pytester.makeini(SLOW_MARK)

    run = run_pytest(pytester.path, "--shards=2", "--shard-steal=no")
    printed = re.search(r"pytest (--shard-replay[ =]\S+:(\d+))", run.stdout)
    assert printed is not None, run.show()
    replay = run_pytest(pytester.path, *printed[1].split())
    last = run_pytest(pytester.path, f"--shard-replay=last:{printed[2]}")

    process = told(run, "process")
    shard = shards_of(run)[f"shard-{printed[2]}"]
    assert Counter(nodeid.split("::")[-1] for nodeid in started(replay)) == Counter(shard)
    in_that_shard = {process[nodeid] for nodeid in started(replay)}
    assert len(in_that_shard) == 1, replay.show()
    # The replay keeps the order in which the shard ran its tests.
    assert started(replay) == [n for n in started(run) if process[n] in in_that_shard]
    assert all(outcome == run.outcomes[nodeid] for nodeid, outcome in replay.outcomes.items())
    assert replay.exitcode == 1
    assert len(set(told(replay, "process").values())) == 1
    assert started(last) == started(replay), last.show()


def test_a_run_that_passes_tells_nothing_of_repeating(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_passes(): pass")

    run = run_pytest(pytester.path, "--shards=2")

    assert run.exitcode == 0
    assert "--shard-replay" not in run.stdout, run.show()
    assert run.stderr == ""


@needs("pytest_rerunfailures")
def test_a_crash_is_told_beside_pytest_rerunfailures(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        test_it="""
        import os

        def test_crashes(): os.abort()

        def test_passes(): pass
        """
    )

    run = run_pytest(pytester.path, "-p", "pytest_rerunfailures", "--shards=1", "--reruns=2")

    assert run.exitcode == 1, run.show()
    # In which phase is not known: that plugin reports all of them when the test is over.
    assert run.outcomes["test_it.py::test_crashes"] in ("failed", "error")
    assert run.outcomes["test_it.py::test_passes"] == "passed"
    assert "crashed with SIGABRT" in run.stdout
