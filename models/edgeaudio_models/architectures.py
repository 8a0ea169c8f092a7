"""The architectures a recipe or checkpoint may name, and how a module is made from a name and plain values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from types import MappingProxyType
from typing import Any

from edgeaudio_models.bc_resnet import BcResNet, BcResNetConfig
from edgeaudio_models.ctc_net import CtcNet, CtcNetConfig
from edgeaudio_models.ds_cnn import DsCnn, DsCnnConfig
from edgeaudio_models.ds_tc_committee import DsTcCommittee, DsTcCommitteeConfig
from edgeaudio_models.ds_tc_resnet import DsTcResNet, DsTcResNetConfig
from edgeaudio_models.gru_net import GruNet, GruNetConfig
from edgeaudio_models.streaming import StreamingModule
from edgeaudio_models.tc_resnet import TcResNet, TcResNetConfig
from edgeaudio_runtime.errors import SpecError


@dataclass(frozen=True, kw_only=True, slots=True)
class Architecture:
    """A family of networks."""

    task: str
    """"keyword" or "ctc"."""
    config_type: type[Any]
    """Frozen dataclass with at least ``n_features`` and ``n_labels``."""
    build: Callable[[Any], StreamingModule]
    """Module with fresh weights from a value of ``config_type``."""


ARCHITECTURES: Mapping[str, Architecture] = MappingProxyType(
    {
        "ds_tc_resnet": Architecture(task="keyword", config_type=DsTcResNetConfig, build=DsTcResNet),
        "ds_tc_committee": Architecture(task="keyword", config_type=DsTcCommitteeConfig, build=DsTcCommittee),
        "ds_cnn": Architecture(task="keyword", config_type=DsCnnConfig, build=DsCnn),
        "bc_resnet": Architecture(task="keyword", config_type=BcResNetConfig, build=BcResNet),
        "tc_resnet": Architecture(task="keyword", config_type=TcResNetConfig, build=TcResNet),
        "gru_net": Architecture(task="keyword", config_type=GruNetConfig, build=GruNet),
        "ctc_net": Architecture(task="ctc", config_type=CtcNetConfig, build=CtcNet),
    }
)
"""By the name that recipes and checkpoints use."""


def architecture(name: str) -> Architecture:
    """The architecture called ``name``; SpecError with the known names otherwise."""
    if name not in ARCHITECTURES:
        raise SpecError(f"architecture={name!r} is unknown; this version has {sorted(ARCHITECTURES)}")
    return ARCHITECTURES[name]


def architecture_config(name: str, values: Mapping[str, Any]) -> Any:
    """Configuration of ``name`` from plain values; unknown and missing keys and wrong types are refused by name."""
    config_type = architecture(name).config_type
    known = {field.name for field in fields(config_type)}
    unknown = sorted(set(values) - known)
    if unknown:
        raise SpecError(f"architecture {name!r}: unknown parameters {unknown}; it has {sorted(known)}")
    missing = sorted({"n_features", "n_labels"} - set(values))
    if missing:
        raise SpecError(f"architecture {name!r}: parameters {missing} are missing")
    for field in fields(config_type):
        if field.name in values and not _fits(str(field.type), values[field.name]):
            rule = _KINDS.get(str(field.type), "a list of whole numbers")
            raise SpecError(f"architecture {name!r}: {field.name}={values[field.name]!r} must be {rule}")
    return config_type(**values)


_KINDS = {"int": "a whole number", "float": "a number"}


def _fits(kind: str, value: object) -> bool:
    if kind not in _KINDS:
        return isinstance(value, (list, tuple)) and all(_fits("int", each) for each in value)
    return isinstance(value, (int, float) if kind == "float" else int) and not isinstance(value, bool)


def config_values(config: Any) -> dict[str, Any]:
    """Plain values of a configuration, JSON-ready: the inverse of :func:`architecture_config`."""
    return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(config).items()}


def build_module(name: str, values: Mapping[str, Any]) -> StreamingModule:
    """Module ``name`` with fresh weights (seed torch first for the same ones) from plain values."""
    return architecture(name).build(architecture_config(name, values))


def count_parameters(module: StreamingModule) -> int:
    """Trainable numbers in ``module``."""
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)
