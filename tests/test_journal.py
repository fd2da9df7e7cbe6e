from __future__ import annotations

import json
import re
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, get_args

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pytest_shardrun import notices
from pytest_shardrun.model import (
    Attempt,
    Ending,
    EndingKind,
    HaltWhy,
    Item,
    Plan,
    ShardPlan,
    Status,
    Unit,
)
from pytest_shardrun.records import replace
from pytest_shardrun.reporting.journal import (
    KEPT_RUNS,
    Journal,
    JournalError,
    Share,
    read_share,
)

DOCUMENT: Final = Path(__file__).parents[1] / "docs" / "journal.md"

FIRST: Final = Attempt(1, 1)
SECOND: Final = Attempt(2, 3)
CRASHED: Final = Ending(EndingKind.CRASHED, "crashed with SIGSEGV")
ITEMS: Final = tuple(Item(nodeid, ("test_a.py", 0, nodeid)) for nodeid in ("a", "ä\udc80", "c"))
PLAN: Final = Plan(
    (
        ShardPlan(1, (Unit((1,), 1.23456), Unit((0,), 1.0))),
        ShardPlan(2, ()),
    ),
    (2,),
    "0f",
    measured=True,
)
DONE: Final = notices.TestDone(FIRST, 0, ITEMS[0], Status.PASSED, 0.123456, ())
BLAMED: Final = notices.TestDone(
    SECOND,
    1,
    ITEMS[1],
    Status.FAILED,
    1.0,
    (),
    blame=notices.Blame(CRASHED, "call", "the stack"),
)
FLAKY: Final = replace(DONE, number=2, earlier=(replace(DONE, status=Status.FAILED),))

