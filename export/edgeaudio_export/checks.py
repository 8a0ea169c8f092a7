"""What a network must be before it is quantized: pure, streaming, finite and made of known operations.

Every refusal is one line with the name of what is wrong and the remedy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from edgeaudio_export import operations
from edgeaudio_export.errors import ExportError
from edgeaudio_export.network import SteppedNetwork, StreamingNetwork, as_module

STREAMING_TOLERANCE = 1e-4
"""Largest difference between chained steps and one call, relative to the largest logit: float convolutions of other
lengths take other kernels, which differ by up to 1e-5 (measured 3e-6 to 8e-6)."""
CHECKED_STEPS = 12
"""Steps of the first stream on which chained steps are held against one call."""

Features = npt.NDArray[np.float32]


def check_network(network: StreamingNetwork) -> None:
    """Attributes, finite weights, and states that come out as they went in."""
    if not isinstance(network, StreamingNetwork) or not isinstance(network, nn.Module):
        missing = [name for name in _ATTRIBUTES if not hasattr(network, name)]
        raise ExportError(
            f"network={type(network).__name__} lacks {missing}; "
            f"a streaming network is a torch module that has {list(_ATTRIBUTES)}"
        )
    for name, value in [*network.named_parameters(), *network.named_buffers()]:
        if not bool(torch.isfinite(value).all()):
            raise ExportError(f"weight {name!r} holds NaN or infinite values; train again or load another checkpoint")
    state = network.initial_state(1)
    if len(state) != len(network.state_names):
        raise ExportError(
            f"initial_state has {len(state)} states but state_names {len(network.state_names)}; name every state once"
        )


_ATTRIBUTES = ("step_frames", "n_features", "n_labels", "outputs_per_step", "state_names", "initial_state", "forward")


def check_streams(network: SteppedNetwork, streams: Sequence[Features]) -> None:
    """At least one stream, and the first as :func:`check_stream` demands; the others are checked when they are used."""
    if not streams:
        raise ExportError("streams=[] must hold at least one feature array; calibrate on a few hundred clips")
    check_stream(network, streams[0], 0)


def check_stream(network: SteppedNetwork, stream: Features, index: int) -> None:
    """Float32 ``[T, n_features]`` with T a positive multiple of ``step_frames``; ``index`` names it in the error."""
    if stream.ndim != 2 or stream.shape[1] != network.n_features or stream.dtype != np.float32:
        raise ExportError(
            f"streams[{index}] is {stream.dtype}{list(stream.shape)}, must be float32 [T, "
            f"n_features={network.n_features}]; "
            "compute it with the feature specification of the network"
        )
    if stream.shape[0] == 0 or stream.shape[0] % network.step_frames:
        raise ExportError(
            f"streams[{index}] has {stream.shape[0]} frames, must be a positive multiple of "
            f"step_frames={network.step_frames}; "
            "flush the front end with multiple_of=step_frames"
        )
    if not np.isfinite(stream).all():
        raise ExportError(f"streams[{index}] holds NaN or infinite features; check the recording and the front end")


def check_states(network: StreamingNetwork) -> None:
    """One step returns logits and states of the promised shapes and changes nothing inside the module."""
    module, state = as_module(network), network.initial_state(1)
    before = {name: value.clone() for name, value in _tensors(module)}
    with torch.no_grad():
        logits, new_state = network(torch.zeros(1, network.step_frames, network.n_features), state)
        network(torch.ones(1, network.step_frames, network.n_features), state)
    changed = [name for name, value in _tensors(module) if name not in before or not torch.equal(before[name], value)]
    if changed:
        raise ExportError(_MUTATED.format(names=changed))
    expected = (1, network.outputs_per_step, network.n_labels)
    if tuple(logits.shape) != expected:
        raise ExportError(
            f"logits of one step are {list(logits.shape)}, must be {list(expected)} "
            f"(step_frames={network.step_frames}); mend outputs_per_step or the strides"
        )
    shapes, new_shapes = [list(s.shape) for s in state], [list(s.shape) for s in new_state]
    if len(shapes) != len(new_shapes):
        raise ExportError(
            f"forward returns {len(new_shapes)} states, initial_state {len(shapes)}; return one new state for each"
        )
    for name, shape, new_shape in zip(network.state_names, shapes, new_shapes, strict=True):
        if shape != new_shape:
            raise ExportError(
                f"state {name!r} goes in as {shape} and comes out as {new_shape}; keep the last frames, x[:, :, -K:]"
            )


_MUTATED = (
    "buffers {names} change during forward; exporters drop such state silently: return it as an explicit state instead"
)


def check_mutations(program: torch.export.ExportedProgram) -> None:
    """No buffer is written by the traced step."""
    mutated = sorted({str(target) for target in program.graph_signature.buffers_to_mutate.values()})
    if mutated:
        raise ExportError(_MUTATED.format(names=mutated))


def check_operations(graph: torch.fx.GraphModule) -> None:
    """Every operation is one the integer graph has, in a form that streams; batch norms must be folded already."""
    nodes = [
        n for n in graph.graph.nodes if n.op == "call_function" and not isinstance(n.meta.get("val"), torch.SymInt)
    ]
    unsupported = [n for n in nodes if str(n.target) not in operations.SUPPORTED]
    # A recurrent layer brings along the zeros of its state: name the operation that there is a remedy for.
    for node in sorted(unsupported, key=lambda n: not operations.has_remedy(str(n.target))):
        operator = str(node.target)
        raise ExportError(
            f"operation {operator} in {place(node)} is not in the integer graph; {operations.remedy_for(operator)}"
        )
    for node in nodes:
        _check_form(node, str(node.target), place(node))


def _check_form(node: torch.fx.Node, operator: str, where: str) -> None:
    if operator in operations.CONVOLUTIONS and (padding := _argument(node, 4, [0]))[0] != 0:
        raise ExportError(
            f"convolution {where} has padding={padding} in time, which does not stream; "
            f"use padding={'0' if len(padding) == 1 else (0, padding[1])} and a FIFO state"
        )
    rank = len(node.meta["val"].shape)
    if operator == "aten.softmax.int" and _argument(node, 1, -1) % rank != rank - 1:
        raise ExportError(
            f"softmax in {where} runs over dim={node.args[1]}, not over the labels; use the last axis of [N, T, labels]"
        )
    if operator in operations.PAIRWISE:
        for operand in node.args[:2]:
            if not isinstance(operand, torch.fx.Node) or operand.op == "get_attr":
                raise ExportError(
                    f"operation {operator} in {where} has a constant operand; "
                    "fold it into the weights of a neighbouring convolution"
                )
        if node.kwargs.get("alpha", 1) != 1:
            raise ExportError(
                f"operation {operator} in {where} has alpha={node.kwargs['alpha']}; scale the weights before it instead"
            )


def check_streaming(network: StreamingNetwork, stream: Features) -> None:
    """Chained steps equal one call on the whole stream, within ``STREAMING_TOLERANCE`` of the largest logit."""
    features = torch.from_numpy(stream[: CHECKED_STEPS * network.step_frames])[None]
    with torch.no_grad():
        whole, _ = network(features, network.initial_state(1))
        state, parts = network.initial_state(1), []
        for step in torch.split(features, network.step_frames, dim=1):
            logits, state = network(step, state)
            parts.append(logits)
    stepped = torch.cat(parts, dim=1)
    if stepped.shape != whole.shape:
        raise ExportError(
            f"network does not stream: chained steps yield {list(stepped.shape)} logits, one call "
            f"{list(whole.shape)}; look for padding or pooling over time"
        )
    error, largest = float((stepped - whole).abs().max()), float(whole.abs().max())
    if error > STREAMING_TOLERANCE * max(largest, 1.0):
        raise ExportError(
            f"network does not stream: chained steps differ from one call by {error:.3g}, the tolerance is "
            f"{STREAMING_TOLERANCE:g} "
            f"of the largest logit {largest:.3g}; look for a missing state, or padding, pooling or softmax over time"
        )


def place(node: torch.fx.Node) -> str:
    """Path of the module that an operation of an exported graph comes from."""
    stack = list(node.meta.get("nn_module_stack", {}).values())
    path = str(stack[-1][0]) if stack else ""
    return repr(path or "forward")


def _argument(node: torch.fx.Node, position: int, default: Any) -> Any:
    return node.args[position] if len(node.args) > position else default


def _tensors(module: nn.Module) -> list[tuple[str, Tensor]]:
    """Parameters, buffers and plain tensor attributes of all submodules, by path."""
    found = [*module.named_parameters(), *module.named_buffers()]
    for path, submodule in module.named_modules():
        plain = ((name, value) for name, value in vars(submodule).items() if isinstance(value, Tensor))
        found.extend((f"{path}.{name}".lstrip("."), value) for name, value in plain)
    return found
