"""From what a user asks for to who counts: this process, workers beside it, or a cluster."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from edgeaudio.scale.counting import ShardCounter
from edgeaudio_runtime.errors import ParityError

RECORDS = "counts"
"""Folder in the cache that holds the records of finished shards where no other is named."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where shards are counted."""

    workers: int | None = None
    """Ray processes on this machine."""
    address: str | None = None
    """Of a Ray cluster."""
    work: Path | None = None
    """Folder of the records of finished shards; with workers there is always one, by default in the cache."""

    def __post_init__(self) -> None:
        if self.workers is not None and self.address is not None:
            rule = "are two places to count at; give one of them"
            raise ParityError(f"workers={self.workers} and address={self.address!r} {rule}")

    @property
    def is_here(self) -> bool:
        """Whether this process counts by itself."""
        return self.workers is None and self.address is None


@contextmanager
def shard_counter(place: Place, *, checkpoint: Path | None = None) -> Iterator[ShardCounter | None]:
    """Who counts, for as long as the block lasts; None is this process without records.

    Args:
        place: Where.
        checkpoint: What the float network was loaded from, where it does not travel in the bundle.

    Raises:
        ParityError: Ray is missing or does not answer.
    """
    if place.is_here:
        yield None if place.work is None else ShardCounter(work=place.work, checkpoint=checkpoint)
        return
    from edgeaudio.scale.ray_pool import ray_pool
    from edgeaudio_models.corpora import default_cache_folder

    folder = default_cache_folder() / RECORDS if place.work is None else place.work
    with ray_pool(workers=place.workers, address=place.address) as pool:
        yield ShardCounter(work=folder, pool=pool, checkpoint=checkpoint)
