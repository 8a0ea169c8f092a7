"""Quantization-aware training: a few more epochs in which every weight and activation is rounded to its code.

torchao's ``prepare_qat_pt2e`` puts fake quantizers where the PT2E quantizer of this package has codes: weights with the
scale that quantization will compute from them, anew at every step; activations with the parameters that calibration
found, which stay. Gradients pass rounding as if it were the identity (Bengio et al., arXiv:1308.3432). Batch
normalizations are folded before, with the statistics of the checkpoint, and weights that average over time (the same
value in every tap) stay what they are.

The result is a step graph with other float weights; post-training quantization follows as ever.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.nn import functional

from edgeaudio_export.errors import ExportError
from edgeaudio_export.observers import PerChannelWeightObserver, PerTensorWeightObserver
from edgeaudio_export.quantization_plan import QuantizationPlan
from edgeaudio_export.quantization_recipe import QuantizationRecipe
from edgeaudio_export.quantizer import StreamingQuantizer
from edgeaudio_export.quiet import quiet_torch
from edgeaudio_export.recovery.layers import Layer, layers_of, with_weights
from edgeaudio_export.recovery.simulation import Simulation, plan_for
from edgeaudio_export.step_graph import Features, Progress, StepGraph
from edgeaudio_export.torchao_pt2e import FakeQuantize, prepare_qat_pt2e

Batch = tuple[Any, Any]
"""Features ``[N, T, n_features]`` (array or tensor, float32), and whatever the loss compares logits with."""
Loss = Callable[[Tensor, Any], Tensor]
"""Logits ``[N, T_out, n_labels]`` and the target of a batch to one value."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingSpec:
    """How long and how fast."""

    epochs: int = 2
    """Times that all batches are seen, >= 1."""
    learning_rate: float = 1e-4
    """Of Adam at the beginning, > 0; it falls to 0 along a half cosine."""

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise ExportError(f"epochs={self.epochs} must be >= 1")
        if not self.learning_rate > 0.0:
            raise ExportError(f"learning_rate={self.learning_rate} must be > 0; 1e-4 is the default")


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingFacts:
    """What a manifest says about quantization-aware training."""

    loss: str
    """"distillation" or "given"."""
    epochs: int
    """Times that all batches were seen."""
    learning_rate: float
    """Of Adam at the beginning."""
    batches: int
    """Batches in an epoch."""
    losses: tuple[float, ...]
    """Mean loss of each epoch."""
    layers: tuple[str, ...]
    """Layers that were trained."""

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return asdict(self)


def train_quantized(
    step: StepGraph,
    batches: Iterable[Batch],
    streams: Sequence[Features],
    loss: Loss | None = None,
    *,
    spec: TrainingSpec | None = None,
    recipe: QuantizationRecipe | None = None,
    progress: Progress | None = None,
) -> tuple[StepGraph, TrainingFacts]:
    """Train the weights of a float step graph while they and all activations are rounded to their codes.

    Args:
        step: Float step graph; it is left as it was.
        batches: Clips, each from reset, with their targets; iterated once an epoch.
        streams: Features ``[T, n_features]`` that ranges are calibrated on.
        loss: What shall fall; None is distillation, the Kullback-Leibler divergence of the labels' distribution from
            that of ``step`` in float at every output, which needs no target.
        spec: Epochs and learning rate; None means the defaults.
        recipe: How the network will be quantized afterwards; None means the defaults.
        progress: Called with (epochs done, epochs in all).

    Returns:
        A graph with other weights, and what was done. Deterministic on one thread for the same batches.

    Raises:
        ExportError: No batch, batches that can be read once only, or features that do not fit.
    """
    spec = spec or TrainingSpec()
    plan = plan_for(step, streams, recipe or QuantizationRecipe())
    parameters, rounded = _prepare(step, plan)
    student, teacher = Simulation(rounded), Simulation(step)

    def distill(logits: Tensor, features: Tensor) -> Tensor:
        with torch.no_grad():
            wanted = torch.log_softmax(teacher.logits(features), dim=2)
        return functional.kl_div(torch.log_softmax(logits, dim=2).flatten(0, 1), wanted.flatten(0, 1), **_KL)

    def batch_loss(batch: Batch) -> Tensor:
        features = _checked(step, batch[0])
        logits = student.logits(features)
        return distill(logits, features) if loss is None else loss(logits, batch[1])

    losses, count = _train(list(_flat(parameters)), batches, batch_loss, spec, progress)
    trained = {name: (weight.detach(), bias.detach()) for name, (weight, bias) in parameters.items()}
    return with_weights(step, trained), TrainingFacts(
        loss="distillation" if loss is None else "given",
        epochs=spec.epochs,
        learning_rate=spec.learning_rate,
        batches=count,
        losses=losses,
        layers=tuple(trained),
    )


