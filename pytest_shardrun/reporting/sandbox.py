"""Says which option would allow what a container forbids."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Iterator, Sequence
from re import Pattern
from typing import Final, final

import pytest

from ..container_settings import ContainerSettings
from ..records import record

_SECTION: Final = "Hint for shards in containers"


_MISSING: Final = re.compile(r"ModuleNotFoundError: No module named '(\w+)")
_MISSING_ADVICE: Final = (
    "the image does not have this module: --shard-setup='pip install ...' installs it once, or "
    "--shard-image names an image that has it"
)


@final
@record
class Rule:
    """What a failure's text shows of a limit, and what to do about it."""

    pattern: Pattern[str]
    advice: str


def rules(settings: ContainerSettings) -> Iterator[Rule]:
    """The limits of this container that a test can run into."""
    if settings.network == "none":
        yield _rule(
            r"name resolution|Name or service not known|[Nn]etwork is unreachable|"
            r"NameResolutionError|\[Errno (?:101|-2|-3)\]",
            "the container has no network: --shard-network=bridge would give it one, or the name "
            "of an existing network",
        )
    yield _rule(
        r"Read-only file system|\[Errno 30\]",
        "only /tmp can be written where the project is mounted: --shard-code=copy gives each shard "
        "a copy of its own"
        if settings.code == "bind"
        else "only the project and /tmp can be written: --shard-docker-opt read_only=false opens "
        "the whole root file system",
    )
    yield _rule(
        r"No space left on device|\[Errno 28\]",
        f"no more than {_size(settings.disk)} can be written: --shard-disk=SIZE allows more",
    )
    if settings.memory is not None:
        yield _rule(
            r"\bMemoryError\b|Cannot allocate memory|\[Errno 12\]|\bout of memory\b",
            f"the container has {_size(settings.memory)} of memory: --shard-memory=SIZE gives it "
            "more",
        )
    if settings.pids is not None:
        yield _rule(
            r"can't start new thread|Resource temporarily unavailable|\[Errno 11\]",
            f"the container may have {settings.pids} processes and threads: --shard-pids=N allows "
            "more",
        )
    yield _rule(
        r"Operation not permitted|\[Errno 1\]",
        "the container has no capabilities: --shard-docker-opt 'cap_add=[\"NAME\"]' gives it one",
    )
    if settings.user != (0, 0):
        yield _rule(
            r"Permission denied|\[Errno 13\]",
            "the tests are not root in the container: --shard-user=UID or root makes them "
            "somebody else",
        )


def hint(
    text: str, settings: ContainerSettings, is_installed_here: Callable[[str], bool]
) -> str | None:
    """What the container may have to do with a failure; None where nothing points to it."""
    missing = _MISSING.search(text)
    if missing is not None:
        # What nobody has is missed everywhere.
        return _MISSING_ADVICE if is_installed_here(missing[1]) else None
    return next((rule.advice for rule in rules(settings) if rule.pattern.search(text)), None)


class SandboxHints:
    """The plugin that adds hints to the reports of failures."""

    def __init__(self, settings: Sequence[ContainerSettings]) -> None:
        self._settings = settings

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._add(report)

    @pytest.hookimpl(tryfirst=True)
    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        self._add(report)

    def _add(self, report: pytest.TestReport | pytest.CollectReport) -> None:
        if not report.failed:
            return
        # Shards differ in their settings only where they run in a matrix.
        advice = hint(report.longreprtext, self._settings[0], _is_installed_here)
        if advice is not None:
            report.sections.append((_SECTION, advice))


def _is_installed_here(module: str) -> bool:
    try:
        # Looks for it and imports nothing: it is a name without dots.
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def _rule(pattern: str, advice: str) -> Rule:
    return Rule(re.compile(pattern), advice)


def _size(size: int) -> str:
    for unit, name in ((1 << 30, "GiB"), (1 << 20, "MiB")):
        if size >= unit:
            return f"{size / unit:g} {name}"
    return f"{size} bytes"
