"""Makes a Docker image of the running interpreter and its pytest, without any registry.

It holds the interpreter, its standard library, the shared libraries of both, a shell with a few
tools, and the named distributions with what they need, as they are installed here. The archive is
streamed into `docker import`, so nothing is written to disk.

    python scripts/test_image.py [--tag TAG] [--without-packages] [DISTRIBUTION ...]

Prints the tag, which names all versions; an image that is there is not made again.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import io
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Final

REPOSITORY: Final = "shardrun-test"
#: What the project's own tests want to have in it.
DISTRIBUTIONS: Final = ("pytest", "anyio", "pytest-cov")

_TOOLS: Final = (
    "sh",
    "cat",
    "chmod",
    "cp",
    "env",
    "false",
    "id",
    "ls",
    "mkdir",
    "rm",
    "sleep",
    "true",
)
#: What else decides what is in it.
_CONTENT: Final = "compiled, and what pytest rewrites"
_LOCALE: Final = Path("/usr/lib/locale/C.utf8")
_LEFT_OUT: Final = frozenset(
    {
        "ensurepip",
        "idlelib",
        "lib2to3",
        "site-packages",
        "dist-packages",
        "test",
        "tkinter",
        "turtledemo",
    }
)
_LEFT_OUT_LIBRARIES: Final = re.compile(r"_tkinter|_test|xx(limited|subtype)")
_DIRECTORIES: Final = (
    "dev",
    "etc",
    "home",
    "proc",
    "root",
    "run",
    "sys",
    "usr/local/bin",
    "var/tmp",
)
#: Directories that are links on a system with merged /usr.
_MERGED: Final = ("bin", "lib", "lib64", "sbin")


class Archive:
    """A root file system as a tar."""

    def __init__(self, target: IO[bytes]) -> None:
        self._tar = tarfile.open(  # noqa: SIM115
            fileobj=target, mode="w|", format=tarfile.GNU_FORMAT
        )
        self._names: set[str] = set()
        for name in (*(f"usr/{each}" for each in _MERGED), *_DIRECTORIES):
            self._add_directory(name)
        for name in _MERGED:
            self.add_link(f"/{name}", f"usr/{name}")
        self._add_directory("tmp", 0o1777)
        self._add_text("etc/passwd", "root:x:0:0:root:/root:/bin/sh\n")
        self._add_text("etc/group", "root:x:0:\n")

    def add_file(self, path: Path, place: Path | None = None) -> None:
        """Add a file, at its own place or another, once."""
        name = _merged(str(place or path)).lstrip("/")
        if name in self._names:
            return
        self._add_directory(os.path.dirname(name))
        status = path.stat()
        member = tarfile.TarInfo(name)
        member.mode, member.size, member.mtime = (
            status.st_mode & 0o777 | 0o444,
            status.st_size,
            # Whole seconds: compiled files name them, too.
            int(status.st_mtime),
        )
        with path.open("rb") as file:
            self._tar.addfile(member, file)
        self._names.add(name)

    def add_link(self, name: str, target: str) -> None:
        member = tarfile.TarInfo(_merged(name).lstrip("/") if "/" in name[1:] else name.lstrip("/"))
        if member.name in self._names:
            return
        member.type, member.linkname = tarfile.SYMTYPE, target
        self._tar.addfile(member)
        self._names.add(member.name)

    def close(self) -> None:
        self._tar.close()

    def _add_directory(self, name: str, mode: int = 0o755) -> None:
        parts = name.strip("/").split("/")
        for end in range(1, len(parts) + 1):
            parent = "/".join(parts[:end])
            if parent and parent not in self._names:
                member = tarfile.TarInfo(parent)
                member.type, member.mode = tarfile.DIRTYPE, mode
                self._tar.addfile(member)
                self._names.add(parent)

    def _add_text(self, name: str, text: str) -> None:
        member = tarfile.TarInfo(name)
        member.size = len(text)
        self._tar.addfile(member, io.BytesIO(text.encode("ascii")))
        self._names.add(name)


def write_image(target: IO[bytes], distributions: Sequence[str]) -> None:
    """Write the root file system of an image with this interpreter."""
    _keep_rewritten_plugins()
    archive = Archive(target)
    library = Path(sys.base_prefix, "lib", f"python{_version()}")
    interpreter = Path(getattr(sys, "_base_executable", sys.executable)).resolve()
    tools = {name: Path(found).resolve() for name in _TOOLS if (found := shutil.which(name))}
    modules = list(_standard_library(library))
    packages = _packages_directory(interpreter, library)
    installed = list(_installed_files(distributions))
    binaries = [interpreter, *tools.values(), *modules, *(path for path, _ in installed)]
    for path in sorted(_shared_libraries(binaries)):
        archive.add_file(path)
    for path in (interpreter, *modules):
        archive.add_file(path)
    # Without it Python would take its UTF-8 mode, which tests can see.
    for path in sorted(_LOCALE.rglob("*")):
        if path.is_file():
            archive.add_file(path)
    for name, path in tools.items():
        archive.add_file(path, Path("/usr/bin", name))
    for name in ("python", "python3", f"python{_version()}"):
        archive.add_link(f"/usr/local/bin/{name}", str(interpreter))
    for path, place in installed:
        archive.add_file(path, packages / place)
    archive.close()


def _keep_rewritten_plugins() -> None:
    """Let pytest keep what it rewrites, as where it has run before: no container can."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name != "PYTHONDONTWRITEBYTECODE" and not name.startswith("PYTEST_")
    }
    command = [sys.executable, "-m", "pytest", "--help"]
    subprocess.run(command, cwd="/", env=kept, stdout=subprocess.DEVNULL, check=False)