_KL: dict[str, Any] = {"reduction": "batchmean", "log_target": True}


def _prepare(step: StepGraph, plan: QuantizationPlan) -> tuple[dict[str, tuple[nn.Parameter, nn.Parameter]], StepGraph]:
    """Weight and bias of every layer that is trained, and the graph with fake quantizers that reads them."""
    layers = {name: layer for name, layer in layers_of(step).items() if not _is_average(layer)}
    own = with_weights(step, {name: (layer.weight, layer.bias) for name, layer in layers.items()})
    parameters = {
        name: (_trainable(own.module, f"{name}_weight"), _trainable(own.module, f"{name}_bias")) for name in layers
    }
    with quiet_torch():
        prepared = prepare_qat_pt2e(own.module, TrainingQuantizer(plan))
    return parameters, replace(own, module=prepared)


def _is_average(layer: Layer) -> bool:
    """Whether every tap of a channel has one value: a mean, whose exactness is worth more than training."""
    taps = layer.weight.reshape(len(layer.weight), -1)
    return layer.is_depthwise and bool((taps == taps[:, :1]).all())


def _trainable(module: GraphModule, name: str) -> nn.Parameter:
    """Make the buffer ``name`` a parameter."""
    parameter = nn.Parameter(getattr(module, name).clone())
    delattr(module, name)
    module.register_parameter(name, parameter)
    return parameter


class TrainingQuantizer(StreamingQuantizer):
    """The same codes as :class:`StreamingQuantizer`, with weights rounded in a way that gradients pass."""

    def annotate(self, model: GraphModule) -> GraphModule:
        """Annotate, then exchange the observers of weights for fake quantizers."""
        model = super().annotate(model)
        per_channel = self._plan.recipe.per_channel
        quantizer = PerChannelWeightFakeQuantize if per_channel else PerTensorWeightFakeQuantize
        for node in model.graph.nodes:
            inputs = (
                node.meta["quantization_annotation"].input_qspec_map if node.name in self._plan.int8_weights else {}
            )
            for source, spec in inputs.items():
                inputs[source] = replace(spec, observer_or_fake_quant_ctr=quantizer)
        return model


class PerTensorWeightFakeQuantize(FakeQuantize):  # type: ignore[misc]
    """Rounds weights with the one scale that they have at this moment."""

    def __init__(self, **scheme: Any) -> None:
        super().__init__(observer=PerTensorWeightObserver, **scheme)


class PerChannelWeightFakeQuantize(FakeQuantize):  # type: ignore[misc]
    """Rounds weights with the scale that each output channel has at this moment."""

    def __init__(self, **scheme: Any) -> None:
        super().__init__(observer=PerChannelWeightObserver, **scheme)


def _train(
    parameters: list[nn.Parameter],
    batches: Iterable[Batch],
    batch_loss: Callable[[Batch], Tensor],
    spec: TrainingSpec,
    progress: Progress | None,
) -> tuple[tuple[float, ...], int]:
    """Mean loss of each epoch, and the number of batches in one."""
    if isinstance(batches, Iterator) and spec.epochs > 1:
        raise ExportError(
            f"batches={type(batches).__name__} can be read once, must be read epochs={spec.epochs} times; give a list"
        )
    optimizer = torch.optim.Adam(parameters, lr=spec.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, spec.epochs)
    means, count = [], 0
    for epoch in range(1, spec.epochs + 1):
        losses = []
        for batch in batches:
            loss = batch_loss(batch)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            losses.append(float(loss.detach()))
        if not losses:
            raise ExportError("batches=[] must hold at least one batch of clips to train on")
        schedule.step()
        means.append(sum(losses) / len(losses))
        count = len(losses)
        if progress is not None:
            progress(epoch, spec.epochs)
    return tuple(means), count


def _flat(parameters: dict[str, tuple[nn.Parameter, nn.Parameter]]) -> Iterator[nn.Parameter]:
    for pair in parameters.values():
        yield from pair


def _checked(step: StepGraph, features: Any) -> Tensor:
    network, values = step.network, torch.as_tensor(features)
    frames = values.shape[1] if values.ndim == 3 else 0
    fits = values.ndim == 3 and values.shape[2] == network.n_features and frames and frames % network.step_frames == 0
    if not fits or values.dtype != torch.float32:
        raise ExportError(
            f"features of a batch are {str(values.dtype).removeprefix('torch.')}{list(values.shape)}, must be float32 "
            f"[N, T, n_features={network.n_features}] with T a positive multiple of step_frames={network.step_frames}"
        )
    return values
