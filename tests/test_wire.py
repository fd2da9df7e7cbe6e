from __future__ import annotations

import datetime
import enum
import json
import math
import pathlib
import zoneinfo
from collections import OrderedDict, namedtuple
from collections.abc import Callable
from typing import Any, NoReturn

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_shardrun.worker import wire
from pytest_shardrun.worker.stand_ins import LostValueError

#: Lone surrogates included: they stand for undecodable bytes in output and file names.
TEXTS = st.text(st.characters())
ZONES = st.builds(
    datetime.timezone,
    st.timedeltas(datetime.timedelta(hours=-23), datetime.timedelta(hours=23)),
)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    TEXTS,
    st.binary(),
    st.complex_numbers(allow_nan=False),
    st.decimals(allow_nan=False),
    st.fractions(),
    st.uuids(),
    st.dates(),
    st.times(timezones=st.none() | ZONES),
    st.datetimes(timezones=st.none() | ZONES),
    st.timedeltas(),
    st.builds(pathlib.PosixPath, st.text(st.characters(exclude_characters="\0"))),
    st.builds(pathlib.PurePosixPath, st.text(st.characters(exclude_characters="\0"))),
)
KEYS = st.recursive(SCALARS, lambda each: st.lists(each, max_size=3).map(tuple), max_leaves=4)
VALUES = st.recursive(
    st.one_of(SCALARS, st.sets(SCALARS, max_size=4)),
    lambda each: st.one_of(
        st.lists(each, max_size=4),
        st.lists(each, max_size=4).map(tuple),
        st.dictionaries(KEYS, each, max_size=4),
        st.dictionaries(st.sampled_from(["$", "v", "a"]), each),
    ),
    max_leaves=12,
)


def refuse(path: str, value: object) -> NoReturn:
    raise AssertionError((path, value))


def travel(value: object) -> Any:
    """What arrives at the other end, where nothing may be lost."""
    line = wire.encode(wire.pack(value, refuse))
    assert line.endswith(b"\n")
    assert b"\n" not in line[:-1]
    return wire.unpack(wire.decode(line))


def shape(value: Any) -> Any:
    """The value with all types written down: 1, True and 1.0 are equal, but not the same."""
    if isinstance(value, (list, tuple)):
        return type(value), [shape(each) for each in value]
    if isinstance(value, (set, frozenset)):
        return type(value), {shape_of_key(each) for each in value}
    if isinstance(value, dict):
        return dict, [(shape(key), shape(each)) for key, each in value.items()]
    if isinstance(value, float):
        return float, value, math.copysign(1, value)
    return type(value), value


def shape_of_key(value: Any) -> tuple[str, str]:
    return type(value).__name__, repr(value)


@given(VALUES)
def test_what_is_packed_arrives_as_it_was(value: object) -> None:
    assert shape(travel(value)) == shape(value)


@given(VALUES)
def test_what_is_packed_is_plain_json(value: object) -> None:
    packed = wire.pack(value, refuse)

    assert json.loads(json.dumps(packed)) == packed


@pytest.mark.parametrize(
    "value",
    [
        ("test_a.py", 3, "Skipped: no reason"),
        {1: "one", None: "none", (1, 2): "pair", b"k": "bytes", "text": "text"},
        {"$": "()", "v": [1]},
        {"$": {"$": 1}},
        {"v": ()},
        b"\x00\xff",
        "\udc80 \x00 \u2028 \U0001f600",
        {"a", 1},
        [(), [], {}, set(), b"", ""],
        -0.0,
        1 << 200,
        math.inf,
    ],
    ids=repr,
)
def test_what_plain_json_cannot_hold_arrives_as_it_was(value: object) -> None:
    assert shape(travel(value)) == shape(value)


def test_what_is_not_a_number_arrives_as_such() -> None:
    assert math.isnan(travel(math.nan))
    assert math.isnan(travel({"a": (math.nan,)})["a"][0])


class Colour(enum.IntEnum):
    RED = 1


class Word(str):
    def __str__(self) -> str:
        return "something else"


class Name(str, enum.Enum):
    ADA = "ada"


class Long(float):
    pass


class Row(list[int]):
    pass


class Moment(datetime.datetime):
    pass


Pair = namedtuple("Pair", "a b")


@pytest.mark.parametrize(
    ("value", "arrives_as"),
    [
        (Colour.RED, 1),
        (Word("word"), "word"),
        (Name.ADA, "ada"),
        (Long(1.5), 1.5),
        (Row([1, 2]), [1, 2]),
        (Pair(1, 2), (1, 2)),
        (OrderedDict(b=1, a=2), {"b": 1, "a": 2}),
        (bytearray(b"ab"), b"ab"),
        ({Word("key"): 1}, {"key": 1}),
        (frozenset({1}), frozenset({1})),
        (Moment(2020, 1, 2), datetime.datetime(2020, 1, 2)),
    ],
    ids=repr,
)
def test_a_value_of_a_subclass_arrives_as_the_plain_one_and_is_shown_as_before(
    value: object, arrives_as: object
) -> None:
    arrived = travel(value)

    assert arrived == arrives_as
    assert isinstance(arrived, type(arrives_as))
    assert str(arrived) == str(arrives_as if isinstance(value, bytearray) else value)
    assert shape(travel(arrived)) == shape(arrived)


