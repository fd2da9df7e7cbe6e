from __future__ import annotations

import re
from collections.abc import Sequence

import pytest

from pytest_shardrun import notices
from pytest_shardrun.model import Attempt, Item, Plan, ShardPlan, Status, Unit
from pytest_shardrun.reporting.figures import Figures, conclusions, table
from pytest_shardrun.reporting.terminal import describe_ledger, describe_plan


def done(shard: int, name: str, seconds: float, status: Status = Status.PASSED) -> notices.TestDone:
    item = Item(name, ("test_a.py", 0, name))
    return notices.TestDone(Attempt(shard, 1), 0, item, status, seconds, ())


def figures(*told: tuple[float, notices.Notice]) -> Figures:
    figures = Figures()
    for now, notice in told:
        figures.note(notice, now)
    return figures


def plan(*counts: int, serial: int = 0, seconds: Sequence[float] = ()) -> Plan:
    shards = tuple(
        ShardPlan(
            number,
            (Unit(tuple(range(count)), seconds[number - 1] if seconds else 1.0),) if count else (),
        )
        for number, count in enumerate(counts, start=1)
    )
    return Plan(shards, tuple(range(serial)), "0123456789abcdef", measured=bool(seconds))


# The plan


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (plan(5), "plan 01234567: 1 shard of 5 tests"),
        (plan(1), "plan 01234567: 1 shard of 1 test"),
        (plan(1, 1), "plan 01234567: 2 shards of 1 test"),
        (plan(4, 4, 4), "plan 01234567: 3 shards of 4 tests"),
        (plan(4, 4, 3), "plan 01234567: 3 shards of 4, 4 and 3 tests"),
        (plan(2, 1), "plan 01234567: 2 shards of 2 and 1 tests"),
        (plan(0, serial=2), "plan 01234567: 1 shard of 0 tests, 2 alone at the end"),
        (
            plan(2, 2, seconds=[1.26, 0.5]),
            "plan 01234567: 2 shards of 2 tests, expected to take 1.3 and 0.5 s",
        ),
        (
            plan(2, 2, seconds=[1.0, 1.0]),
            "plan 01234567: 2 shards of 2 tests, expected to take 1.0 s",
        ),
        (
            plan(*range(3, 12), seconds=[0.1 * count for count in range(9)]),
            "plan 01234567: 9 shards of 3 to 11 tests, expected to take 0.0 to 0.8 s",
        ),
    ],
)
def test_the_plan_is_one_line(given: Plan, text: str) -> None:
    assert describe_plan(given) == text


# The figures


def test_there_is_a_row_for_every_shard_in_its_order() -> None:
    given = figures(
        (0.0, notices.AttemptReady(Attempt(10, 1), {})),
        (0.0, notices.AttemptReady(Attempt(2, 1), {})),
        (1.0, done(2, "a", 1.5)),
        (2.0, done(2, "b", 0.25, Status.FAILED)),
        (2.0, notices.AttemptReady(Attempt(2, 2), {})),
        (3.0, done(2, "c", 0.25, Status.ERROR)),
        (4.0, done(2, "d", 0.0, Status.XFAILED)),
    )

    assert table(given, 4.0) == [
        "shard  tests  failed   busy  of the wall  processes",
        "    2      4       2  2.00s          50%          2",
        "   10      0       0  0.00s           0%          1",
    ]


def test_many_shards_have_a_row_only_where_something_failed_or_took_long() -> None:
    given = figures(
        *((1.0, done(shard, f"{shard}", 0.01 * shard)) for shard in range(1, 101)),
        (2.0, notices.AttemptReady(Attempt(30, 2), {})),
        (2.0, done(40, "failing", 0.0, Status.FAILED)),
    )

    shown = table(given, 10.0, most=4)

    assert [line.split()[0] for line in shown[1:-1]] == ["30", "40", "99", "100"]
    assert shown[-1] == "... and 96 more (-v shows all)"
    assert len(table(given, 10.0)) == 101


def test_a_run_of_no_time_has_a_table_too() -> None:
    assert table(figures((0.0, done(1, "a", 0.0))), 0.0)[1].split() == [
        "1",
        "1",
        "0",
        "0.00s",
        "0%",
        "0",
    ]


def test_the_conclusions_name_the_slowest_test_and_the_bottleneck() -> None:
    given = figures(
        (102.0, done(1, "a", 2.0)),
        (103.0, done(2, "b", 1.0)),
        (110.0, done(2, "test_big.py::test_all", 7.0)),
    )

    assert conclusions(given, 10.0, 100.0) == [
        "speed-up 1.0: 10.00s of tests in 10.00s, shards busy for 50% of it",
        "slowest test: 7.00s test_big.py::test_all",
        "bottleneck: shard 1 waited 8.0s for shard 2, whose longest test took 7.0s "
        "(test_big.py::test_all)",
    ]


