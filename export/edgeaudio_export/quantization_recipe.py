"""Quantization recipes: a method whose name decodes, how ranges are found, and which layers are treated otherwise."""

from __future__ import annotations

import dataclasses
import fnmatch
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import tomllib

from edgeaudio_export.calibration import CalibrationSpec
from edgeaudio_export.errors import ExportError

Activations = Literal["int8", "int16", "float32"]
"""What the tensors between operations are."""
ACTIVATIONS: tuple[str, ...] = get_args(Activations)

METHODS = ("static_w8a8", "static_w8a16", "weight_only_w8", "float16", "float32")
"""Methods by name; :func:`decode` says what each means. All end in the integer graph."""
ONNX_ONLY_METHODS = ("dynamic_w8",)
"""Methods that ONNX Runtime alone computes; see :mod:`edgeaudio_export.dynamic`."""
RECOVERY_STEPS = ("equalize", "adaround", "bias_correction", "qat", "ranges")
"""Steps that win accuracy back, by name: rewrites of the float network, then "ranges", which refines calibration."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Scheme:
    """What a method's name stands for."""

    mode: Literal["static", "dynamic", "weight_only", "float"]
    """Ranges of activations fixed in advance or found at run time, weights alone quantized, or nothing quantized."""
    weights: Literal["int8", "float16", "float32"]
    """How weights are stored."""
    activations: Activations
    """How activations are computed, where no rule says otherwise."""

    @property
    def weight_bits(self) -> int:
        """Bits of a stored weight."""
        return int(self.weights.lstrip("intfloa"))

    @property
    def activation_bits(self) -> int:
        """Bits of an activation."""
        return int(self.activations.lstrip("intfloa"))


def decode(method: str) -> Scheme:
    """What a method's name says: ``static_w<bits>a<bits>``, ``(weight_only|dynamic)_w<bits>`` or ``float<bits>``.

    Raises:
        ExportError: The method is unknown.
    """
    if method not in (*METHODS, *ONNX_ONLY_METHODS):
        raise ExportError(f"method={method!r} must be one of {[*METHODS, *ONNX_ONLY_METHODS]}")
    found = re.fullmatch(r"(static|weight_only|dynamic)_w(\d+)(?:a(\d+))?|float(\d+)", method)
    assert found is not None
    mode, weight_bits, activation_bits, float_bits = found.groups()
    if float_bits is not None:
        return Scheme(mode="float", weights=f"float{float_bits}", activations="float32")  # type: ignore[arg-type]
    activations = f"int{activation_bits}" if activation_bits else "float32"
    return Scheme(mode=mode, weights=f"int{weight_bits}", activations=activations)  # type: ignore[arg-type]


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerRule:
    """Activations of some layers, otherwise than the method has them."""

    name: str
    """Name of a layer, or a pattern with ``*``, ``?`` and ``[...]``; see
    :func:`edgeaudio_export.quantizer.layer_names`."""
    activations: Activations
    """"int8", "int16" or "float32"."""

    def __post_init__(self) -> None:
        if self.activations not in ACTIVATIONS:
            raise ExportError(f"layers: activations={self.activations!r} of {self.name!r} must be one of {_LISTED}")

    def matches(self, layer: str) -> bool:
        """Whether the rule speaks of this layer."""
        return layer == self.name or fnmatch.fnmatchcase(layer, self.name)


_LISTED = list(ACTIVATIONS)


