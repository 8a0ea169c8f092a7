"""From the artifact of a bundle to an engine's program, held against what the manifest promises."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

from edgeaudio_runtime.bounds import MAX_GRAPH_BYTES, check_graph, check_size
from edgeaudio_runtime.errors import BundleError, EdgeAudioError, EngineError, SpecError
from edgeaudio_runtime.manifest import Artifact

if TYPE_CHECKING:
    from edgeaudio_runtime.bundle import Bundle
    from edgeaudio_runtime.engines.base import NetworkSignature, Program
    from edgeaudio_runtime.graph import IntegerGraph


def load_program(bundle: Bundle, engine: str) -> Program:
    """Load the artifact of ``engine``; see ``Bundle.program``."""
    try:
        program = _LOADERS[engine](bundle)
    except BundleError:
        raise
    except EdgeAudioError as error:
        raise type(error)(f"{bundle.path}: engine {engine!r}: {error}") from error
    return in_stream(bundle, _as_promised(bundle, program, engine))


def load_native(bundle: Bundle) -> Program:
    """The C core on the integer graph, which is the artifact of the numpy engine.

    Raises:
        EngineError: the C core was not built with this installation, or does not compute all of the graph.
        BundleError: the bundle has no integer graph, or one that contradicts the manifest.
    """
    from edgeaudio_runtime.engines.native_engine import NativeProgram

    if bundle.manifest.mode == "whole":
        raise EngineError("engine='native' runs step by step; this bundle hears whole recordings, use another engine")
    try:
        program = NativeProgram(load_integer_graph(bundle))
    except SpecError as error:
        raise EngineError(f"{bundle.path}: engine 'native': {error}") from error
    return in_stream(bundle, _as_promised(bundle, program, "numpy"))


def _as_promised(bundle: Bundle, program: Program, engine: str) -> Program:
    promised = artifact_signature(bundle)
    for field in fields(promised):
        has, said = getattr(program.signature, field.name), getattr(promised, field.name)
        if has != said:
            what = f"the artifact of engine={engine!r} has {field.name}={has}"
            raise BundleError(f"{what}, the manifest says {said}; export the bundle again")
    return program


def in_stream(bundle: Bundle, program: Program) -> Program:
    """The program of an artifact as a stream sees it: behind a memory of frames where it looks at windows."""
    if bundle.manifest.network.input_frames is None:
        return program
    from edgeaudio_runtime.engines.windowed import WindowedProgram

    network = bundle.manifest.network
    return WindowedProgram(program, network.signature, latency_frames=network.latency_frames, features=bundle.features)


def artifact_signature(bundle: Bundle) -> NetworkSignature:
    """What the artifacts of the bundle take and give."""
    manifest = bundle.manifest
    return replace(manifest.network.artifact_signature, whole=manifest.mode == "whole")


def _load_numpy(bundle: Bundle) -> Program:
    from edgeaudio_runtime.engines.numpy_engine import NumpyProgram

    return NumpyProgram(load_integer_graph(bundle))


def load_integer_graph(bundle: Bundle) -> IntegerGraph:
    """The integer graph of a bundle, verified; raises BundleError if it has none or it breaks a bound."""
    from edgeaudio_runtime.graph_file import load_graph

    model, weights = (_one(bundle, "numpy", role) for role in ("model", "weights"))
    description = check_size(model.path, bundle.read(model.path), MAX_GRAPH_BYTES)
    graph = load_graph(description, bundle.read(weights.path))
    check_graph(graph)
    return graph


def _load_onnxruntime(bundle: Bundle) -> Program:
    from edgeaudio_runtime.engines.onnxruntime_engine import OnnxRuntimeProgram

    data = bundle.read(_one(bundle, "onnxruntime", "model").path)
    return OnnxRuntimeProgram(data, artifact_signature(bundle), **_promises(bundle, "onnxruntime"))


def _load_litert(bundle: Bundle) -> Program:
    from edgeaudio_runtime.engines.litert_engine import LiteRtProgram

    data = bundle.read(_one(bundle, "litert", "model").path)
    network = bundle.manifest.network
    return LiteRtProgram(
        data,
        artifact_signature(bundle),
        **_promises(bundle, "litert"),
        tensors=network.tensors,
        hidden_state=network.hidden_state,
    )


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