@pytest.mark.parametrize("last_end", [110.0, 110.4, 110.9])
def test_shards_that_end_together_have_no_bottleneck(last_end: float) -> None:
    given = figures((110.0, done(1, "a", 5.0)), (last_end, done(2, "b", 5.0)))

    assert not [line for line in conclusions(given, 10.0, 100.0) if "bottleneck" in line]


def test_a_single_shard_waits_for_nobody() -> None:
    given = figures((110.0, done(1, "a", 5.0)))

    assert not [line for line in conclusions(given, 10.0, 100.0) if "bottleneck" in line]


def test_without_tests_there_is_nothing_to_conclude() -> None:
    given = figures((0.0, notices.AttemptReady(Attempt(1, 1), {})))

    assert conclusions(given, 10.0, 0.0) == []
    assert conclusions(figures((0.0, done(1, "a", 0.0))), 0.0, 0.0) == []


def test_the_ledger_s_line_is_a_sum() -> None:
    statuses = {Status.NOT_RUN: 2, Status.PASSED: 3, Status.XFAILED: 1, Status.SKIPPED: 0}

    text = "ledger: 6 collected = 3 passed + 1 xfailed + 2 not run"
    assert describe_ledger(6, statuses) == text
    assert describe_ledger(0, {}) == "ledger: 0 collected = 0"


def test_every_test_is_counted_once() -> None:
    item = Item("b", ("test_a.py", 0, "b"))
    given = figures(
        (1.0, done(1, "a", 0.1)),
        # A test that no plugin reported is told twice: it is done, and it did not run.
        (1.0, done(1, "b", 0.1, Status.NOT_RUN)),
        (1.0, notices.TestNotRun(1, item, 1, "its plugins reported nothing", asked=False)),
        (1.0, notices.TestNotRun(2, item, 0, "no shard had it", asked=False)),
    )

    assert given.statuses == {Status.PASSED: 1, Status.NOT_RUN: 2}


# What a user sees

SUITE = """
    import pytest

    def test_1(): pass
    def test_2(): assert False
    @pytest.mark.skip
    def test_3(): pass
    @pytest.mark.xfail
    def test_4(): assert False
"""


def sums_of(result: pytest.RunResult) -> str:
    (line,) = [line for line in result.outlines if line.startswith("ledger: ")]
    return line


def test_a_run_ends_with_its_table_its_sum_and_how_to_repeat_what_failed(
    pytester: pytest.Pytester,
) -> None:
    pytester.makepyfile(SUITE)

    result = pytester.runpytest_subprocess("--shards=1", "-k", "test")

    assert result.ret == 1
    assert result.errlines == []
    run_id = re.search(r"^shards: 1 .*, run (\S+)$", result.stdout.str(), re.MULTILINE)
    assert run_id is not None
    result.stdout.fnmatch_lines(
        [
            "collected 4 items",
            "plan ????????: 1 shard of 4 tests",
            "=* shards =*",
            "shard  tests  failed *busy  of the wall  processes",
            "    1      4       1 *          1",
            "speed-up *: *s of tests in *s, shards busy for *% of it",
            "slowest test: *s test_*.py::test_?",
            "ledger: 4 collected = 1 passed + 1 failed + 1 skipped + 1 xfailed",
            f"to repeat shard 1 (1 failed): * -m pytest --shard-replay {run_id[1]}:1 *-k test",
            "=* 1 failed, 1 passed, 1 skipped, 1 xfailed in *s =*",
        ]
    )


def test_a_quiet_run_has_no_table_but_says_how_to_repeat_what_failed(
    pytester: pytest.Pytester,
) -> None:
    pytester.makepyfile(SUITE)

    result = pytester.runpytest_subprocess("--shards=1", "-q")

    result.stdout.no_fnmatch_line("plan *")
    result.stdout.no_fnmatch_line("*of the wall*")
    result.stdout.no_fnmatch_line("ledger: *")
    result.stdout.fnmatch_lines(
        ["to repeat shard 1 (1 failed): python* -m pytest --shard-replay *:1 *-q"]
    )


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_what_pytest_refuses_is_said_once_and_by_no_shard(
    start: str, pytester: pytest.Pytester
) -> None:
    pytester.makepyfile(test_a="def test_1(): pass")

    result = pytester.runpytest_subprocess("--shards=2", "--shard-start", start, "test_b.py")

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert [line for line in result.errlines if line] == [
        "ERROR: file or directory not found: test_b.py"
    ]
    result.stdout.no_fnmatch_line("*shard 1]*")


