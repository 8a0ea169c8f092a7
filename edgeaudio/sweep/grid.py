"""The cells of a sweep: every method with every calibration, path and recovery that can make a difference to it."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, get_args

from edgeaudio_runtime.errors import SpecError

NO_RECOVERY = "none"
"""What a caller writes for no recovery at all."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """One way to quantize."""

    method: str
    """Name of a quantization method, such as "static_w8a8"."""
    calibration: str
    """How ranges are chosen."""
    backend: str
    """Which path quantizes."""
    recovery: tuple[str, ...] = ()
    """Recovery steps, in order."""

    @property
    def name(self) -> str:
        """Short name, also that of its files."""
        return "-".join((self.method, self.calibration, self.backend, *self.recovery))

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {**asdict(self), "recovery": list(self.recovery)}


def known_methods() -> tuple[str, ...]:
    """Names of all methods, the default first."""
    from edgeaudio_export.quantization_recipe import METHODS

    return METHODS


def known_calibrations() -> tuple[str, ...]:
    """Names of all ways to choose ranges."""
    from edgeaudio_export.calibration import METHODS

    return METHODS


def known_backends() -> tuple[str, ...]:
    """Names of both paths."""
    from edgeaudio_export.quantize import Backend

    return get_args(Backend)


def make_grid(
    *,
    methods: Sequence[str] = (),
    calibrations: Sequence[str] = (),
    backends: Sequence[str] = (),
    recoveries: Sequence[str] = (),
) -> tuple[Cell, ...]:
    """The product of the names given; nothing given for an axis takes all that are known (of recoveries: none).

    Args:
        methods: Names of methods.
        calibrations: Names of calibration methods.
        backends: Names of paths.
        recoveries: Each "none" or steps joined by "+", such as "equalize+bias_correction".

    Raises:
        SpecError: A name is unknown or given twice.

    A method that leaves activations in float has no ranges to choose but those of its boundary, and nothing to
    recover: it is one cell a path.
    """
    from edgeaudio_export.quantization_recipe import RECOVERY_STEPS

    methods = _checked("methods", methods, known_methods())
    calibrations = _checked("calibrations", calibrations, known_calibrations())
    backends = _checked("backends", backends, known_backends())
    steps = tuple(_steps(text, RECOVERY_STEPS) for text in recoveries or (NO_RECOVERY,))
    if len(set(steps)) < len(steps):
        raise SpecError(f"recoveries={list(recoveries)} hold one twice; give each once")
    return tuple(
        Cell(method=method, calibration=calibration, backend=backend, recovery=recovery)
        for method in methods
        for calibration, backend, recovery in _axes(method, calibrations, backends, steps)
    )


def _axes(
    method: str, calibrations: Sequence[str], backends: Sequence[str], steps: Sequence[tuple[str, ...]]
) -> itertools.product[Any]:
    from edgeaudio_export.quantization_recipe import decode

    if decode(method).mode == "static":
        return itertools.product(calibrations, backends, steps)
    return itertools.product(calibrations[:1], backends, [()])


def _checked(axis: str, names: Sequence[str], known: Sequence[str]) -> Sequence[str]:
    unknown = [name for name in names if name not in known]
    if unknown:
        raise SpecError(f"{axis}={unknown} must be among {list(known)}")
    if len(set(names)) < len(names):
        raise SpecError(f"{axis}={list(names)} hold one twice; give each once")
    return names or known


def _steps(text: str, known: Sequence[str]) -> tuple[str, ...]:
    if text == NO_RECOVERY:
        return ()
    steps = tuple(text.split("+"))
    unknown = [step for step in steps if step not in known]
    if unknown:
        raise SpecError(f"recoveries={unknown} must be {NO_RECOVERY!r} or among {list(known)}, joined by '+'")
    return steps