#: What a run tells, and what is written about it.
TOLD: Final[list[tuple[notices.Notice, dict[str, Any] | None]]] = [
    (
        notices.AttemptReady(FIRST, {"pid": 7}),
        {"event": "ready", "shard": 1, "attempt": 1, "info": {"pid": 7}},
    ),
    (
        notices.Planned(ITEMS, PLAN, ["x"], ["a line"]),
        {
            "event": "planned",
            "digest": "0f",
            "nodeids": ["a", "ä\udc80", "c"],
            "shards": [[1, 0], []],
            "serial": [2],
            "expected_seconds": [2.2346, 0],
        },
    ),
    (
        notices.AttemptCollected(SECOND, ["a", "c"]),
        {"event": "collected", "shard": 2, "attempt": 3, "tests": 2},
    ),
    (
        notices.FoundLater(SECOND, ITEMS[:1]),
        {"event": "found later", "shard": 2, "attempt": 3, "nodeids": ["a"]},
    ),
    (
        notices.TestStarted(FIRST, 2),
        {"event": "started", "shard": 1, "attempt": 1, "position": 2},
    ),
    (
        DONE,
        {
            "event": "finished",
            "shard": 1,
            "attempt": 1,
            "position": 0,
            "nodeid": "a",
            "status": "passed",
            "seconds": 0.1235,
        },
    ),
    (
        BLAMED,
        {
            "event": "finished",
            "shard": 2,
            "attempt": 3,
            "position": 1,
            "nodeid": "ä\udc80",
            "status": "failed",
            "seconds": 1.0,
            "ending": "crashed",
            "reason": "crashed with SIGSEGV",
            "phase": "call",
        },
    ),
    (
        notices.TestTried(BLAMED),
        {
            "event": "tried",
            "shard": 2,
            "attempt": 3,
            "position": 1,
            "nodeid": "ä\udc80",
            "status": "failed",
            "seconds": 1.0,
            "ending": "crashed",
            "reason": "crashed with SIGSEGV",
            "phase": "call",
            "try": 1,
            "message": "crashed with SIGSEGV (call)",
        },
    ),
    (
        FLAKY,
        {
            "event": "finished",
            "shard": 1,
            "attempt": 1,
            "position": 0,
            "nodeid": "a",
            "status": "passed",
            "seconds": 0.1235,
            "try": 2,
            "flaky": True,
        },
    ),
    (
        notices.TestSlow(FIRST, 0, ITEMS[0], 30.00001, "call", 60.0),
        {
            "event": "slow",
            "shard": 1,
            "attempt": 1,
            "position": 0,
            "nodeid": "a",
            "seconds": 30.0,
            "phase": "call",
        },
    ),
    (
        notices.NoOtherTry("too much has failed"),
        {"event": "no other try", "text": "too much has failed"},
    ),
    (
        notices.Halted(HaltWhy.DONE, "stopping after 3 tests"),
        {"event": "halted", "why": "done", "reason": "stopping after 3 tests"},
    ),
    (
        notices.AttemptEnded(SECOND, CRASHED, None, 3.5),
        {
            "event": "ended",
            "shard": 2,
            "attempt": 3,
            "ending": "crashed",
            "reason": "crashed with SIGSEGV",
            "seconds": 3.5,
        },
    ),
    (
        notices.TestNotRun(2, ITEMS[2], 0, "no shard had it", asked=False),
        {
            "event": "not run",
            "shard": 0,
            "position": 2,
            "nodeid": "c",
            "reason": "no shard had it",
        },
    ),
    (
        notices.TestNotRun(2, ITEMS[2], 1, "stopped in its call: enough", asked=True, phase="call"),
        {
            "event": "not run",
            "shard": 1,
            "position": 2,
            "nodeid": "c",
            "reason": "stopped in its call: enough",
            "phase": "call",
        },
    ),
    (
        notices.Leaked(FIRST, 4321, "sleep 600", "a"),
        {
            "event": "leak",
            "shard": 1,
            "attempt": 1,
            "pid": 4321,
            "command": "sleep 600",
            "nodeid": "a",
        },
    ),
    (
        notices.Problem(1, "shard 1 crashed", "output"),
        {"event": "problem", "shard": 1, "text": "shard 1 crashed"},
    ),
    (
        notices.CollectionFailed(3, 1),
        {"event": "collection failed", "tests": 3, "errors": 1},
    ),
    (
        notices.StopAskedByTest("exit", "enough", 7),
        {"event": "stop asked", "kind": "exit", "reason": "enough"},
    ),
    # Nothing that one would look for later.
    (notices.CollectReported(FIRST, {}), None),
    (notices.CollectionRefused(["no such file"]), None),
    (notices.SeenOutsideTests(FIRST, None), None),  # type: ignore[arg-type]
    (notices.Remark("a value became its text"), None),
]


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    journal = Journal(tmp_path / "runs", "20260314-150926-5a3f")
    yield journal
    journal.close()


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="ascii").splitlines()]


# The file


def test_there_is_an_example_of_everything_a_run_tells() -> None:
    assert {type(notice) for notice, _ in TOLD} == set(get_args(notices.Notice))


@pytest.mark.parametrize(("notice", "expected"), TOLD, ids=lambda value: type(value).__name__)
def test_what_a_run_tells_is_one_line_or_none(
    notice: notices.Notice, expected: dict[str, Any] | None, journal: Journal
) -> None:
    before = time.time()
    journal.note(notice)
    journal.close()

    lines = lines_of(journal.path)

    if expected is None:
        assert lines == []
        return
    (line,) = lines
    assert before - 0.001 <= line.pop("time") <= time.time() + 0.001
    assert line == expected


def test_a_plan_without_durations_expects_nothing(journal: Journal) -> None:
    plan = Plan((ShardPlan(1, (Unit((0,), 1.0),)),), (), "0f", measured=False)

    journal.note(notices.Planned(ITEMS, plan, [], []))
    journal.close()

    assert lines_of(journal.path)[0]["expected_seconds"] is None


def test_the_file_has_the_name_of_the_run_and_nobody_else_s(journal: Journal) -> None:
    assert journal.path.name == "20260314-150926-5a3f.jsonl"

    with pytest.raises(FileExistsError):
        Journal(journal.path.parent, "20260314-150926-5a3f")


def test_a_journal_may_be_closed_twice(journal: Journal) -> None:
    journal.note(DONE)
    journal.close()
    journal.close()

    assert len(lines_of(journal.path)) == 1


