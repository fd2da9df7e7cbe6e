"""Work that is done once for all shards."""

from __future__ import annotations

import fcntl
import hashlib
import inspect
import os
from collections.abc import Callable, Generator
from pathlib import Path
from typing import IO, Any, Final

import pytest

from . import wire

#: Where the shards of a run can meet.
SHARED: Final = "SHARDRUN_SHARED"

_NAME: Final = "shardrun-once"
_WORKER: Final = "shardrun-worker"


class Once:
    """Remembers what was done, in this process and, where there is a place, for all shards.

    A lock file makes others wait while one does the work. One that has something to clean up
    holds a second lock for as long as it lives: what it set up is taken to end with it.
    """

    def __init__(self, worker: Any) -> None:
        #: None without shards.
        self._worker = worker
        self._answers: dict[str, dict[str, Any]] = {}
        self._unfinished: list[tuple[Generator[Any, None, None], IO[str] | None]] = []

    def run(self, name: str, function: Callable[[], Any]) -> Any:
        """What the function returns or first yields, for whoever asks for the name."""
        if name not in self._answers:
            directory = os.environ.get(SHARED)
            self._answers[name] = (
                self._do(name, function, None)
                if directory is None
                else self._agree(Path(directory), name, function)
            )
        return _value_of(name, self._answers[name])

    def _agree(self, directory: Path, name: str, function: Callable[[], Any]) -> dict[str, Any]:
        stem = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:24]
        answer, keeper = directory / f"{stem}.json", directory / f"{stem}.keeper"
        with (directory / f"{stem}.lock").open("a", encoding="ascii") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if answer.exists():
                known: dict[str, Any] = wire.decode(answer.read_bytes())
                if not known["kept"] or _is_locked(keeper):
                    return known
            done = self._do(name, function, keeper)
            beside = answer.with_suffix(".new")
            beside.write_bytes(wire.encode(done))
            beside.replace(answer)
            return done

    def _do(self, name: str, function: Callable[[], Any], keeper: Path | None) -> dict[str, Any]:
        generator: Generator[Any, None, None] | None = None
        try:
            if inspect.isgeneratorfunction(function):
                generator = function()
                value = next(generator)
            else:
                value = function()
        except pytest.skip.Exception as skipped:
            return {"kept": False, "skipped": str(skipped)}
        except Exception as error:
            # The one that did it shows it as its own; the others hear of it.
            text = f"{type(error).__name__}: {error}"
            self._answers[name] = {"kept": False, "failed": text}
            if keeper is not None:
                keeper.with_suffix(".json").write_bytes(wire.encode(self._answers[name]))
            raise
        if generator is not None:
            self._keep(generator, keeper)
        packed = wire.pack(value, lambda path, each: _refuse(name, each))
        return {"kept": generator is not None, "value": packed}

    def _keep(self, generator: Generator[Any, None, None], keeper: Path | None) -> None:
        file: IO[str] | None = None
        if keeper is not None:
            file = keeper.open("a", encoding="ascii")
            fcntl.flock(file, fcntl.LOCK_EX)
        self._unfinished.append((generator, file))
        if self._worker is not None:
            self._worker.tell_keeping()

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self) -> None:
        # The latest first, as fixtures are torn down.
        while self._unfinished:
            generator, file = self._unfinished.pop()
            try:
                next(generator, None)
            finally:
                if file is not None:
                    file.close()


def once_of(config: pytest.Config) -> Once:
    """The one of a session."""
    once: Once | None = config.pluginmanager.get_plugin(_NAME)
    if once is None:
        once = Once(config.pluginmanager.get_plugin(_WORKER))
        config.pluginmanager.register(once, _NAME)
    return once


def _value_of(name: str, answer: dict[str, Any]) -> Any:
    if "skipped" in answer:
        pytest.skip(answer["skipped"])
    if "failed" in answer:
        raise RuntimeError(f"run_once({name!r}) has failed before: {answer['failed']}")
    return wire.unpack(answer["value"])


def _refuse(name: str, value: object) -> None:
    raise TypeError(
        f"run_once({name!r}): a value of type {type(value).__name__} cannot be given to other "
        "shards: return texts, numbers, bytes, or lists, tuples, sets and dicts of them"
    )


def _is_locked(path: Path) -> bool:
    with path.open("a", encoding="ascii") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
        return False
