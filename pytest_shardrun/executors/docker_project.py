"""What of a project a container needs."""

from __future__ import annotations

import importlib.util
import io
import os
import stat
import sys
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Final, final

from ..records import record

#: Never copied: they are made anew, or belong to this machine.
_SKIPPED: Final = frozenset(
    {
        ".git",
        ".hg",
        ".svn",
        "__pycache__",
        ".tox",
        ".nox",
        ".mypy_cache",
        ".ruff_cache",
        ".hypothesis",
        ".eggs",
        "node_modules",
    }
)
#: Where an image keeps its own files: nothing can be put in their place.
_OF_THE_IMAGE: Final = frozenset(
    f"/{name}".rstrip("/")
    for name in (
        "",
        "bin",
        "boot",
        "dev",
        "etc",
        "lib",
        "lib32",
        "lib64",
        "opt",
        "proc",
        "run",
        "sbin",
        "sys",
        "tmp",
        "usr",
        "usr/bin",
        "usr/lib",
        "usr/local",
        "usr/local/bin",
        "usr/local/lib",
        "usr/sbin",
        "usr/share",
        "var",
    )
)
#: Where the worker's own code is in a container.
LIBRARY: Final = "/.shardrun/lib"

#: Whether a path below the root, relative to it, is left out.
Ignore = Callable[[str], bool]


class ProjectError(Exception):
    """The project cannot be put into a container; the text says why."""


@final
@record
class Project:
    """What the tests of a run need, as places on this machine and in every container."""

    #: Directories that do not lie in one another; the first is pytest's rootdir or holds it.
    roots: tuple[Path, ...]
    #: Copied whatever a .dockerignore says: pytest is told to look there.
    wanted: tuple[Path, ...]
    #: pytest's cache, without what the plugin itself keeps there.
    cache: Path | None
    #: What was on sys.path and lies in the roots.
    sys_path: tuple[str, ...]
    #: Where pytest was started.
    start: Path
    #: Where ``--basetemp`` asks for the temporary directories of tests.
    basetemp: Path | None

    @property
    def root(self) -> Path:
        return self.roots[0]

    def holds(self, path: str | Path) -> bool:
        """Whether a path lies in what is copied."""
        return any(_is_below(Path(path), root) for root in self.roots)


@final
@record
class Entry:
    """One file, link or directory to copy."""

    path: Path
    status: os.stat_result


def find_roots(candidates: Sequence[Path]) -> tuple[Path, ...]:
    """The directories without those that lie in another, the first one's first.

    ``ProjectError`` where one cannot be in a container.
    """
    roots: list[Path] = []
    for path in candidates:
        if str(path).rstrip("/") in _OF_THE_IMAGE:
            raise ProjectError(
                f"{path} cannot be put into a container, which has a directory of its own there: "
                "start pytest in the project's directory"
            )
        if not any(_is_below(path, root) for root in roots):
            roots = [*(root for root in roots if not _is_below(root, path)), path]
    roots.sort(key=lambda root: not _is_below(candidates[0], root))
    return tuple(roots)


def find_entries(project: Project, ignore: Ignore) -> list[Entry]:
    """Everything to copy, directories before what is in them."""
    entries: list[Entry] = []
    for root in project.roots:
        entries += _walk(root, project, ignore if root == project.root else _ignore_nothing)
    if project.cache is not None and project.holds(project.cache) and project.cache.is_dir():
        known = {entry.path for entry in entries}
        parents = [each for each in reversed(project.cache.parents) if project.holds(each)]
        for path in parents:
            if path not in known and path not in project.roots:
                entries.append(Entry(path, path.lstat()))
        entries.append(Entry(project.cache, project.cache.lstat()))
        entries += _walk(project.cache, project, _is_own_cache)
    return entries


def _walk(root: Path, project: Project, ignore: Ignore) -> Iterator[Entry]:
    wanted = [str(path) for path in project.wanted]

    def is_wanted(path: str) -> bool:
        return any(
            path == each or path.startswith(f"{each}/") or each.startswith(f"{path}/")
            for each in wanted
        )

    waiting = [str(root)]
    while waiting:
        directory = waiting.pop()
        try:
            with os.scandir(directory) as found:
                inner = sorted(found, key=lambda each: each.name)
        except PermissionError:
            # Who is not allowed to read it here needs it there no more than here.
            continue
        for entry in inner:
            path = entry.path
            is_directory = entry.is_dir(follow_symlinks=False)
            if is_directory and _is_skipped(entry, project):
                continue
            if ignore(os.path.relpath(path, root)) and not is_wanted(path):
                continue
            try:
                status = entry.stat(follow_symlinks=False)
            except OSError:
                continue
            yield Entry(Path(path), status)
            if is_directory:
                waiting.append(path)


