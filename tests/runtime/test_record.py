from __future__ import annotations

import copy
import dataclasses
import inspect
import pickle
from collections.abc import Mapping
from dataclasses import field
from functools import cached_property
from typing import ClassVar

import pytest

from edgeaudio_runtime.record import Record


class Point(Record):
    """A record with all that one may have."""

    kind: ClassVar[str] = "point"
    x: int
    y: int = 2
    names: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.x < 0:
            raise ValueError(f"x={self.x} must be >= 0")

    @cached_property
    def total(self) -> int:
        return self.x + self.y


class Named(Point):
    """Inherits the fields."""

    name: str = "a"


class Other(Record):
    """Has the fields of a point, and is none."""

    x: int
    y: int = 2
    names: Mapping[str, int] = field(default_factory=dict)


def test_it_does_what_a_frozen_dataclass_does() -> None:
    point = Point(x=1)
    assert (point.x, point.y, point.names, point.total) == (1, 2, {}, 3)
    assert point == Point(y=2, x=1)
    assert point != Point(x=2)
    assert point != Other(x=1)
    assert repr(Named(x=1, name="b")) == "Named(x=1, y=2, names={}, name='b')"
    assert point.names is not Point(x=1).names
    assert hash(Other(x=1, names=())) == hash(Other(names=(), x=1))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="unhashable"):
        hash(point)


def test_the_functions_of_dataclasses_and_copies_work() -> None:
    point = Named(x=1, names={"a": 1})
    assert [each.name for each in dataclasses.fields(point)] == ["x", "y", "names", "name"]
    assert dataclasses.asdict(point) == {"x": 1, "y": 2, "names": {"a": 1}, "name": "a"}
    assert dataclasses.replace(point, y=5) == Named(x=1, y=5, names={"a": 1})
    assert pickle.loads(pickle.dumps(point)) == copy.deepcopy(point) == point
    with pytest.raises(ValueError, match="x=-1 must be >= 0"):
        dataclasses.replace(point, x=-1)


def test_nothing_of_it_can_be_changed() -> None:
    point = Point(x=1)
    with pytest.raises(dataclasses.FrozenInstanceError, match="cannot assign to field 'x'"):
        point.x = 2  # type: ignore[misc]
    with pytest.raises(dataclasses.FrozenInstanceError, match="cannot delete field 'y'"):
        del point.y
    assert point == Point(x=1)


def test_fields_are_given_by_name_and_all_that_have_no_default() -> None:
    with pytest.raises(TypeError, match="Named needs 'x'"):
        Named(name="b")  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="Point has no field 'w', 'z'"):
        Point(x=1, z=3, w=4)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="positional"):
        Point(1)  # type: ignore[misc]


def test_help_shows_the_fields() -> None:
    signature = inspect.signature(Named)
    assert str(signature) == "(*, x: 'int', y: 'int' = 2, names: 'Mapping[str, int]' = {}, name: 'str' = 'a')"
