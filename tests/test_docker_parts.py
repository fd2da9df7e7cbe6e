"""The parts of the executor of containers that need no daemon."""

from __future__ import annotations

import io
import json
import os
import py_compile
import socket
import subprocess
import sys
import tarfile
from itertools import count
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_shardrun.executors import docker_sweep
from pytest_shardrun.executors.docker_agent import HEADER, LONGEST
from pytest_shardrun.executors.docker_frames import BrokenFrames, Frame, FrameReader, write_frames
from pytest_shardrun.executors.docker_home import Homecoming, Wanted
from pytest_shardrun.executors.docker_images import pull_progress
from pytest_shardrun.executors.docker_project import (
    Project,
    ProjectError,
    find_entries,
    find_roots,
    library_archive,
    travelling_path,
    write_archive,
)


def in_docker(stream: int, content: bytes) -> bytes:
    return bytes([stream, 0, 0, 0]) + len(content).to_bytes(4, "big") + content


@given(
    st.lists(st.tuples(st.sampled_from([b"o", b"e", b"x"]), st.binary(max_size=300))),
    st.integers(1, 50),
    st.integers(1, 80),
)
def test_frames_survive_being_cut_anywhere(
    messages: list[tuple[bytes, bytes]], inner: int, outer: int
) -> None:
    written = b"".join(b"".join(write_frames(kind, content, 7)) for kind, content in messages)
    wrapped = b"".join(
        in_docker(1, written[at : at + inner]) for at in range(0, len(written), inner)
    )
    reader = FrameReader()

    read = [
        frame
        for at in range(0, len(wrapped), outer)
        for frame in reader.feed(wrapped[at : at + outer])
    ]

    assert read == [Frame(kind, 7, content) for kind, content in messages]


def test_a_long_content_becomes_several_frames_of_bounded_length() -> None:
    frames = list(write_frames(b"I", bytes(LONGEST + 1)))

    assert [len(each) - HEADER.size for each in frames] == [LONGEST, 1]


def test_what_is_written_to_stderr_is_a_complaint_and_no_frame() -> None:
    reader = FrameReader()

    assert reader.feed(in_docker(2, b"Traceback")) == []
    assert reader.complaints == b"Traceback"


@pytest.mark.parametrize(
    "data", [in_docker(9, b"x"), in_docker(1, b"o\0\0\0\1\xff\xff\xff\xff" + bytes(20))]
)
def test_what_is_no_frame_is_refused(data: bytes) -> None:
    with pytest.raises(BrokenFrames):
        FrameReader().feed(data)


# Who owns what


def test_what_a_living_process_owns_is_never_left_over() -> None:
    label = str(docker_sweep.this_process())

    assert not docker_sweep.is_left_over(label, runs=False, created=0.0, now=1e9)


def test_what_a_dead_process_of_this_machine_owns_is_left_over_at_once() -> None:
    boot, namespace, pid, started = str(docker_sweep.this_process()).split(" ")
    label = " ".join((boot, namespace, pid, f"{started}1"))

    assert docker_sweep.is_left_over(label, runs=True, created=1e9, now=1e9)


@pytest.mark.parametrize(
    ("runs", "age", "left_over"), [(True, 1e6, False), (False, 60.0, False), (False, 1e4, True)]
)
def test_what_another_machine_owns_is_left_over_when_it_is_dead_and_old(
    runs: bool, age: float, left_over: bool
) -> None:
    label = "another-boot pid:[1] 7 99"

    found = docker_sweep.is_left_over(label, runs=runs, created=1e9 - age, now=1e9)

    assert found == left_over


def test_what_has_somebody_else_s_label_is_not_ours() -> None:
    assert not docker_sweep.is_left_over("", runs=False, created=0.0, now=1e9)


# Files on their way home


def send(homecoming: Homecoming, purpose: str, path: str, content: bytes = b"content") -> None:
    head = {"purpose": purpose, "path": path, "mode": 0o644}
    homecoming.begin(json.dumps(head).encode("ascii"))
    homecoming.add(content)
    homecoming.add(b"")


