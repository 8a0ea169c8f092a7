"""Effective precision of a bundle: how much of it really runs in int8, engine by engine."""

from __future__ import annotations

from typing import Any

from edgeaudio_runtime.bundle import Bundle
from edgeaudio_runtime.graph_file import load_graph


def effective_precision(bundle: Bundle) -> dict[str, dict[str, Any]]:
    """For each usable engine: ``macs_per_step``, ``int8_macs_share``, ``weight_bytes``, ``int8_bytes_share``.

    ``int8_bytes_share`` counts the weights of operations that compute in int8, not int8 weights widened to float.
    """
    from edgeaudio_export.diagnosis import effective_precision as precision

    readers = {
        "numpy": lambda: precision.numpy_work(load_graph(bundle.read("model.json"), bundle.read("model.bin"))),
        "onnxruntime": lambda: precision.onnxruntime_work(bundle.read("model.onnx")),
        "litert": lambda: precision.litert_work(bundle.read("model.tflite")),
    }
    return {engine: _summary(list(readers[engine]())) for engine in bundle.engines()}


def _summary(rows: list[Any]) -> dict[str, Any]:
    macs, weight_bytes = sum(row.macs for row in rows), sum(row.weight_bytes for row in rows)
    int8 = [row for row in rows if row.computed == row.stored == "int8"]
    return {
        "macs_per_step": macs,
        "int8_macs_share": sum(row.macs for row in int8) / max(macs, 1),
        "weight_bytes": weight_bytes,
        "int8_bytes_share": sum(row.weight_bytes for row in int8) / max(weight_bytes, 1),
    }
