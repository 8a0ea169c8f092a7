"""The operations of an exported network that the integer graph has, and why others are refused.

Keys are names of ATen operators as ``torch.export`` writes them.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from edgeaudio_runtime.quantization import QuantParams

CONVOLUTIONS = frozenset({"aten.conv1d.default", "aten.conv2d.default"})
"""Over time, ``[N, C, T]``, and over time and frequency, ``[N, C, T, F]``."""

WEIGHTED = CONVOLUTIONS | {"aten.linear.default"}
"""Operations with int8 weights per output channel (axis 0) and an int32 bias."""

RELU = "aten.relu.default"
BATCH_NORM = "aten.batch_norm.default"

PAIRWISE = frozenset({"aten.add.Tensor", "aten.sub.Tensor", "aten.mul.Tensor"})
"""Operations on two activations, of which one may have one frame, bin or channel for all of the other."""

FREE = frozenset({"aten.mul.Tensor"})
"""Operations whose output has parameters of its own."""

TURNING = frozenset({"aten.transpose.int", "aten.permute.default"})
"""Operations that change the order of the axes."""

RESHAPING = frozenset(
    {
        "aten.squeeze.dim",
        "aten.unsqueeze.default",
        "aten.view.default",
        "aten.reshape.default",
        "aten.flatten.using_ints",
    }
)
"""Operations that may add or take an axis of size 1, or join bins and channels."""

MOVING = frozenset(
    {
        "aten.cat.default",
        "aten.slice.Tensor",
        "aten.dropout.default",
        "aten.clone.default",
        "aten.alias.default",
        "aten.contiguous.default",
        *TURNING,
        *RESHAPING,
    }
)
"""Operations that compute nothing: every value of theirs was a value before."""

TIED = MOVING | {"aten.add.Tensor", "aten.sub.Tensor", RELU}
"""Operations whose inputs and output share scale and zero point: only then are they exact on every engine."""

FIXED: Mapping[str, QuantParams] = MappingProxyType(
    {
        "aten.sigmoid.default": QuantParams(scale=(1 / 256,), zero_point=-128),
        "aten.tanh.default": QuantParams(scale=(1 / 128,), zero_point=0),
        "aten.softmax.int": QuantParams(scale=(1 / 256,), zero_point=-128),
    }
)
"""Operations whose output range is known; the parameters are those the LiteRT specification demands."""

FIXED_INT16 = QuantParams(scale=(1 / 32768,), zero_point=0, dtype="int16")
"""The same in int16, for each of them."""

SUPPORTED = WEIGHTED | FREE | TIED | frozenset(FIXED)

_FIFO_POOL = "average over a window as a FIFO and a depthwise Conv1d with weights 1/W"
_FREEZE_NORM = "use BatchNorm1d or BatchNorm2d after a convolution, which folds into it"
_CELL = "unroll it into a step of linear layers with its hidden state as an explicit state"

REMEDIES: Mapping[str, str] = MappingProxyType(
    {
        # start of the operator's name: what to do instead
        "aten.adaptive_avg_pool": _FIFO_POOL,
        "aten.adaptive_max_pool": _FIFO_POOL,
        "aten.avg_pool": _FIFO_POOL,
        "aten.mean": _FIFO_POOL,
        "aten.sum": _FIFO_POOL,
        "aten.max_pool": "use a strided convolution",
        "aten.group_norm": _FREEZE_NORM,
        "aten.layer_norm": _FREEZE_NORM,
        "aten.instance_norm": _FREEZE_NORM,
        "aten.batch_norm": _FREEZE_NORM,
        "aten.gru": _CELL,
        "aten.lstm": _CELL,
        "aten.rnn": _CELL,
        "aten.relu_": "use inplace=False",
        "aten.add_": "write x = x + y",
        "aten.copy_": "return the new state instead of storing it",
        "aten.conv1d.padding": "use padding=0 and a FIFO state",
        "aten.conv2d.padding": "use padding=(0, p) and a FIFO state",
        "aten.conv3d": "use Conv2d over time and frequency",
        "aten.select": "use squeeze on an axis of size 1, or a slice",
        "aten.split": "use slices",
        "aten.pad": "keep the last frames as an explicit state instead of padding",
        "aten.constant_pad": "keep the last frames as an explicit state instead of padding",
    }
)


def has_remedy(operator: str) -> bool:
    """Whether there is advice for just this operator."""
    return any(operator.startswith(start) for start in REMEDIES)


def remedy_for(operator: str) -> str:
    """What to use instead of an operator that the integer graph does not have."""
    for start, remedy in REMEDIES.items():
        if operator.startswith(start):
            return remedy
    return "supported are conv1d, conv2d, linear, relu, add, sub, mul, cat, slice, transpose, sigmoid, tanh and softmax"