def test_a_shard_cannot_choose_where_its_files_go(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    root.mkdir()
    outside.mkdir()
    (root / "link").symlink_to(outside)
    (root / "filelink").symlink_to(outside / "target")
    remarks: list[str] = []
    wanted = Wanted(
        files=(f"{tmp_path}/log",),
        roots=(str(root),),
        write_back=("*",),
        collect=("*",),
        collected=tmp_path / "collected",
        start=root,
    )
    homecoming = Homecoming(wanted, remarks.append)

    for purpose, path in (
        ("file", f"{tmp_path}/other"),
        ("back", f"{root}/../outside/a"),
        ("back", f"{root}/link/a"),
        ("back", f"{root}/filelink"),
        ("back", f"{root}/.git/hooks/post-commit"),
        ("back", "/etc/passwd"),
        ("collect", f"{root}/../../a"),
        ("strange", f"{root}/a"),
    ):
        send(homecoming, purpose, path)
    send(homecoming, "back", f"{root}/snapshots/a")
    send(homecoming, "collect", f"{root}/shots/b")
    send(homecoming, "collect", "/elsewhere/c")
    send(homecoming, "file", f"{tmp_path}/log")

    assert len(remarks) == 8
    files = {str(each.relative_to(tmp_path)) for each in tmp_path.rglob("*") if each.is_file()}
    assert files == {
        "root/snapshots/a",
        "collected/shots/b",
        "collected/elsewhere/c",
        "log",
    }


def test_half_a_file_is_no_file(tmp_path: Path) -> None:
    homecoming = Homecoming(Wanted(files=(f"{tmp_path}/log",)), lambda text: None)

    homecoming.begin(json.dumps({"purpose": "file", "path": f"{tmp_path}/log", "mode": 1}).encode())
    homecoming.add(b"half")
    homecoming.abandon()

    assert os.listdir(tmp_path) == []


# Projects


@pytest.mark.parametrize("path", ["/", "/usr", "/tmp", "/usr/local"])
def test_a_project_cannot_lie_where_the_image_has_its_own_files(path: str) -> None:
    with pytest.raises(ProjectError, match="has a directory of its own there"):
        find_roots([Path(path)])


def test_roots_do_not_lie_in_one_another_and_the_first_comes_first() -> None:
    found = find_roots([Path("/a/b"), Path("/c"), Path("/a"), Path("/c/d"), Path("/e")])

    assert found == (Path("/a"), Path("/c"), Path("/e"))


def test_of_the_path_only_what_lies_in_the_project_travels(tmp_path: Path) -> None:
    sys_path = ["", str(tmp_path / "src"), "/usr/lib/python3", str(tmp_path / "v/site-packages")]

    assert travelling_path(sys_path, tmp_path, [tmp_path]) == ["", str(tmp_path / "src")]


def test_links_and_modes_are_copied_and_environments_are_not(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/script").write_text("x")
    (tmp_path / "a/script").chmod(0o750)
    (tmp_path / "link").symlink_to("a/script")
    (tmp_path / "venv/lib").mkdir(parents=True)
    (tmp_path / "venv/pyvenv.cfg").write_text("")
    os.mkfifo(tmp_path / "pipe")
    project = Project(
        roots=(tmp_path,), wanted=(), cache=None, sys_path=(), start=tmp_path, basetemp=None
    )
    target = io.BytesIO()

    with socket.socket(socket.AF_UNIX) as server:
        # Archives cannot have it, and a path for it is not long.
        server.bind(os.path.relpath(tmp_path / "s"))
        write_archive(target, find_entries(project, lambda path: False), (7, 8))

    target.seek(0)
    with tarfile.open(fileobj=target) as archive:
        members = {f"/{each.name}": each for each in archive}
    assert set(members) == {str(tmp_path / name) for name in ("a", "a/script", "link")}
    assert members[f"{tmp_path}/link"].linkname == "a/script"
    script = members[f"{tmp_path}/a/script"]
    assert (script.mode, script.uid, script.gid) == (0o750, 7, 8)


def test_the_progress_of_a_pull_is_told_now_and_then() -> None:
    clock = count(0.0, 1.0)
    messages = [
        {"status": "Downloading", "id": "a", "progressDetail": {"current": done, "total": 9e6}}
        for done in (1e6, 2e6, 3e6, 4e6)
    ]
    messages.append({"status": "Pull complete", "id": "a"})

    lines = list(pull_progress("python:3", messages, lambda: next(clock)))

    assert lines == ["pulling python:3", "pulling python:3: 3 of 9 MB"]


def test_what_was_compiled_here_is_not_compiled_in_containers(tmp_path: Path) -> None:
    module = tmp_path / "home/package/worker/module.py"
    module.parent.mkdir(parents=True)
    module.write_text("VALUE = 1")
    # The parts of a second that files have are not in archives.
    os.utime(module, ns=(0, 1_700_000_000_900_000_000))
    py_compile.compile(str(module))

    archive = io.BytesIO(library_archive(tmp_path / "home/package", "1"))
    with tarfile.open(fileobj=archive) as opened:
        opened.extractall(tmp_path / "away", filter="data")
    done = subprocess.run(
        [sys.executable, "-B", "-v", "-c", "import package.worker.module"],
        cwd=tmp_path / "away/.shardrun/lib",
        capture_output=True,
        text=True,
        check=True,
    )

    read = [each for each in done.stderr.splitlines() if each.startswith("# code object from")]
    assert any("module.cpython" in each for each in read), done.stderr
