from __future__ import annotations

import copy
import pickle
from dataclasses import dataclass

import pytest

from pytest_shardrun.records import record, replace


@record
class Point:
    """Where something is."""

    x: int
    y: int
    name: str = "somewhere"

    @property
    def is_left(self) -> bool:
        return self.x < 0


@record
class Size:
    x: int
    y: int
    name: str = "somewhere"


@record
class Nothing:
    """A message without content."""


@record
class One:
    only: object


@dataclass(frozen=True, slots=True)
class AsDataclass:
    x: int
    y: int
    name: str = "somewhere"


def test_fields_are_given_by_position_by_name_or_by_default() -> None:
    point = Point(1, y=2)
    assert (point.x, point.y, point.name) == (1, 2, "somewhere")


@pytest.mark.parametrize("arguments", [(), (1,), (1, 2, "a", 4)])
def test_other_numbers_of_fields_are_refused(arguments: tuple[object, ...]) -> None:
    with pytest.raises(TypeError):
        Point(*arguments)  # type: ignore[arg-type]


def test_records_of_one_kind_with_equal_fields_are_equal() -> None:
    assert Point(1, 2) == Point(1, 2)
    assert Point(1, 2) != Point(2, 1)
    assert len({Point(1, 2), Point(1, 2), Point(2, 1), One(1), One(1)}) == 3
    assert Nothing() == Nothing()


def test_records_of_two_kinds_are_never_equal() -> None:
    point: object = Point(1, 2)
    assert point != Size(1, 2)
    assert point != (1, 2, "somewhere")


def test_an_empty_record_counts_as_true() -> None:
    assert bool(Nothing())


def test_a_record_is_hashed_and_shown_as_a_dataclass_is() -> None:
    assert hash(Point(1, 2)) == hash(AsDataclass(1, 2))
    assert repr(Point(1, 2)) == repr(AsDataclass(1, 2)).replace("AsDataclass", "Point")
    assert repr(Nothing()) == "Nothing()"


def test_a_record_of_what_cannot_be_hashed_cannot_be_hashed() -> None:
    with pytest.raises(TypeError, match="unhashable"):
        hash(One([]))


def test_fields_cannot_be_changed_deleted_or_added() -> None:
    point = Point(1, 2)
    with pytest.raises(AttributeError, match="x of a Point"):
        point.x = 3  # type: ignore[misc]
    with pytest.raises(AttributeError, match="x of a Point"):
        del point.x
    with pytest.raises(AttributeError, match="z of a Point"):
        point.z = 3  # type: ignore[attr-defined]
    assert not hasattr(point, "__dict__")
    assert point == Point(1, 2)


def test_a_record_is_taken_apart_by_patterns() -> None:
    match Point(1, 2):
        case Size():
            pytest.fail("it is a Point")
        case Point(x, y, name=name):
            assert (x, y, name) == (1, 2, "somewhere")


def test_methods_and_documentation_stay() -> None:
    assert Point(-1, 0).is_left
    assert Point.__doc__ == "Where something is."
    assert Point.__module__ == __name__


def test_a_changed_record_is_another_one() -> None:
    point = Point(1, 2)
    assert replace(point, y=5, name="there") == Point(1, 5, "there")
    assert point == Point(1, 2)
    with pytest.raises(TypeError):
        replace(point, z=5)


def test_a_record_is_copied_and_pickled() -> None:
    for original in (Point(1, 2, "here"), Nothing(), One([1])):
        assert copy.copy(original) == original
        assert copy.deepcopy(original) == original
        assert pickle.loads(pickle.dumps(original)) == original
