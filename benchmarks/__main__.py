"""Measures pytest-shardrun beside pytest-xdist and prints tables in Markdown."""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from scripts.real_suites import SuiteError

from .comparing import compare
from .idle import measure_idle
from .measuring import MeasuringError, adopt_orphans
from .planning import SIZES, measure_growth
from .report import comparison_table, growth_table, idle_line
from .workloads import WORKLOADS, Workload, real_suite


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    known = {workload.name: workload for workload in WORKLOADS}
    names = options.names or [*known, "idle", "planning"]
    adopt_orphans()
    status = 0
    starts = options.start or ["auto"]
    print("\n".join(machine()), flush=True)
    comparisons = []
    with tempfile.TemporaryDirectory(prefix="benchmarks-") as scratch:
        directory = options.cache or Path(scratch)
        for name in names:
            try:
                if name == "planning":
                    print("\n".join(["", *growth_table(measure_growth(SIZES))]), flush=True)
                elif name == "idle":
                    place = known["small"].build(Path(scratch) / "idle")
                    idle = measure_idle(place, pairs=8 * options.pairs, say=say)
                    print(f"\n{idle_line(idle)}", flush=True)
                else:
                    workload = known.get(name) or real_suite(name.removeprefix("real-"))
                    root = Path(scratch) if name in known and not is_real(workload) else directory
                    place = workload.build(root / name)
                    done = compare(workload, place, pairs=options.pairs, starts=starts, say=say)
                    comparisons += done
                    say("\n".join(comparison_table(done)))
            except (MeasuringError, SuiteError) as error:
                say(f"{name}: {error}")
                print(f"\n**{name}** could not be measured: {str(error).splitlines()[0]}")
                status = 1
    if comparisons:
        print("\n".join(["", *comparison_table(comparisons)]))
    return status


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks", description=(__doc__ or "").strip())
    known = ", ".join([*(workload.name for workload in WORKLOADS), "idle", "planning"])
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help=f"what to measure (default: everything): {known}, or real-PACKAGE",
    )
    parser.add_argument("--pairs", type=int, default=5, help="how many pairs of runs (default: 5)")
    parser.add_argument(
        "--start",
        action="append",
        choices=("auto", "fork", "spawn"),
        help="how shards are started (default: auto); given twice, both are measured in turn",
    )
    parser.add_argument("--cache", type=Path, help="keep the suites from PyPI in this directory")
    parsed = parser.parse_args(arguments)
    names = {workload.name for workload in WORKLOADS} | {"idle", "planning"}
    for name in parsed.names:
        if name not in names and not name.startswith("real-"):
            parser.error(f"{name} is unknown: choose {known}, or real-PACKAGE")
    if parsed.pairs < 1:
        parser.error(f"--pairs {parsed.pairs} measures nothing: give a number of at least 1")
    return parsed


def is_real(workload: Workload) -> bool:
    return workload.name.startswith("real-")


def machine() -> list[str]:
    """Where and what is measured, in a line."""
    packages = ", ".join(
        f"{name} {version(name)}" for name in ("pytest-shardrun", "pytest", "pytest-xdist")
    )
    cpus = len(os.sched_getaffinity(0))
    return [
        f"{platform.system()} {platform.release()}, {platform.machine()}, {cpus} CPUs, load "
        f"{os.getloadavg()[0]:.1f}; Python {platform.python_version()}, {packages}"
    ]


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
