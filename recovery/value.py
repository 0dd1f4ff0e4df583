"""Frozen values for the programs that run before systemd.

What `dataclasses.dataclass(frozen=True)` gives, for the early boot path only:
importing `dataclasses` and decorating a dozen classes costs 16 ms natively and
about 200 ms on an emulated or slow machine, more than all the work that early
boot does. A type checker sees the same thing: constructor, fields, frozen.
"""

from __future__ import annotations

from collections.abc import Callable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TypeVar, dataclass_transform

    V = TypeVar("V", bound="Value")
else:

    def dataclass_transform(**_options: bool) -> Callable[[type], type]:
        """Does nothing when the program runs."""
        return lambda decorated: decorated


@dataclass_transform(frozen_default=True, eq_default=True)
class Value:
    """A frozen value: its fields are the annotations of its class, in order.

    A field with a value in the class body has that as its default. Values are
    equal when they have the same class and the same fields. No inheritance
    below a direct subclass.
    """

    _fields: tuple[str, ...] = ()

    def __init_subclass__(cls) -> None:
        """Collects the fields."""
        cls._fields = tuple(cls.__annotations__)

    def __init__(self, *positional: Any, **named: Any) -> None:
        """Sets every field once. Raises TypeError for missing, doubled or unknown ones."""
        fields = self._fields
        if len(positional) > len(fields):
            raise TypeError(f"{type(self).__name__} has {len(fields)} fields")
        values = dict(zip(fields, positional, strict=False))
        for name, value in named.items():
            if name in values or name not in fields:
                raise TypeError(f"{type(self).__name__}: unexpected {name!r}")
            values[name] = value
        for name in fields:
            if name not in values:
                if not hasattr(type(self), name):
                    raise TypeError(f"{type(self).__name__}: missing {name!r}")
                values[name] = getattr(type(self), name)
        self.__dict__.update(values)

    def __setattr__(self, name: str, value: object) -> None:
        """Refuses."""
        raise AttributeError(f"{type(self).__name__} is frozen")

    def __delattr__(self, name: str) -> None:
        """Refuses."""
        raise AttributeError(f"{type(self).__name__} is frozen")

    def __eq__(self, other: object) -> bool:
        """Same class, same fields."""
        return type(other) is type(self) and other.__dict__ == self.__dict__

    def __hash__(self) -> int:
        """Of the fields."""
        return hash((type(self), *self.__dict__.values()))

    def __repr__(self) -> str:
        """As one would write it."""
        inner = ", ".join(f"{name}={getattr(self, name)!r}" for name in self._fields)
        return f"{type(self).__name__}({inner})"


def replace(value: V, **changes: object) -> V:
    """The same value with some fields changed."""
    return type(value)(**{**value.__dict__, **changes})


def fields(value: Value) -> dict[str, Any]:
    """The fields by name, nested values as they are."""
    return {name: getattr(value, name) for name in value._fields}
