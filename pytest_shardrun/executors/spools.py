"""The controller's end of a spool."""

from __future__ import annotations

import mmap
import os
from typing import Final, final

from ..worker.spool import SIZE, START


@final
class SharedSpool:
    """What a worker on this machine has said and not yet sent."""

    def __init__(self) -> None:
        """``OSError`` where there is no memory to share."""
        # No file system that could be full or read-only, and no name that a test could remove.
        self._descriptor = os.memfd_create("shardrun", os.MFD_CLOEXEC)
        try:
            os.posix_fallocate(self._descriptor, 0, SIZE)
            self._memory = mmap.mmap(self._descriptor, SIZE)
        except BaseException:
            os.close(self._descriptor)
            raise
        self._word = memoryview(self._memory)[:START].cast("Q")
        #: By which a worker of this user can open it.
        self.path: Final = f"/proc/{os.getpid()}/fd/{self._descriptor}"

    def read(self) -> bytes:
        """The lines that are there; nothing where the worker is just replacing them."""
        word = self._word[0]
        data = self._memory[START : word & 0xFFFFFFFF]
        return data if self._word[0] >> 32 == word >> 32 else b""

    def close(self) -> None:
        """Give the memory back."""
        self._word.release()
        self._memory.close()
        os.close(self._descriptor)


def open_spool() -> SharedSpool | None:
    """A fresh spool; None where this system has no such memory."""
    if not hasattr(os, "memfd_create"):
        return None
    try:
        return SharedSpool()
    except OSError:
        return None