def _is_skipped(entry: os.DirEntry[str], project: Project) -> bool:
    return (
        entry.name in _SKIPPED
        or (project.cache is not None and entry.path == str(project.cache))
        or os.path.exists(os.path.join(entry.path, "pyvenv.cfg"))
        or os.path.exists(os.path.join(entry.path, "conda-meta"))
    )


def _is_own_cache(path: str) -> bool:
    return path == os.path.join("d", "shardrun")


def _ignore_nothing(path: str) -> bool:
    return False


def write_archive(target: IO[bytes], entries: Sequence[Entry], owner: tuple[int, int]) -> None:
    """Write the entries under their absolute paths."""
    with tarfile.open(fileobj=target, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for entry in entries:
            _add(archive, entry, owner)


def _add(archive: tarfile.TarFile, entry: Entry, owner: tuple[int, int]) -> None:
    if stat.S_ISSOCK(entry.status.st_mode):
        # No archive can have it.
        return
    try:
        member = archive.gettarinfo(str(entry.path))
        if not (member.isreg() or member.isdir() or member.issym() or member.islnk()):
            return
        member.uid, member.gid = owner
        member.uname = member.gname = ""
        # Who runs the tests owns the files; what only others might read it could not open.
        member.mode |= stat.S_IRUSR | (stat.S_IWUSR | stat.S_IXUSR if member.isdir() else 0)
        if not member.isreg():
            archive.addfile(member)
            return
        with entry.path.open("rb") as file:
            archive.addfile(member, file)
    except (PermissionError, FileNotFoundError):
        # Gone since, or not for us; plain pytest could not read it either.
        return


def library_archive(package: Path, version: str) -> bytes:
    """This package as an archive, as if it were installed, so that no image needs to have it."""
    info = package.parent / f"{package.name}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: pytest-shardrun\nVersion: {version}\n"
    entry_points = "[pytest11]\nshardrun = pytest_shardrun.plugin\n"
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for path in (*sorted(package.rglob("*.py")), *_compiled_files(package)):
            # Compiled files know their source by its time, in whole seconds.
            _pack(archive, _in_library(path, package), path.read_bytes(), int(path.stat().st_mtime))
        for name, text in (("METADATA", metadata), ("entry_points.txt", entry_points)):
            _pack(archive, _in_library(info / name, package), text.encode("ascii"))
    return target.getvalue()


def _in_library(path: Path, package: Path) -> str:
    return f"{LIBRARY}/{path.relative_to(package.parent).as_posix()}"


def _compiled_files(package: Path) -> Iterator[Path]:
    """What a worker imports of this package, compiled: it would be compiled in each container.

    As far as it is there, and for this Python: another one takes no notice of it.
    """
    for name in ("__init__.py", "hookspecs.py", "plugin.py", "worker/*.py"):
        for path in sorted(package.glob(name)):
            compiled = Path(importlib.util.cache_from_source(str(path)))
            if compiled.parent == path.parent / "__pycache__" and compiled.exists():
                yield compiled


def pack_files(files: Mapping[str, bytes]) -> bytes:
    """An archive of these contents, by absolute path."""
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for path, content in files.items():
            _pack(archive, path, content)
    return target.getvalue()


def _pack(archive: tarfile.TarFile, path: str, content: bytes, time: int = 0) -> None:
    member = tarfile.TarInfo(path.lstrip("/"))
    member.size, member.mtime = len(content), time
    archive.addfile(member, io.BytesIO(content))


def travelling_path(sys_path: Sequence[str], directory: Path, roots: Sequence[Path]) -> list[str]:
    """What of ``sys.path`` lies in the roots and is not of this interpreter's environment."""
    own = [
        Path(prefix, name) for prefix in (sys.prefix, sys.base_prefix) for name in ("lib", "bin")
    ]
    kept = []
    for each in sys_path:
        path = Path(each) if each else directory
        if not path.is_absolute():
            path = directory / path
        foreign = any(_is_below(path, place) for place in own) or "site-packages" in path.parts
        if not foreign and any(_is_below(path, root) for root in roots):
            kept.append(each if each == "" else str(path))
    return kept


def _is_below(path: Path, directory: Path) -> bool:
    return path == directory or directory in path.parents
