"""What was measured, as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from math import log

from .comparing import Comparison
from .idle import Idle
from .planning import SHARDS, Growth


def comparison_table(comparisons: Sequence[Comparison]) -> list[str]:
    """A row for each workload, then what is worth knowing about some of them."""
    lines = [
        "| workload | start | plain | bound | shardrun | best xdist | wall | from – to | bar | CPU "
        "| memory | ÷ bound | pairs | load |",
        "| --- | " + "--- | " * 12 + "--- |",
    ]
    for each in comparisons:
        plain = "–" if each.plain != each.plain else f"{each.plain:.2f} s"
        limit = "–" if each.bound != each.bound else f"{each.bound:.2f} s"
        over = f"{each.ours / each.bound:.2f}" if each.bound > 0 else "–"
        missed = "" if each.wall <= each.bar else " (missed)"
        low, high = each.spread
        lines.append(
            f"| {each.workload.title} | {each.start} | {plain} | {limit} | {each.ours:.2f} s "
            f"| {each.best:.2f} s ({each.mode}) | {each.wall:.2f} | {low:.2f} – {high:.2f} "
            f"| {each.bar:.2f}{missed} | {each.cpu:.2f} | {each.memory:.2f} | {over} "
            f"| {each.pairs} | {each.load[0]:.1f} – {each.load[1]:.1f} |"
        )
    remarks = [f"* {each.workload.title}: {text}" for each in comparisons for text in each.remarks]
    return [*lines, *([""] if remarks else []), *remarks]


def growth_table(growths: Sequence[Growth]) -> list[str]:
    """The decisions of runs in the order of their size; growth is measured against n log n."""
    lines = [
        f"| tests, {SHARDS} shards | planning | dispatch and ledger | together | ÷ n log n |",
        "| --- | --- | --- | --- | --- |",
    ]
    first = growths[0]
    for each in growths:
        expected = first.seconds * each.tests * log(each.tests) / (first.tests * log(first.tests))
        lines.append(
            f"| {each.tests:,} | {each.planning:.2f} s | {each.running:.2f} s "
            f"| {each.seconds:.2f} s | {each.seconds / expected:.2f} |"
        )
    return lines


def idle_line(idle: Idle) -> str:
    """What the plugin costs where it has nothing to do."""
    return (
        f"Installed but not asked for shards, on 30 fast tests: wall {idle.wall:.3f}, "
        f"CPU {idle.cpu:.3f} of pytest without the plugin (medians of {idle.pairs} pairs), lowest "
        f"CPU time {idle.least_cpu:.3f} of the lowest without it."
    )
