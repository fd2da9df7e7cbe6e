"""Compares plugins with and without shards, and keeps the table in the manual.

python -m tests.plugins --ci               every suite in the first mode, and the table
python -m tests.plugins --all              every suite in every mode, and the table
python -m tests.plugins --all --write      the same, and write the table
python -m tests.plugins pytest-cov         one suite

The exit code is 1 when a difference has no explanation, when an explanation is not needed any more,
or when the table does not say what was found.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from .cases import Case, read_cases
from .environments import Environment, default_cache, prepare
from .matrix import Finding, Mode, examine, unneeded
from .services import postgresql
from .table import MANUAL, contradictions, make_row, read_rows, with_rows

#: A change is checked in the first.
MODES: Final = (
    Mode("default"),
    Mode("spawned", arguments=("--shard-start=spawn",)),
    Mode("forked", arguments=("--shard-start=fork",)),
    Mode("pytest-xdist installed", requirements=("pytest-xdist",), load=("xdist",)),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Try what the arguments ask for; the exit code."""
    options = parse(arguments)
    known = read_cases()
    cases = [case for case in known if not options.names or case.name in options.names]
    if len(cases) < len(options.names):
        print(f"choose of: {', '.join(case.name for case in known)}", file=sys.stderr)
        return 4
    wanted = [mode for mode in MODES if options.all or mode.name in options.mode]
    started = time.monotonic()
    findings: list[Finding] = []
    for mode in wanted or MODES[:1]:
        required = [*mode.requirements, *(each for case in known for each in case.requirements)]
        environment = prepare(options.cache, required, options.python)
        findings += try_cases(mode, cases, environment, options.jobs)
    seconds = time.monotonic() - started
    wrong = [text for case in cases for text in wrong_explanations(case, findings)]
    wrong += wrong_table(cases, findings, environment, write=options.write)
    for text in wrong:
        print(f"\nWRONG {text}")
    failed = sum(bool(finding.unexplained) for finding in findings)
    print(f"\n{len(findings)} comparisons, {failed} failed, {len(wrong)} wrong, {seconds:.0f} s")
    return 1 if failed or wrong else 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options, as argparse has them."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.plugins", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("names", nargs="*", metavar="PLUGIN", help="only these")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--all", action="store_true", help="in every mode")
    which.add_argument("--ci", action="store_true", help="in the first mode, which is the default")
    which.add_argument("--mode", action="append", default=[], choices=[mode.name for mode in MODES])
    parser.add_argument("--write", action="store_true", help=f"write the table of {MANUAL.name}")
    parser.add_argument("--jobs", type=int, default=2, help="how many comparisons at once")
    parser.add_argument("--cache", type=Path, default=default_cache(), help="where to install")
    parser.add_argument("--python", default=sys.executable, help="interpreter to install for")
    return parser.parse_args(arguments)


def try_cases(
    mode: Mode, cases: Sequence[Case], environment: Environment, jobs: int
) -> list[Finding]:
    """Compare all runs of the cases, and tell of each when it is done."""
    with tempfile.TemporaryDirectory(prefix="shardrun-plugins-") as name, postgresql() as service:

        def compare(work: tuple[Case, str, Path]) -> Finding:
            case, arguments, directory = work
            return examine(
                case,
                mode,
                arguments,
                python=environment.python,
                directory=directory,
                environment=service,
            )

        todo = [
            (case, arguments, Path(name) / case.name / str(number))
            for case in cases
            if "postgresql" not in case.needs or service
            for number, arguments in enumerate(case.runs)
        ]
        absent = [case.name for case in cases if "postgresql" in case.needs and not service]
        for case_name in absent:
            print(f"not tried: {case_name} needs PostgreSQL, which is not installed", flush=True)
        findings = []
        with ThreadPoolExecutor(jobs) as pool:
            for finding in pool.map(compare, todo):
                tell(finding)
                findings.append(finding)
    return findings


def tell(finding: Finding) -> None:
    """One line for what is as it should be, everything for what is not."""
    unexplained = finding.unexplained
    if not unexplained:
        explained = len(finding.differences)
        told = f" ({explained} explained)" if explained else ""
        print(f"ok      {finding.title}{told}", flush=True)
        return
    print(f"FAILED  {finding.title}")
    print("\n".join([*unexplained, finding.transcript]), flush=True)


def wrong_explanations(case: Case, findings: Sequence[Finding]) -> list[str]:
    """Explanations of a case that no run has needed."""
    own = [finding for finding in findings if finding.case is case]
    stale = unneeded(case, own, MODES[0])
    return [f"{case.name}: no run differs as {each!r} says" for each in stale]


def wrong_table(
    cases: Sequence[Case], findings: Sequence[Finding], environment: Environment, *, write: bool
) -> list[str]:
    """What the manual's table says otherwise; nothing once it is written anew."""
    versions = environment.versions()
    tried = {finding.case.name for finding in findings}
    differing = {finding.case.name for finding in findings if finding.differences}
    found = [
        make_row(case, differs=case.name in differing, versions=versions)
        for case in cases
        if case.name in tried
    ]
    manual = MANUAL.read_text(encoding="utf-8")
    rows = read_rows(manual)
    if write:
        merged = {row.name: row for row in [*rows, *found]}
        known = {case.name for case in read_cases()}
        kept = [merged[name] for name in sorted(merged) if name in known]
        MANUAL.write_text(with_rows(manual, kept), encoding="utf-8")
        return []
    return contradictions(rows, found)


if __name__ == "__main__":
    sys.exit(main())
