"""What an installed plugin costs where no shards are asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

from .measuring import measure
from .workloads import Place, environment


@dataclass(frozen=True, slots=True)
class Idle:
    """pytest with the plugin divided by pytest without it."""

    pairs: int
    #: Medians, pair by pair.
    wall: float
    cpu: float
    #: The lowest CPU time of all runs with it, and of all without: what neighbours disturb least.
    least_cpu: float


def measure_idle(place: Place, *, pairs: int, say: Callable[[str], None]) -> Idle:
    """Run a suite with the plugin and with the plugin switched off, in turn."""
    walls, cpus = [], []
    least = {(): float("inf"), ("-p", "no:shardrun"): float("inf")}
    for number in range(pairs + 1):
        # Who goes first changes, so that what a pause or a cache does to the first hits both.
        order = [(), ("-p", "no:shardrun")]
        costs = {}
        for options in order if number % 2 else reversed(order):
            command = [*place.command, *options]
            costs[options] = measure(command, place.directory, environment(), timeout=600)
        if number:
            with_it, without = costs[()], costs[("-p", "no:shardrun")]
            walls.append(with_it.seconds / without.seconds)
            cpus.append(with_it.cpu_seconds / without.cpu_seconds)
            least = {way: min(least[way], cost.cpu_seconds) for way, cost in costs.items()}
    say(f"idle: {pairs} pairs, wall {min(walls):.2f} to {max(walls):.2f}")
    return Idle(pairs, median(walls), median(cpus), least[()] / least["-p", "no:shardrun"])