def test_only_the_newest_runs_are_kept(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    names = [f"202603{day:02}-120000-0000" for day in range(1, 31)]
    for name in names:
        Journal(tmp_path, name).close()

    kept = sorted(path.stem for path in tmp_path.glob("*.jsonl"))

    assert KEPT_RUNS == 20
    assert kept == names[-20:]
    assert (tmp_path / "notes.txt").exists()


# Reading it again


def write(path: Path, *lines: object) -> None:
    text = "".join(line if isinstance(line, str) else f"{json.dumps(line)}\n" for line in lines)
    path.write_text(text, encoding="utf-8")


def started(shard: int, position: int) -> dict[str, object]:
    return {"event": "started", "shard": shard, "attempt": 1, "position": position}


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Three runs, the last of which was killed while it wrote."""
    for name, nodeids in (
        ("20260101-120000-aaaa", ["old"]),
        ("20260314-120000-bbbb", ["a", "b", "c"]),
        ("20260314-120000-cccc", ["x"]),
    ):
        write(
            tmp_path / f"{name}.jsonl",
            {"event": "run", "format": 1},
            {"event": "planned", "nodeids": nodeids},
            started(1, 0),
        )
    with (tmp_path / "20260314-120000-bbbb.jsonl").open("a") as file:
        lines: list[object] = [
            started(2, 2),
            {"event": "found later", "nodeids": ["d"]},
            started(2, 3),
            # Begun again, after its process was ended on request.
            started(2, 2),
            started(1, 1),
            ["no object"],
        ]
        file.writelines(f"{json.dumps(line)}\n" for line in lines)
        file.write('{"event": "started", "shard": 1, "posi')
    return tmp_path


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("20260314-120000-bbbb:1", Share("20260314-120000-bbbb", 1, ("a", "b"))),
        ("20260314-120000-bbbb:2", Share("20260314-120000-bbbb", 2, ("c", "d"))),
        ("20260314-120000-b:2", Share("20260314-120000-bbbb", 2, ("c", "d"))),
        ("202601:1", Share("20260101-120000-aaaa", 1, ("old",))),
        ("last:1", Share("20260314-120000-cccc", 1, ("x",))),
    ],
)
def test_a_share_is_what_a_shard_began_in_its_order(name: str, expected: Share, runs: Path) -> None:
    assert read_share(runs, name) == expected


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("last", "last names no shard of a run: give RUN:SHARD, like last:2"),
        ("last:", "last: names no shard of a run: give RUN:SHARD, like last:2"),
        (":1", ":1 names no shard of a run: give RUN:SHARD, like last:2"),
        ("last:two", "last:two names no shard of a run: give RUN:SHARD, like last:2"),
        ("last:-1", "last:-1 names no shard of a run: give RUN:SHARD, like last:2"),
        (
            "2025:1",
            "run 2025 is not among the remembered runs (newest: 20260101-120000-aaaa, "
            "20260314-120000-bbbb, 20260314-120000-cccc)",
        ),
        (
            "20260314:1",
            "run 20260314 is not the only one of the remembered runs (newest: "
            "20260101-120000-aaaa, 20260314-120000-bbbb, 20260314-120000-cccc)",
        ),
        (
            "20260314-120000-bbbb:3",
            "run 20260314-120000-bbbb has no shard 3 that ran tests: choose 1, 2",
        ),
        ("last:0", "run 20260314-120000-cccc has no shard 0 that ran tests: choose 1"),
    ],
)
def test_what_cannot_be_read_is_said_with_what_can(name: str, text: str, runs: Path) -> None:
    with pytest.raises(JournalError) as caught:
        read_share(runs, name)
    assert str(caught.value) == text


def test_where_there_are_no_runs_nothing_can_be_read(tmp_path: Path) -> None:
    with pytest.raises(JournalError, match=r"is not among the remembered runs \(newest: none\)"):
        read_share(tmp_path / "missing", "last:1")


def test_a_run_without_tests_has_no_shares(tmp_path: Path) -> None:
    write(tmp_path / "1.jsonl", {"event": "run"}, {"event": "planned", "nodeids": ["a"]})

    with pytest.raises(JournalError, match="run 1 ran no tests"):
        read_share(tmp_path, "last:1")


@pytest.mark.parametrize("number", ["²", "①", "1" * 5000])
def test_what_only_looks_like_a_number_names_no_shard(number: str, runs: Path) -> None:
    with pytest.raises(JournalError):
        read_share(runs, f"last:{number}")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.integers(0, 10_000))
def test_a_file_that_was_cut_anywhere_can_be_read(runs: Path, cut: int) -> None:
    whole = (runs / "20260314-120000-bbbb.jsonl").read_bytes()
    directory = runs / "cut"
    directory.mkdir(exist_ok=True)
    (directory / "1.jsonl").write_bytes(whole[: cut % (len(whole) + 1)])

    try:
        share = read_share(directory, "last:1")
    except JournalError:
        return
    assert share.nodeids in (("a",), ("a", "b"))


# What is documented


def documented_events() -> dict[str, set[str]]:
    rows = re.findall(r"^\| `([^`]+)` \| ([^|]+) \| (.*) \|$", DOCUMENT.read_text(), re.MULTILINE)
    return {event: set(re.findall(r"`([^`]+)`", fields)) for event, _, fields in rows}


def documented_fields() -> set[str]:
    _, _, section = DOCUMENT.read_text().partition("| field | what it says |")
    rows = re.findall(r"^\| (`[^|]+`) \|", section, re.MULTILINE)
    return {field for row in rows for field in re.findall(r"`([^`]+)`", row)}


def without_common(line: dict[str, Any]) -> set[str]:
    return line.keys() - {"event", "time"}


CRASHING: Final = """
    import os, pytest

    @pytest.mark.parametrize("number", range(3))
    def test_it(number):
        if number == 1:
            os._exit(3)
"""


def test_every_event_of_a_real_run_is_documented_with_all_its_fields(
    pytester: pytest.Pytester,
) -> None:
    pytester.makepyfile(CRASHING)
    result = pytester.runpytest_subprocess("--shards=1", "-q")
    assert result.ret == 1

    (path,) = pytester.path.glob(".pytest_cache/d/shardrun/runs/*.jsonl")
    lines = lines_of(path)

    first = lines[0]
    assert first["event"] == "run"
    assert first["run"] == path.stem
    assert first["arguments"][-2:] == ["--shards=1", "-q"]
    assert Counter(line["event"] for line in lines) == {
        "run": 1,
        "ready": 2,
        "planned": 1,
        "collected": 2,
        "started": 3,
        "finished": 3,
        "ended": 2,
    }
    times = [line["time"] for line in lines]
    assert times == sorted(times)
    documented = documented_events()
    optional = {"try", "flaky"}
    of_a_blamed_test = {"ending", "reason", "phase"}
    for line in lines:
        fields = without_common(line)
        if line["event"] == "finished":
            fields |= optional
        if line["event"] == "finished" and line["status"] == "passed":
            fields |= of_a_blamed_test
        assert fields == documented[line["event"]]
    info = next(line["info"] for line in lines if line["event"] == "ready")
    (row,) = re.findall(r"^\| `info` \| (.*) \|$", DOCUMENT.read_text(), re.MULTILINE)
    assert set(re.findall(r"`([^`]+)`", row)) == set(info)


def test_exactly_what_is_written_is_documented() -> None:
    written: dict[str, set[str]] = {}
    for _, line in TOLD:
        if line is not None:
            written.setdefault(line["event"], set()).update(without_common(line))

    documented = documented_events()
    of_the_run = documented.pop("run")
    assert documented == written
    assert documented_fields() == of_the_run.union(*written.values()) | {"nodeids"}


@pytest.mark.parametrize(
    ("field", "values"),
    [("status", Status), ("ending", EndingKind)],
    ids=["status", "ending"],
)
def test_all_values_are_documented(field: str, values: Any) -> None:
    (row,) = re.findall(rf"^\| `{field}` \| (.*) \|$", DOCUMENT.read_text(), re.MULTILINE)

    assert set(re.findall(r"`([^`]+)`", row)) == {each.value for each in values}


def test_the_example_in_the_documentation_reads_a_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = tmp_path / ".pytest_cache" / "d" / "shardrun" / "runs"
    journal = Journal(runs, "1")
    journal.note(DONE)
    journal.note(notices.TestDone(SECOND, 1, ITEMS[2], Status.PASSED, 12.34, ()))
    journal.close()
    monkeypatch.chdir(tmp_path)
    (program,) = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)

    exec(program, {})

    assert capsys.readouterr().out == "shard 2: 12.3 s c\n"


# Replaying a shard

SUITE: Final = {
    "test_a": """
        def test_1(): pass
        def test_2(): assert False
    """,
    "test_b": """
        def test_3(): pass
        def test_4(): pass
    """,
}


def test_the_printed_line_repeats_just_that_shard(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(**SUITE)
    arguments = ["--shards=2", "--shard-steal=no", "-rf", "--junitxml=report.xml"]
    result = pytester.runpytest_subprocess(*arguments)
    report = pytester.path.joinpath("report.xml").read_bytes()
    (line,) = [each for each in result.outlines if each.startswith("to repeat shard")]
    found = re.fullmatch(r"to repeat shard (\d) \(1 failed\): .*pytest (--shard-replay.*)", line)
    assert found is not None

    again = pytester.runpytest_subprocess(*found[2].split(), "-v")

    assert again.ret == 1
    ran = re.findall(r"^(test_\w+\.py::\w+) (\w+)", again.stdout.str(), re.MULTILINE)
    assert ran == [("test_a.py::test_1", "PASSED"), ("test_a.py::test_2", "FAILED")]
    again.assert_outcomes(passed=1, failed=1, deselected=2)
    assert pytester.path.joinpath("report.xml").read_bytes() == report


@pytest.fixture
def remembered(pytester: pytest.Pytester) -> pytest.Pytester:
    """A suite, and a run of it in the cache."""
    pytester.makepyfile(**SUITE)
    runs = pytester.path / ".pytest_cache" / "d" / "shardrun" / "runs"
    runs.mkdir(parents=True)
    write(
        runs / "20260314-120000-bbbb.jsonl",
        {"event": "planned", "nodeids": ["test_a.py::test_1", "test_b.py::test_3"]},
        started(1, 1),
        started(1, 0),
    )
    return pytester


def test_a_replay_keeps_the_order_of_the_shard(remembered: pytest.Pytester) -> None:
    result = remembered.runpytest_subprocess("--shard-replay=last:1", "-v")

    assert result.ret == 0
    ran = re.findall(r"^(test_\w+\.py::\w+) PASSED", result.stdout.str(), re.MULTILINE)
    assert ran == ["test_b.py::test_3", "test_a.py::test_1"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            "--shard-replay=last:2",
            "ERROR: --shard-replay=last:2: run 20260314-120000-bbbb has no shard 2 that ran "
            "tests: choose 1",
        ),
        (
            "--shard-replay=last:1 test_b.py",
            "ERROR: --shard-replay=last:1: test_a.py::test_1 is not collected any more (1 of 2 "
            "tests are missing): give the arguments of that run",
        ),
        (
            "--shard-replay=last:1 -p no:cacheprovider",
            "ERROR: --shard-replay=last:1 reads pytest's cache: leave out -p no:cacheprovider",
        ),
    ],
)
def test_a_replay_that_is_impossible_is_refused(
    arguments: str, sentence: str, remembered: pytest.Pytester
) -> None:
    result = remembered.runpytest_subprocess(*arguments.split())

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert sentence in result.errlines + result.outlines


def test_a_replay_of_a_test_that_was_collected_twice_needs_it_twice(
    pytester: pytest.Pytester,
) -> None:
    pytester.makepyfile(test_a="def test_1(): pass")
    assert (
        pytester.runpytest_subprocess(
            "--shards=1", "--keep-duplicates", "test_a.py", "test_a.py"
        ).ret
        == 0
    )

    result = pytester.runpytest_subprocess("--shard-replay=last:1", "test_a.py")

    assert result.ret == pytest.ExitCode.USAGE_ERROR


def test_without_a_cache_there_is_no_journal(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_1(): pass")

    result = pytester.runpytest_subprocess("--shards=1", "-p", "no:cacheprovider")

    result.assert_outcomes(passed=1)
    assert not list(pytester.path.rglob("*.jsonl"))
