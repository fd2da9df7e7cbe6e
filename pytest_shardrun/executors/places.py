"""The temporary directories of a run's attempts."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, final

from ..model import Attempt

#: Tells a worker where all shards of its run can meet.
SHARED: Final = "SHARDRUN_SHARED"
#: Stands for the process that collects and forks the attempts.
WARM: Final = Attempt(0, 1)


@final
class Places:
    """One directory for a run, in it one for each attempt and one that all share.

    Its path is short: tests put sockets there, whose names may have about a hundred characters.
    """

    def __init__(self) -> None:
        self.root: Final = Path(tempfile.mkdtemp(prefix="shardrun-"))
        self._shared = self.root / "shared"
        self._shared.mkdir()

    def prepare(self, attempt: Attempt) -> Mapping[str, str]:
        """Make the directory of an attempt; what its environment has to say about it."""
        place = self._place_of(attempt)
        place.mkdir(exist_ok=True)
        return {"TMPDIR": str(place), SHARED: str(self._shared)}

    def forget(self, attempt: Attempt) -> None:
        """Remove what an attempt has left in its directory."""
        _remove(self._place_of(attempt))

    def close(self) -> None:
        """Remove everything; idempotent."""
        _remove(self.root)

    def _place_of(self, attempt: Attempt) -> Path:
        return self.root / f"{attempt.shard}-{attempt.number}"


def open_places() -> Places | None:
    """The directories of a run; None where none can be made: tests then use the usual one."""
    try:
        return Places()
    except OSError:
        return None


def _remove(directory: Path) -> None:
    def make_writable_and_retry(function: Any, path: str, _: object) -> None:
        # Tests of read-only directories leave some. What still cannot be removed is left.
        with contextlib.suppress(OSError):
            for each in (os.path.dirname(path), path):
                if Path(each).is_relative_to(directory) and not os.path.islink(each):
                    os.chmod(each, 0o700)
            function(path)

    shutil.rmtree(directory, onerror=make_writable_and_retry)
