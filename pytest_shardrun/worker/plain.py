"""Plain values that JSON has no form for."""

from __future__ import annotations

import datetime
import pathlib
import sys
from collections.abc import Callable
from typing import Any, Final, NamedTuple


class _Form(NamedTuple):
    """How values of a class are written down and made again."""

    tag: str
    write: Callable[[Any], Any]
    read: Callable[[Any], object]


# Bound here, for tests that freeze the time replace these names in every module.
def _forms_of_times(
    moment: type[datetime.datetime] = datetime.datetime,
    day: type[datetime.date] = datetime.date,
    clock: type[datetime.time] = datetime.time,
    duration: type[datetime.timedelta] = datetime.timedelta,
) -> list[tuple[type, _Form]]:
    def write_duration(value: datetime.timedelta) -> list[int]:
        return [value.days, value.seconds, value.microseconds]

    return [
        # Before the date, which it is, too.
        (
            moment,
            _Form(
                "datetime",
                lambda value: [moment.isoformat(value), value.fold],
                lambda content: moment.fromisoformat(content[0]).replace(fold=content[1]),
            ),
        ),
        (day, _Form("date", day.isoformat, day.fromisoformat)),
        (
            clock,
            _Form(
                "time",
                lambda value: [clock.isoformat(value), value.fold],
                lambda content: clock.fromisoformat(content[0]).replace(fold=content[1]),
            ),
        ),
        (duration, _Form("timedelta", write_duration, lambda content: duration(*content))),
    ]


_BY_CLASS: Final = (
    *_forms_of_times(),
    (pathlib.PosixPath, _Form("path", str, pathlib.PosixPath)),
    (pathlib.PurePosixPath, _Form("purepath", str, pathlib.PurePosixPath)),
    (
        complex,
        _Form("complex", lambda value: [value.real, value.imag], lambda content: complex(*content)),
    ),
)
#: Of a zone these have an offset and nothing else; with a name come rules.
_PLAIN_ZONES: Final = (datetime.timezone,)


def _read_decimal(content: Any) -> object:
    from decimal import Decimal

    return Decimal(content)


def _read_fraction(content: Any) -> object:
    from fractions import Fraction

    return Fraction(*content)


def _read_uuid(content: Any) -> object:
    from uuid import UUID

    return UUID(content)


#: Their modules need not be there: who has such a value has imported them.
_BY_NAME: Final = (
    ("decimal", "Decimal", _Form("decimal", str, _read_decimal)),
    (
        "fractions",
        "Fraction",
        _Form("fraction", lambda value: [value.numerator, value.denominator], _read_fraction),
    ),
    ("uuid", "UUID", _Form("uuid", str, _read_uuid)),
)

_READERS: Final = {
    form.tag: form.read
    for form in (*(form for _, form in _BY_CLASS), *(form for _, _, form in _BY_NAME))
}


def write(value: object) -> tuple[str, Any] | None:
    """A tag and plain JSON for the value; None where it is none of these, or more than that."""
    form = _form_of(value)
    if form is None:
        return None
    zone = getattr(value, "tzinfo", None)
    if zone is not None and type(zone) not in _PLAIN_ZONES:
        return None
    content = form.write(value)
    # A subclass may show something of its own.
    return (form.tag, content) if str(form.read(content)) == str(value) else None


def can_read(tag: object) -> bool:
    """Whether ``write`` gives such tags."""
    return isinstance(tag, str) and tag in _READERS


def read(tag: str, content: Any) -> object:
    """What ``write`` was given, as an instance of the plain class."""
    return _READERS[tag](content)


def _form_of(value: object) -> _Form | None:
    for known, form in _BY_CLASS:
        if isinstance(value, known):
            return form
    for module, name, form in _BY_NAME:
        found = getattr(sys.modules.get(module), name, None)
        if isinstance(found, type) and isinstance(value, found):
            return form
    return None
