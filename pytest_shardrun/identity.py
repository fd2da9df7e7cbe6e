"""The names of a run."""

from __future__ import annotations

import time
import uuid
from typing import Final, final

from .records import record

#: The directory of all runs in pytest's cache.
CACHE_NAME: Final = "shardrun"


@final
@record
class RunIdentity:
    """The names of a run: one for people, one that pytest-xdist's users rely on."""

    run_id: str
    testrun_uid: str


def new_identity() -> RunIdentity:
    """Names that no other run has."""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    return RunIdentity(f"{stamp}-{uuid.uuid4().hex[:4]}", uuid.uuid4().hex)
