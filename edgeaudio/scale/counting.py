"""Count the events of shards here or on Ray; what is counted does not depend on where."""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from edgeaudio.parity.streams import Networks, StreamCounts, count_stream
from edgeaudio.scale.origin import Origin, origin_of
from edgeaudio.scale.records import Records
from edgeaudio.scale.shards import Shard
from edgeaudio.scale.status import Status, Watch, telling
from edgeaudio_runtime.detector_config import DetectorConfig

__all__ = ["Pool", "ShardCounter", "Status", "count_shard", "merged"]

Numbered = tuple[int, Shard]
Source = TypeVar("Source")


class Pool(Protocol):
    """Workers."""

    def counts(
        self, origin: Origin, shards: Sequence[Numbered], settings: Sequence[DetectorConfig]
    ) -> Iterator[tuple[int, StreamCounts]]:
        """The numbers of the shards and what was counted in them, in whatever order they are done."""
        ...


@dataclass(frozen=True, kw_only=True)
class ShardCounter:
    """Counts the shards of several sources.

    It is what :func:`edgeaudio.parity.stream_section.hear_folders` takes as ``count``.
    """

    work: Path | None = None
    """Folder of the records of finished shards; None keeps none."""
    pool: Pool | None = None
    """Workers; None counts in this process."""
    checkpoint: Path | None = None
    """What the float network was loaded from, where it does not travel in the bundle."""

    def __call__(
        self, networks: Networks, sources: Mapping[Source, Sequence[Shard]], settings: Sequence[DetectorConfig]
    ) -> dict[Source, StreamCounts]:
        """The merged record of each source."""
        shards = [shard for own in sources.values() for shard in own]
        counts = iter(self.each(networks, shards, settings))
        return {source: merged([next(counts) for _ in own]) for source, own in sources.items()}

    def each(
        self, networks: Networks, shards: Sequence[Shard], settings: Sequence[DetectorConfig]
    ) -> list[StreamCounts]:
        """The record of each shard, in their order.

        Raises:
            EdgeAudioError: A recording cannot be heard; the records of shards that were done are kept.
        """
        origin = None if self.work is None and self.pool is None else origin_of(networks, self.checkpoint)
        records = None if self.work is None or origin is None else Records(self.work, origin.digest, settings)
        watch = Watch(list(shards), networks.bundle.features.sample_rate, telling())
        found = {} if records is None else _found(records, shards)
        for i, counts in found.items():
            watch.add(shards[i], counts, from_disk=True)
        missing = [(i, shard) for i, shard in enumerate(shards) if i not in found]
        for i, counts in self._counted(networks, origin, missing, settings):
            if records is not None:
                records.keep(shards[i], counts)
            found[i] = counts
            watch.add(shards[i], counts, from_disk=False)
        return [found[i] for i in range(len(shards))]

    def _counted(
        self, networks: Networks, origin: Origin | None, shards: Sequence[Numbered], settings: Sequence[DetectorConfig]
    ) -> Iterator[tuple[int, StreamCounts]]:
        if self.pool is not None and origin is not None and shards:
            yield from self.pool.counts(origin, shards, settings)
            return
        for i, shard in shards:
            yield i, count_shard(networks, shard, settings)


def count_shard(networks: Networks, shard: Shard, settings: Sequence[DetectorConfig]) -> StreamCounts:
    """Count the events of one shard, from a reset to its end."""
    return count_stream(networks, shard.audio(networks.bundle.features.sample_rate), settings)


def merged(counts: Sequence[StreamCounts]) -> StreamCounts:
    """The records of one source's shards as one, in their order."""
    return functools.reduce(operator.add, counts)


def _found(records: Records, shards: Sequence[Shard]) -> dict[int, StreamCounts]:
    kept = ((i, records.find(shard)) for i, shard in enumerate(shards))
    return {i: counts for i, counts in kept if counts is not None}
