"""Layer by layer, what codes cost: the integer graph beside its float view, on the same features."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeaudio.parity.float_view import float_view
from edgeaudio_runtime.bundle import Bundle
from edgeaudio_runtime.errors import ParityError
from edgeaudio_runtime.front_end import compute_features
from edgeaudio_runtime.graph import IntegerGraph
from edgeaudio_runtime.programs import load_integer_graph
from edgeaudio_runtime.quantization import dequantize

Float32 = npt.NDArray[np.float32]
Int16 = npt.NDArray[np.int16]

STREAMS, STEPS = 8, 40
"""Streams that are looked at side by side, and network steps of each."""
MOVING = frozenset(("concat", "slice", "merge_frequency", "requantize", "quantize", "dequantize"))
"""Operations that compute nothing: what they write was written before."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerError:
    """How far the output of one layer is from the float view, everything before it in codes too."""

    name: str
    """The tensor it writes, as ``model.json`` names it."""
    kind: str
    """Its operation."""
    dtype: str
    """Of its output."""
    sqnr_db: float | None
    """``10 log10(signal / error)`` over all values; None where there is no error."""

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return asdict(self)


def layer_errors(graph: IntegerGraph, features: Float32) -> list[LayerError]:
    """Signal to error of every computing operation, in running order.

    The float view has the weights that the codes stand for, so what is seen is the error of the activations.

    Args:
        graph: Of int8 or int16 activations.
        features: ``[N, T, n_features]``, streams from a reset, T a multiple of the step.

    Returns:
        Nothing for a graph that has no float view, because an operation clamps at codes.
    """
    from edgeaudio_export.diagnosis.rollout import integer_steps

    try:
        real_graph = float_view(graph)
    except ParityError:
        return []
    written = {op.outputs[0] for op in real_graph.ops}
    ops = [op for op in graph.ops if op.kind not in MOVING and op.outputs[0] in written]
    sums = {op.outputs[0]: np.zeros(2) for op in ops}
    for real, codes in zip(integer_steps(real_graph, features), integer_steps(graph, features), strict=True):
        for name, total in sums.items():
            quant, wanted = graph.tensors[name].quant, real[name].astype(np.float64)
            got = codes[name] if quant is None else dequantize(codes[name], quant)
            total += np.sum(wanted**2), np.sum((got - wanted) ** 2)
    return [
        LayerError(
            name=op.outputs[0],
            kind=op.kind,
            dtype=graph.tensors[op.outputs[0]].dtype,
            sqnr_db=_decibels(*sums[op.outputs[0]].tolist()),
        )
        for op in ops
    ]


def layer_sections_of(bundle: Bundle, clips: Sequence[Int16]) -> dict[str, Any]:
    """The section ``layers`` of a certificate, for a streaming bundle of static codes; else nothing."""
    manifest = bundle.manifest
    if manifest.mode != "streaming" or "numpy" not in manifest.engines:
        return {}
    if not manifest.quantization.method.startswith("static"):
        return {}
    graph = load_integer_graph(bundle)
    found = layer_errors(graph, probe_features(bundle, clips, graph.step_frames))
    return {"layers": [each.to_dict() for each in found]} if found else {}


def probe_features(bundle: Bundle, clips: Sequence[Int16], step_frames: int) -> Float32:
    """Streams ``[N, T, n_features]``, N <= :data:`STREAMS`, cut from the golden recording and then ``clips``."""
    length = STEPS * step_frames
    wanted = STREAMS * length * bundle.features.hop_length
    audio = np.concatenate([bundle.golden.pcm, *clips[: STREAMS * 2]])[:wanted]
    features = compute_features(bundle.features, audio, multiple_of=step_frames)
    length = min(length, len(features))
    n_streams = min(STREAMS, len(features) // length)
    return features[: n_streams * length].reshape(n_streams, length, -1)


def _decibels(signal: float, noise: float) -> float | None:
    if noise == 0.0:
        return None
    return round(10 * math.log10(max(signal, float(np.finfo(np.float64).tiny)) / noise), 2)
