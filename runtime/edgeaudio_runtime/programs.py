"""From the artifact of a bundle to an engine's program, held against what the manifest promises."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgeaudio_runtime.errors import BundleError, EdgeAudioError
from edgeaudio_runtime.manifest import Artifact

if TYPE_CHECKING:
    from edgeaudio_runtime.bundle import Bundle
    from edgeaudio_runtime.engines.base import Program


def load_program(bundle: Bundle, engine: str) -> Program:
    """Load the artifact of ``engine``; see ``Bundle.program``."""
    try:
        program = _LOADERS[engine](bundle)
    except BundleError:
        raise
    except EdgeAudioError as error:
        raise type(error)(f"{bundle.path}: engine {engine!r}: {error}") from error
    promised = bundle.manifest.network.signature
    if program.signature != promised:
        raise BundleError(f"the artifact of engine={engine!r} has {program.signature}, the manifest says {promised}")
    return program


def _load_numpy(bundle: Bundle) -> Program:
    from edgeaudio_runtime.engines.numpy_engine import NumpyProgram
    from edgeaudio_runtime.graph_file import load_graph

    model, weights = (_one(bundle, "numpy", role) for role in ("model", "weights"))
    return NumpyProgram(load_graph(bundle.read(model.path), bundle.read(weights.path)))


def _load_onnxruntime(bundle: Bundle) -> Program:
    from edgeaudio_runtime.engines.onnxruntime_engine import OnnxRuntimeProgram

    data = bundle.read(_one(bundle, "onnxruntime", "model").path)
    return OnnxRuntimeProgram(data, bundle.manifest.network.signature, **_promises(bundle, "onnxruntime"))


def _load_litert(bundle: Bundle) -> Program:
    from edgeaudio_runtime.engines.litert_engine import LiteRtProgram

    data = bundle.read(_one(bundle, "litert", "model").path)
    return LiteRtProgram(data, bundle.manifest.network.signature, **_promises(bundle, "litert"))


_LOADERS = {"numpy": _load_numpy, "onnxruntime": _load_onnxruntime, "litert": _load_litert}


def _promises(bundle: Bundle, engine: str) -> dict[str, Any]:
    manifest = bundle.manifest
    return {
        "initial_states": tuple(state.initial for state in manifest.network.states),
        "exact": engine in manifest.quantization.exact_engines,
    }


def _one(bundle: Bundle, engine: str, role: str) -> Artifact:
    found = [entry for entry in bundle.manifest.artifacts if entry.engine == engine and entry.role == role]
    if len(found) != 1:
        raise BundleError(f"bundle has {len(found)} artifacts with engine={engine!r}, role={role!r}; it must have 1")
    return found[0]
