"""How long tests took, in a locked file."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Collection, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Final

from filelock import FileLock

from .estimates import Durations
from .formats import Format, parse, render, updated
from .scopes import module_of

#: How long to wait for other runs that are saving their durations.
LOCK_SECONDS: Final = 10.0


def read_durations(
    path: Path, *, complain: Callable[[str], None], committed: bool = False
) -> Durations:
    """The durations in the file: none where it is missing or cannot be read.

    A file that holds something else is moved aside to ``NAME.corrupt``. Besides our own formats
    that of pytest-split is understood. Never raises; `complain` is told what went wrong.
    """
    try:
        return _load(path)[1]
    except FileNotFoundError:
        return Durations()
    except OSError as error:
        complain(f"recorded durations are not used: {error}")
        return Durations()
    except ValueError:
        pass
    try:
        # Another run may be replacing the file with a sound one.
        with _lock(path, committed=committed):
            found = _load_or_move_aside(path, complain)
            return Durations() if found is None else found[1]
    except OSError as error:
        complain(f"{path} holds no durations and cannot be moved aside: {error}")
        return Durations()


def update_durations(
    path: Path,
    measured: Mapping[str, float],
    *,
    complain: Callable[[str], None],
    collected: Collection[str] | None = None,
    root: Path | None = None,
    setups: Mapping[str, float] | None = None,
    committed: bool = False,
) -> None:
    """Mix the measured durations into the file, which other runs may be doing at this moment.

    With `collected`, the node ids of all tests in their modules, what these modules had before and
    do not have any more is forgotten, and so are modules that are no files below `root` any more.
    `setups` are the seconds of shared fixtures. A file keeps its
    format; a new one is small and calm where it is to be `committed`. Never raises for the state of
    the file or its directory; `complain` is told.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _lock(path, committed=committed):
            usual = Format.COMPACT if committed else Format.FULL
            format, old = _load_or_move_aside(path, complain) or (usual, Durations())
            before = old
            if collected is not None and root is not None:
                alive = {module_of(nodeid) for nodeid in collected}
                before = old.without(lambda name: name not in alive and not (root / name).exists())
            new = updated(before, Durations(measured, setups or {}), format, collected)
            if new != old or not path.exists():
                _write(path, render(new, format))
    except OSError as error:
        complain(f"durations are not saved: {error}")


def _lock(path: Path, *, committed: bool) -> FileLock:
    """A lock for the file; to wait in vain for it raises an `OSError` as well."""
    place = path.with_name(f"{path.name}.lock")
    if committed:
        # Beside a file under version control it would be in the way.
        name = sha256(os.fsencode(path.resolve())).hexdigest()[:16]
        place = Path(tempfile.gettempdir(), f"shardrun-{os.getuid()}-{name}.lock")
    return FileLock(place, timeout=LOCK_SECONDS)


def _load(path: Path) -> tuple[Format, Durations]:
    """The durations in the file; raises `OSError`, or `ValueError` where it holds none."""
    return parse(path.read_text(encoding="utf-8"))


def _load_or_move_aside(
    path: Path, complain: Callable[[str], None]
) -> tuple[Format, Durations] | None:
    try:
        return _load(path)
    except FileNotFoundError:
        return None
    except ValueError as error:
        aside = path.with_name(f"{path.name}.corrupt")
        os.replace(path, aside)
        complain(f"{path} holds no durations ({error}): it was moved to {aside.name}")
        return None


def _write(path: Path, text: str) -> None:
    """Replace the file at once, so that a reader never sees half of it."""
    beside = path.with_name(f"{path.name}.new")
    try:
        beside.write_text(text, encoding="ascii")
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