@dataclass(frozen=True, kw_only=True, slots=True)
class QuantizationRecipe:
    """Everything that decides how a float network becomes an integer graph, but the data."""

    method: str = "static_w8a8"
    """One of :data:`METHODS` or :data:`ONNX_ONLY_METHODS`."""
    per_channel: bool = True
    """One weight scale for each output channel; False: one for each weight tensor."""
    reduce_range: bool = False
    """Weights of 7 bits, for x86 processors without VNNI, whose sums of int8 products can saturate; dynamic only."""
    symmetric_activations: bool | None = None
    """True: zero point 0 everywhere; False: int8 activations have a zero point of their own. None takes what the method
    does by itself: int8 affine, int16 symmetric (always so, as LiteRT's 16x8 kernels demand it)."""
    calibration: CalibrationSpec = field(default_factory=CalibrationSpec)
    """How ranges of activations are found."""
    recovery: tuple[str, ...] = ()
    """Some of :data:`RECOVERY_STEPS`, in the order they run."""
    layers: tuple[LayerRule, ...] = ()
    """Exceptions for single layers; where two match, the later one wins."""

    def __post_init__(self) -> None:
        scheme = decode(self.method)
        if self.symmetric_activations is False and scheme.activations == "int16":
            raise ExportError(
                f"symmetric_activations=False does not go with method={self.method!r}: int16 activations have zero "
                "point 0, as LiteRT's 16x8 kernels demand; leave it out"
            )
        if self.reduce_range and scheme.mode != "dynamic":
            raise ExportError(
                f"reduce_range=True does not go with method={self.method!r}; it is for {ONNX_ONLY_METHODS[0]!r}"
            )
        unknown = [step for step in self.recovery if step not in RECOVERY_STEPS]
        if unknown:
            raise ExportError(f"recovery={unknown} must be among {list(RECOVERY_STEPS)}")
        if self.recovery and scheme.mode != "static":
            raise ExportError(
                f"recovery={list(self.recovery)} does not go with method={self.method!r}, which quantizes no "
                "activation; leave it out"
            )
        if self.layers and scheme.mode != "static":
            raise ExportError(
                f"layers: rules for {[rule.name for rule in self.layers]} do not go with method={self.method!r}, whose "
                "activations are all float32; start from a static method"
            )

    @property
    def scheme(self) -> Scheme:
        """What the method's name stands for."""
        return decode(self.method)

    @property
    def rewrites(self) -> tuple[str, ...]:
        """The recovery steps that change the float network."""
        return tuple(step for step in self.recovery if step != "ranges")

    def symmetric(self, activations: Activations) -> bool:
        """Whether codes of this type have zero point 0."""
        return activations == "int16" or bool(self.symmetric_activations)

    def activations(self, layers: Sequence[str]) -> dict[str, Activations]:
        """Type of every layer's activations, by the method and the rules.

        Raises:
            ExportError: A rule matches none of ``layers``, which the message lists.
        """
        found: dict[str, Activations] = dict.fromkeys(layers, self.scheme.activations)
        for rule in self.layers:
            matched = [layer for layer in layers if rule.matches(layer)]
            if not matched:
                raise ExportError(f"layers: name={rule.name!r} matches no layer of this network; it has {list(layers)}")
            found.update(dict.fromkeys(matched, rule.activations))
        return found

    def to_dict(self) -> dict[str, Any]:
        """JSON form, every field."""
        values = dataclasses.asdict(self)
        return {**values, "recovery": list(self.recovery), "layers": list(values["layers"])}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> QuantizationRecipe:
        """Inverse of :meth:`to_dict`; fields that are left out have their defaults.

        Raises:
            ExportError: A key is unknown, or a value against its rule; each by name.
        """
        checked = _known(cls, values, "recipe")
        if "calibration" in checked:
            checked["calibration"] = _calibration(checked["calibration"])
        if "layers" in checked:
            checked["layers"] = tuple(_rule(rule) for rule in _list(checked, "layers"))
        if "recovery" in checked:
            checked["recovery"] = tuple(_list(checked, "recovery"))
        for name in ("per_channel", "reduce_range", "symmetric_activations"):
            if not isinstance(checked.get(name, False), (bool, type(None))):
                raise ExportError(f"{name}={checked[name]!r} must be true or false")
        return cls(**checked)

    def to_toml(self) -> str:
        """TOML text with every field that has a value."""
        values = self.to_dict()
        lines = [f"{name} = {_toml(values[name])}" for name in ("method", "per_channel", "reduce_range", "recovery")]
        if self.symmetric_activations is not None:
            lines.append(f"symmetric_activations = {_toml(self.symmetric_activations)}")
        lines += ["", "[calibration]", *(f"{name} = {_toml(value)}" for name, value in values["calibration"].items())]
        for rule in values["layers"]:
            lines += ["", "[[layers]]", *(f"{name} = {_toml(value)}" for name, value in rule.items())]
        return "\n".join(lines) + "\n"


def parse_quantization_recipe(text: str) -> QuantizationRecipe:
    """Recipe from TOML text.

    Raises:
        ExportError: Not TOML, an unknown key, or a value against its rule.
    """
    try:
        return QuantizationRecipe.from_dict(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise ExportError(f"not TOML: {error}") from error


def load_quantization_recipe(path: Path) -> QuantizationRecipe:
    """Recipe from a TOML file.

    Raises:
        ExportError: The file cannot be read, or holds no recipe; the message begins with its name.
    """
    try:
        return parse_quantization_recipe(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ExportError(f"recipe={str(path)!r} must be a TOML file that can be read") from error
    except ExportError as error:
        raise ExportError(f"{path}: {error}") from error


def _calibration(values: Any) -> CalibrationSpec:
    checked = _known(CalibrationSpec, values, "calibration")
    for name, value in checked.items():
        if name != "method" and (isinstance(value, bool) or not isinstance(value, (int, float))):
            raise ExportError(f"calibration.{name}={value!r} must be a number")
    return CalibrationSpec(**checked)


def _rule(values: Any) -> LayerRule:
    checked = _known(LayerRule, values, "layers")
    missing = sorted({"name", "activations"} - set(checked))
    if missing:
        raise ExportError(f"layers: keys {missing} are missing in {dict(checked)}")
    return LayerRule(**checked)


def _known(kind: Any, values: Any, where: str) -> dict[str, Any]:
    """The table ``values`` if it has no key that dataclass ``kind`` lacks."""
    if not isinstance(values, Mapping):
        raise ExportError(f"{where}={values!r} must be a table")
    names = [entry.name for entry in dataclasses.fields(kind)]
    unknown = sorted(set(values) - set(names))
    if unknown:
        raise ExportError(f"{where}: unknown keys {unknown}; it has {names}")
    return dict(values)


def _list(values: Mapping[str, Any], name: str) -> list[Any]:
    if not isinstance(values[name], (list, tuple)):
        raise ExportError(f"{name}={values[name]!r} must be a list")
    return list(values[name])


def _toml(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    # JSON strings, numbers and truth values are TOML's.
    return json.dumps(value, ensure_ascii=False)
