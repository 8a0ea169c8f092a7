"""The figures of docs/numerics.md on precisions beyond int8; run: python -m tests.precision_figures [SEEDS] [STEPS]."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from edgeaudio_export.targets.onnx_target import to_onnx
from edgeaudio_export.targets.tflite_target import to_tflite
from edgeaudio_runtime.engines.litert_engine import LiteRtProgram
from edgeaudio_runtime.engines.numpy_engine import NumpyProgram
from edgeaudio_runtime.engines.onnxruntime_engine import OnnxRuntimeProgram
from edgeaudio_runtime.graph import IntegerGraph
from edgeaudio_runtime.graph_file import graph_to_bytes
from tests.graph_builders import random_codes, residual_graph
from tests.precision_graphs import method_graph

METHODS = ("static_w8a8", "static_w8a16", "float32", "float16", "weight_only_w8", "mixed")
CHANNELS = (64, 48, 20)
TIMED_STEPS = 500
"""The fastest single step of so many counts: the least that other processes on the machine took away."""

_TARGETS: dict[str, tuple[Callable[..., Any], Callable[[IntegerGraph], bytes]]] = {
    "onnxruntime": (OnnxRuntimeProgram, to_onnx),
    "litert": (LiteRtProgram, to_tflite),
}


def main(seeds: int = 3, steps: int = 600) -> None:
    """Write one line for each method and engine: bytes, microseconds, codes off and by how much."""
    for method in METHODS:
        graphs = [method_graph(residual_graph(seed=seed, channels=CHANNELS[seed]), method) for seed in range(seeds)]
        numpy_us = _fastest_step(NumpyProgram(graphs[0]))
        sys.stdout.write(f"{method:14} {'numpy':11} {_size(graphs[0]):7} bytes {numpy_us:5.0f} us/step\n")
        for engine in _TARGETS:
            counts = sum(_distances(graph, engine, seed, steps) for seed, graph in enumerate(graphs))
            program, size = _loaded(graphs[0], engine)
            off, total = int(counts[1:].sum()), int(counts.sum())
            sys.stdout.write(
                f"{'':14} {engine:11} {size:7} bytes {_fastest_step(program):5.0f} us/step"
                f" {off} of {total} codes off, by 1, 2, ...: {np.trim_zeros(counts, 'b')[1:].tolist()}\n"
            )


def _loaded(graph: IntegerGraph, engine: str) -> tuple[Any, int]:
    program, to_target = _TARGETS[engine]
    data, initial = to_target(graph), tuple(state.initial for state in graph.states)
    return program(data, NumpyProgram(graph).signature, initial), len(data)


def _size(graph: IntegerGraph) -> int:
    return sum(map(len, graph_to_bytes(graph)))


def _distances(graph: IntegerGraph, engine: str, seed: int, steps: int) -> Any:
    """How many logits of one chain of steps are 0, 1, 2, ... codes off the numpy engine's."""
    codes = random_codes((graph.step_frames * steps, 40), seed=seed, dtype=graph.input_tensor.dtype)
    reference = NumpyProgram(graph).session().run(codes).astype(int)
    return np.bincount(np.abs(_loaded(graph, engine)[0].session().run(codes) - reference).ravel(), minlength=65_536)


def _fastest_step(program: Any) -> float:
    """Microseconds."""
    frames, session = program.signature.step_frames, program.session()
    codes = random_codes((frames, 40), dtype=program.signature.input_quant.dtype)
    times = []
    for _ in range(TIMED_STEPS):
        begin = time.perf_counter()
        session.run(codes)
        times.append(time.perf_counter() - begin)
    return 1e6 * min(times)


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:]))
