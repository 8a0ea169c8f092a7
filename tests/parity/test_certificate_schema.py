"""The published schema of certificates holds for those that are shipped, and for no damaged one."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

import edgeaudio.parity
from edgeaudio_models.zoo_entries import BUNDLE, entry_folder, entry_names

SCHEMA = json.loads(Path(edgeaudio.parity.__file__).with_name("certificate.schema.json").read_text("utf-8"))


def shipped(name: str) -> dict[str, Any]:
    text = (entry_folder(name) / BUNDLE / "parity.json").read_text("utf-8")
    document: dict[str, Any] = json.loads(text)
    return document


@pytest.mark.parametrize("name", entry_names())
def test_the_certificates_of_the_zoo_follow_the_schema(name: str) -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.validate(shipped(name), SCHEMA)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("covers", "manifest.json"), "abc", "does not match"),
        (("stages", 0, "compared"), 0, "less than the minimum"),
        (("stages", 0, "verdict"), "fine", "Additional properties"),
        (("schema_version",), 2, "1 was expected"),
        (("task", "metric"), "taste", "is not one of"),
    ],
)
def test_a_damaged_certificate_does_not(path: tuple[Any, ...], value: Any, message: str) -> None:
    document: Any = copy.deepcopy(shipped("kws-12-small"))
    place = document
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(jsonschema.ValidationError, match=message):
        jsonschema.validate(document, SCHEMA)
