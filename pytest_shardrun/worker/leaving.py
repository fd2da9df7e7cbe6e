"""The end of a worker's process."""

from __future__ import annotations

import atexit
import contextlib
import gc
import io
import os
import sys
import threading
import traceback
import weakref
from collections.abc import Callable
from typing import Any, Final, NoReturn

#: What keeps in memory what was written to it.
_BUFFERED: Final = (io.TextIOWrapper, io.BufferedWriter, io.BufferedRandom)


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


def run_and_leave(run: Callable[[], int | None], *, fresh: bool = False) -> NoReturn:
    """Do what is to be done in this process, then leave it as an interpreter would be left.

    Only that no module is taken apart: that takes longer than a small suite. ``fresh``: this is no
    fork, so that what C has to do at the exit is its own affair.
    """
    process = os.getpid()
    status = 1
    try:
        status = run() or 0
    except SystemExit as error:
        status = _status_of(error)
    except BaseException:
        traceback.print_exc()
    finally:
        # A child that a test forked may come to this point, too.
        leave(status, with_c=fresh and os.getpid() == process)


def leave(status: int, *, with_c: bool = False) -> NoReturn:
    """Wait for threads, call exit handlers, save and flush, and go; ``with_c``: C's, too."""
    try:
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        _save_coverage()
        _flush_files()
        if with_c:
            _exit_of_c(status)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def _flush_files() -> None:
    """Write what is in the buffers of files that nobody has closed."""
    # Not isinstance(), which asks objects that only pretend to be something.
    files = [each for each in gc.get_objects() if issubclass(type(each), _BUFFERED)]
    for each in (sys.stdout, sys.stderr, *files):
        # It may be closed, or only for reading, or its disk is full; a test may have replaced it.
        with contextlib.suppress(AttributeError, OSError, ValueError):
            each.flush()


def _exit_of_c(status: int) -> NoReturn:
    """Exit as C does, which writes coverage of extensions, for example."""
    with contextlib.suppress(ImportError, OSError, AttributeError):
        import ctypes

        # No other thread gets a turn at Python meanwhile.
        ctypes.PyDLL(None).exit(status)
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
