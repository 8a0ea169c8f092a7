"""How large a bundle may be: stated bounds that every model for a device keeps by far, and no hostile file gets past.

They hold memory and time of whatever opens a bundle within sight: see ``docs/robustness.md``. Specifications and graphs
that never travel in a bundle are not held to them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgeaudio_runtime.errors import BundleError

if TYPE_CHECKING:
    from edgeaudio_runtime.features import FeatureSpec
    from edgeaudio_runtime.graph import IntegerGraph, Op
    from edgeaudio_runtime.manifest import Manifest, Network

MAX_ARTIFACTS = 100
"""Files that a manifest may name; each is looked up in the directory of a zip, which may have a thousand entries."""
MAX_BUNDLE_BYTES = 512 * 2**20
"""Bytes of all artifacts together."""
MAX_GRAPH_BYTES = 8 * 2**20
"""Bytes of ``model.json`` and of golden events; parsed, they take about twenty times as much."""
MAX_SAMPLE_RATE = 768_000
"""Hz."""
MAX_FFT = 2**16
"""Samples of an FFT or a frame: 1.4 s at 48 kHz."""
MAX_FILTERBANK = 2**22
"""FFT bins times mel triangles."""
MAX_RATE = 1000
"""Frames and outputs a second."""
MAX_BUFFERED = 2**22
"""Samples, features or logits of one network step; samples that a frame, a window or an offset may span."""
MAX_WINDOW_FRAMES = 100_000
"""Frames of a window, a latency or a receptive field: a quarter of an hour at 10 ms."""
MAX_ELEMENTS_PER_STEP = 2**24
"""Values of all tensors that one network step computes or carries on."""
MAX_MACS_PER_STEP = 2**30
"""Multiplications of one network step."""
MAX_OPERATIONS = 4000
"""Operations of an integer graph; planning compares some with all others."""
MAX_STATES = 1000
"""States of a network."""


def check_artifacts(sizes: Sequence[int]) -> None:
    """Refuse a manifest of too many or too large files before any is read; raises BundleError."""
    _check("number of artifacts", len(sizes), MAX_ARTIFACTS)
    _check("bytes of all artifacts", sum(sizes), MAX_BUNDLE_BYTES)


def check_boundary(manifest: Manifest, spec: FeatureSpec) -> None:
    """Refuse features and a network whose buffers or rates no device needs; raises BundleError."""
    network = manifest.network
    _check("sample_rate", spec.sample_rate, MAX_SAMPLE_RATE)
    _check("first_offset", abs(spec.first_offset), MAX_BUFFERED)
    n_fft = getattr(spec, "n_fft", 0)
    _check("n_fft", n_fft, MAX_FFT)
    _check("win_length", spec.win_length, MAX_FFT if n_fft else MAX_BUFFERED)
    _check("n_fft * n_mels / 2", n_fft * getattr(spec, "n_mels", 0) // 2, MAX_FILTERBANK)
    _check("frames a second", spec.sample_rate / spec.hop_length, MAX_RATE)
    _check_network(network)
    _check("step_frames * hop_length", network.step_frames * spec.hop_length, MAX_BUFFERED)
    step_s = network.step_frames * spec.hop_length / spec.sample_rate
    _check("outputs a second", network.outputs_per_step / step_s, MAX_RATE)


def _check_network(network: Network) -> None:
    for name in ("latency_frames", "receptive_field_frames", "window_frames", "input_frames"):
        _check(name, getattr(network, name) or 0, MAX_WINDOW_FRAMES)
    frames = max(network.step_frames, network.input_frames or 0)
    _check("features of a step", frames * network.n_features, MAX_BUFFERED)
    _check("logits of a step", network.outputs_per_step * network.n_labels, MAX_BUFFERED)
    _check("states", len(network.states), MAX_STATES)
    _check("elements of all states", sum(math.prod(state.shape) for state in network.states), MAX_ELEMENTS_PER_STEP)


def check_graph(graph: IntegerGraph) -> None:
    """Refuse an integer graph whose step takes more memory or time than any device has; raises BundleError.

    The graph's shapes must have been checked.
    """
    _check("operations", len(graph.ops), MAX_OPERATIONS)
    _check("states", len(graph.states), MAX_STATES)
    computed = (math.prod(tensor.shape) for name, tensor in graph.tensors.items() if name not in graph.constants)
    _check("elements of all tensors of a step", sum(computed), MAX_ELEMENTS_PER_STEP)
    _check("multiplications of a step", sum(_macs(graph, op) for op in graph.ops), MAX_MACS_PER_STEP)


def _macs(graph: IntegerGraph, op: Op) -> int:
    if op.kind not in ("conv", "fully_connected"):
        return 0
    return math.prod(graph.tensors[op.outputs[0]].shape) * math.prod(graph.tensors[op.inputs[1]].shape[1:])


def check_size(path: str, data: bytes, limit: int) -> bytes:
    """``data`` as it is; raises BundleError when it has more than ``limit`` bytes."""
    _check(f"bytes of {path}", len(data), limit)
    return data


def _check(name: str, value: float, limit: int) -> None:
    if value > limit:
        raise BundleError(f"{name}={value} must be <= {limit}; no bundle for a device needs more, is it one?")
