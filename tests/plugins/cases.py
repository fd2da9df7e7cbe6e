"""The suites: one file for each plugin, with what is expected of it."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Final

SUITES: Final = Path(__file__).parent / "suites"


@dataclass(frozen=True, slots=True)
class Difference:
    """A difference that is right, and why."""

    #: A regular expression for what the comparison finds.
    pattern: str
    reason: str
    #: The mode in which alone it is so; empty: in the first, and maybe in others.
    mode: str = ""

    @property
    def told(self) -> str:
        """The reason, for people."""
        return f"with {self.mode}: {self.reason}" if self.mode else self.reason


@dataclass(frozen=True, slots=True)
class Output:
    """Something a plugin writes, to be compared."""

    kind: str
    path: str
    #: Keys that differ from run to run, whatever happens.
    without: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Case:
    """One plugin, a suite that uses it, and how it is run."""

    name: str
    #: What the suite tries, for the table.
    about: str
    requirements: tuple[str, ...]
    #: Names of entry points; no other plugin of the environment is loaded, unless it is ``all``.
    load: tuple[str, ...]
    #: Each is a run to compare.
    runs: tuple[str, ...]
    shard_arguments: tuple[str, ...]
    environment: tuple[tuple[str, str], ...]
    outputs: tuple[Output, ...]
    #: Patterns of what is to stand on both terminals equally often.
    shown: tuple[str, ...]
    #: Compare the second of two runs in the same directory.
    twice: bool
    #: What two runs of plain pytest do not share either, and why.
    volatile: tuple[Difference, ...]
    needs: tuple[str, ...]
    differs: tuple[Difference, ...]
    advice: str
    refused: str
    files: tuple[tuple[str, str], ...]

    @property
    def loads_all(self) -> bool:
        """Whether every plugin of the environment is loaded, as pytest does by itself."""
        return self.load == ("all",)

    @property
    def verdict(self) -> str:
        if self.refused:
            return "refused"
        return "differs" if self.differs else "same"

    def write(self, directory: Path) -> None:
        """Write the suite's files."""
        for name, text in self.files:
            path = directory / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")


class CaseError(Exception):
    """A file of a suite says something that cannot be understood."""


_KEYS: Final = (
    "requires",
    "load",
    "run",
    "shards",
    "env",
    "output",
    "shows",
    "needs",
    "volatile",
    "differs",
    "do",
    "refused",
    "twice",
)


def read_cases() -> list[Case]:
    """All suites, in the order of their names."""
    return [read_case(path) for path in sorted(SUITES.glob("*.txtar"))]


def read_case(path: Path) -> Case:
    """The suite in a file: a head of ``KEY: VALUE`` lines, then files after ``-- path --``."""
    head, *rest = re.split(r"^-- (.+) --\n", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    about, *lines = [line for line in head.splitlines() if line.strip()]
    said: dict[str, list[str]] = {key: [] for key in _KEYS}
    for line in lines:
        key, colon, value = line.partition(":")
        if not colon or key not in said:
            raise CaseError(f"{path.name}: {line!r} has none of the keys {', '.join(_KEYS)}")
        said[key].append(value.strip())
    case = Case(
        name=path.stem,
        about=about,
        requirements=tuple(said["requires"]),
        load=tuple(" ".join(said["load"]).split()),
        runs=tuple(said["run"]) or ("",),
        shard_arguments=tuple(shlex.split(" ".join(said["shards"]))),
        environment=tuple(_pair(path, text) for text in said["env"]),
        outputs=tuple(_output(text) for text in said["output"]),
        shown=tuple(said["shows"]),
        twice=bool(said["twice"]),
        volatile=tuple(_difference(path, text) for text in said["volatile"]),
        needs=tuple(said["needs"]),
        differs=tuple(_difference(path, text) for text in said["differs"]),
        advice=" ".join(said["do"]),
        refused=" ".join(said["refused"]),
        files=tuple(zip(rest[::2], rest[1::2], strict=True)),
    )
    if case.differs and not case.advice:
        raise CaseError(f"{path.name}: differs, but no `do:` says what to do")
    return case


def _pair(path: Path, text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise CaseError(f"{path.name}: env: {text} is no NAME=VALUE")
    return name, value


def _output(text: str) -> Output:
    kind, path, *without = text.split()
    return Output(kind, path, tuple(without))


def _difference(path: Path, text: str) -> Difference:
    pattern, arrow, reason = text.partition(" => ")
    if not arrow or not reason.strip():
        raise CaseError(f"{path.name}: differs: {text} is no PATTERN => REASON")
    match = re.fullmatch(r"\[(.+?)\] (.+)", pattern.strip())
    mode, pattern = (match[1], match[2]) if match else ("", pattern.strip())
    return Difference(pattern, reason.strip(), mode)
