"""One network step as an exported graph: checked, batch normalizations folded, states explicit."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from edgeaudio_export import operations
from edgeaudio_export.checks import check_mutations, check_operations, check_stream, place
from edgeaudio_export.errors import ExportError
from edgeaudio_export.network import States, StreamingNetwork, as_module
from edgeaudio_export.node_axes import node_axes
from edgeaudio_export.quiet import quiet_torch
from edgeaudio_export.stretched import drop_stretches

Features = npt.NDArray[np.float32]
Progress = Callable[[int, int], None]
"""Called with (done, total)."""

OPSET = 20
"""ONNX operator set of every model written here; the first whose Q/DQ mapping was verified with per-channel weights."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StepGraph:
    """A network step with a free batch axis, and how to call it."""

    module: GraphModule
    """``(features [N, step_frames, n_features], states) -> (logits, states)``."""
    network: StreamingNetwork
    """Where it came from."""
    inputs: tuple[str, ...]
    """Graph nodes of the features and of every state."""
    outputs: tuple[str, ...]
    """Graph nodes of the logits and of every new state."""

    def example(self, batch: int = 1) -> tuple[Tensor, States]:
        """Arguments of one step."""
        return torch.zeros(batch, self.network.step_frames, self.network.n_features), self.network.initial_state(batch)


def export_step(network: StreamingNetwork) -> StepGraph:
    """Trace one step, refuse what does not stream or cannot be lowered, and fold batch normalizations."""
    batch = torch.export.Dim("batch", min=1, max=4096)
    state = network.initial_state(2)
    example = (torch.zeros(2, network.step_frames, network.n_features), state)
    with quiet_torch():
        try:
            program = torch.export.export(
                as_module(network), example, dynamic_shapes=({0: batch}, tuple({0: batch} for _ in state))
            )
        except Exception as error:
            raise ExportError(
                f"torch.export cannot trace {type(network).__name__}: {_first_line(error)}; "
                "forward must be tensor operations without data-dependent branches"
            ) from error
        check_mutations(program)
        module = program.module()
    assert isinstance(module, GraphModule)
    fold_batch_norms(module)
    drop_stretches(module)
    check_operations(module)
    nodes = list(module.graph.nodes)
    inputs = tuple(n.name for n in nodes if n.op == "placeholder")
    node_axes(module, inputs)  # refuses changes of shape that have no place in the integer graph
    return StepGraph(
        module=module,
        network=network,
        inputs=inputs,
        outputs=tuple(n.name for n in nodes[-1].all_input_nodes),
    )


def fold_batch_norms(module: GraphModule) -> None:
    """Fold every batch normalization that alone reads a convolution into that convolution's weight and bias."""
    for node in list(module.graph.nodes):
        source = node.args[0] if node.args else None
        if str(node.target) != operations.BATCH_NORM or not isinstance(source, Node):
            continue
        if str(source.target) not in operations.CONVOLUTIONS or len(source.users) != 1:
            raise ExportError(
                f"batch normalization {place(node)} does not follow a convolution that nothing else reads; "
                "put it right after one"
            )
        _fold(module, source, node)
        node.replace_all_uses_with(source)
        module.graph.erase_node(node)
    module.graph.eliminate_dead_code()
    module.recompile()


def _fold(module: GraphModule, convolution: Node, norm: Node) -> None:
    gamma, beta, mean, variance = (None if n is None else constant(module, n) for n in norm.args[1:5])
    epsilon = float(norm.args[7])  # type: ignore[arg-type]
    assert mean is not None
    assert variance is not None
    factor = (1.0 if gamma is None else gamma.double()) / torch.sqrt(variance.double() + epsilon)
    weight = constant(module, convolution.args[1]).double()
    bias_node = convolution.args[2] if len(convolution.args) > 2 else None
    bias = torch.zeros_like(mean.double()) if bias_node is None else constant(module, bias_node).double()
    bias = (bias - mean.double()) * factor + (0.0 if beta is None else beta.double())
    weight = weight * factor.reshape(-1, *[1] * (weight.ndim - 1))
    weight_node = add_constant(module, convolution, f"{convolution.name}_weight", weight.float())
    new_bias = add_constant(module, convolution, f"{convolution.name}_bias", bias.float())
    convolution.args = (convolution.args[0], weight_node, new_bias, *convolution.args[3:])


def constant(module: GraphModule, node: object) -> Tensor:
    """Value of a ``get_attr`` node."""
    assert isinstance(node, Node)
    value: object = module
    for part in str(node.target).split("."):
        value = getattr(value, part)
    assert isinstance(value, Tensor)
    return value.detach()


def add_constant(module: GraphModule, user: Node, name: str, value: Tensor) -> Node:
    """A new ``get_attr`` node in front of ``user``, holding ``value`` as a buffer."""
    module.register_buffer(name, value)
    with module.graph.inserting_before(user):
        node = module.graph.get_attr(name)
    node.meta["val"] = value
    return node


def roll_out(
    module: Callable[[Tensor, States], tuple[Tensor, States]],
    network: StreamingNetwork,
    streams: Sequence[Features],
    *,
    batch: int,
    progress: Progress | None = None,
    finished: Callable[[Sequence[int]], None] | None = None,
) -> None:
    """Run every stream from reset, step by step, ``batch`` streams side by side; streams may differ in length.

    Streams are read once, in order, a batch at a time, so that a sequence may compute them on access. The rows of a
    batch are its streams from the longest to the shortest. After each batch ``finished`` hears which of its streams
    each row was, and ``progress`` how many streams are done.
    """
    remaining, done = iter(streams), 0
    while group := list(itertools.islice(remaining, batch)):
        for index, stream in enumerate(group):
            check_stream(network, stream, done + index)
        order = sorted(range(len(group)), key=lambda i: -len(group[i]))
        _roll_out_rows(module, network, [group[i] for i in order])
        done += len(group)
        if finished is not None:
            finished(order)
        if progress is not None:
            progress(done, len(streams))


def _roll_out_rows(
    module: Callable[[Tensor, States], tuple[Tensor, States]], network: StreamingNetwork, rows: list[Features]
) -> None:
    state = network.initial_state(len(rows))
    for begin in range(0, len(rows[0]), network.step_frames):
        alive = [row for row in rows if len(row) > begin]
        features = np.stack([row[begin : begin + network.step_frames] for row in alive])
        _, state = module(torch.from_numpy(features), tuple(s[: len(alive)] for s in state))


def run_stream(
    module: Callable[[Tensor, States], tuple[Tensor, States]], network: StreamingNetwork, features: Features
) -> Features:
    """Logits ``[T_out, n_labels]`` of one stream from reset, step by step."""
    state, parts = network.initial_state(1), []
    with torch.no_grad():
        for begin in range(0, len(features), network.step_frames):
            logits, state = module(torch.from_numpy(features[None, begin : begin + network.step_frames]), state)
            parts.append(logits[0].numpy())
    return np.concatenate(parts) if parts else np.zeros((0, network.n_labels), dtype=np.float32)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
