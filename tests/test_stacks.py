from __future__ import annotations

from textwrap import dedent

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_shardrun.reporting.stacks import shorten_stacks


def test_frames_of_pytest_are_counted_and_those_of_the_test_are_kept() -> None:
    text = """\
        Fatal Python error: Segmentation fault

        Current thread 0x00007f (most recent call first):
          File "/src/tests/test_a.py", line 7 in crash
          File "/src/tests/test_a.py", line 11 in test_crash
          File "/venv/site-packages/_pytest/python.py", line 166 in pytest_pyfunc_call
          File "/venv/site-packages/pluggy/_callers.py", line 121 in _multicall
          File "/venv/site-packages/pytest_shardrun/worker/session.py", line 9 in _run
          File "/src/conftest.py", line 3 in pytest_runtest_protocol
          File "/venv/site-packages/pytest/__main__.py", line 5 in <module>
          File "/venv/site-packages/pytest_shardrun/starting.py", line 98 in fork_early
          File "/venv/bin/pytest", line 8 in <module>

        Thread 0x00007e (most recent call first):
          File "/usr/lib/python3.11/threading.py", line 324 in wait
          File "<string>", line 12 in <module>
        """

    assert shorten_stacks(dedent(text)) == dedent(
        """\
        Fatal Python error: Segmentation fault

        Current thread 0x00007f (most recent call first):
          File "/src/tests/test_a.py", line 7 in crash
          File "/src/tests/test_a.py", line 11 in test_crash
          (3 frames of pytest, shown with --full-trace)
          File "/src/conftest.py", line 3 in pytest_runtest_protocol
          (3 frames of pytest, shown with --full-trace)

        Thread 0x00007e (most recent call first):
          File "/usr/lib/python3.11/threading.py", line 324 in wait
          (1 frame of pytest, shown with --full-trace)"""
    )


@pytest.mark.parametrize(
    "line",
    [
        '  File "/src/my_pytest/test_a.py", line 7 in test',
        '  File "/src/pytest_shardrun_demo/test_a.py", line 7 in test',
        '  File "/src/pytest/test_a.py", line 7 in test',
        'File "/site-packages/_pytest/python.py", line 7 in a_printed_line',
        "nothing about files",
        "",
    ],
)
def test_what_only_looks_like_pytest_is_kept(line: str) -> None:
    assert shorten_stacks(line) == line


@given(st.text())
def test_text_without_frames_keeps_its_lines(text: str) -> None:
    lines = [line for line in text.splitlines() if not line.startswith('  File "')]

    assert shorten_stacks("\n".join(lines)) == "\n".join("\n".join(lines).splitlines())
