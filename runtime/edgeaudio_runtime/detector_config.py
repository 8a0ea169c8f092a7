"""When a keyword counts as heard: thresholds and times of the detector, as ``detector.json`` keeps them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any

from edgeaudio_runtime.errors import SpecError
from edgeaudio_runtime.manifest import checked_fields

DETECTOR_SCHEMA_VERSION = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class DetectorConfig:
    """``detector.json``: when a keyword counts as heard. ``edgeaudio tune`` replaces it."""

    schema_version: int = DETECTOR_SCHEMA_VERSION
    smoothing_s: float = 0.2
    """Probabilities are averaged over this many seconds, at least one step; steps before the stream count as 0."""
    threshold: float = 0.6
    """A label fires when its smoothed probability is the largest of all and reaches this, 0 to 1."""
    thresholds: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    """Thresholds of single labels, instead of ``threshold``."""
    release: float = 0.35
    """A label that has fired may fire again only after its smoothed probability fell below this (hysteresis)."""
    refractory_s: float = 0.5
    """No label fires within this time after the last one did."""
    settle_s: float = 0.3
    """An event waits at most this long for its word to end, so that ``end_s`` is true; 0 reports at once."""

    def __post_init__(self) -> None:
        _check_number("smoothing_s", self.smoothing_s, low=0.0, high=10.0)
        _check_number("refractory_s", self.refractory_s, low=0.0, high=60.0)
        _check_number("settle_s", self.settle_s, low=0.0, high=2.0)
        _check_number("threshold", self.threshold, low=0.0, high=1.0)
        _check_number("release", self.release, low=0.0, high=1.0)
        if not isinstance(self.thresholds, Mapping):
            raise SpecError(f"thresholds={self.thresholds!r} must map labels to numbers")
        for label, value in self.thresholds.items():
            _check_number(f"thresholds[{label!r}]", value, low=0.0, high=1.0)
        lowest = min([self.threshold, *self.thresholds.values()])
        if self.release > lowest:
            raise SpecError(f"release={self.release} must be <= the lowest threshold, {lowest}; lower it")
        if self.schema_version != DETECTOR_SCHEMA_VERSION:
            raise SpecError(
                f"detector schema_version={self.schema_version!r} must be {DETECTOR_SCHEMA_VERSION}; "
                "for a newer one run: pip install --upgrade edgeaudio-runtime"
            )

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        plain = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        return {**plain, "thresholds": dict(self.thresholds)}

    @classmethod
    def from_dict(cls, values: object) -> DetectorConfig:
        """Inverse of :meth:`to_dict`; a missing field takes its default, an unknown one is refused by name."""
        every = frozenset(entry.name for entry in fields(cls))
        return cls(**checked_fields(cls, values, what="detector", optional=every - {"schema_version"}))


def _check_number(name: str, value: object, *, low: float, high: float) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise SpecError(f"{name}={value!r} must be a number from {low:g} to {high:g}")
