"""Immutable values by name, for classes that cost next to nothing to import."""

from __future__ import annotations

from dataclasses import MISSING, Field, FrozenInstanceError, dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

if TYPE_CHECKING:
    from inspect import Signature

    from typing_extensions import dataclass_transform
else:

    def dataclass_transform(**_):
        """Tells type checkers alone."""
        return lambda cls: cls


class _LazySignature:
    """What ``inspect.signature`` and ``help`` show of a record, made when they ask."""

    def __get__(self, instance: Record | None, owner: type[Record]) -> Signature:
        from inspect import Parameter, Signature

        return Signature(
            [
                Parameter(name, Parameter.KEYWORD_ONLY, default=_shown_default(field), annotation=field.type)
                for name, field in owner._fields.items()
            ]
        )


def _shown_default(field: Field[Any]) -> Any:
    from inspect import Parameter

    if field.default_factory is not MISSING:
        return field.default_factory()
    return Parameter.empty if field.default is MISSING else field.default


@dataclass_transform(frozen_default=True, kw_only_default=True)
class Record:
    """What ``@dataclass(frozen=True, kw_only=True)`` makes, as a base class that compiles no code.

    The decorator writes and compiles six methods for each class, about a millisecond of import on a small processor;
    a device imports seventeen of them to listen. Here the methods are written once and read the names of the fields.
    ``fields``, ``replace`` and ``asdict`` of :mod:`dataclasses` work, as do inheritance, ``field`` and
    ``__post_init__``.
    """

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]
    _fields: ClassVar[dict[str, Field[Any]]]
    __signature__: ClassVar[_LazySignature] = _LazySignature()

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        dataclass(init=False, repr=False, eq=False, match_args=False)(cls)
        cls._fields = {field.name: field for field in fields(cls)}

    def __init__(self, **values: Any) -> None:
        if values.keys() != self._fields.keys():
            values = self._completed(values)
        self.__dict__.update(values)
        self.__post_init__()

    @classmethod
    def _completed(cls, values: dict[str, Any]) -> dict[str, Any]:
        """``values`` with the defaults of those that were not given."""
        unknown = values.keys() - cls._fields.keys()
        if unknown:
            raise TypeError(f"{cls.__name__} has no field {', '.join(map(repr, sorted(unknown)))}")
        missing = []
        for name, field in cls._fields.items():
            if name in values:
                continue
            if field.default is not MISSING:
                values[name] = field.default
            elif field.default_factory is not MISSING:
                values[name] = field.default_factory()
            else:
                missing.append(name)
        if missing:
            raise TypeError(f"{cls.__name__} needs {', '.join(map(repr, missing))}")
        return values

    def __post_init__(self) -> None:
        """Check the fields; for classes that have rules."""

    def _values(self) -> tuple[Any, ...]:
        own = self.__dict__
        return tuple([own[name] for name in self._fields])

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return self._values() == other._values()

    def __hash__(self) -> int:
        return hash(self._values())

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={self.__dict__[name]!r}" for name in self._fields)
        return f"{type(self).__qualname__}({shown})"

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise FrozenInstanceError(f"cannot assign to field {name!r}")

    def __delattr__(self, name: str) -> NoReturn:
        raise FrozenInstanceError(f"cannot delete field {name!r}")
