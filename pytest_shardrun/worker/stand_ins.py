"""What stands for values that could not be sent."""

from __future__ import annotations

from typing import Any, Final, NoReturn


class LostValueError(RuntimeError):
    """Something relies on a value of which only the text came over the border."""


class Lost:
    """Stands for a value that could not be sent: it has its texts, and refuses everything else."""

    def __init__(self, text: str, shown: str, place: str, kind: str) -> None:
        self._text = text
        self._shown = shown
        self._place = place
        self._kind = kind

    def __str__(self) -> str:
        return self._text

    def __repr__(self) -> str:
        return self._shown

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


class _Worded:
    """Makes a plain value show the texts that a value of a subclass has shown."""

    _text: str
    _shown: str

    def __str__(self) -> str:
        return self._text

    def __repr__(self) -> str:
        return self._shown


class _Text(_Worded, str):
    pass


class _Integer(_Worded, int):
    pass


class _Float(_Worded, float):
    pass


class _List(_Worded, list[Any]):
    pass


class _Dictionary(_Worded, dict[Any, Any]):
    pass


class _Tuple(_Worded, tuple[Any, ...]):
    pass


_WORDED: Final = {
    str: _Text,
    int: _Integer,
    float: _Float,
    list: _List,
    dict: _Dictionary,
    tuple: _Tuple,
}


def with_texts(plain: Any, text: str, shown: str) -> Any:
    """A plain value that is shown with these texts by ``str`` and by ``repr``."""
    value: Any = _WORDED[type(plain)](plain)
    value._text = text
    value._shown = shown
    return value


def texts_of(value: object) -> tuple[str, str]:
    """How a value is shown by ``str`` and by ``repr``, whatever its class does."""
    text = _call(str, value)
    kind = type(value)
    if kind.__str__ is object.__str__ or kind.__str__ is kind.__repr__:
        return text, text
    return text, _call(repr, value)


def name_of(kind: type) -> str:
    """The name of a class with its module."""
    return f"{kind.__module__}.{kind.__qualname__}"


def _call(function: Any, value: object) -> str:
    try:
        # Their instances may be strange themselves.
        return str.__str__(function(value))
    except Exception:
        # The user's own code; plain pytest need not have asked for the text.
        return f"<{name_of(type(value))} without a text>"
