"""Recorded durations: what is known, what is guessed, and the file that many runs share."""

from __future__ import annotations

import ctypes
import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pytest_shardrun.model import UNKNOWN_SECONDS
from pytest_shardrun.planning import durations
from pytest_shardrun.planning.durations import read_durations, update_durations
from pytest_shardrun.planning.estimates import Durations

#: How long other processes may take before a test gives up on them.
DEADLINE = 60


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "durations.json"


@pytest.fixture
def complaints() -> list[str]:
    return []


def written(path: Path) -> dict[str, float]:
    content = json.loads(path.read_text(encoding="utf-8"))
    assert content["version"] == 1
    seconds = content["durations"]
    assert isinstance(seconds, dict)
    return seconds


@contextmanager
def read_only(directory: Path) -> Iterator[None]:
    directory.chmod(0o500)
    try:
        with bound_by_permissions():
            yield
    finally:
        directory.chmod(0o700)


@contextmanager
def bound_by_permissions() -> Iterator[None]:
    """Take from root what lets it pass over permissions (capabilities(7), capget(2))."""
    if os.geteuid() != 0:
        yield
        return
    libc = ctypes.CDLL(None, use_errno=True)
    # Version 3 of the interface, this thread; twice effective, permitted and inheritable.
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    before = (ctypes.c_uint32 * 6)()
    assert libc.capget(header, before) == 0, os.strerror(ctypes.get_errno())
    without = (ctypes.c_uint32 * 6)(*before)
    # CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH.
    without[0] &= ~0b110
    assert libc.capset(header, without) == 0, os.strerror(ctypes.get_errno())
    try:
        yield
    finally:
        assert libc.capset(header, before) == 0, os.strerror(ctypes.get_errno())


def test_a_known_test_is_expected_to_take_what_it_took() -> None:
    known = Durations({"a.py::x": 2.0, "a.py::y": 4.0, "b.py::x": 0.0})

    assert known.estimate(["b.py::x", "a.py::y"]) == [0.0, 4.0]
    assert (known.known("b.py::x"), known.known("b.py::y")) == (True, False)


def test_an_unknown_test_is_expected_to_take_what_is_usual_in_its_module_or_in_the_suite() -> None:
    known = Durations({"a.py::x": 1.0, "a.py::y": 3.0, "a.py::z": 90.0, "b.py::x": 5.0})

    assert known.estimate(["a.py::new", "b.py::new", "c.py::new"]) == [3.0, 5.0, 4.0]


def test_where_nothing_is_known_all_tests_are_equal() -> None:
    assert Durations().estimate(["a.py::x", "b.py::x"]) == [UNKNOWN_SECONDS] * 2
    assert Durations().estimate([]) == []


@pytest.mark.parametrize("absurd", [math.nan, math.inf, -math.inf, -0.1, 86_400.1, 10**400])
def test_what_cannot_be_a_duration_is_not_known(absurd: float) -> None:
    known = Durations({"a.py::x": absurd, "b.py::x": 86_400.0})

    assert not known.known("a.py::x")
    assert known.known("b.py::x")


def test_durations_come_back_from_the_file(path: Path, complaints: list[str]) -> None:
    measured = {"b.py::é[\udcff\n]": 0.12344, "a.py::x": 2.0}

    update_durations(path, measured, complain=complaints.append)

    assert read_durations(path, complain=complaints.append).seconds == {
        "a.py::x": 2.0,
        "b.py::é[\udcff\n]": 0.1234,
    }
    assert list(written(path)) == sorted(measured)
    assert path.read_text(encoding="ascii").count("\n") == 3
    assert not complaints


def test_a_missing_file_is_no_reason_to_complain(path: Path, complaints: list[str]) -> None:
    assert read_durations(path, complain=complaints.append) == Durations()
    assert not complaints
    assert not list(path.parent.iterdir())


def test_missing_directories_are_made(tmp_path: Path, complaints: list[str]) -> None:
    path = tmp_path / "not" / "there" / "durations.json"

    update_durations(path, {"a.py::x": 1.0}, complain=complaints.append)

    assert written(path) == {"a.py::x": 1.0}
    assert not complaints


