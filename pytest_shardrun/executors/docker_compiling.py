"""Compiles in an image what each container would compile.

Its source is an argument of a command in the image, which is run there by root. Official images of
Python come without compiled files, and pytest keeps what it rewrites of its plugins where it may
write, which is nowhere in a shard.
"""

import compileall
import importlib.metadata
import re
import sysconfig
from collections.abc import Iterator
from pathlib import Path

#: Of the standard library, and the packages below it, which their installer has compiled.
LEFT_OUT = re.compile(r"/(site-packages|dist-packages|tests?|idlelib|lib2to3|turtledemo)/")


def main() -> None:
    """Compile the standard library, then the plugins in the way of pytest."""
    compileall.compile_dir(sysconfig.get_path("stdlib"), quiet=2, rx=LEFT_OUT)
    for path in plugin_files():
        rewrite_and_keep(path)


def plugin_files() -> Iterator[Path]:
    """All modules of the distributions that have plugins: pytest rewrites each, when imported."""
    for distribution in importlib.metadata.distributions():
        if any(each.group == "pytest11" for each in distribution.entry_points):
            for file in distribution.files or ():
                if file.suffix == ".py":
                    yield Path(str(file.locate()))


def rewrite_and_keep(path: Path) -> None:
    """Put a module as pytest rewrites it where pytest looks for it."""
    # pytest offers this only together with the import, which has effects.
    from _pytest.assertion import rewrite

    kept = rewrite.get_cache_dir(path) / (path.name[:-3] + rewrite.PYC_TAIL)
    if kept.exists():
        return
    try:
        status, code = rewrite._rewrite_test(path, None)  # type: ignore[arg-type]
    except (OSError, SyntaxError, ValueError):
        # Templates and modules for other Pythons.
        return
    kept.parent.mkdir(exist_ok=True)
    with kept.open("wb") as file:
        rewrite._write_pyc_fp(file, status, code)


if __name__ == "__main__":
    main()
