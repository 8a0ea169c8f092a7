"""Records of finished shards on the disk: what a run that was ended had counted, the next one need not count again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgeaudio.parity.streams import StreamCounts
from edgeaudio.scale.shards import Shard
from edgeaudio_runtime.detector_config import DetectorConfig
from edgeaudio_runtime.staging import staged_file

RECORD_VERSION = 1
"""Part of every key; raise it when the same audio and settings come to be counted otherwise."""


class Records:
    """One JSON file a shard, named for the digest of networks, settings and shard; written whole or not at all.

    Args:
        folder: Made when the first shard is done.
        networks: Digest of what listens.
        settings: Of the detector.
    """

    def __init__(self, folder: Path, networks: str, settings: Sequence[DetectorConfig]) -> None:
        self._folder = folder
        self._asked = {
            "version": RECORD_VERSION,
            "networks": networks,
            "settings": [config.to_dict() for config in settings],
        }

    def path(self, shard: Shard) -> Path:
        """Where the record of a shard lies."""
        asked: dict[str, Any] = {**self._asked, "shard": shard.digest}
        return self._folder / f"{hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()}.json"

    def find(self, shard: Shard) -> StreamCounts | None:
        """What was counted in a shard; None where that is not known, or its file is damaged."""
        try:
            return StreamCounts.from_dict(json.loads(self.path(shard).read_text("utf-8"))["counts"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None

    def keep(self, shard: Shard, counts: StreamCounts) -> None:
        """Write the record of a finished shard."""
        text = json.dumps({"shard": shard.name, "counts": counts.to_dict()}, indent=1)
        with staged_file(self.path(shard)) as path:
            path.write_text(text + "\n", "utf-8")
