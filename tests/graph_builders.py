"""Random integer graphs for tests: a builder, and a streaming residual net like those lowering produces."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeaudio_runtime.graph import IntegerGraph, Op, StateSpec, Tensor
from edgeaudio_runtime.quantization import QuantParams


@dataclass
class GraphBuilder:
    """Adds tensors and operations one after the other; shapes are given, weights are drawn from ``seed``."""

    seed: int = 0
    tensors: dict[str, Tensor] = field(default_factory=dict)
    constants: dict[str, npt.NDArray[Any]] = field(default_factory=dict)
    ops: list[Op] = field(default_factory=list)
    states: list[StateSpec] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)

    def activation(self, name: str, shape: tuple[int, ...], quant: QuantParams | None) -> str:
        """Declare an activation."""
        dtype = "float32" if quant is None else quant.dtype
        self.tensors[name] = Tensor(name=name, shape=shape, dtype=dtype, quant=quant)
        return name

    def constant(self, name: str, data: npt.NDArray[Any], quant: QuantParams | None = None) -> str:
        """Add a constant."""
        self.tensors[name] = Tensor(name=name, shape=data.shape, dtype=data.dtype.name, quant=quant)
        self.constants[name] = data
        return name

    def op(
        self, kind: str, inputs: tuple[str, ...], shape: tuple[int, ...], quant: QuantParams | None, **attrs: Any
    ) -> str:
        """Add an operation with a new output."""
        name = self.activation(f"{kind}_{len(self.ops)}", shape, quant)
        self.ops.append(Op(kind=kind, inputs=inputs, outputs=(name,), attrs=attrs, name=name))
        return name

    def conv(
        self,
        x: str,
        channels: int,
        kernel: tuple[int, int],
        quant: QuantParams,
        *,
        stride: tuple[int, int] = (1, 1),
        dilation: tuple[int, int] = (1, 1),
        groups: int = 1,
        pad_f: tuple[int, int] = (0, 0),
        relu: bool = False,
        weight: npt.NDArray[np.int8] | None = None,
        weight_scale: tuple[float, ...] | None = None,
    ) -> str:
        """Add a convolution with random per-channel weights that fill the output's range, or the given ones."""
        source = self.tensors[x]
        n, frames, bins, in_channels = source.shape
        shape = (channels, *kernel, in_channels // groups)
        given = weight is not None
        if weight is None:
            weight = self.rng.integers(-127, 128, shape).astype(np.int8)
        if weight_scale is None:
            # Codes around 70 of spread on both sides, so that the result uses its range and sometimes saturates.
            spread = 70.0 * 73.0 * np.sqrt(weight[0].size) * source.quant.scale[0]
            weight_scale = tuple(quant.scale[0] * 55.0 / spread * self.rng.uniform(0.6, 1.5, channels))
        weight_name = self.constant(
            f"weight_{len(self.ops)}",
            weight,
            QuantParams(scale=weight_scale, axis=0 if len(weight_scale) > 1 else None, qmin=-127),
        )
        bias_scale = tuple(
            np.float32(source.quant.scale[0]) * np.asarray(self.tensors[weight_name].quant.scale, np.float32)
        )
        # Given weights make an average, which has no bias.
        bias = np.zeros(channels, np.int32) if given else self.rng.integers(-3000, 3001, channels).astype(np.int32)
        bias_name = self.constant(
            f"bias_{len(self.ops)}",
            bias,
            QuantParams(scale=bias_scale, axis=0 if len(bias_scale) > 1 else None, dtype="int32"),
        )
        out_t = (frames - dilation[0] * (kernel[0] - 1) - 1) // stride[0] + 1
        out_f = (bins + sum(pad_f) - dilation[1] * (kernel[1] - 1) - 1) // stride[1] + 1
        return self.op(
            "conv",
            (x, weight_name, bias_name),
            (n, out_t, out_f, channels),
            quant,
            stride=stride,
            dilation=dilation,
            groups=groups,
            pad_f=pad_f,
            relu=relu,
        )

    def fifo(self, x: str, frames: int) -> str:
        """Prepend a state of ``frames`` frames to ``x``; it ends as the last frames of the result."""
        tensor = self.tensors[x]
        n, length, bins, channels = tensor.shape
        index = len(self.states)
        before = self.activation(f"state_{index}_before", (n, frames, bins, channels), tensor.quant)
        joined = self.op("concat", (before, x), (n, frames + length, bins, channels), tensor.quant, axis=1)
        after = self.op("slice", (joined,), (n, frames, bins, channels), tensor.quant, axis=1, start=-frames, stop=0)
        self.states.append(StateSpec(name=f"state_{index}", input=before, output=after, initial=tensor.zero_code))
        return joined

    def build(
        self, output: str, *, input: str = "features", name: str = "test", requantization: str = "fp32"
    ) -> IntegerGraph:
        """The graph so far."""
        return IntegerGraph(
            name=name,
            tensors=self.tensors,
            constants=self.constants,
            ops=tuple(self.ops),
            input=input,
            output=output,
            states=tuple(self.states),
            requantization=requantization,
        )


def residual_graph(
    *,
    seed: int = 0,
    n_features: int = 40,
    channels: int = 64,
    blocks: int = 6,
    kernel: int = 9,
    step_frames: int = 4,
    window: int = 50,
    n_labels: int = 12,
    requantization: str = "fp32",
) -> IntegerGraph:
    """A causal residual keyword net: strided first convolution, separable blocks, tied adds, average over a FIFO."""
    g = GraphBuilder(seed=seed)
    stream = QuantParams(scale=(0.05,), zero_point=-3)
    hidden = QuantParams(scale=(0.03,), zero_point=-128)
    x = g.activation("features", (1, step_frames, 1, n_features), QuantParams(scale=(0.08,), zero_point=11))
    x = g.conv(g.fifo(x, 3), channels, (5, 1), stream, stride=(2, 1), relu=True)
    for _ in range(blocks):
        y = g.conv(g.fifo(x, kernel - 1), channels, (kernel, 1), hidden, groups=channels, relu=True)
        y = g.conv(y, channels, (1, 1), stream)
        x = g.op("add", (x, y), g.tensors[x].shape, stream, relu=False)
    per_step = g.tensors[x].shape[1]
    ones = np.full((channels, window, 1, 1), 127, np.int8)
    x = g.conv(
        g.fifo(x, window - per_step),
        channels,
        (window, 1),
        QuantParams(scale=(0.02,), zero_point=-3),
        stride=(per_step, 1),
        groups=channels,
        weight=ones,
        weight_scale=(float(np.float32(1 / (127 * window))),),
    )
    logits = g.conv(x, n_labels, (1, 1), QuantParams(scale=(0.1,), zero_point=5))
    return g.build(logits, name="residual", requantization=requantization)


def random_codes(shape: tuple[int, ...], *, seed: int = 0, dtype: str = "int8") -> npt.NDArray[Any]:
    """Uniform codes over the whole range of ``dtype``."""
    limits = np.iinfo(dtype)
    return np.random.default_rng(seed).integers(limits.min, limits.max, shape, dtype=dtype, endpoint=True)


def boundary(graph: IntegerGraph) -> Mapping[str, tuple[int, ...]]:
    """Names and shapes of everything a step reads from outside."""
    return {name: graph.tensors[name].shape for name in (graph.input, *(s.input for s in graph.states))}
