"""Where runs on this machine lock each other out."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Final

#: Where the files of locks are, if not in the usual place; tests that start runs inherit it.
DIRECTORY: Final = "SHARDRUN_LOCKS"


def lock_directory() -> Path:
    """The directory that all runs of this user share."""
    given = os.environ.get(DIRECTORY)
    return Path(given) if given else Path(tempfile.gettempdir(), f"shardrun-locks-{os.getuid()}")
