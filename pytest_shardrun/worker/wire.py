"""Values as lines of JSON, both ways."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any, Final, NoReturn

#: Raised when events or commands change their meaning; both sides must agree.
PROTOCOL: Final = 1

#: Where the descriptors of the stream live, out of the way of tests that count on low numbers.
FIRST_DESCRIPTOR: Final = 200

#: Bytes of a line beyond which its longest texts are cut: the controller must hold many lines.
LONGEST_LINE: Final = 4 << 20

#: How deep a value may be nested that is too deep for the interpreter's stack.
_DEEPEST: Final = 100

#: Characters that are always kept of a text.
_SHORTEST_CUT: Final = 1 << 12

_TUPLE: Final = "()"
_BYTES: Final = "b"
_PAIRS: Final = "{}"
_SET: Final = "set"
_FROZEN_SET: Final = "frozenset"
_LOST: Final = "lost"
_TAG: Final = "$"

_encode: Final = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode

_decode: Final = json.JSONDecoder().decode

Complain = Callable[[str, object], None]


class LostValueError(RuntimeError):
    """Something relies on a value of which only the text came over the border."""


class Lost:
    """Stands for a value that could not be sent: it has a text, and refuses everything else."""

    def __init__(self, text: str, place: str, kind: str) -> None:
        self._text = text
        self._place = place
        self._kind = kind

    def __str__(self) -> str:
        return self._text

    __repr__ = __str__

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("__"):
            # Copying and the like ask for these and can do without.
            raise AttributeError(name)
        self._refuse()

    def __iter__(self) -> NoReturn:
        self._refuse()

    def __len__(self) -> NoReturn:
        self._refuse()

    def __getitem__(self, key: object) -> NoReturn:
        self._refuse()

    def __call__(self, *args: object, **keywords: object) -> NoReturn:
        self._refuse()

    def __bool__(self) -> bool:
        return True

    def _refuse(self) -> NoReturn:
        raise LostValueError(
            f"{self._place or 'a value'} of type {self._kind} could not be sent between the "
            "processes, and only its text is here: put there what is needed of it, as text, "
            "numbers, lists or dictionaries"
        )


def encode(value: object) -> bytes:
    """One line, newline included, of a value that ``pack`` made or that is plain JSON."""
    return _encode(value).encode("ascii") + b"\n"


def encode_within(value: object, longest: int = LONGEST_LINE) -> bytes:
    """The line of a value that ``pack`` made, with texts cut in their middle where it is too long.

    Longer all the same is what has many short texts, as the list of a large collection has.
    """
    line = encode(value)
    kept = longest // 4
    while len(line) > longest and kept >= _SHORTEST_CUT:
        line = encode(_cut(value, kept))
        kept //= 4
    return line


def _cut(value: Any, kept: int) -> Any:
    if type(value) is str and len(value) > kept:
        left_out = f"[... {len(value) - kept} characters left out ...]"
        # The end says more often what went wrong.
        return f"{value[: kept // 4]}\n{left_out}\n{value[len(value) - (kept - kept // 4) :]}"
    if type(value) is list:
        return [_cut(each, kept) for each in value]
    if type(value) is dict and value.get(_TAG) != _BYTES:
        return {key: _cut(each, kept) for key, each in value.items()}
    return value


def decode(line: bytes) -> Any:
    """The plain JSON value of a line; ``ValueError`` where it is none."""
    return _decode(line.decode("utf-8"))


def pack(value: object, complain: Complain, path: str = "") -> Any:
    """The value as plain JSON that ``unpack`` turns back, tuples, bytes and odd keys included.

    What JSON cannot hold arrives as ``Lost``; ``complain`` is told where it was and the value.
    """
    try:
        return _pack(value, complain, path)
    except RecursionError:
        return _pack(_flat(value, frozenset(), complain, path), complain, path)


def _flat(value: object, above: frozenset[int], complain: Complain, path: str) -> object:
    """The value, where what contains itself, or is deeper than any use, is its text."""
    if not isinstance(value, (dict, list, tuple)):
        return value
    if id(value) in above or len(above) == _DEEPEST:
        complain(path.lstrip("."), value)
        return _text(value)
    above |= {id(value)}
    if isinstance(value, dict):
        return {
            key: _flat(each, above, complain, f"{path}.{_text(key)}") for key, each in value.items()
        }
    flat = [_flat(each, above, complain, path) for each in value]
    return tuple(flat) if isinstance(value, tuple) else flat


def _pack(value: object, complain: Complain, path: str) -> Any:
    if value is None or value is True or value is False:
        return value
    kind = type(value)
    if kind is str or kind is int or kind is float:
        return value
    if kind is list:
        return [_pack(each, complain, path) for each in value]  # type: ignore[attr-defined]
    if isinstance(value, dict):
        if all(type(key) is str for key in value) and _TAG not in value:
            return {key: _pack(each, complain, f"{path}.{key}") for key, each in value.items()}
        pairs = [
            [_pack(key, complain, path), _pack(each, complain, f"{path}.{_text(key)}")]
            for key, each in value.items()
        ]
        return {_TAG: _PAIRS, "v": pairs}
    if isinstance(value, tuple):
        return {_TAG: _TUPLE, "v": [_pack(each, complain, path) for each in value]}
    if isinstance(value, list):
        return [_pack(each, complain, path) for each in value]
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value)
    if isinstance(value, (bytes, bytearray)):
        return {_TAG: _BYTES, "v": base64.b64encode(value).decode("ascii")}
    if isinstance(value, (set, frozenset)):
        tag = _FROZEN_SET if isinstance(value, frozenset) else _SET
        return {_TAG: tag, "v": [_pack(each, complain, path) for each in value]}
    return _lose(value, complain, path)


def _lose(value: object, complain: Complain, path: str) -> Any:
    place = path.lstrip(".")
    complain(place, value)
    kind = type(value)
    return {_TAG: _LOST, "v": [_text(value), place, f"{kind.__module__}.{kind.__qualname__}"]}


def _text(value: object) -> str:
    try:
        return str(value)
    except Exception:
        # The user's own code; plain pytest need not have asked for the text.
        return f"<{type(value).__module__}.{type(value).__qualname__} without a text>"


def unpack(value: Any) -> Any:
    """What ``pack`` was given."""
    if type(value) is list:
        return [unpack(each) for each in value]
    if type(value) is not dict:
        return value
    tag = value.get(_TAG)
    if tag is None:
        return {key: unpack(each) for key, each in value.items()}
    content = value["v"]
    if tag == _TUPLE:
        return tuple(unpack(each) for each in content)
    if tag == _PAIRS:
        return {unpack(key): unpack(each) for key, each in content}
    if tag == _SET:
        return {unpack(each) for each in content}
    if tag == _FROZEN_SET:
        return frozenset(unpack(each) for each in content)
    if tag == _BYTES:
        return base64.b64decode(content)
    if tag == _LOST:
        text, place, name = content
        return Lost(str(text), str(place), str(name))
    raise ValueError(f"unknown tag {tag!r}")
