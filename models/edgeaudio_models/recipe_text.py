"""Recipes as TOML text, the inverse of :func:`edgeaudio_models.recipe.parse_recipe`."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from typing import Any

from edgeaudio_models.recipe import Recipe


def recipe_values(recipe: Recipe) -> dict[str, Any]:
    """The fields of a recipe as plain, JSON-ready values, defaults included save those of ``ADDED_LATER``."""
    return {name: _plain(value) for name, value in _fields(recipe).items()}


def format_recipe(recipe: Recipe) -> str:
    """TOML text with every field of :func:`recipe_values`, so that later defaults do not change what it says."""
    values = recipe_values(recipe)
    lines = [f"{key} = {_scalar(value)}" for key, value in values.items() if not isinstance(value, dict)]
    for key, value in values.items():
        if isinstance(value, dict):
            lines += ["", f"[{key}]", *(f"{_key(name)} = {_scalar(item)}" for name, item in value.items())]
    return "\n".join(lines) + "\n"


def _fields(value: Any) -> dict[str, Any]:
    found = {entry: getattr(value, entry.name) for entry in dataclasses.fields(value)}
    return {e.name: item for e, item in found.items() if not ("added_later" in e.metadata and item == _default(e))}


def _default(entry: dataclasses.Field[Any]) -> Any:
    return entry.default if entry.default_factory is dataclasses.MISSING else entry.default_factory()


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return {name: _plain(item) for name, item in _fields(value).items()}
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (tuple, list)) else value


def _key(name: str) -> str:
    """A bare key where TOML allows one, else a quoted one."""
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else _scalar(name)


def _scalar(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_key(key)} = {_scalar(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_scalar(item) for item in value) + "]"
    if isinstance(value, bool):
        return "true" if value else "false"
    # JSON strings are TOML basic strings; repr keeps every bit of a float.
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)