def test_what_pytest_refuses_between_the_tests_ends_the_run_as_it_does_without_shards(
    pytester: pytest.Pytester,
) -> None:
    pytester.makeconftest(
        """
        import pytest

        def pytest_runtest_logstart(nodeid):
            if "test_2" in nodeid:
                raise pytest.UsageError("the settings do not fit")
        """
    )
    pytester.makepyfile("def test_1(): pass\ndef test_2(): pass\ndef test_3(): pass")

    plain = pytester.runpytest_subprocess("-p", "no:shardrun")
    result = pytester.runpytest_subprocess("--shards=1")

    assert result.ret == plain.ret == pytest.ExitCode.USAGE_ERROR
    assert "ERROR: the settings do not fit" in plain.errlines
    assert "ERROR: the settings do not fit" in result.errlines
    result.stdout.fnmatch_lines(["ledger: 3 collected = 1 passed + 2 not run"])


def test_the_end_of_a_process_has_a_line_of_its_own(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import os

        def test_1(): pass
        def test_2(): os._exit(3)
        """
    )

    result = pytester.runpytest_subprocess("--shards=1")

    assert "[shard 1] crashed with exit code 3" in result.outlines, result.outlines


def test_verbose_lines_carry_their_shard(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_a="def test_1(): pass", test_b="def test_2(): pass")

    result = pytester.runpytest_subprocess("--shards=2", "--shard-steal=no", "-v")

    lines = [line for line in result.outlines if "PASSED" in line]
    assert len(lines) == 2
    assert any("shard 1]" in line and "test_a.py::test_1" in line for line in lines), lines
    assert any("shard 2]" in line and "test_b.py::test_2" in line for line in lines), lines


@pytest.mark.parametrize(("verbosity", "lines"), [("-q", 21), ("-v", 22)])
def test_the_lines_to_repeat_are_in_order_and_not_too_many(
    verbosity: str, lines: int, pytester: pytest.Pytester
) -> None:
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.parametrize("number", range(22))
        def test_it(number):
            assert False
        """
    )

    result = pytester.runpytest_subprocess(
        "--shards=22", "--shard-start=fork", "--shard-steal=no", "--tb=no", verbosity
    )

    first = next(n for n, line in enumerate(result.outlines) if line.startswith("to repeat"))
    told = result.outlines[first : first + lines]
    numbers = [int(line.split()[3]) for line in told if line.startswith("to repeat")]
    assert numbers == list(range(1, 1 + len(numbers)))
    assert ("... and 2 more (-v shows all)" in told) == (verbosity == "-q")


MANY_LEFT = """
    import os, pytest

    @pytest.mark.parametrize("number", range(54))
    def test_it(number):
        os._exit(3)
"""


@pytest.mark.parametrize(("verbose", "named"), [("-q", 50), ("-vv", 53)])
def test_tests_that_did_not_run_are_named_with_their_reason(
    verbose: str, named: int, pytester: pytest.Pytester
) -> None:
    pytester.makepyfile(MANY_LEFT)

    result = pytester.runpytest_subprocess("--shards=1", "--shard-restarts=0", verbose)

    assert result.ret == 1
    lines = [line for line in result.outlines if "NOT RUN test_" in line]
    assert len(lines) == named
    reason = " - shard 1 crashed with exit code 3, and --shard-restarts allows no more"
    assert all(line.endswith(reason) for line in lines)
    more = [line for line in result.outlines if line.startswith("... and ")]
    assert more == (["... and 3 more (-v names all)"] if named == 50 else [])
    result.stdout.fnmatch_lines(["*53 not run*"])


def test_the_sum_is_right_where_a_shard_collects_more_than_the_plan_has(
    pytester: pytest.Pytester,
) -> None:
    pytester.makepyfile(
        test_a="def test_1(): pass",
        test_b="""
            import os, pytest

            @pytest.mark.parametrize("number", range(int(os.environ["SHARDRUN_SHARD"])))
            def test_2(number): pass
        """,
    )

    arguments = ("--shards=2", "--shard-jobs=1", "--shard-steal=no", "--shard-scope=module")
    result = pytester.runpytest_subprocess(*arguments)

    result.assert_outcomes(passed=3, warnings=1)
    assert sums_of(result) == "ledger: 3 collected = 3 passed"


def test_what_no_plugin_reported_is_counted_once(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(
        """
        def pytest_runtest_protocol(item):
            return True if item.name == "test_1" else None
        """
    )
    pytester.makepyfile("def test_1(): pass\ndef test_2(): pass")

    result = pytester.runpytest_subprocess("--shards=1")

    assert result.ret == 1
    assert sums_of(result) == "ledger: 2 collected = 1 passed + 1 not run"
