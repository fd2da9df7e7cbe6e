"""What plugins and conftest files that know pytest-xdist find in shards."""

from __future__ import annotations

import importlib.util
import json
import re

import pytest
from comparison import Run, run_pytest

needs_xdist = pytest.mark.skipif(
    importlib.util.find_spec("xdist") is None, reason="needs pytest-xdist"
)

TWO = """
    def test_first(): pass
    def test_second(): pass
"""


def lines(run: Run, word: str) -> list[str]:
    return [line for line in run.stdout.splitlines() if word in line]


# The fixture that says which shard it is


def test_the_fixture_tells_which_shard_this_is(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import os

        def test_identity(shard, worker_id):
            assert shard.shards == 2
            assert shard.run == os.environ["SHARDRUN_RUN"]
            assert str(shard.number) == os.environ["SHARDRUN_SHARD"]
            assert str(shard.attempt) == os.environ["SHARDRUN_ATTEMPT"] == "1"
            assert str(shard.slot) == os.environ["SHARDRUN_SLOT"]
            assert worker_id == f"gw{shard.number - 1}"
        """
    )

    run = run_pytest(pytester.path, "--shards=2")

    assert run.counts == {"passed": 1}, run.show()


def test_without_shards_it_is_the_first_and_only_one(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        def test_identity(shard):
            found = (shard.number, shard.shards, shard.run, shard.attempt, shard.slot)
            assert found == (1, 1, "", 1, 0)
        """
    )

    run = run_pytest(pytester.path)

    assert run.counts == {"passed": 1}, run.show()


def test_a_shard_keeps_its_slot_after_a_crash_and_no_two_have_the_same(
    pytester: pytest.Pytester,
) -> None:
    source = """
        import os
        import signal

        def test_crashes(): os.kill(os.getpid(), signal.SIGKILL)

        def test_tells(shard, record_property):
            record_property("told", f"{shard.number} {shard.attempt} {shard.slot}")
    """
    pytester.makepyfile(test_one=source, test_two=source, test_three=source, test_four=source)

    run = run_pytest(
        pytester.path, "--shards=4", "--shard-jobs=2", "--shard-scope=module", "--shard-steal=no"
    )

    assert run.counts["passed"] == run.counts["failed"] == 4, run.show()
    assert run.record is not None
    told = [
        dict(phases[-1].user_properties)["told"].split()
        for nodeid, phases in run.record.tests.items()
        if nodeid.endswith("test_tells")
    ]
    assert {number for number, _, _ in told} == {"1", "2", "3", "4"}
    assert {attempt for _, attempt, _ in told} == {"2"}
    assert {slot for _, _, slot in told} <= {"0", "1"}


# The hooks of nodes

HOOKS = """
    import json
    from pathlib import Path

    import pytest


    def pytest_configure(config):
        if hasattr(config, "workerinput"):
            config.told = config.workerinput["from_configure_node"]


    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(node):
        node.workerinput["from_configure_node"] = {"pair": (1, b"two"), "worker": node.gateway.id}
        note("configure", node.gateway.id, sorted(node.workerinput))


    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodeready(node):
        note("ready", node.gateway.id, node.workerinfo["id"])


    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(node, ids):
        note("collected", node.gateway.id, ids)


    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(node, error):
        output = getattr(node, "workeroutput", None)
        note("down", node.gateway.id, error, None if output is None else output["said"])


    def note(*what):
        with Path("notes.jsonl").open("a") as file:
            print(json.dumps(what), file=file)


    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(session):
        if hasattr(session.config, "workerinput"):
            session.config.workeroutput["said"] = [session.config.told["worker"], "goodbye"]


    @pytest.fixture
    def told(request):
        return request.config.told
"""


