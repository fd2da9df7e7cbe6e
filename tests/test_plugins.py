"""The table of plugins and what makes it; `python -m tests.plugins` runs the suites themselves."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from plugins.cases import Case, CaseError, read_case, read_cases
from plugins.outputs import READERS, read_output
from plugins.table import MANUAL, Row, contradictions, make_row, read_rows, with_rows

from pytest_shardrun.advice import ADVICE

CASES = read_cases()


def named(case: Case) -> str:
    return case.name


def test_every_suite_has_its_line_in_the_manual_and_every_line_a_suite() -> None:
    rows = read_rows(MANUAL.read_text(encoding="utf-8"))

    assert [row.name for row in rows] == sorted(case.name for case in CASES)


@pytest.mark.parametrize("case", CASES, ids=named)
def test_the_manual_says_of_a_suite_what_is_expected_of_it(case: Case) -> None:
    rows = read_rows(MANUAL.read_text(encoding="utf-8"))

    expected = make_row(case, differs=case.verdict == "differs", versions={})

    assert contradictions(rows, [expected]) == []


@pytest.mark.parametrize("case", CASES, ids=named)
def test_a_suite_has_tests_that_pass_and_tests_that_do_not(case: Case) -> None:
    text = "\n".join(text for _, text in case.files)

    assert "def test_" in text
    assert any(word in text for word in ("assert 0", "broken", "_fails"))
    assert case.runs


def test_plugins_that_the_doctor_advises_on_are_those_that_differ_or_are_known() -> None:
    differing = {case.name for case in CASES if case.verdict != "same"}
    advised = {advice.distribution for advice in ADVICE}

    for name in ("pytest-benchmark", "pytest-bdd", "inline-snapshot", "pytest-rerunfailures"):
        assert name in differing & advised


def test_a_difference_without_a_reason_or_anything_to_do_is_no_suite(tmp_path: Path) -> None:
    for line in ("differs: something", "differs: something => a reason", "unknown: key"):
        path = tmp_path / "case.txtar"
        path.write_text(f"About it\nrequires: pytest\n{line}\n-- test_it.py --\n")

        with pytest.raises(CaseError, match=r"case\.txtar"):
            read_case(path)


def test_the_table_is_written_and_read_again() -> None:
    rows = [Row("a", "1", "same", "All."), Row("b", "2", "differs", "**Do:** it.")]
    manual = with_rows(MANUAL.read_text(encoding="utf-8"), rows)

    assert read_rows(manual) == rows
    assert contradictions(rows, [Row("a", "9", "same", "All.")]) == []
    assert len(contradictions(rows, [Row("b", "2", "same", "All."), Row("c", "", "", "")])) == 2


def unchanged(text: str) -> str:
    return text


@pytest.mark.parametrize(
    ("kind", "one", "same", "other"),
    [
        ("text", "a\nb\n", "b\na\n", "a\nc\n"),
        (
            "json",
            '{"tests": [{"id": "a"}, {"id": "b", "time": 1}]}',
            '{"tests": [{"id": "b", "time": 2}, {"id": "a"}]}',
            '{"tests": [{"id": "a"}]}',
        ),
        (
            "jsonl",
            '{"nodeid": "a", "time": 1}\n{"nodeid": "b"}',
            '{"nodeid": "b"}\n{"nodeid": "a", "time": 2}',
            '{"nodeid": "a"}\n{"nodeid": "a"}\n{"nodeid": "b"}',
        ),
        (
            "xml",
            '<coverage time="1"><class filename="a" hits="1"/></coverage>',
            '<coverage time="2"><class filename="a" hits="1"/></coverage>',
            '<coverage time="1"><class filename="a" hits="0"/></coverage>',
        ),
    ],
)
def test_a_reader_leaves_out_what_is_named_and_nothing_else(
    tmp_path: Path, kind: str, one: str, same: str, other: str
) -> None:
    read = []
    for text in (one, same, other):
        path = tmp_path / "output"
        path.write_text(text)
        read.append(read_output(kind, path, ["time"], unchanged, ""))

    assert read[0] == read[1]
    assert read[0] != read[2]


def test_a_tree_is_compared_file_by_file(tmp_path: Path) -> None:
    for name in ("one/a.txt", "one/left/out.txt", "one/deep/b.txt"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)

    parts = read_output("tree", tmp_path / "one", ["left"], unchanged, "")

    assert parts == {"a.txt": "one/a.txt", "deep/b.txt": "one/deep/b.txt"}


def test_allure_results_are_told_by_name_and_content(tmp_path: Path) -> None:
    (tmp_path / "1-attachment.txt").write_text("content")
    result = {
        "fullName": "test_it",
        "uuid": "1",
        "start": 5,
        "labels": [{"name": "thread", "value": "7"}, {"name": "feature", "value": "x"}],
        "attachments": [{"name": "note", "source": "1-attachment.txt"}],
    }
    (tmp_path / "1-result.json").write_text(json.dumps(result))

    (text,) = read_output("allure", tmp_path, [], unchanged, "").values()

    assert '"content"' in text
    assert '"feature"' in text
    assert not any(word in text for word in ("uuid", "start", "thread"))


def test_every_output_that_a_suite_names_can_be_read() -> None:
    assert {output.kind for case in CASES for output in case.outputs} <= READERS.keys()