@pytest.mark.parametrize(
    ("old", "new", "mixed"),
    [
        (1.0, 3.0, 2.0),
        (4.0, 0.0, 2.0),
        (0.01, 50.0, 25.005),
        # More than a minute and more than twenty times as long as ever.
        (1.0, 3600.0, 30.5),
        (10.0, 3600.0, 105.0),
        (300.0, 3600.0, 1950.0),
    ],
)
def test_a_new_measurement_moves_a_known_duration_half_of_the_way(
    path: Path, complaints: list[str], old: float, new: float, mixed: float
) -> None:
    update_durations(path, {"a.py::x": old}, complain=complaints.append)

    update_durations(path, {"a.py::x": new, "b.py::x": new}, complain=complaints.append)

    assert written(path) == {"a.py::x": mixed, "b.py::x": new}


def test_a_measurement_that_cannot_be_is_not_saved(path: Path, complaints: list[str]) -> None:
    update_durations(path, {"a.py::x": 1.0}, complain=complaints.append)

    update_durations(path, {"a.py::x": math.nan, "b.py::x": -1.0}, complain=complaints.append)

    assert written(path) == {"a.py::x": 1.0}


def test_tests_that_vanished_are_forgotten_only_after_a_run_of_the_whole_suite(
    path: Path, complaints: list[str]
) -> None:
    update_durations(path, {"a.py::x": 1.0, "a.py::gone": 1.0}, complain=complaints.append)

    update_durations(path, {"b.py::x": 1.0}, complain=complaints.append)
    after_a_part = set(written(path))
    update_durations(path, {}, complain=complaints.append, collected=["a.py::x", "b.py::x"])
    after_the_whole = set(written(path))

    assert after_a_part == {"a.py::x", "a.py::gone", "b.py::x"}
    assert after_the_whole == {"a.py::x", "b.py::x"}


def test_the_file_of_pytest_split_is_understood(path: Path, complaints: list[str]) -> None:
    path.write_text('{"a.py::x": 1, "a.py::y": 0.25, "a.py::z": NaN}', encoding="utf-8")

    assert read_durations(path, complain=complaints.append).seconds == {
        "a.py::x": 1,
        "a.py::y": 0.25,
    }
    assert not complaints


CORRUPT = {
    "empty": b"",
    "cut-off": b'{"version": 1, "durations": {"a.py::x": 1.',
    "no-text": b"\xff\xfe\x00",
    "no-object": b"[1, 2]",
    "no-durations": b'{"version": 1}',
    "durations-in-a-list": b'{"version": 1, "durations": [1]}',
    "later-version": b'{"version": 3, "durations": {}}',
    "something-else": b'{"name": "project"}',
    "truth": b'{"a.py::x": true}',
    "too-deep": b"[" * 200_000,
    "too-long-a-number": b'{"a.py::x": 1' + b"0" * 10_000 + b"}",
}


@pytest.mark.parametrize("content", CORRUPT.values(), ids=CORRUPT.keys())
def test_a_corrupt_file_is_moved_aside_and_told_of_once(
    path: Path, complaints: list[str], content: bytes
) -> None:
    path.write_bytes(content)

    assert read_durations(path, complain=complaints.append) == Durations()
    assert read_durations(path, complain=complaints.append) == Durations()

    assert path.with_name("durations.json.corrupt").read_bytes() == content
    assert not path.exists()
    assert len(complaints) == 1
    assert complaints[0].startswith(f"{path} holds no durations (")
    assert complaints[0].endswith("): it was moved to durations.json.corrupt")


def test_new_durations_are_saved_in_place_of_a_corrupt_file(
    path: Path, complaints: list[str]
) -> None:
    path.write_bytes(b"{")

    update_durations(path, {"a.py::x": 1.0}, complain=complaints.append)

    assert written(path) == {"a.py::x": 1.0}
    assert path.with_name("durations.json.corrupt").read_bytes() == b"{"
    assert len(complaints) == 1


