"""The entry point: options, hooks, wiring."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

import pytest

from .importing import as_written

if TYPE_CHECKING:
    from .precedence import Decision

# As it was before pytest and conftest files added to it: a shard starts where this process did.
_SYS_PATH: Final = list(sys.path)


def pytest_addoption(parser: pytest.Parser, pluginmanager: pytest.PytestPluginManager) -> None:
    if not _in_worker(pluginmanager):
        with as_written(pluginmanager):
            from .worker import options

        options.add_options(parser)


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    with as_written(pluginmanager):
        from . import hookspecs

    pluginmanager.add_hookspecs(hookspecs)


@pytest.hookimpl(tryfirst=True, wrapper=True)
def pytest_load_initial_conftests(early_config: pytest.Config, parser: pytest.Parser) -> Any:
    if not _in_worker(early_config.pluginmanager):
        known = early_config.known_args_namespace
        asked = getattr(known, "shards", None) or early_config.getini("shards") or "0"
        if asked != "0" and _decide(early_config).shards_win:
            # pytest-cov decides here whether it combines the data of workers.
            known.numprocesses = asked
            known.dist = "load"
            with as_written(early_config.pluginmanager):
                from .starting import end_without_collecting, fork_early

            end_without_collecting(early_config)
            fork_early(early_config, _SYS_PATH)
            executor = getattr(known, "shard_executor", None)
            if (executor or early_config.getini("shard_executor")) == "docker":
                return (yield from _load_what_can_be_loaded(early_config, parser))
    return (yield)


def _load_what_can_be_loaded(config: pytest.Config, parser: pytest.Parser) -> Any:
    """Go on without a conftest that needs what is in the image alone: shards load it there."""
    with as_written(config.pluginmanager):
        from .worker.conftests import ConftestImportFailure

    try:
        return (yield)
    except ConftestImportFailure as error:
        if not isinstance(error.cause, ImportError):
            raise
        name, reason = f"{error.path}", f"{type(error.cause).__name__}: {error.cause}"
    except (ImportError, pytest.UsageError) as error:
        # What it names in pytest_plugins; before pytest 9 as an ImportError.
        if isinstance(error, pytest.UsageError) and not isinstance(error.__cause__, ImportError):
            raise
        name, reason = "a conftest.py", str(error)
    sentence = f"{name} is loaded in the containers only, for it cannot be here: {reason}"
    config.pluginmanager.register(_Remark(sentence), "shardrun-conftest")
    # Shown where an option is refused, which may be one of its own.
    parser.extra_info["conftest"] = sentence
    return None


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    if _in_worker(config.pluginmanager):
        return
    if config.getoption("shard_replay"):
        from .replaying import NAME, Replaying

        config.pluginmanager.register(Replaying(config.getoption("shard_replay")), NAME)
        return
    from .worker.options import wants_shards

    if wants_shards(config):
        # What follows is imported where it is needed: without shards the plugin costs nothing.
        decision = _decide(config)
        if decision.sentence:
            config.pluginmanager.register(_Remark(decision.sentence), "shardrun-remark")
        if decision.shards_win:
            _take_control(config, switch_xdist_off=bool(decision.sentence))


def pytest_configure(config: pytest.Config) -> None:
    if not _in_worker(config.pluginmanager):
        with as_written(config.pluginmanager):
            from .worker import fixture
            from .worker.options import add_markers

        add_markers(config)
        config.pluginmanager.register(fixture, "shardrun-identity")


def pytest_shardrun_executors(config: pytest.Config) -> Mapping[str, Callable[[str], Any]]:
    return {
        "subprocess": lambda run_id: _make_subprocess_executor(config, run_id),
        "docker": lambda run_id: _make_docker_executor(config, run_id),
    }


def pytest_shardrun_splitters(config: pytest.Config) -> Mapping[str, Any]:
    from .planning.splitters import BUILT_IN

    return BUILT_IN


def _in_worker(manager: pytest.PytestPluginManager) -> bool:
    return manager.hasplugin("shardrun-worker")


def _make_subprocess_executor(config: pytest.Config, run_id: str) -> Any:
    from .starting import make_executor

    return make_executor(config, run_id)


def _make_docker_executor(config: pytest.Config, run_id: str) -> Any:
    try:
        with as_written(config.pluginmanager):
            from .containers import make_executor
    except ModuleNotFoundError as error:
        if error.name != "docker":
            raise
        raise pytest.UsageError(
            "--shard-executor=docker needs the Docker SDK for Python: "
            "pip install 'pytest-shardrun[docker]'"
        ) from None
    return make_executor(config, run_id, _SYS_PATH)


def _decide(config: pytest.Config) -> Decision:
    with as_written(config.pluginmanager):
        from .precedence import decide

    return decide(config)


class _Remark:
    """A line of the header."""

    def __init__(self, sentence: str) -> None:
        self._sentence = sentence

    @pytest.hookimpl
    def pytest_report_header(self) -> str:
        return self._sentence


def _take_control(config: pytest.Config, *, switch_xdist_off: bool) -> None:
    with as_written(config.pluginmanager):
        from .controller import Controller
        from .precedence import OptionsOfXdist
        from .precedence import switch_xdist_off as switch_off
        from .settings import choose, read_settings
        from .starting import SETTINGS, identity_of
        from .worker.xdist import stand_in_for_xdist

    if switch_xdist_off:
        switch_off(config.option)
    settings = config.stash[SETTINGS] = read_settings(config)
    executors = _offered(config.hook.pytest_shardrun_executors(config=config))
    choose("--shard-executor", settings.executor, list(executors))
    splitters = _offered(config.hook.pytest_shardrun_splitters(config=config))
    choose("--shard-split", settings.split, list(splitters))
    stand_in_for_xdist(config)
    controller = Controller(
        config,
        settings,
        identity_of(config),
        executors[settings.executor],
        splitters[settings.split],
        _SYS_PATH,
    )
    config.pluginmanager.register(controller, "shardrun-controller")
    config.pluginmanager.register(OptionsOfXdist(settings.shards), "shardrun-options-of-xdist")


def _offered(answers: list[Mapping[str, Any]]) -> dict[str, Any]:
    # The first answer is the newest plugin's: it may replace what is built in.
    return {name: each for answer in reversed(answers) for name, each in answer.items()}
