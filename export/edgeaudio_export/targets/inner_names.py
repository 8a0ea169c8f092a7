"""Keep the names of a graph's tensors apart from the names that every artifact has at its boundary."""

from __future__ import annotations

from dataclasses import replace

from edgeaudio_runtime.graph import IntegerGraph


def with_inner_names(graph: IntegerGraph) -> IntegerGraph:
    """The same graph with tensors called ``inner/<name>``, so that none is called ``logits`` or ``state_0_out``."""

    def inner(name: str) -> str:
        return f"inner/{name}"

    def inner_all(names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(inner(name) for name in names)

    return replace(
        graph,
        tensors={inner(name): replace(tensor, name=inner(name)) for name, tensor in graph.tensors.items()},
        constants={inner(name): data for name, data in graph.constants.items()},
        ops=tuple(replace(op, inputs=inner_all(op.inputs), outputs=inner_all(op.outputs)) for op in graph.ops),
        input=inner(graph.input),
        output=inner(graph.output),
        states=tuple(replace(s, input=inner(s.input), output=inner(s.output)) for s in graph.states),
    )
