"""Which shard this is, as its tests see it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, final

#: Where ``config.workerinput`` has what is told here.
KEY: Final = "shardrun"


@final
@dataclass(frozen=True)
class ShardIdentity:
    """A shard as its tests see it; without shards the first and only one."""

    #: From 1 to ``shards``.
    number: int
    shards: int
    #: The run's identifier; empty without shards.
    run: str
    #: 1, or more after a crash.
    attempt: int
    #: From 0, below the number of shards that run at the same time. No two of them have the same
    #: one, and a shard keeps it over its attempts: for blocks of ports and names of databases.
    slot: int

    @property
    def variables(self) -> Mapping[str, str]:
        """The environment of a shard's processes."""
        return {
            "SHARDRUN_RUN": self.run,
            "SHARDRUN_SHARD": str(self.number),
            "SHARDRUN_SHARDS": str(self.shards),
            "SHARDRUN_ATTEMPT": str(self.attempt),
            "SHARDRUN_SLOT": str(self.slot),
        }

    def as_input(self) -> dict[str, Any]:
        """What ``config.workerinput`` has under ``KEY``."""
        return {
            "number": self.number,
            "shards": self.shards,
            "run": self.run,
            "attempt": self.attempt,
            "slot": self.slot,
        }

    @classmethod
    def of(cls, workerinput: Mapping[str, Any]) -> ShardIdentity:
        """What was told to a worker; without shards the first and only one."""
        told = workerinput.get(KEY)
        return cls(number=1, shards=1, run="", attempt=1, slot=0) if told is None else cls(**told)
