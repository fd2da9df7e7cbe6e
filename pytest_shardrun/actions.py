"""What a run wants done."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias, final

from .conflicts import Request
from .lifecycle import Escalation, Step
from .model import Attempt
from .notices import Notice
from .records import record


@final
@record
class Launch:
    """Start an attempt; ``doomed`` collectors fail with the reason instead of being imported."""

    attempt: Attempt
    doomed: dict[str, str]
    #: From 0 and below the number of shards at once: no two living shards have the same one, and
    #: all attempts of a shard do.
    slot: int


@final
@record
class Send:
    attempt: Attempt
    data: bytes


@final
@record
class End:
    """Take a step towards the end of an attempt's process."""

    attempt: Attempt
    step: Step


@final
@record
class Tell:
    notice: Notice


@final
@record
class TakeLocks:
    """Take these locks against other runs, all or none, as soon as that is possible."""

    request: Request


@final
@record
class FreeLocks:
    """Give these locks back to other runs."""

    names: frozenset[str]


Action: TypeAlias = Launch | Send | End | Tell | TakeLocks | FreeLocks


@final
@record
class Stop:
    """Why and how the whole run ends early."""

    reason: str
    #: The user asked for it (-x, Ctrl-C), so what did not run is no surprise.
    asked: bool
    escalate: Callable[[str, float, float], Escalation]