def notes(pytester: pytest.Pytester) -> list[list[object]]:
    text = (pytester.path / "notes.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def loaded(name: str) -> tuple[str, ...]:
    return ("-p", name) if name else ()


@pytest.mark.parametrize("plugin", ["", pytest.param("xdist", marks=needs_xdist)])
def test_nodes_are_configured_ready_collected_and_down(
    pytester: pytest.Pytester, plugin: str
) -> None:
    pytester.makeconftest(HOOKS)
    pytester.makepyfile(
        """
        def test_is_told(told, worker_id):
            assert told == {"pair": (1, b"two"), "worker": worker_id}
        """
    )

    run = run_pytest(pytester.path, *loaded(plugin), "--shards=1")

    assert run.counts == {"passed": 1}, run.show()
    node_id = ["test_nodes_are_configured_ready_collected_and_down.py::test_is_told"]
    keys = ["from_configure_node", "mainargv", "shardrun", "testrunuid", "workercount", "workerid"]
    assert notes(pytester) == [
        ["configure", "gw0", [key for key in keys if key != "from_configure_node"] and keys],
        ["ready", "gw0", "gw0"],
        ["collected", "gw0", node_id],
        ["down", "gw0", None, ["gw0", "goodbye"]],
    ]


def test_a_node_that_crashed_is_down_with_an_error_and_says_nothing(
    pytester: pytest.Pytester,
) -> None:
    pytester.makeconftest(HOOKS)
    pytester.makepyfile("import os\n\ndef test_crashes(): os._exit(3)\ndef test_passes(): pass")

    run = run_pytest(pytester.path, "--shards=1")

    down = [note for note in notes(pytester) if note[0] == "down"]
    assert run.counts == {"passed": 1, "failed": 1}, run.show()
    assert down == [
        ["down", "gw0", "crashed with exit code 3", None],
        ["down", "gw0", None, ["gw0", "goodbye"]],
    ]


def test_a_crash_can_be_explained_by_a_hook(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(
        """
        import pytest

        @pytest.hookimpl(optionalhook=True)
        def pytest_handlecrashitem(crashitem, report, sched):
            report.sections.append(("Captured by the hook", f"{crashitem} has crashed"))
        """
    )
    pytester.makepyfile("import os\n\ndef test_crashes(): os._exit(3)")

    run = run_pytest(pytester.path, "--shards=1")

    assert "::test_crashes has crashed" in run.stdout, run.show()


@needs_xdist
def test_the_functions_of_xdist_know_a_shard_as_a_worker(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(
        """
        import xdist

        def pytest_sessionstart(session):
            session.config.told = (
                xdist.is_xdist_worker(session),
                xdist.is_xdist_controller(session),
                xdist.get_xdist_worker_id(session),
            )
        """
    )
    pytester.makepyfile(
        """
        def test_is_told(request, worker_id):
            assert request.config.told == (True, False, worker_id)
        """
    )

    run = run_pytest(pytester.path, "-p", "xdist", "--shards=2")

    assert run.counts == {"passed": 1}, run.show()


def test_the_stand_in_can_be_forbidden(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        def test_has_no_stand_in(request):
            assert not request.config.pluginmanager.hasplugin("xdist")
        """
    )

    run = run_pytest(pytester.path, "-p", "no:xdist", "--shards=2")

    assert run.counts == {"passed": 1}, run.show()


# Who wins, pytest-xdist or shards


@needs_xdist
@pytest.mark.parametrize(
    ("addopts", "environment", "arguments", "shards", "sentence"),
    [
        (
            "-n 2",
            "",
            ["--shards=2"],
            True,
            "-n 2 of pytest-xdist: ignored, for --shards stands in the command line and not in "
            "the configuration",
        ),
        (
            "-n auto --dist loadfile",
            "--shards=2",
            [],
            True,
            "-n auto and --dist=loadfile of pytest-xdist: ignored, for --shards stands in "
            "PYTEST_ADDOPTS and not in the configuration",
        ),
        ("--dist loadfile", "", ["--shards=2"], True, "--dist=loadfile of pytest-xdist: ignored"),
        (
            "--shards=2",
            "",
            ["-n", "2"],
            False,
            "shards: none, for -n 2 stands in the command line and --shards in the configuration",
        ),
        ("--shards=2", "-n1", [], False, "shards: none, for -n 1 stands in PYTEST_ADDOPTS and"),
        ("-n 2", "", ["-n0", "--shards=2"], True, "shards: 2"),
    ],
)
def test_the_option_that_stands_nearer_to_the_person_wins_and_says_so(
    pytester: pytest.Pytester,
    addopts: str,
    environment: str,
    arguments: list[str],
    shards: bool,
    sentence: str,
) -> None:
    pytester.makeini(f"[pytest]\naddopts = {addopts}")
    pytester.makepyfile(TWO)

    run = run_pytest(pytester.path, "-p", "xdist", *arguments, env={"PYTEST_ADDOPTS": environment})

    assert run.counts == {"passed": 2}, run.show()
    assert sentence in run.stdout, run.show()
    assert bool(lines(run, " [2 items]")) is not shards
    assert bool(re.search(r"^shards: 2 \(", run.stdout, re.MULTILINE)) is shards


@needs_xdist
@pytest.mark.parametrize("arguments", ["-n 2 --shards=2", "--dist=loadfile --shards=2"])
def test_what_stands_in_the_same_place_is_refused(
    pytester: pytest.Pytester, arguments: str
) -> None:
    pytester.makeini(f"[pytest]\naddopts = {arguments}")
    pytester.makepyfile(TWO)

    run = run_pytest(pytester.path, "-p", "xdist")

    assert run.exitcode == 4, run.show()
    assert "of pytest-xdist and --shards" in run.stderr


COUNTING = """
    import pytest

    SAID_GOODBYE = []

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(node, error):
        if hasattr(node, "workeroutput"):
            SAID_GOODBYE.append(node)

    def pytest_configure(config):
        if not hasattr(config, "workerinput"):
            print("configured with", config.option.numprocesses, config.option.dist)

    def pytest_sessionfinish(session):
        option = session.config.option
        if not hasattr(session.config, "workerinput"):
            print("heard of", len(SAID_GOODBYE), "of", option.numprocesses)
"""


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        # Two shards are not needed.
        ("def test_passes(): pass", "heard of 1 of 1"),
        # What the process that crashed has seen is missing.
        ("import os\ndef test_one(): os._exit(3)\ndef test_two(): pass", "heard of 1 of 2"),
    ],
)
def test_plugins_can_tell_whether_they_have_heard_of_every_worker(
    pytester: pytest.Pytester, source: str, sentence: str
) -> None:
    pytester.makeconftest(COUNTING)
    pytester.makepyfile(source)

    run = run_pytest(pytester.path, "--shards=3", "-s", "--shard-scope=module")

    assert "configured with 3 load" in run.stdout, run.show()
    assert sentence in run.stdout, run.show()