def _standard_library(directory: Path) -> Iterator[Path]:
    for parent, directories, names in os.walk(directory):
        directories[:] = sorted(
            each for each in directories if each not in _LEFT_OUT and not each.startswith("config-")
        )
        for name in sorted(names):
            if not name.endswith(".a") and not _LEFT_OUT_LIBRARIES.search(name):
                yield Path(parent, name)


def _installed_files(distributions: Sequence[str]) -> Iterator[tuple[Path, Path]]:
    """The files of these distributions and of all that they need, with their places."""
    waiting, seen = list(distributions), set[str]()
    while waiting:
        name = re.split(r"[^\w.-]", waiting.pop())[0]
        key = re.sub(r"[-_.]+", "-", name).lower()
        if key in seen:
            continue
        seen.add(key)
        try:
            found = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            # Needed on other systems or other Pythons only.
            continue
        waiting += [each for each in found.requires or () if "extra ==" not in each]
        for file in found.files or ():
            path = Path(str(file.locate()))
            if ".." not in file.parts and path.is_file():
                yield path, Path(*file.parts)
                # Compiled files are not always in the list, and importing takes four times
                # as long without them.
                if path.suffix == ".py":
                    cached = path.parent / "__pycache__"
                    for compiled in cached.glob(f"{path.stem}.cpython-*.pyc"):
                        place = Path(*file.parts[:-1], "__pycache__", compiled.name)
                        yield compiled, place


def _shared_libraries(binaries: Sequence[Path]) -> set[Path]:
    found: set[Path] = set()
    for path in binaries:
        if path.suffix == ".so" or os.access(path, os.X_OK):
            listed = subprocess.run(
                ["ldd", str(path)], capture_output=True, text=True, check=False
            ).stdout
            found |= {Path(each) for each in re.findall(r"(/\S+) \(0x", listed)}
    return found


def _packages_directory(interpreter: Path, library: Path) -> Path:
    if str(interpreter).startswith("/usr/bin/"):
        # Debian's own Python looks there.
        return Path("/usr/lib/python3/dist-packages")
    return library / "site-packages"


def _merged(path: str) -> str:
    path = os.path.abspath(path)
    return f"/usr{path}" if path.split("/")[1] in _MERGED else path


def _version() -> str:
    return sysconfig.get_python_version()


def main() -> None:
    """Make the image and print its tag."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--tag")
    parser.add_argument("--without-packages", action="store_true")
    parser.add_argument("distributions", nargs="*", default=DISTRIBUTIONS)
    arguments = parser.parse_args()
    distributions = () if arguments.without_packages else tuple(arguments.distributions)
    tag = arguments.tag or f"{REPOSITORY}:{digest(distributions)}"
    if not is_there(tag):
        make_image(tag, distributions)
    sys.stdout.write(f"{tag}\n")


def digest(distributions: Sequence[str]) -> str:
    """A word for what would be in the image."""
    versions = [f"{name} {importlib.metadata.version(name)}" for name in sorted(distributions)]
    text = "\n".join([sys.version, sys.base_prefix, *_TOOLS, str(_LOCALE), _CONTENT, *versions])
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:12]


def is_there(tag: str) -> bool:
    """Whether the daemon has the image."""
    command = ["docker", "image", "inspect", tag]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def make_image(tag: str, distributions: Sequence[str]) -> None:
    """Make the image, whether it is there or not."""
    changes = ["ENV PATH=/usr/local/bin:/usr/bin:/bin", "ENV LANG=C.UTF-8", 'CMD ["python3"]']
    command = ["docker", "import", *(word for each in changes for word in ("-c", each))]
    with subprocess.Popen(
        [*command, "-", tag], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
    ) as importing:
        assert importing.stdin is not None
        with importing.stdin:
            write_image(importing.stdin, distributions)
    if importing.returncode:
        sys.exit(importing.returncode)


if __name__ == "__main__":
    main()
