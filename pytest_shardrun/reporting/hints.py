"""What to say of how a run was started."""

from __future__ import annotations

import os
import sys
from typing import Any

import pytest


def coverage_hint(config: pytest.Config) -> str | None:
    """What to say where coverage is measured in this process and by nobody in its shards."""
    # Not imported: who measures has imported it.
    coverage: Any = sys.modules.get("coverage")
    is_measured = hasattr(coverage, "Coverage") and coverage.Coverage.current() is not None
    # pytest-cov measures in shards, and so does coverage with its patches for subprocesses.
    is_measured_in_shards = config.pluginmanager.hasplugin("_cov") or any(
        name in os.environ for name in ("COVERAGE_PROCESS_START", "COVERAGE_PROCESS_CONFIG")
    )
    if not is_measured or is_measured_in_shards:
        return None
    return (
        "coverage: measured in this process only, none of its shards: use --cov of pytest-cov, or "
        'patch = subprocess in the settings of "coverage run"'
    )
