"""The design's rules about who may import whom, read from the source."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Final

import pytest

PACKAGE: Final = "pytest_shardrun"
ROOT: Final = Path(__file__).parents[1] / PACKAGE

#: Imports go downwards, from a higher row to a lower one. A name ending in a dot is a package.
ROWS: Final[dict[int, tuple[str, ...]]] = {
    5: ("plugin", "cli"),
    4: (
        "captured",
        "commands.",
        "containers",
        "controller",
        "course",
        "orders",
        "scratch",
        "hookspecs",
        "nodes",
        "replay",
        "replaying",
        "reporting.",
        "starting",
        "timekeeping",
    ),
    3: ("supervisor", "locks", "executors."),
    2: (
        "absences",
        "berths",
        "actions",
        "catalogue",
        "conflicts",
        "deadlines",
        "dispatch",
        "executors.base",
        "halting",
        "ledger",
        "lifecycle",
        "losses",
        "queues",
        "run",
        "shards",
        "suspects",
        "takeover",
        "tries",
    ),
    1: (
        "importing",
        "lock_directory",
        "advice",
        "container_settings",
        "events",
        "explanations",
        "identity",
        "repeating",
        "notices",
        "planning.",
        "precedence",
        "reading",
        "settings",
    ),
    0: ("cpus", "minimising", "model", "records", "worker."),
}

#: In how many modules a library may be known, each of which translates its errors alone.
IMPORTERS: Final = {"docker": 1, "filelock": 2, "junitparser": 1}

#: Modules that decide; a clock or a process would make their tests guess.
PURE: Final = (
    "advice",
    "conflicts",
    "minimising",
    "model",
    "events",
    "explanations",
    "absences",
    "berths",
    "actions",
    "catalogue",
    "deadlines",
    "dispatch",
    "halting",
    "ledger",
    "lifecycle",
    "losses",
    "planning.estimates",
    "planning.formats",
    "planning.outlook",
    "planning.scopes",
    "planning.splitters",
    "queues",
    "reading",
    "records",
    "run",
    "shards",
    "suspects",
    "takeover",
    "tries",
)
IMPURE: Final = frozenset(
    {
        "asyncio",
        "datetime",
        "multiprocessing",
        "os",
        "pluggy",
        "pytest",
        "_pytest",
        "random",
        "socket",
        "subprocess",
        "threading",
        "time",
    }
)


@dataclass(frozen=True, slots=True)
class Module:
    """One source file of the package."""

    #: Dotted and relative to the package: ``planning.scopes``; empty for the package itself.
    name: str
    #: Where relative imports start: ``pytest_shardrun.planning``.
    package: str
    tree: ast.Module

    @property
    def empty(self) -> bool:
        """Whether there is nothing in it, but for a docstring."""
        return len(self.tree.body) == (ast.get_docstring(self.tree) is not None)


@cache
def modules() -> dict[str, Module]:
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(part for part in parts if part != "__init__")
        package = ".".join((PACKAGE, *parts[:-1]))
        tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
        found[name] = Module(name, package, tree)
    return found


def imported_names(module: Module) -> Iterator[str]:
    """Yield every absolute name that a module imports anywhere, also for its annotations alone."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = module.package.split(".")
                start = parents[: len(parents) - node.level + 1]
                base = ".".join((*start, base)).rstrip(".")
            yield from (f"{base}.{alias.name}" for alias in node.names)


def inner_imports(module: Module) -> set[str]:
    """The package's own modules that a module imports, by their name in the package."""
    inner = set()
    for name in imported_names(module):
        if name == PACKAGE or not name.startswith(f"{PACKAGE}."):
            continue
        target = name.removeprefix(f"{PACKAGE}.")
        # `from pytest_shardrun.model import Item` names a module and then something in it.
        while target and target not in modules():
            target = target.rpartition(".")[0]
        if target and not modules()[target].empty:
            inner.add(target)
    return inner - {module.name}


def top_level_imports(module: Module) -> set[str]:
    return {name.partition(".")[0] for name in imported_names(module)}


def is_in(name: str, entry: str) -> bool:
    return f"{name}.".startswith(entry) if entry.endswith(".") else name == entry


def row_of(name: str) -> int | None:
    """The row that names the module itself, or else the one that names its package."""
    rows = [
        (len(entry), row)
        for row, entries in ROWS.items()
        for entry in entries
        if is_in(name, entry)
    ]
    return max(rows)[1] if rows else None


def written_modules() -> list[Module]:
    return [module for module in modules().values() if not module.empty]


def test_every_module_stands_in_a_row() -> None:
    homeless = [module.name for module in written_modules() if row_of(module.name) is None]

    assert not homeless


def test_imports_never_go_upwards() -> None:
    upwards = [
        f"{module.name} (row {row_of(module.name)}) imports {target} (row {row_of(target)})"
        for module in written_modules()
        for target in sorted(inner_imports(module))
        if (row_of(target) or 0) > (row_of(module.name) or 0)
    ]

    assert not upwards


def test_imports_never_go_in_a_circle() -> None:
    graph = {module.name: inner_imports(module) for module in written_modules()}

    # Raises CycleError with the circle.
    TopologicalSorter(graph).prepare()


def test_nothing_imports_the_plugin() -> None:
    importers = [module.name for module in written_modules() if "plugin" in inner_imports(module)]

    assert not importers


def test_the_package_itself_is_empty() -> None:
    assert modules()[""].empty


@pytest.mark.parametrize("library", IMPORTERS)
def test_a_library_is_known_to_one_module_for_each_of_its_uses(library: str) -> None:
    importers = [
        module.name for module in written_modules() if library in top_level_imports(module)
    ]

    assert len(importers) <= IMPORTERS[library], importers


def test_the_worker_imports_only_the_standard_library_and_pytest() -> None:
    allowed = sys.stdlib_module_names | {"pytest", "_pytest"}
    foreign = [
        f"{module.name} imports {name}"
        for module in written_modules()
        if is_in(module.name, "worker.")
        for name in imported_names(module)
        if name.partition(".")[0] not in allowed and not name.startswith(f"{PACKAGE}.worker")
    ]

    assert not foreign


@pytest.mark.parametrize("name", PURE)
def test_a_module_that_decides_imports_nothing_that_acts(name: str) -> None:
    assert not top_level_imports(modules()[name]) & IMPURE


def test_a_module_says_what_it_is_in_under_ten_words() -> None:
    wordy = [
        f"{module.name}: {docstring}"
        for module in modules().values()
        if module.tree.body
        for docstring in [(ast.get_docstring(module.tree) or "").partition("\n")[0]]
        if not 0 < len(docstring.split()) < 10
    ]

    assert not wordy