def test_a_directory_that_cannot_be_is_complained_of_once(
    tmp_path: Path, complaints: list[str]
) -> None:
    (tmp_path / "file").touch()

    update_durations(
        tmp_path / "file" / "durations.json", {"a.py::x": 1.0}, complain=complaints.append
    )

    assert len(complaints) == 1
    assert complaints[0].startswith("durations are not saved: ")


def test_a_directory_in_place_of_the_file_is_left_alone(path: Path, complaints: list[str]) -> None:
    path.mkdir()

    assert read_durations(path, complain=complaints.append) == Durations()
    update_durations(path, {"a.py::x": 1.0}, complain=complaints.append)

    assert [complaint.partition(":")[0] for complaint in complaints] == [
        "recorded durations are not used",
        "durations are not saved",
    ]
    assert path.is_dir()


def test_a_read_only_directory_is_complained_of_once(path: Path, complaints: list[str]) -> None:
    update_durations(path, {"a.py::x": 1.0}, complain=complaints.append)
    path.with_name("durations.json.lock").unlink(missing_ok=True)
    with read_only(path.parent):
        update_durations(path, {"a.py::x": 3.0}, complain=complaints.append)
        known = read_durations(path, complain=complaints.append)

    assert known.seconds == {"a.py::x": 1.0}
    assert len(complaints) == 1
    assert complaints[0].startswith("durations are not saved: ")


def test_a_corrupt_file_in_a_read_only_directory_is_ignored(
    path: Path, complaints: list[str]
) -> None:
    path.write_bytes(b"{")
    with read_only(path.parent):
        known = read_durations(path, complain=complaints.append)

    assert known == Durations()
    assert len(complaints) == 1
    assert complaints[0].startswith(f"{path} holds no durations and cannot be moved aside: ")


def test_nothing_but_the_durations_and_their_lock_stays_behind(
    path: Path, complaints: list[str]
) -> None:
    update_durations(path, {"a.py::x": 1.0}, complain=complaints.append)

    assert {entry.name for entry in path.parent.iterdir()} <= {path.name, f"{path.name}.lock"}


def test_a_file_that_cannot_be_replaced_is_kept_as_it_was(
    path: Path, complaints: list[str]
) -> None:
    update_durations(path, {"a.py::x": 1.0}, complain=complaints.append)
    path.with_name("durations.json.new").mkdir()

    update_durations(path, {"a.py::x": 3.0}, complain=complaints.append)

    assert written(path) == {"a.py::x": 1.0}
    assert len(complaints) == 1


WRITER = """
import sys
from pathlib import Path
from pytest_shardrun.planning.durations import read_durations, update_durations

path, name = Path(sys.argv[1]), sys.argv[2]
print("ready", flush=True)
sys.stdin.readline()
for number in range(30):
    update_durations(path, {f"{name}.py::test_{number:02}": 1.0, "shared": 1.0}, complain=sys.exit)
    assert read_durations(path, complain=sys.exit).known(f"{name}.py::test_00")
"""


def test_two_runs_that_save_at_the_same_time_lose_nothing(path: Path) -> None:
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path), name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name in ("a", "b")
    ]
    try:
        for writer in writers:
            assert writer.stdout is not None
            assert writer.stdout.readline() == "ready\n"
        for writer in writers:
            assert writer.stdin is not None
            writer.stdin.write("go\n")
            writer.stdin.flush()
        errors = [writer.communicate(timeout=DEADLINE)[1] for writer in writers]
    finally:
        for writer in writers:
            writer.kill()
            writer.wait()

    assert errors == ["", ""]
    expected = {f"{name}.py::test_{number:02}" for name in "ab" for number in range(30)}
    assert set(written(path)) == expected | {"shared"}


HOLDER = """
import sys
from filelock import FileLock

with FileLock(sys.argv[1] + ".lock"):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_lock_that_is_never_released_costs_the_durations_but_not_the_run(
    path: Path, complaints: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(durations, "LOCK_SECONDS", 0.1)
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        update_durations(path, {"a.py::x": 1.0}, complain=complaints.append)
        assert holder.stdin is not None
        holder.stdin.close()

    assert len(complaints) == 1
    assert complaints[0].startswith("durations are not saved: ")
    assert str(path) in complaints[0]
    assert not path.exists()
