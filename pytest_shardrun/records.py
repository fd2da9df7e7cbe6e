"""Frozen classes that cost little to define."""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

if TYPE_CHECKING:
    # In typing since Python 3.11.
    from typing_extensions import dataclass_transform
else:

    def dataclass_transform(**_):
        return lambda function: function


T = TypeVar("T")


@dataclass_transform(frozen_default=True)
def record(cls: type[T]) -> type[T]:
    """``dataclass(frozen=True, slots=True)`` in an eighth of its time.

    A run defines about a hundred such classes before its first test begins. Fields have
    plain defaults only; for ``field()`` and ``KW_ONLY`` there are dataclasses.
    """
    names = tuple(cls.__annotations__)
    body = {key: value for key, value in vars(cls).items() if key not in _OF_EVERY_CLASS}
    defaults = {name: body.pop(name) for name in names if name in body}
    values = _values_getter(names)
    metaclass: Any = type(cls)
    made = metaclass(
        cls.__name__,
        cls.__bases__,
        {
            "__slots__": names,
            "__match_args__": names,
            "__setattr__": _refuse,
            "__delattr__": _refuse,
            **_shown_and_compared(names, values),
            **body,
        },
    )
    made.__init__ = _initialiser(made, names, defaults)
    return made  # type: ignore[no-any-return]


def replace(of: T, **changes: Any) -> T:
    """Another record of the same kind, with some fields changed."""
    return type(of)(**{name: getattr(of, name) for name in of.__match_args__} | changes)  # type: ignore[attr-defined]


#: What ``type`` adds, and adds again.
_OF_EVERY_CLASS = ("__dict__", "__weakref__")


def _values_getter(names: tuple[str, ...]) -> Callable[[Any], tuple[Any, ...]]:
    if len(names) > 1:
        return attrgetter(*names)
    return lambda of: tuple([getattr(of, name) for name in names])


def _shown_and_compared(
    names: tuple[str, ...], values: Callable[[Any], tuple[Any, ...]]
) -> dict[str, Any]:
    def __eq__(self: Any, other: object) -> bool:
        if other.__class__ is not self.__class__:
            return NotImplemented
        return values(self) == values(other)

    def __hash__(self: Any) -> int:
        return hash(values(self))

    def __repr__(self: Any) -> str:
        shown = ", ".join(map("{}={!r}".format, names, values(self)))
        return f"{self.__class__.__qualname__}({shown})"

    def __reduce__(self: Any) -> tuple[Any, ...]:
        return self.__class__, values(self)

    return {each.__name__: each for each in (__eq__, __hash__, __repr__, __reduce__)}


def _initialiser(cls: Any, names: tuple[str, ...], defaults: dict[str, Any]) -> Any:
    """``__init__`` with the fields as its parameters; compiled, since it runs for each event."""
    parameters = [f"{name}=default_{name}" if name in defaults else name for name in names]
    lines = [f" set_{name}(self, {name})\n" for name in names]
    scope = {f"default_{name}": value for name, value in defaults.items()}
    scope |= {f"set_{name}": vars(cls)[name].__set__ for name in names}
    exec(f"def __init__({', '.join(('self', *parameters))}):\n{''.join(lines)} pass", scope)
    return scope["__init__"]


def _refuse(self: Any, name: str, *_: object) -> NoReturn:
    raise AttributeError(f"{name} of a {type(self).__name__} cannot be changed")
