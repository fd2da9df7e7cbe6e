"""A plugin that raises in a hook of ours, or in one that we call for others."""

from __future__ import annotations

from typing import Final

import pytest

from .conftest import Outcomes
from .scenario import Scenario
from .support import PROCESSES_ARE_KNOWN, check_books
from .table import HEALTHY, HEALTHY_KINDS, TWO_SHARDS

pytestmark = PROCESSES_ARE_KNOWN

#: Raises in the controller alone: shards have these names, too, but do not call them.
_RAISES: Final = """
import pytest

def pytest_configure(config):
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Broken())

class Broken:
    @pytest.hookimpl(optionalhook=True)
    def {hook}(self):
        raise RuntimeError("the plugin broke")
"""

#: Before the first process is started, so there is no test yet.
EARLY: Final = ("pytest_shardrun_executors", "pytest_shardrun_splitters")
#: The tests are known, or are about to be.
LATER: Final = (
    "pytest_shardrun_planned",
    "pytest_shardrun_attempt_started",
    "pytest_shardrun_attempt_ended",
    "pytest_shardrun_finished",
    "pytest_configure_node",
    "pytest_testnodeready",
    "pytest_testnodedown",
    "pytest_xdist_node_collection_finished",
    "pytest_runtest_logstart",
    "pytest_runtest_logreport",
    "pytest_runtest_logfinish",
    "pytest_report_from_serializable",
    "pytest_warning_recorded",
    "pytest_terminal_summary",
    "pytest_sessionfinish",
)


def raising_in(hook: str) -> Scenario:
    files = {
        "conftest.py": _RAISES.format(hook=hook),
        "test_healthy.py": HEALTHY,
        "test_warns.py": "import warnings\n\ndef test_warns():\n    warnings.warn('careful')\n",
    }
    if hook in EARLY:
        files["conftest.py"] = f'def {hook}():\n    raise RuntimeError("the plugin broke")\n'
    return Scenario(f"{hook} raises", files, TWO_SHARDS)


IN_HOOKS: Final = {raising_in(hook): hook for hook in (*EARLY, *LATER)}


@pytest.mark.parametrize("scenario", IN_HOOKS, ids=str)
def test_a_plugin_that_raises_in_a_hook_costs_no_test_its_place_in_the_books(
    outcome_of: Outcomes, scenario: Scenario
) -> None:
    finished = outcome_of(scenario).finished

    said = finished.stdout + finished.stderr
    assert finished.code not in (0, 5), finished.describe()
    assert "RuntimeError: the plugin broke" in said, finished.describe()
    if IN_HOOKS[scenario] in EARLY:
        assert finished.cases is None
        return
    assert finished.cases is not None, finished.describe()
    known = {*HEALTHY_KINDS, "test_warns.py::test_warns"}
    assert finished.cases.keys() in (known, set()), finished.describe()
    if "ledger: " in finished.stdout:
        check_books(
            finished,
            code=finished.code,
            kinds=dict.fromkeys(finished.cases, "passed|not-run"),
            internal_error=True,
        )
