"""When a keyword counts as heard: thresholds and times of the detector, as ``detector.json`` keeps them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field, fields
from types import MappingProxyType
from typing import Any

from edgeaudio_runtime.errors import SpecError
from edgeaudio_runtime.manifest import checked_fields
from edgeaudio_runtime.record import Record

DETECTOR_SCHEMA_VERSION = 1


class DetectorConfig(Record):
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
    patience: int = 1
    """Outputs in a row in which a label must be the largest and reach its threshold before it fires, 1 to 1000."""
    releases: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    """``release`` of single labels, instead of it."""
    gate_db: float | None = None
    """A label fires only where the sound rose this many dB above the noise floor (``noise_gate``), 0 to 100."""
    tuned: Mapping[str, Any] | None = None
    """What ``edgeaudio tune`` measured of these settings on recordings that it did not choose them by; only kept."""

    def __post_init__(self) -> None:
        check_number("smoothing_s", self.smoothing_s, low=0.0, high=10.0)
        check_number("refractory_s", self.refractory_s, low=0.0, high=60.0)
        check_number("settle_s", self.settle_s, low=0.0, high=2.0)
        check_number("threshold", self.threshold, low=0.0, high=1.0)
        check_number("release", self.release, low=0.0, high=1.0)
        if type(self.patience) is not int or not 1 <= self.patience <= 1000:
            raise SpecError(f"patience={self.patience!r} must be an integer from 1 to 1000")
        if self.gate_db is not None:
            check_number("gate_db", self.gate_db, low=0.0, high=100.0)
        _check_labels("thresholds", self.thresholds)
        _check_labels("releases", self.releases)
        if self.tuned is not None and not isinstance(self.tuned, Mapping):
            raise SpecError(f"tuned={self.tuned!r} must be a table of figures; leave it out or tune again")
        lowest = min([self.threshold, *self.thresholds.values()])
        if self.release > lowest:
            raise SpecError(f"release={self.release} must be <= the lowest threshold, {lowest}; lower it")
        for label, value in self.releases.items():
            threshold = self.thresholds.get(label, self.threshold)
            if value > threshold:
                raise SpecError(f"releases[{label!r}]={value} must be <= the label's threshold, {threshold}; lower it")
        if self.schema_version != DETECTOR_SCHEMA_VERSION:
            raise SpecError(
                f"detector schema_version={self.schema_version!r} must be {DETECTOR_SCHEMA_VERSION}; "
                "for a newer one run: pip install --upgrade edgeaudio-runtime"
            )

    def to_dict(self) -> dict[str, Any]:
        """JSON form; the fields that came later are left out at their default."""
        plain = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        plain |= {"thresholds": dict(self.thresholds), "releases": dict(self.releases)}
        unset = {"patience": 1, "releases": {}, "gate_db": None, "tuned": None}
        return {name: value for name, value in plain.items() if name not in unset or value != unset[name]}

    @classmethod
    def from_dict(cls, values: object) -> DetectorConfig:
        """Inverse of :meth:`to_dict`; a missing field takes its default, an unknown one is refused by name."""
        every = frozenset(entry.name for entry in fields(cls))
        return cls(**checked_fields(cls, values, what="detector", optional=every - {"schema_version"}))


def _check_labels(name: str, values: object) -> None:
    if not isinstance(values, Mapping):
        raise SpecError(f"{name}={values!r} must map labels to numbers")
    for label, value in values.items():
        check_number(f"{name}[{label!r}]", value, low=0.0, high=1.0)


def check_number(name: str, value: object, *, low: float, high: float) -> None:
    """Refuse what is no number from ``low`` to ``high``, with a SpecError that names it."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise SpecError(f"{name}={value!r} must be a number from {low:g} to {high:g}")
