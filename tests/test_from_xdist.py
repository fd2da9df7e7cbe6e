"""The page for people who come from pytest-xdist: its commands are run."""

from __future__ import annotations

import importlib.util
import re
import shlex
from pathlib import Path
from typing import Final

import pytest
from comparison import run_pytest

PAGE: Final = (Path(__file__).parents[1] / "docs" / "from-xdist.md").read_text(encoding="utf-8")

#: The rows of the first table: what was typed, and what is typed instead.
COMMANDS: Final = re.findall(r"^\| `pytest (-n .+?)` \| `pytest (--shards .+?)` \|$", PAGE, re.M)

SUITE: Final = {
    "test_one": """
        import pytest

        @pytest.mark.parametrize("number", range(3))
        def test_numbers(number): assert number != 1

        @pytest.mark.xdist_group("together")
        class TestTogether:
            seen = []
            def test_first(self): self.seen.append(1)
            def test_second(self): assert self.seen == [1]
    """,
    "test_two": """
        import pytest

        @pytest.mark.skip(reason="not today")
        def test_is_skipped(): pass

        @pytest.fixture
        def broken(): raise RuntimeError("broken")

        def test_errs(broken): pass
    """,
}
COUNTS: Final = {"passed": 4, "failed": 1, "skipped": 1, "error": 1}


def test_the_page_has_the_options_that_people_use() -> None:
    typed = " ".join(old for old, _ in COMMANDS)

    for option in ("-n auto", "loadscope", "loadfile", "loadgroup", "worksteal", "restart"):
        assert option in typed


@pytest.mark.parametrize("command", sorted({new for _, new in COMMANDS}))
def test_what_is_typed_instead_runs(pytester: pytest.Pytester, command: str) -> None:
    pytester.makepyfile(**SUITE)
    pytester.makeini("[pytest]\nmarkers = xdist_group(name): together")

    run = run_pytest(pytester.path, *shlex.split(command))

    assert run.counts == COUNTS, run.show()
    assert run.exitcode == 1


@pytest.mark.skipif(importlib.util.find_spec("xdist") is None, reason="needs pytest-xdist")
@pytest.mark.parametrize("command", sorted({old for old, _ in COMMANDS}))
def test_what_was_typed_is_understood_by_pytest_xdist(
    pytester: pytest.Pytester, command: str
) -> None:
    # Collecting is enough to know that no option was made up.
    pytester.makepyfile(**SUITE)

    run = run_pytest(pytester.path, "-p", "xdist", "--collect-only", *shlex.split(command))

    assert run.exitcode == 0, run.show()


def test_the_names_on_the_page_exist_in_shards(pytester: pytest.Pytester) -> None:
    fixtures = re.findall(r"^\| fixture `(\w+)`", PAGE, re.MULTILINE)
    variables = set(re.findall(r"`((?:PYTEST_XDIST_WORKER|SHARDRUN_)\w*)`", PAGE))
    pytester.makepyfile(
        f"""
        import os

        def test_variables():
            assert set({sorted(variables)!r}) <= os.environ.keys()

        def test_fixtures({", ".join(fixtures)}, shard): pass
        """
    )

    run = run_pytest(pytester.path, "--shards=2")

    assert len(fixtures) == 2
    assert len(variables) >= 4
    assert run.counts == {"passed": 2}, run.show()
