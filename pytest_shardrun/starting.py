"""How attempts on this machine are started."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Sequence
from types import FrameType
from typing import Any, Final, NoReturn, final

import pytest

from .cpus import usable_cpus
from .executors.base import Executor
from .executors.forking import ForkingExecutor
from .executors.guardian import Guardian, fork_guard
from .executors.local import marks_of, open_pipes
from .executors.places import WARM, Places, open_places
from .executors.shallow import fork_shallow
from .executors.subprocess import SubprocessExecutor
from .executors.warm import EarlyChild, Warm
from .identity import RunIdentity, new_identity
from .model import FIRST_ATTEMPT
from .nodes import xdist_variables
from .records import record
from .settings import Settings
from .worker import boot
from .worker.control import connect
from .worker.identity import ShardIdentity

#: The name in pytest's cache, and for how many runs an obstacle is taken for granted.
_CACHE_KEY: Final = "shardrun/start"
_RUNS_REMEMBERED: Final = 20
#: Where the programs of pytest begin.
_ENTRIES: Final = ("console_main", "_console_main")


@final
@record
class Early:
    """A worker that was forked before this process was configured, and what it was told."""

    identity: RunIdentity
    shards: int
    warm: Warm
    guardian: Guardian
    places: Places | None

    def discard(self) -> None:
        """Nobody wants it after all."""
        self.warm.dismiss()
        self.warm.wait(with_children=True)
        if self.places is not None:
            self.places.close()
        self.guardian.close()


EARLY: Final = pytest.StashKey["Early | None"]()
#: What was read before plugins were shown other values of their options.
SETTINGS: Final = pytest.StashKey[Settings]()


def end_without_collecting(config: pytest.Config) -> None:
    """Let this process end soon after pytest has, where it is pytest's own program.

    Else Python looks for garbage several times before it ends, which takes longer than a small
    suite. Another program that calls pytest needs its garbage collected as before.
    """
    if _is_plain_pytest():
        config.add_cleanup(gc.freeze)


def spare_from_collection(config: pytest.Config) -> None:
    """Let nobody look for garbage among what is there now, until pytest has ended.

    pytest itself looks five times over before it ends. Another program that calls pytest gets
    its garbage back.
    """
    gc.freeze()
    if not _is_plain_pytest():
        config.add_cleanup(gc.unfreeze)


def fork_early(config: pytest.Config, sys_path: Sequence[str]) -> None:
    """Fork a worker while this process has imported pytest and its plugins, and nothing else.

    Does nothing where that could make a difference to the suite.
    """
    config.stash[EARLY] = None
    shards = _shards_of(config)
    if shards is None or not _may_fork_early(sys_path):
        return
    identity = new_identity()
    shard = ShardIdentity(number=1, shards=shards, run=identity.run_id, attempt=1, slot=0)
    places = open_places()
    launch = {
        "args": [str(each) for each in config.invocation_params.args],
        "sys_path": list(sys_path),
        "identity": {
            **xdist_variables(shard, identity.testrun_uid),
            **shard.variables,
            **(places.prepare(WARM) if places is not None else {}),
        },
    }
    pipes = open_pipes()
    control, theirs = connect()
    mark = f"SHARDRUN_RUN={identity.run_id}"
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    # What is there now stays: no collection of garbage need touch, and thereby copy, it in any of
    # the processes that share it.
    gc.freeze()

    def work() -> NoReturn:
        control.close()
        for end in (pipes.stdin[1], pipes.stream[0], pipes.output[0]):
            os.close(end)
        # The hook of this process, which imports nothing any more.
        hook: object = config.pluginmanager.rewrite_hook
        sys.meta_path[:] = [each for each in sys.meta_path if each is not hook]
        boot.main_of_fork(pipes.worker_ends, theirs, launch)

    pid = fork_shallow(work)
    theirs.close()
    pipes.close_worker_ends()
    guardian = fork_guard(mark, places)
    warm = Warm(EarlyChild(pid), pipes, control, guardian, marks_of(mark, FIRST_ATTEMPT))
    early = config.stash[EARLY] = Early(identity, shards, warm, guardian, places)
    config.add_cleanup(lambda: _discard_unused(config, early))


def _discard_unused(config: pytest.Config, early: Early) -> None:
    if config.stash[EARLY] is early:
        early.discard()


def identity_of(config: pytest.Config) -> RunIdentity:
    """The identity that an early worker has already, or a new one."""
    early = config.stash.get(EARLY, None)
    return new_identity() if early is None else early.identity


def make_executor(config: pytest.Config, run_id: str) -> Executor:
    """The executor of attempts on this machine."""
    settings = config.stash[SETTINGS]
    obstacle = _recall_obstacle(config) if settings.start == "auto" else ""
    early = config.stash.get(EARLY, None)
    if early is not None and (
        early.shards != settings.shards or settings.start == "spawn" or obstacle
    ):
        early.discard()
        early = None
    config.stash[EARLY] = None
    if settings.start == "spawn" or not can_fork():
        return SubprocessExecutor(run_id)
    if early is None:
        return ForkingExecutor(
            SubprocessExecutor(run_id),
            None,
            alike=True,
            grace=settings.policy.grace,
            obstacle=obstacle,
        )
    return ForkingExecutor(
        SubprocessExecutor(run_id, guardian=early.guardian, places=early.places),
        early.warm,
        alike="PYTHONHASHSEED" in os.environ,
        grace=settings.policy.grace,
    )


def remember_obstacle(config: pytest.Config, executor: Executor) -> None:
    """Let the next runs start their shards side by side at once, if this one could not fork."""
    cache: Any = getattr(config, "cache", None)
    if cache is not None and isinstance(executor, ForkingExecutor) and executor.found:
        known = {"obstacle": executor.found, "in": _surroundings(config), "runs": _RUNS_REMEMBERED}
        cache.set(_CACHE_KEY, known)


def _recall_obstacle(config: pytest.Config) -> str:
    cache: Any = getattr(config, "cache", None)
    known = None if cache is None else cache.get(_CACHE_KEY, None)
    match known:
        case {"obstacle": str(obstacle), "in": list(surroundings), "runs": int(runs)}:
            if surroundings != _surroundings(config) or runs <= 0:
                return ""
            # It may have gone meanwhile.
            left = {"obstacle": obstacle, "in": surroundings, "runs": runs - 1}
            cache.set(_CACHE_KEY, left)
            return obstacle
        case _:
            return ""


def _surroundings(config: pytest.Config) -> list[str]:
    """What decides whether an obstacle is likely to be there again."""
    plugins = sorted(
        f"{each.project_name} {each.version}"
        for _, each in config.pluginmanager.list_plugin_distinfo()
    )
    return [sys.version, *plugins]


def can_fork() -> bool:
    """Whether this system lets us fork workers and watch over the forks."""
    if sys.platform != "linux" or not hasattr(os, "pidfd_open"):
        return False
    try:
        os.close(os.pidfd_open(os.getpid()))
    except OSError:
        return False
    return os.path.isdir("/proc/self/fd")


def _shards_of(config: pytest.Config) -> int | None:
    """How many shards there will be, if they are workers on this machine that may be forked."""
    known: Any = config.known_args_namespace

    def given(name: str) -> str:
        value = getattr(known, name, None)
        return str(config.getini(name) if value is None else value).strip()

    if (
        given("shard_executor") not in ("", "subprocess")
        or given("shard_start") not in ("", "auto", "fork")
        or getattr(known, "stepwise", False)
        or getattr(known, "shard_replay", None)
        or getattr(known, "version", 0)
        or getattr(known, "help", False)
    ):
        return None
    text = given("shards")
    if text in ("", "0"):
        return None
    if text == "auto":
        return usable_cpus()
    return int(text) if text.isascii() and text.isdigit() else None


def _may_fork_early(sys_path: Sequence[str]) -> bool:
    return can_fork() and len(os.listdir("/proc/self/task")) == 1 and _is_plain_pytest()


def _is_plain_pytest() -> bool:
    """Whether this process is pytest's own program, and not one that calls it."""
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        if frame.f_code.co_name in _ENTRIES and frame.f_globals.get("__name__") in (
            "_pytest.config",
            "pytest",
        ):
            caller = frame.f_back
            return caller is not None and caller.f_globals.get("__name__") == "__main__"
        frame = frame.f_back
    return False
