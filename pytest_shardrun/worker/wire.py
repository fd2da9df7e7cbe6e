"""Values as lines of JSON, both ways."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any, Final

from . import plain
from .stand_ins import Lost, name_of, texts_of, with_texts

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
_WORDED: Final = "as"
_TAG: Final = "$"

_encode: Final = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode

_decode: Final = json.JSONDecoder().decode

Complain = Callable[[str, object], None]


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
        return texts_of(value)[0]
    above |= {id(value)}
    if isinstance(value, dict):
        return {
            key: _flat(each, above, complain, f"{path}.{_name(key)}") for key, each in value.items()
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
    if kind is dict:
        return _pack_dictionary(value, complain, path)  # type: ignore[arg-type]
    if kind is tuple:
        return {_TAG: _TUPLE, "v": [_pack(each, complain, path) for each in value]}  # type: ignore[attr-defined]
    for known in (str, int, float, list, dict, tuple):
        if isinstance(value, known):
            return _pack_subclass(value, _plain_of(value, known), complain, path)
    if isinstance(value, (bytes, bytearray)):
        return {_TAG: _BYTES, "v": base64.b64encode(value).decode("ascii")}
    if isinstance(value, (set, frozenset)):
        tag = _FROZEN_SET if isinstance(value, frozenset) else _SET
        return {_TAG: tag, "v": [_pack(each, complain, path) for each in value]}
    written = plain.write(value)
    if written is not None:
        return {_TAG: written[0], "v": written[1]}
    place = path.lstrip(".")
    complain(place, value)
    return {_TAG: _LOST, "v": [*texts_of(value), place, name_of(kind)]}


def _pack_dictionary(value: dict[Any, Any], complain: Complain, path: str) -> Any:
    if all(type(key) is str for key in value) and _TAG not in value:
        return {key: _pack(each, complain, f"{path}.{key}") for key, each in value.items()}
    pairs = [
        [_pack(key, complain, path), _pack(each, complain, f"{path}.{_name(key)}")]
        for key, each in value.items()
    ]
    return {_TAG: _PAIRS, "v": pairs}


def _pack_subclass(value: object, same: Any, complain: Complain, path: str) -> Any:
    """What such a value is besides its class, and how it is shown where that differs."""
    packed = _pack(same, complain, path)
    texts = texts_of(value)
    return packed if texts == texts_of(same) else {_TAG: _WORDED, "v": [packed, *texts]}


def _plain_of(value: Any, known: type) -> Any:
    # What a subclass says of itself is its text, and no part of the value.
    if known is str:
        return str.__str__(value)
    if known is int:
        return int.__int__(value)
    if known is float:
        return float.__float__(value)
    return known(value)


def _name(key: object) -> str:
    return texts_of(key)[0]


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
        text, shown, place, name = content
        return Lost(str(text), str(shown), str(place), str(name))
    if tag == _WORDED:
        packed, text, shown = content
        return with_texts(unpack(packed), str(text), str(shown))
    if plain.can_read(tag):
        return plain.read(tag, content)
    raise ValueError(f"unknown tag {tag!r}")