@pytest.mark.parametrize(
    "value", [{frozenset({1}): 2}, {frozenset({1})}, {(frozenset(),): 1}], ids=repr
)
def test_frozen_sets_can_be_keys_and_members(value: object) -> None:
    assert travel(value) == value


class Thing:
    def __str__(self) -> str:
        return "a thing"

    def __repr__(self) -> str:
        return "<Thing>"


def test_what_cannot_be_sent_becomes_its_text_and_is_named() -> None:
    complaints: list[tuple[str, object]] = []
    thing = Thing()

    packed = wire.pack(
        {"a": [thing, 1], "b": {"c": (thing,)}, 3: thing},
        lambda path, value: complaints.append((path, value)),
        "workeroutput",
    )

    arrived = wire.unpack(packed)
    assert [str(arrived["a"][0]), f"{arrived[3]}"] == ["a thing", "a thing"]
    assert str(arrived["b"]) == "{'c': (<Thing>,)}"
    assert complaints == [
        ("workeroutput.a", thing),
        ("workeroutput.b.c", thing),
        ("workeroutput.3", thing),
    ]


def test_a_path_begins_with_the_first_key() -> None:
    complaints: list[str] = []

    wire.pack({"a": {"b": Thing()}}, lambda path, value: complaints.append(path))

    assert complaints == ["a.b"]


class Stamp(datetime.datetime):
    def __str__(self) -> str:
        return "once"


@pytest.mark.parametrize(
    "value",
    [datetime.datetime(2020, 1, 2, tzinfo=zoneinfo.ZoneInfo("Europe/Berlin")), Stamp(2020, 1, 2)],
    ids=repr,
)
def test_what_is_more_than_a_plain_value_becomes_its_text(value: object) -> None:
    complaints: list[str] = []

    arrived = wire.unpack(wire.pack({"a": value}, lambda path, _: complaints.append(path)))["a"]

    assert (str(arrived), repr(arrived)) == (str(value), repr(value))
    assert complaints == ["a"]


class Silent:
    def __repr__(self) -> str:
        raise RuntimeError("no text")


def test_what_has_no_text_either_is_named_all_the_same() -> None:
    complaints: list[str] = []

    packed = wire.pack({"a": Silent()}, lambda path, value: complaints.append(path))

    assert complaints == ["a"]
    assert str(wire.unpack(packed)["a"]) == "<test_wire.Silent without a text>"


@pytest.mark.parametrize(
    "value", [{"$": "??", "v": 1}, {"$": 3, "v": []}, {"$": ["()"], "v": []}], ids=repr
)
def test_an_unknown_tag_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="unknown tag"):
        wire.unpack(value)


def test_a_line_that_is_too_long_loses_the_middle_of_its_longest_texts_alone() -> None:
    value = ["short", b"b" * 3000, {"key": "begin" + "x" * 50_000 + "end"}, ("y" * 3000,)]

    line = wire.encode_within(wire.pack(value, refuse), 30_000)

    short, data, cut, rest = wire.unpack(wire.decode(line))
    assert (short, data, rest) == ("short", b"b" * 3000, ("y" * 3000,))
    assert cut["key"].startswith("begin")
    assert cut["key"].endswith("end")
    assert "characters left out" in cut["key"]
    assert len(line) <= 30_000


def test_a_list_of_many_short_texts_is_sent_whole() -> None:
    names = [f"test_it.py::test_{number}" for number in range(5000)]

    assert wire.decode(wire.encode_within(names, 30_000)) == names


@pytest.mark.parametrize(
    "use",
    [
        lambda value: value.name,
        lambda value: hasattr(value, "name"),
        lambda value: value[0],
        lambda value: value(),
        lambda value: list(value),
        lambda value: len(value),
    ],
)
def test_who_relies_on_what_could_not_be_sent_is_told_so(use: Callable[[Any], object]) -> None:
    packed = wire.pack({"a": Thing()}, lambda path, value: None, "report")

    with pytest.raises(LostValueError, match=r"^report\.a of type test_wire\.Thing could not"):
        use(wire.unpack(packed)["a"])


def test_what_could_not_be_sent_can_be_sent_on() -> None:
    complaints: list[str] = []
    lost = wire.unpack(wire.pack({"a": Thing()}, lambda path, value: None))

    again = wire.unpack(wire.pack(lost, lambda path, value: complaints.append(path)))

    assert (str(again["a"]), complaints) == ("a thing", ["a"])


def test_what_contains_itself_is_its_text_there() -> None:
    nested: list[object] = [1]
    nested += [nested, nested]
    deep: list[object] = []
    for _ in range(10_000):
        deep = [deep]
    lost: list[str] = []

    packed = wire.pack(
        {"good": (1, 2), "nested": nested, "deep": deep}, lambda path, value: lost.append(path)
    )

    arrived = wire.unpack(wire.decode(wire.encode(packed)))
    assert arrived["good"] == (1, 2)
    assert arrived["nested"] == [1, str(nested), str(nested)]
    assert lost == ["nested", "nested", "deep"]


def test_a_key_without_a_text_is_no_obstacle() -> None:
    lost: list[str] = []

    wire.pack({Silent(): Silent()}, lambda path, value: lost.append(path))

    assert len(lost) == 2
