"""Words about plugins that need care in shards."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final, final

from .records import record


@final
@record
class Advice:
    """What is worth knowing of a plugin. Words alone: nothing behaves otherwise because of it."""

    #: As on PyPI.
    distribution: str
    #: What is different in shards.
    care: str
    #: The setting to use.
    setting: str


ADVICE: Final = (
    Advice(
        "inline-snapshot",
        "it switches itself off in what it takes for a worker of pytest-xdist, and refuses to "
        "create or fix snapshots there",
        "create and fix them in a run without shards: pytest --shards 0 --inline-snapshot=fix",
    ),
    Advice(
        "pytest-bdd",
        "its Cucumber file stays empty and its terminal reporter shows no scenarios, for they do "
        "not leave the shard",
        "write them in a run without shards: pytest --shards 0 --cucumberjson=FILE",
    ),
    Advice(
        "pytest-benchmark",
        "it measures while other shards use the machine, and switches itself off in what it takes "
        "for a worker of pytest-xdist",
        "measure in a run without shards: pytest --shards 0 --benchmark-only",
    ),
    Advice(
        "pytest-codspeed",
        "it measures while other shards use the machine, and its summary is missing",
        "measure in a run without shards: pytest --shards 0 --codspeed",
    ),
    Advice(
        "pytest-dependency",
        "a test is skipped where the test that it depends on ran in another shard",
        "mark both shard_group(NAME), or use --shard-scope module",
    ),
    Advice(
        "pytest-forked",
        "it runs each test in a process of its own, which shards with --shard-timeout do for less",
        "leave out --forked",
    ),
    Advice(
        "pytest-harvest",
        "the run has no results at its end, unless pytest-xdist is installed, too",
        "install pytest-xdist beside it",
    ),
    Advice(
        "pytest-order",
        "an order holds inside each shard, not between shards",
        "mark the ordered tests shard_group(NAME), or use --shard-scope module",
    ),
    Advice(
        "pytest-rerunfailures",
        "it reports the tries between only where pytest-xdist is installed, too",
        "install pytest-xdist beside it, or use --shard-retries N instead of --reruns N",
    ),
    Advice(
        "pytest-xdist",
        "its workers and shards exclude each other in one run",
        "leave out -n and --dist, see docs/from-xdist.md",
    ),
)


def advice_for(distributions: Iterable[str]) -> list[Advice]:
    """What to know of these distributions, in the order of their names; any spelling will do."""
    names = {_canonical(name) for name in distributions}
    return [advice for advice in ADVICE if advice.distribution in names]


def as_lines(advice: Iterable[Advice]) -> list[str]:
    """Advice for a terminal, a paragraph for each plugin."""
    lines: list[str] = []
    for each in advice:
        lines += ["", each.distribution, f"  {each.care}", f"  → {each.setting}"]
    return lines


def _canonical(name: str) -> str:
    # PyPI's rule for names that are the same (PEP 503).
    return re.sub(r"[-_.]+", "-", name).lower()
