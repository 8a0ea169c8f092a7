"""The entries of the zoo as rows."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from edgeaudio_models.zoo_entries import CARD, entry_folder, entry_names


def listed_entries() -> list[dict[str, Any]]:
    """A row for each entry: name, task, labels, parameters, headline, licences, commercial use, bytes of the bundle."""
    return [_row(json.loads((entry_folder(name) / CARD).read_text("utf-8"))) for name in entry_names()]


def _row(card: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "name": card["name"],
        "task": card["task"],
        "labels": card["labels"],
        "parameters": card["network"]["parameters"],
        "headline": card["headline"],
        "licences": sorted({one["spdx"] or one["licence"] for one in card["sources"]}),
        "commercial_use": card["commercial_use"],
        "bytes": {name: size for name, size in card["files"].items() if "/model." in name},
    }


def render_listing(rows: Sequence[Mapping[str, Any]]) -> str:
    """A table for people."""
    lines = [f"{'name':18s}{'task':9s}{'parameters':>11s}{'tflite kB':>11s}  {'commercial':12s}figure"]
    for row in rows:
        size = row["bytes"].get("bundle/model.tflite", 0) / 1000
        lines.append(
            f"{row['name']:18s}{row['task']:9s}{row['parameters']:11,d}{size:11.1f}  "
            f"{row['commercial_use']:12s}{row['headline']}"
        )
    return "\n".join(lines) if rows else "no entries"
