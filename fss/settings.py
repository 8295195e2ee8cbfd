"""Settings that are checked when they are made, and that read and write JSON. Imports no torch."""

import json
import sys
import types
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any, ClassVar, Literal, Self, Union, get_args, get_origin, get_type_hints

from fss.errors import InputError, closest, nearest


def _choices(hint: Any) -> list[Any]:
    """The types and values that a type hint admits: its unions and literals, taken apart."""
    if get_origin(hint) in (Union, types.UnionType, Literal):
        return [choice for part in get_args(hint) for choice in _choices(part)]
    return [hint]


def _admits(choice: Any, value: Any) -> bool:
    """Whether ``value`` is this choice (or begins with one that ends in a colon), or of this type.

    An int may be a float, and a bool is no int.
    """
    if not isinstance(choice, type):
        return bool(value == choice if not str(choice).endswith(":") else str(value).startswith(choice))
    if isinstance(value, bool):
        return choice is bool
    return isinstance(value, int | float if choice is float else choice)


class Settings:
    """Frozen settings whose values are checked when made and that read and write JSON."""

    LEAST: ClassVar[Mapping[str, float]] = {}  # the smallest number that a setting may have
    MOST: ClassVar[Mapping[str, float]] = {}  # the largest number

    def __post_init__(self) -> None:
        hints = get_type_hints(type(self))
        for name, value in self.to_json().items():
            setting, choices = f"{type(self).__name__}.{name} = {value!r}", _choices(hints[name])
            if not any(_admits(choice, value) for choice in choices):
                words = ", ".join(choice.__name__ if isinstance(choice, type) else repr(choice) for choice in choices)
                meant = closest(value, [c for c in choices if isinstance(c, str)]) if isinstance(value, str) else None
                hint = f"; did you mean {meant!r}?" if meant else ""
                raise InputError(f"{setting}: use {words.replace(', NoneType', ' or None')}{hint}")
            least, most = self.LEAST.get(name), self.MOST.get(name, sys.float_info.max)
            if least is not None and value is not None and not least <= value <= most:  # so written, refuses nan
                raise InputError(f"{setting}: use {least} {f'to {most}' if name in self.MOST else 'or more'}")

    def to_json(self) -> dict[str, Any]:
        """Return the settings as a dict of JSON values."""
        return asdict(self)  # type: ignore[call-overload]

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Make the settings from what ``to_json`` gave; a name it does not know is an error.

        A setting that is missing was added after the file was made. It gets today's default, since the
        default of a new setting is always the old behaviour.
        """
        return cls().override(values)

    def override(self, settings: Mapping[str, Any]) -> Self:
        """Return a copy with some settings replaced; unknown names and bad values are errors."""
        for name in settings:
            if name not in self.to_json():
                raise InputError(f"{type(self).__name__} has no setting {name!r}; {nearest(name, self.to_json())}")
        return replace(self, **settings)  # type: ignore[type-var]


def read_value(text: str) -> Any:
    """Return the value that a user wrote: a number, true, false or none, or else a word."""
    try:
        return json.loads({"none": "null"}.get(text.lower(), text.lower()))
    except ValueError:
        return text
