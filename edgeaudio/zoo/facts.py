"""What a card says of an entry without measuring: data, features, network, quantization, training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from edgeaudio.inspection import effective_precision
from edgeaudio.licences import COMMERCIAL_USE, commercial_use, spdx
from edgeaudio_runtime.bundle import Bundle
from edgeaudio_runtime.features import MelSpec

if TYPE_CHECKING:
    from edgeaudio_models.checkpoint import Checkpoint


def entry_facts(checkpoint: Checkpoint, bundle: Bundle) -> dict[str, Any]:
    """Every section of a card that follows from the checkpoint and its int8 bundle, JSON-ready."""
    return {
        "name": checkpoint.name,
        "task": checkpoint.task,
        "labels": list(checkpoint.labels),
        "background_labels": list(bundle.background_labels),
        **data_facts(checkpoint),
        "features": feature_facts(checkpoint),
        "network": network_facts(checkpoint, bundle),
        "quantization": quantization_facts(bundle),
        "training": training_facts(checkpoint),
    }


def data_facts(checkpoint: Checkpoint) -> dict[str, Any]:
    """Sources with SPDX identifiers, and whether all of them allow commercial use."""
    sources = list(checkpoint.provenance.get("sources", []))
    return {
        "sources": [
            {
                "name": source["name"],
                "licence": source["licence"],
                "spdx": spdx(source["licence"]),
                "commercial_use": COMMERCIAL_USE.get(spdx(source["licence"]) or "", "unknown"),
                "citation": source.get("citation", ""),
            }
            for source in sources
        ],
        "commercial_use": commercial_use(source["licence"] for source in sources),
    }


def feature_facts(checkpoint: Checkpoint) -> dict[str, Any]:
    """Preset, hash and a line for people."""
    spec = checkpoint.features
    summary = f"{spec.sample_rate} Hz mono, window {spec.win_length} samples, hop {spec.hop_length}"
    if isinstance(spec, MelSpec):
        band = f"{spec.f_min:g} to {spec.f_max:g} Hz"
        summary += f", {spec.n_mels} {spec.mel_scale} mels from {band}, log {spec.log}, floor {spec.log_floor:g}"
    return {"preset": checkpoint.recipe.features.preset, "summary": summary, "hash": spec.hash}


def network_facts(checkpoint: Checkpoint, bundle: Bundle) -> dict[str, Any]:
    """Size, work, times, and what streams."""
    from edgeaudio_models.architectures import count_parameters

    network, spec = bundle.manifest.network, bundle.features
    frame_ms = 1000 * spec.hop_length / spec.sample_rate
    precision = effective_precision(bundle)
    macs = precision["numpy"]["macs_per_step"]
    state_bytes = sum(int(np.prod(state.shape)) * np.dtype(state.dtype).itemsize for state in network.states)
    return {
        "architecture": checkpoint.architecture,
        "config": dict(checkpoint.config),
        "parameters": count_parameters(checkpoint.module),
        "macs_per_step": macs,
        "macs_per_second": macs * 1000 / (network.step_frames * frame_ms),
        "step_ms": network.step_frames * frame_ms,
        "latency_ms": network.latency_frames * frame_ms,
        "receptive_field_ms": network.receptive_field_frames * frame_ms,
        "state_bytes": state_bytes,
        "int8_macs_share": {engine: row["int8_macs_share"] for engine, row in precision.items()},
        "streams": _streams(bundle, state_bytes),
    }


def _streams(bundle: Bundle, state_bytes: int) -> str:
    if bundle.manifest.mode != "streaming":
        return "does not stream: it hears recordings in windows"
    states = f"{len(bundle.manifest.network.states)} explicit states, {state_bytes:,} bytes"
    return f"streams whole, front end and network: {states}; PCM in chunks of any length gives the same codes"


def quantization_facts(bundle: Bundle) -> dict[str, Any]:
    """Method, ranges, recovery."""
    quantization = bundle.manifest.quantization
    calibration = quantization.calibration
    method = str(calibration.get("method"))
    percentile = quantization.recipe.get("calibration", {}).get("percentile")
    return {
        "method": quantization.method,
        "backend": quantization.backend,
        "calibration": f"{method} {percentile:g}" if method == "percentile" and percentile else method,
        "clips": calibration.get("clips"),
        "recovery": list(quantization.recipe.get("recovery", [])),
    }


def training_facts(checkpoint: Checkpoint) -> dict[str, Any]:
    """How long, from which seed, what it began with, and what chose the epoch and, of a wake word, the threshold."""
    training, chosen = checkpoint.recipe.training, dict(checkpoint.metrics.get("validation", {}))
    figure = str(chosen.get("chosen_by", "validation figure"))
    return {
        # A wake word is trained twice, and its history goes through both.
        "epochs": max(training.epochs, len(checkpoint.history)),
        "seed": training.seed,
        "epoch": chosen.get("epoch"),
        "averages_epochs": training.averaged_epochs > 0,
        "chosen_by": figure,
        "validation": chosen.get(figure),
        "started_from": checkpoint.provenance.get("started_from"),
        "threshold": checkpoint.metrics.get("threshold"),
    }
