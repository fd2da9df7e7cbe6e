"""A suite run with and without shards, and what was found."""

from __future__ import annotations

import difflib
import re
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from comparison import AUTOLOAD, Run, cleaner, differences, run_pytest

from .cases import Case
from .outputs import OutputError, Parts, read_output


@dataclass(frozen=True, slots=True)
class Mode:
    """Something in which all cases are tried."""

    name: str
    #: Further arguments of the sharded run.
    arguments: tuple[str, ...] = ()
    #: Requirements and entry points that are there beside those of the case.
    requirements: tuple[str, ...] = ()
    load: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Finding:
    """What a run of a case found."""

    case: Case
    mode: Mode
    arguments: str
    #: Every difference, also those that are explained.
    differences: tuple[str, ...]
    #: Both runs as a person sees them.
    transcript: str

    @property
    def title(self) -> str:
        return f"{self.case.name} ({self.mode.name}): pytest {self.arguments}".rstrip()

    @property
    def unexplained(self) -> list[str]:
        patterns = [each.pattern for each in self.case.differs if each.mode in ("", self.mode.name)]
        return [text for text in self.differences if not _matched(patterns, [text])]


def examine(
    case: Case,
    mode: Mode,
    arguments: str,
    *,
    python: str,
    directory: Path,
    environment: Mapping[str, str],
) -> Finding:
    """Run the suite both ways and compare everything."""
    plain, sharded = (
        _run(case, mode, shlex.split(arguments), extra, python, directory / place, environment)
        for place, extra in (
            # Of the same length: pytest shortens texts to a number of characters.
            ("whole", ()),
            ("parts", ("--shards=2", *mode.arguments, *case.shard_arguments)),
        )
    )
    found = _judge(case, plain, sharded, python)
    return Finding(case, mode, arguments, tuple(found), f"{plain.show()}\n\n{sharded.show()}")


def unneeded(case: Case, findings: Iterable[Finding], first: Mode) -> list[str]:
    """Explanations for differences that no run has shown in the mode that they are about."""
    by_mode: dict[str, list[str]] = {}
    for finding in findings:
        by_mode.setdefault(finding.mode.name, []).extend(finding.differences)
    return [
        each.pattern
        for each in case.differs
        for mode in [each.mode or first.name]
        if mode in by_mode and not _matched([each.pattern], by_mode[mode])
    ]


def _run(
    case: Case,
    mode: Mode,
    arguments: list[str],
    extra: tuple[str, ...],
    python: str,
    directory: Path,
    environment: Mapping[str, str],
) -> Run:
    # Both directories have the same name, for it is one of the tests' keywords.
    suite = directory / "suite"
    case.write(suite)
    loaded = [] if case.loads_all else [*case.load, *mode.load]
    for _ in range(2 if case.twice else 1):
        run = run_pytest(
            suite,
            *(word for name in loaded for word in ("-p", name)),
            *extra,
            *arguments,
            env={
                **(AUTOLOAD if case.loads_all else {}),
                **environment,
                **dict(case.environment),
            },
            program=(python, "-m", "pytest"),
            volatile=tuple(each.pattern for each in case.volatile),
        )
    return run


def _judge(case: Case, plain: Run, sharded: Run, python: str) -> list[str]:
    if case.refused:
        told = sharded.exitcode == 4 and case.refused in sharded.stderr
        return [] if told else [f"it was not refused with {case.refused!r}"]
    record = plain.record
    if record is None or not (record.tests or record.deselected):
        # Two runs that break in the same way are no comparison.
        return ["pytest alone has no test"]
    found = differences(plain, sharded)
    for output in case.outputs:
        one, other = (
            _read(output.kind, output.path, output.without, run, python) for run in (plain, sharded)
        )
        found += _part_differences(output.path, one, other)
    for pattern in case.shown:
        there, here = (_shown(pattern, run) for run in (plain, sharded))
        if not there:
            found.append(f"pytest shows nothing like {pattern}")
        found += [f"not shown in shards ({n}): {text}" for text, n in (there - here).items()]
        found += [f"shown in shards only ({n}): {text}" for text, n in (here - there).items()]
    return found


def _shown(pattern: str, run: Run) -> Counter[str]:
    clean = cleaner(run)
    text = f"{run.stdout}\n{run.stderr}"
    return Counter(clean(match[0]) for match in re.finditer(pattern, text, re.MULTILINE))


def _read(kind: str, name: str, without: tuple[str, ...], run: Run, python: str) -> Parts:
    try:
        return read_output(kind, run.directory / name, without, cleaner(run), python)
    except OutputError as error:
        return {"": str(error)}


def _part_differences(name: str, plain: Parts, sharded: Parts) -> list[str]:
    if "" in plain:
        return [f"{name}: without shards: {plain['']}"]
    found = []
    for part in sorted(plain.keys() | sharded.keys()):
        one, other = plain.get(part, ""), sharded.get(part, "")
        if one != other:
            lines = difflib.unified_diff(
                one.splitlines(), other.splitlines(), "plain", "sharded", lineterm=""
            )
            found.append(f"{name}: {part}:\n" + "\n".join(lines))
    return found


def _matched(patterns: Iterable[str], texts: Iterable[str]) -> bool:
    found = list(texts)
    return any(re.search(pattern, text, re.MULTILINE) for pattern in patterns for text in found)
