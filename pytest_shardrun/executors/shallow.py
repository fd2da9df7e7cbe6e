"""Forks that begin with an empty stack."""

from __future__ import annotations

import _thread
import contextvars
import faulthandler
import os
import resource
import sys
import warnings
from collections.abc import Callable
from typing import Final, NoReturn

#: Bytes of the stack where the system sets no limit to that of the first thread.
_LARGE_STACK: Final = 64 << 20


def fork_shallow(child: Callable[[], NoReturn]) -> int:
    """Call ``child`` in a fork of this process, which has one thread, and return the fork's number.

    No frame of ours is below it, so that a recursion gets as far as in a process of its own. A
    debugger or profiler that follows this thread follows the fork; then they are below it.
    ``OSError`` where the system cannot fork.
    """
    if sys.gettrace() is not None or sys.getprofile() is not None:
        return os.fork() or child()
    outcomes: list[int | BaseException] = []
    threads: list[int] = []
    forked = _thread.allocate_lock()
    forked.acquire()
    context = contextvars.copy_context()

    def fork() -> None:
        # The fork goes on in this thread, which is its first and only one.
        try:
            threads.append(_thread.get_native_id())
            with warnings.catch_warnings():
                # Python warns of forks beside threads; the other one only waits.
                warnings.simplefilter("ignore", DeprecationWarning)
                number = os.fork()
            if number == 0:
                _begin(context, child)
            outcomes.append(number)
        except BaseException as error:
            outcomes.append(error)
        finally:
            forked.release()

    if not _has_started(fork):
        return os.fork() or child()
    with forked:
        pass
    while os.path.exists(f"/proc/self/task/{threads[0]}"):
        # It has nothing left to do but to end.
        os.sched_yield()
    outcome = outcomes[0]
    if isinstance(outcome, BaseException):
        raise outcome
    return outcome


def _has_started(function: Callable[[], None]) -> bool:
    """Call it in a new thread, with a stack as large as that of the first; False: cannot be."""
    limit, _ = resource.getrlimit(resource.RLIMIT_STACK)
    try:
        before = _thread.stack_size(_LARGE_STACK if limit == resource.RLIM_INFINITY else limit)
    except ValueError:
        return False
    # The outermost frame is one of the user's program, as some who walk over the frames expect.
    program = sys.modules["__main__"]
    name = getattr(program, "__file__", None) or "<string>"
    code = compile("lambda function: function()", name, "eval")
    try:
        _thread.start_new_thread(eval(code, vars(program)), (function,))
    except RuntimeError:
        return False
    finally:
        _thread.stack_size(before)
    return True


def _begin(context: contextvars.Context, child: Callable[[], NoReturn]) -> NoReturn:
    try:
        if faulthandler.is_enabled():
            # Its own stack, for when this one is used up, belongs to a thread.
            faulthandler.disable()
            faulthandler.enable()
        context.run(child)
    finally:
        os._exit(1)
