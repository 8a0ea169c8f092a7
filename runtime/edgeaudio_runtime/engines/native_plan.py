"""What the C core runs of an integer graph: where its tensors lie in one block of memory, and what it computes.

Joining and cutting along time costs nothing: the parts of a join are written where the join lies, a cut is a look into
what was cut.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeaudio_runtime.errors import SpecError
from edgeaudio_runtime.graph import IntegerGraph, Op, Tensor
from edgeaudio_runtime.graph_shapes import check_shapes
from edgeaudio_runtime.quantization import QuantParams
from edgeaudio_runtime.record import Record
from edgeaudio_runtime.requantization import float_multiplier

COPY, DENSE, DEPTHWISE, FRAMES, ADD, CLAMP = range(6)
"""Kinds of operations: an enumeration of ``native/edgeaudio.h``."""

BLOCK = 16
"""Outputs that the C source sums together; constants are padded to whole blocks."""
GROUP = 4
"""Inputs multiplied together; windows are padded to whole groups with weight 0."""

_MOST_BYTES = 2**24
"""Of all tensors; an audio model of this size should not be run by the step."""
_LARGEST_SUM = 2**31 - 1


class Operation(Record):
    """One operation with its constants; numbers are fields of ``edgeaudio_op``."""

    numbers: Mapping[str, float]
    x: int
    """Place of the input in the block, bytes from its start."""
    out: int
    """Place of the output."""
    y: int = 0
    """Place of the second input."""
    constants: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)
    """Arrays by field name."""


class NativePlan:
    """Places and operations of a graph. Immutable; shared by all sessions.

    Raises:
        SpecError: the graph is damaged, or has something that the C core does not compute.
    """

    def __init__(self, graph: IntegerGraph) -> None:
        check_shapes(graph)
        if graph.requantization != "fp32":
            raise SpecError(f"requantization={graph.requantization!r} must be 'fp32' for the native engine")
        self._graph, self._parts, self._copies = graph, dict[str, tuple[str, int]](), list[tuple[str, str, int]]()
        for op in graph.ops:
            self._place(op)
        self._offsets, self.n_bytes = self._allocate()
        self.operations = tuple(made for op in graph.ops for made in self._operations(op))
        self.features = self.place(graph.input)
        self.states = tuple((self.place(s.input), self._size(s.input), int(s.initial)) for s in graph.states)
        self.carried = tuple((self.place(s.output), self.place(s.input), self._size(s.input)) for s in graph.states)
        self._check_carried()
        self.logits, last = self._kept_logits()
        self.operations += last

    def place(self, name: str) -> int:
        """Bytes from the start of the block to tensor ``name``."""
        offset = 0
        while name in self._parts:
            name, inner = self._parts[name]
            offset += inner
        return self._offsets[name] + offset

    def _place(self, op: Op) -> None:
        for name in (*op.inputs[:1], *op.outputs):
            _check_codes(op, self._graph.tensors[name])
        if op.kind == "concat":
            self._place_concat(op)
        elif op.kind == "slice":
            self._place_slice(op)
        elif op.kind == "merge_frequency":
            self._parts[op.outputs[0]] = (op.inputs[0], 0)

    def _place_concat(self, op: Op) -> None:
        target, offset = op.outputs[0], 0
        for name in op.inputs:
            tensor = self._graph.tensors[name]
            _check_codes(op, tensor)
            if op.attrs["axis"] != 1 or name in self._graph.constants:
                raise _uncovered(op)
            if name in self._parts:  # lies elsewhere already
                self._copies.append((name, target, offset))
            else:
                self._parts[name] = (target, offset)
            offset += _n_codes(tensor)

    def _place_slice(self, op: Op) -> None:
        if op.attrs["axis"] != 1 or op.inputs[0] in self._graph.constants:
            raise _uncovered(op)
        _, frames, bins, channels = self._graph.tensors[op.inputs[0]].shape
        first = frames + int(op.attrs["start"])
        if first < 0:
            raise _uncovered(op)
        self._parts[op.outputs[0]] = (op.inputs[0], first * bins * channels)

    def _allocate(self) -> tuple[dict[str, int], int]:
        graph, offsets, end = self._graph, dict[str, int](), 0
        names = [graph.input, *(s.input for s in graph.states), *(name for op in graph.ops for name in op.outputs)]
        for name in dict.fromkeys(names):
            if name not in self._parts:
                offsets[name], end = end, end + -(-self._size(name) // 64) * 64
        if end > _MOST_BYTES:
            raise SpecError(f"tensors of {end} bytes must be at most {_MOST_BYTES} for the native engine")
        return offsets, end

    def _size(self, name: str) -> int:
        return _n_codes(self._graph.tensors[name])

    def _check_carried(self) -> None:
        """No state may be overwritten before it was carried on; in order, each once."""
        for i, (_, target, n) in enumerate(self.carried):
            if any(source < target + n and target < source + m for source, _, m in self.carried[i + 1 :]):
                raise SpecError("a state becomes another state; the native engine carries each on by itself")

    def _kept_logits(self) -> tuple[int, tuple[Operation, ...]]:
        """Where the logits stay when a step has ended: elsewhere, if a state is carried on to where they lie."""
        place, size = self.place(self._graph.output), self._size(self._graph.output)
        if not any(place < target + n and target < place + size for _, target, n in self.carried):
            return place, ()
        kept = self.n_bytes
        self.n_bytes += -(-size // 64) * 64
        return kept, (Operation(numbers={"kind": COPY, "n_out": size}, x=place, out=kept),)

    def _operations(self, op: Op) -> list[Operation]:
        if op.kind in ("slice", "merge_frequency"):
            return []
        if op.kind == "concat":
            joined = [copy for copy in self._copies if copy[1] == op.outputs[0]]
            return [
                Operation(
                    numbers={"kind": COPY, "n_out": self._size(name)}, x=self.place(name), out=self.place(to) + at
                )
                for name, to, at in joined
            ]
        makers = {"conv": self._conv, "fully_connected": self._fully_connected, "add": self._sum, "sub": self._sum}
        if op.kind in makers:
            return [makers[op.kind](op)]
        if op.kind in ("relu", "clamp"):
            return [self._clamp(op)]
        raise _uncovered(op)

    def _made(
        self,
        op: Op,
        numbers: Mapping[str, float],
        constants: Mapping[str, npt.NDArray[Any]] | None = None,
        *,
        y: int = 0,
    ) -> Operation:
        x, out = self.place(op.inputs[0]), self.place(op.outputs[0])
        return Operation(numbers=numbers, constants=constants or {}, x=x, y=y, out=out)

    def _conv(self, op: Op) -> Operation:
        weight, x = self._graph.constants[op.inputs[1]], self._graph.tensors[op.inputs[0]]
        groups = int(op.attrs.get("groups", 1))
        if groups == 1:
            return self._dense(op, weight, x.shape)
        if groups != x.shape[3] or weight.shape[0] != groups:
            raise _uncovered(op)
        taps = weight[..., 0].transpose(1, 2, 0)
        bias = self._graph.constants[op.inputs[2]]
        _check_sums(op, weight, bias)
        numbers = {"kind": DEPTHWISE, "n_out": groups, **self._geometry(op, weight.shape, x.shape)}
        constants: dict[str, npt.NDArray[Any]] = {
            "weights": np.pad(taps.ravel(), (0, BLOCK)),
            **self._multiplier(op, groups),
        }
        if numbers["is_contiguous"]:
            numbers["kind"] = FRAMES
            constants["pairs"] = paired(taps[:, 0])
            bias = bias - _quant(x).zero_point * taps.sum(axis=(0, 1), dtype=np.int64)
        return self._made(op, {**numbers, **self._limits(op)}, {**constants, "bias": _in_blocks(bias)})

    def _fully_connected(self, op: Op) -> Operation:
        weight = self._graph.constants[op.inputs[1]]
        return self._dense(op, weight[:, None, None, :], self._graph.tensors[op.inputs[0]].shape)

    def _dense(self, op: Op, weight: npt.NDArray[Any], shape: tuple[int, ...]) -> Operation:
        n_out, n_in = weight.shape[0], int(np.prod(weight.shape[1:]))
        bias = self._graph.constants[op.inputs[2]]
        _check_sums(op, weight, bias)
        sums = weight.reshape(n_out, -1).sum(axis=1, dtype=np.int64)
        signed = bias - _quant(self._graph.tensors[op.inputs[0]]).zero_point * sums
        constants: dict[str, npt.NDArray[Any]] = {
            "weights": packed(weight.reshape(n_out, n_in)),
            "bias": _in_blocks(signed),
            "bias_unsigned": _in_blocks(signed - 128 * sums),
            **self._multiplier(op, n_out),
        }
        numbers = {"kind": DENSE, "n_out": n_out, "n_in": n_in, **self._geometry(op, weight.shape, shape)}
        return self._made(op, {**numbers, **self._limits(op)}, constants)

    def _geometry(self, op: Op, kernel: tuple[int, ...], shape: tuple[int, ...]) -> dict[str, float]:
        (stride_t, stride_f), (dilation_t, dilation_f) = (
            op.attrs.get("stride", (1, 1)),
            op.attrs.get("dilation", (1, 1)),
        )
        pad_low, pad_high = op.attrs.get("pad_f", (0, 0))
        _, out_t, out_f, _ = self._graph.tensors[op.outputs[0]].shape
        frames, bins = shape[1:3]
        if kernel[1:3] == (1, 1) and (stride_t, stride_f, pad_low, pad_high) == (1, 1, 0, 0):
            frames, bins, out_t, out_f = frames * bins, 1, out_t * out_f, 1  # each bin is a frame of its own
        is_contiguous = bins == kernel[2] == 1 and (dilation_t == 1 or kernel[1] == 1) and pad_low == pad_high == 0
        return {
            "bins": bins, "channels": shape[3], "out_t": out_t, "out_f": out_f, "kernel_t": kernel[1],
            "kernel_f": kernel[2], "stride_t": stride_t, "stride_f": stride_f, "dilation_t": dilation_t,
            "dilation_f": dilation_f, "pad_low": pad_low, "is_contiguous": is_contiguous,
        }  # fmt: skip

    def _multiplier(self, op: Op, n_out: int) -> dict[str, npt.NDArray[Any]]:
        tensors = self._graph.tensors
        scales = [_quant(tensors[name]).scale for name in (op.inputs[0], op.inputs[1], op.outputs[0])]
        multiplier = float_multiplier(scales[0][0], np.asarray(scales[1], dtype=np.float32), scales[2][0])
        return {"multiplier": np.pad(np.broadcast_to(multiplier, (n_out,)), (0, -n_out % BLOCK))}

    def _limits(self, op: Op) -> dict[str, float]:
        quant, x = _quant(self._graph.tensors[op.outputs[0]]), _quant(self._graph.tensors[op.inputs[0]])
        low = max(quant.low, quant.zero_point) if op.attrs.get("relu") else quant.low
        return {"low": low, "high": quant.high, "zero": quant.zero_point, "x_zero": x.zero_point}

    def _sum(self, op: Op) -> Operation:
        first, second = (self._graph.tensors[name] for name in op.inputs)
        if first.shape != second.shape or not self._graph.constants.keys().isdisjoint(op.inputs):
            raise _uncovered(op)
        _check_codes(op, second)
        a, b, out = _quant(first), _quant(second), _quant(self._graph.tensors[op.outputs[0]])
        sign = 1 if op.kind == "add" else -1
        ratios = [np.float32(quant.scale[0]) / np.float32(out.scale[0]) for quant in (a, b)]
        numbers = {
            "kind": ADD, "n_out": _n_codes(first), "y_zero": b.zero_point,
            "x_ratio": float(ratios[0]), "y_ratio": sign * float(ratios[1]),
        }  # fmt: skip
        return self._made(op, {**numbers, **self._limits(op)}, y=self.place(op.inputs[1]))

    def _clamp(self, op: Op) -> Operation:
        tensor = self._graph.tensors[op.inputs[0]]
        low, high = (tensor.zero_code, 127) if op.kind == "relu" else (op.attrs["low"], op.attrs["high"])
        if type(low) is not int or type(high) is not int:
            raise _uncovered(op)
        numbers = {"kind": CLAMP, "n_out": _n_codes(tensor), "low": max(-128, low), "high": min(127, high)}
        return self._made(op, numbers)


def packed(weight: npt.NDArray[Any]) -> npt.NDArray[np.int8]:
    """Weights ``[outputs, inputs]`` as ``[blocks, groups, BLOCK, GROUP]``, zeros where there are none."""
    n_out, n_in = weight.shape
    padded = np.zeros((-(-n_out // BLOCK) * BLOCK, -(-n_in // GROUP) * GROUP), dtype=np.int8)
    padded[:n_out, :n_in] = weight
    return np.ascontiguousarray(padded.reshape(-1, BLOCK, padded.shape[1] // GROUP, GROUP).transpose(0, 2, 1, 3))


def paired(taps: npt.NDArray[np.int8]) -> npt.NDArray[np.int16]:
    """Weights ``[taps, channels]`` of two outputs one frame apart, as pairs of taps: ``[outputs, pairs, channels, 2]``.

    The first output begins with the first frame of the first pair, the second one with the second; zeros where no
    tap is.
    """
    n_taps, n_channels = taps.shape
    rows = np.zeros((2, 2 * (n_taps // 2 + 1), -(-n_channels // BLOCK) * BLOCK), dtype=np.int16)
    rows[0, :n_taps, :n_channels] = rows[1, 1 : n_taps + 1, :n_channels] = taps
    return np.ascontiguousarray(rows.reshape(2, -1, 2, rows.shape[2]).swapaxes(2, 3))


def _in_blocks(values: npt.NDArray[Any]) -> npt.NDArray[np.int32]:
    return np.pad(values, (0, -len(values) % BLOCK)).astype(np.int32)


def _check_sums(op: Op, weight: npt.NDArray[Any], bias: npt.NDArray[Any]) -> None:
    largest = 512 * np.abs(weight.astype(np.int64)).reshape(len(weight), -1).sum(axis=1) + np.abs(bias.astype(np.int64))
    if largest.max() > _LARGEST_SUM:
        raise SpecError(f"operation {op.kind!r} ({op.name or op.outputs[0]}): sums beyond 32 bits are not native")


def _n_codes(tensor: Tensor) -> int:
    return int(np.prod(tensor.shape))


def _quant(tensor: Tensor) -> QuantParams:
    assert tensor.quant is not None
    return tensor.quant


def _check_codes(op: Op, tensor: Tensor) -> None:
    if tensor.dtype != "int8":
        raise SpecError(
            f"operation {op.kind!r} ({op.name or op.outputs[0]}): {tensor.dtype} is not native, only int8 is"
        )


def _uncovered(op: Op) -> SpecError:
    return SpecError(
        f"operation {op.kind!r} ({op.name or op.outputs[0]}) of this shape is not native; use litert or numpy"
    )
