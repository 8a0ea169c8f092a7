"""A recipe applied to one network: which tensors of the step graph hold which codes, and which weights are int8."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from torch.fx import Node

from edgeaudio_export import operations
from edgeaudio_export.activation_groups import ActivationGroup, activation_groups
from edgeaudio_export.calibration import Range
from edgeaudio_export.calibration.calibrate import Calibration
from edgeaudio_export.quantization_recipe import Activations, QuantizationRecipe
from edgeaudio_export.step_graph import StepGraph
from edgeaudio_runtime.quantization import QuantParams

BOUNDARY_HEADROOM = 32767 / 16383
"""Where the network computes in float, int16 features and logits cover this many times the calibrated extremes: 6 dB
louder than anything seen, at the price of one of 16 bits. A little more than 2, so that the extreme is a code: at 2 it
lies between two, and silence, whose features often are the extreme, falls to either by the last bit of a float."""


@dataclass(frozen=True, kw_only=True, slots=True)
class QuantizationPlan:
    """What both quantization paths write."""

    recipe: QuantizationRecipe
    """Where it comes from."""
    groups: tuple[ActivationGroup, ...]
    """Activations that are of one kind."""
    activations: Mapping[str, Activations]
    """Type of every group, by its name."""
    params: Mapping[str, QuantParams]
    """Parameters of every node of the step graph that holds codes; the others are float32."""
    int8_weights: frozenset[str]
    """Convolutions and linear layers of the step graph whose weights are int8."""
    integer_operations: frozenset[str]
    """Those of them that compute in integers, so that their bias is int32."""

    @property
    def is_wide(self) -> bool:
        """Whether any tensor is int16."""
        return any(params.dtype == "int16" for params in self.params.values())


def layer_names(step: StepGraph) -> list[str]:
    """Names that rules of a recipe may use: those of the activation groups, as in calibration and every report."""
    return [group.name for group in activation_groups(step)]


def plan_quantization(step: StepGraph, calibration: Calibration, recipe: QuantizationRecipe) -> QuantizationPlan:
    """Apply a recipe to a network whose activations are known.

    Args:
        step: The network; its activation groups are those of ``calibration``.
        calibration: Ranges of the activations.
        recipe: Method and rules.

    Raises:
        ExportError: A rule of the recipe matches no layer, or a range has no scale.
    """
    activations = recipe.activations([group.name for group in calibration.groups])
    params: dict[str, QuantParams] = {}
    for group in calibration.groups:
        kind = activations[group.name]
        if kind != "float32":
            params.update(dict.fromkeys(group.members, _params(calibration, group, kind, recipe)))
        for node in (step.inputs[0], step.outputs[0]):
            if kind == "float32" and node in group.members:
                params[node] = boundary_params(calibration, group)
    integer = _integer_operations(step, activations, calibration.groups)
    weighted = {node.name for node in step.module.graph.nodes if str(node.target) in operations.WEIGHTED}
    return QuantizationPlan(
        recipe=recipe,
        groups=calibration.groups,
        activations=MappingProxyType(activations),
        params=MappingProxyType(params),
        int8_weights=frozenset(weighted if recipe.scheme.mode == "weight_only" else integer),
        integer_operations=integer,
    )


def _params(
    calibration: Calibration, group: ActivationGroup, kind: Activations, recipe: QuantizationRecipe
) -> QuantParams:
    if group.fixed is not None:
        return operations.FIXED_INT16 if kind == "int16" else group.fixed
    symmetric = recipe.symmetric(kind)
    return calibration.range(group.name, kind, symmetric=symmetric).params(kind, symmetric=symmetric)


def boundary_params(calibration: Calibration, group: ActivationGroup) -> QuantParams:
    """int16 parameters of features or logits that stand in front of or behind float, with :data:`BOUNDARY_HEADROOM`."""
    if group.fixed is not None:
        return operations.FIXED_INT16
    seen = calibration.range(group.name, "int16", symmetric=True)
    largest = BOUNDARY_HEADROOM * max(-seen.minimum, seen.maximum)
    wide = Range(minimum=seen.minimum, maximum=seen.maximum, low=-largest, high=largest)
    return wide.params("int16", symmetric=True)


def _integer_operations(
    step: StepGraph, activations: Mapping[str, Activations], groups: tuple[ActivationGroup, ...]
) -> frozenset[str]:
    """Convolutions and linear layers none of whose edges is float32."""
    kind_of = {member: activations[group.name] for group in groups for member in group.members}

    def is_integer(node: Node) -> bool:
        # A convolution that only a relu reads has no codes of its own, the relu has.
        output = node.name if node.name in kind_of else next(iter(node.users)).name
        return "float32" not in (kind_of[node.all_input_nodes[0].name], kind_of[output])

    nodes = [node for node in step.module.graph.nodes if str(node.target) in operations.WEIGHTED]
    return frozenset(node.name for node in nodes if is_integer(node))
