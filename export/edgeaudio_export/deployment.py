"""What a bundle deploys: an integer graph for every engine that can run it, or a model for ONNX Runtime alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from edgeaudio_export.errors import ExportError
from edgeaudio_export.targets.arithmetic import computes_in, exact_engines
from edgeaudio_export.targets.onnx_target import to_onnx
from edgeaudio_export.targets.tflite_target import to_tflite
from edgeaudio_runtime.engines.base import NetworkSignature, Program
from edgeaudio_runtime.engines.boundary import signature_of
from edgeaudio_runtime.engines.numpy_engine import NumpyProgram
from edgeaudio_runtime.engines.onnxruntime_engine import OnnxRuntimeProgram
from edgeaudio_runtime.graph import IntegerGraph
from edgeaudio_runtime.graph_file import save_graph
from edgeaudio_runtime.manifest import NetworkState

Say = Callable[[str], None]
Entry = tuple[str, str | None, str]
"""File name, engine, role."""

_TARGETS: tuple[tuple[str, str, Callable[[IntegerGraph], bytes]], ...] = (
    ("model.onnx", "onnxruntime", to_onnx),
    ("model.tflite", "litert", to_tflite),
)


class Deployment(Protocol):
    """What the bundle writer asks of a network, whoever computes it."""

    @property
    def signature(self) -> NetworkSignature:
        """Shapes and quantization at the boundary."""
        ...

    @property
    def states(self) -> tuple[NetworkState, ...]:
        """In the order of the artifacts' ``state_<i>_in``."""
        ...

    @property
    def tensors(self) -> Mapping[str, str]:
        """Names in the artifact of what is called otherwise there."""
        ...

    @property
    def hidden_state(self) -> bool:
        """Whether the artifact keeps state that no tensor shows."""
        ...

    @property
    def exact_engines(self) -> tuple[str, ...]:
        """Engines whose codes are the reference's, bit for bit."""
        ...

    def program(self) -> Program:
        """The reference, which makes the golden data."""
        ...

    def write(self, directory: Path, say: Say) -> list[Entry]:
        """Write the models of all engines; one line is said for each engine that has none or computes otherwise."""
        ...


class _OwnArtifacts:
    """Artifacts that this toolchain writes: every tensor has the runtime's name, and every state is a tensor."""

    @property
    def tensors(self) -> Mapping[str, str]:
        """None."""
        return {}

    @property
    def hidden_state(self) -> bool:
        """Never."""
        return False


@dataclass(frozen=True, kw_only=True)
class OnnxOnly(_OwnArtifacts):
    """A network that ONNX Runtime alone runs; a :class:`Deployment`."""

    model: bytes
    """ONNX: ``features`` as codes ``[1, step_frames, 1, n_features]``, ``state_<i>_in`` as float32 of any shape, to
    ``logits`` as codes ``[1, outputs_per_step, 1, n_labels]``, ``state_<i>_out``."""
    signature: NetworkSignature
    """Shapes and quantization at the boundary."""
    states: tuple[NetworkState, ...]
    """All float32."""

    @property
    def requantization(self) -> str:
        """A rule that manifests must name; no engine promises it here."""
        return "fp32"

    @property
    def exact_engines(self) -> tuple[str, ...]:
        """None: what ONNX Runtime computes in float has no rule."""
        return ()

    def program(self) -> Program:
        """ONNX Runtime as a device runs it."""
        return OnnxRuntimeProgram(self.model, self.signature, tuple(s.initial for s in self.states), exact=False)

    def write(self, directory: Path, say: Say) -> list[Entry]:
        """Write ``model.onnx``."""
        (directory / "model.onnx").write_bytes(self.model)
        return [("model.onnx", "onnxruntime", "model")]


class GraphDeployment(_OwnArtifacts):
    """An integer graph in the container of every engine that can run it."""

    def __init__(self, graph: IntegerGraph) -> None:
        self._graph = graph

    @property
    def signature(self) -> NetworkSignature:
        """Shapes and quantization at the boundary."""
        return signature_of(self._graph)

    @property
    def states(self) -> tuple[NetworkState, ...]:
        """As the graph has them."""
        tensors = self._graph.tensors
        return tuple(
            NetworkState(
                name=state.name,
                shape=tensors[state.input].shape,
                dtype=tensors[state.input].dtype,
                initial=state.initial,
            )
            for state in self._graph.states
        )

    @property
    def exact_engines(self) -> tuple[str, ...]:
        """Engines whose operations of these types were measured to be exact."""
        return exact_engines(self._graph)

    def program(self) -> Program:
        """The numpy engine."""
        return NumpyProgram(self._graph)

    def write(self, directory: Path, say: Say) -> list[Entry]:
        """Write ``model.json`` and ``model.bin``, ``model.onnx`` and ``model.tflite``."""
        save_graph(self._graph, directory / "model.json", directory / "model.bin")
        entries: list[Entry] = [("model.json", "numpy", "model"), ("model.bin", "numpy", "weights")]
        for path, engine, to_target in _TARGETS:
            try:
                (directory / path).write_bytes(to_target(self._graph))
            except ExportError as error:
                say(f"no {path}: {error}")
                continue
            entries.append((path, engine, "model"))
            self._say_what_widens(engine, say)
        return entries

    def _say_what_widens(self, engine: str, say: Say) -> None:
        own, there = computes_in(self._graph, "numpy"), computes_in(self._graph, engine)
        widened = [name for name, kind in there.items() if kind != own[name]]
        if widened:
            say(
                f"{engine} computes {len(widened)} of {len(own)} operations in float32, having no int16 kernels for "
                "them; its codes are close, not equal"
            )


def deployment_of(network: IntegerGraph | Deployment) -> Deployment:
    """How a network is deployed."""
    return GraphDeployment(network) if isinstance(network, IntegerGraph) else network
