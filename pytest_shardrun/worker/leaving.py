"""The end of a forked process."""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
import threading
import traceback
import weakref
from collections.abc import Callable
from typing import Any, NoReturn


def disown_exit_handlers() -> None:
    """Leave to the parent what it will do at its own exit, and be ready for handlers of our own."""
    for finalizer in weakref.finalize._registry:  # type: ignore[attr-defined]
        finalizer.atexit = False
    atexit._clear()
    if weakref.finalize._registered_with_atexit:  # type: ignore[attr-defined]
        atexit.register(weakref.finalize._exitfunc)  # type: ignore[attr-defined]
    logging: Any = sys.modules.get("logging")
    if logging is not None:
        atexit.register(logging.shutdown)
    processes: Any = sys.modules.get("multiprocessing.util")
    if processes is not None:
        # What multiprocessing does in its own forks.
        processes._finalizer_registry.clear()
        processes._run_after_forkers()
        atexit.register(processes._exit_function)


def run_and_leave(run: Callable[[], int | None]) -> NoReturn:
    """Do what is to be done in this process, then leave it as an interpreter would be left."""
    status = 1
    try:
        status = run() or 0
    except SystemExit as error:
        status = _status_of(error)
    except BaseException:
        traceback.print_exc()
    finally:
        leave(status)


def leave(status: int) -> NoReturn:
    """Wait for threads, call exit handlers, save and flush, and go."""
    try:
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        _save_coverage()
        for stream in (sys.stdout, sys.stderr):
            # A test may have closed or replaced it.
            with contextlib.suppress(AttributeError, OSError, ValueError):
                stream.flush()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def _save_coverage() -> None:
    # Its own handler was the parent's. The data goes into a file of this process.
    coverage: Any = sys.modules.get("coverage")
    current = coverage.Coverage.current() if hasattr(coverage, "Coverage") else None
    if current is not None and current._auto_save:
        current.stop()
        current.save()


def _status_of(error: SystemExit) -> int:
    match error.code:
        case None:
            return 0
        case int(code):
            return code & 0xFF
        case text:
            sys.stderr.write(f"{text}\n")
            return 1
