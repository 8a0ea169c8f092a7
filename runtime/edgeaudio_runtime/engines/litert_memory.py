"""A step through a LiteRT interpreter, its tensors read and written in place through raw addresses, or by copies.

A numpy view held on ``interpreter.tensor(i)()`` makes the public ``invoke()`` raise, because memory may
move. It moves only in ``allocate_tensors()``, so an address taken after that stays good while the interpreter lives;
views over such an address are not seen by that guard. Whoever allocates again must bind again.
"""

from __future__ import annotations

import ctypes
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from edgeaudio_runtime.engines.base import BoundStep, Codes, NetworkSignature
from edgeaudio_runtime.engines.boundary import check_sizes
from edgeaudio_runtime.errors import EngineError
from edgeaudio_runtime.quantization import dequantize, quantize


class TensorMemory(Protocol):
    """One allocated interpreter and its boundary tensors; states are carried on from step to step."""

    def step(self, codes: Codes, logits: Codes) -> None:
        """Compute one step.

        Args:
            codes: Features, ``[step_frames, n_features]``.
            logits: Written: ``[outputs_per_step, n_labels]``.
        """
        ...

    def fill_states(self, values: tuple[int | float, ...]) -> None:
        """Fill each state input with its value."""
        ...

    def bound(self) -> BoundStep | None:
        """Addresses that stay, or None where there are none or what lies there is not int8."""
        ...


class InPlaceMemory:
    """Byte views over the raw addresses of the tensors, bound once; assigning between views costs 0.1 us (measured)."""

    def __init__(
        self,
        interpreter: Any,
        features: int,
        logits: int,
        states: tuple[tuple[int, int], ...],
        signature: NetworkSignature,
    ) -> None:
        # The views do not own the memory; the bound method keeps it alive. The public one looks for views of ours
        # before every run, which takes half a microsecond and cannot see these.
        wrapped = getattr(interpreter, "_interpreter", None)
        self._invoke = getattr(wrapped, "Invoke", interpreter.invoke)
        flat_features, flat_logits = (_array_of(interpreter, index, 1) for index in (features, logits))
        check_sizes(signature, flat_features.size, flat_logits.size)
        self._features = flat_features.reshape(signature.step_frames, -1)
        self._logits = flat_logits.reshape(signature.outputs_per_step, -1)
        self._states = tuple(
            (_bytes_of(interpreter, before), _bytes_of(interpreter, after)) for before, after in states
        )
        self._dtypes = tuple(_dtype_of(interpreter, before) for before, _ in states)
        if any(before.nbytes != after.nbytes for before, after in self._states):
            raise EngineError("a state of the model is not as large after a step as before; export the bundle again")

    def step(self, codes: Codes, logits: Codes) -> None:
        """See :class:`TensorMemory`."""
        self._features[...] = codes
        self._invoke()
        for before, after in self._states:
            before[:] = after
        logits[...] = self._logits

    def fill_states(self, values: tuple[int | float, ...]) -> None:
        """See :class:`TensorMemory`."""
        for (before, _), dtype, value in zip(self._states, self._dtypes, values, strict=True):
            np.frombuffer(before, dtype)[...] = value

    def bound(self) -> BoundStep | None:
        """See :class:`TensorMemory`."""
        if not self._features.dtype == self._logits.dtype == np.int8:
            return None
        return BoundStep(
            features=self._features.ctypes.data,
            logits=self._logits.ctypes.data,
            carried=tuple((_address(after), _address(before), before.nbytes) for before, after in self._states),
            invoke=self._invoke,
        )


class CopyingMemory:
    """The public ``set_tensor`` and ``get_tensor``: slower, and right on any interpreter."""

    def __init__(
        self,
        interpreter: Any,
        features: int,
        logits: int,
        states: tuple[tuple[int, int], ...],
        _signature: NetworkSignature,
    ) -> None:
        self._interpreter, self._features, self._logits, self._states = interpreter, features, logits, states
        details = {detail["index"]: detail for detail in interpreter.get_input_details()}
        self._shapes = {index: (tuple(detail["shape"]), detail["dtype"]) for index, detail in details.items()}

    def step(self, codes: Codes, logits: Codes) -> None:
        """See :class:`TensorMemory`."""
        interpreter = self._interpreter
        interpreter.set_tensor(self._features, codes.reshape(self._shapes[self._features][0]))
        interpreter.invoke()
        for before, after in self._states:
            interpreter.set_tensor(before, interpreter.get_tensor(after))
        logits[...] = interpreter.get_tensor(self._logits).reshape(logits.shape)

    def fill_states(self, values: tuple[int | float, ...]) -> None:
        """See :class:`TensorMemory`."""
        for (before, _), value in zip(self._states, values, strict=True):
            shape, dtype = self._shapes[before]
            self._interpreter.set_tensor(before, np.full(shape, value, dtype))

    def bound(self) -> BoundStep | None:
        """See :class:`TensorMemory`."""
        return None


class ConvertingMemory:
    """Codes in front of a model whose features or logits are float32 or uint8; it is the model's own memory inside."""

    def __init__(self, memory: TensorMemory, signature: NetworkSignature, dtypes: tuple[Any, Any]) -> None:
        self._memory, self._signature, self._dtypes = memory, signature, dtypes
        self._logits: npt.NDArray[Any] = np.empty((signature.outputs_per_step, signature.n_labels), dtypes[1])
        self.fill_states = memory.fill_states

    def step(self, codes: Codes, logits: Codes) -> None:
        """See :class:`TensorMemory`."""
        features: npt.NDArray[Any] = codes
        if self._dtypes[0] is np.float32:
            features = dequantize(codes, self._signature.input_quant)
        elif self._dtypes[0] is np.uint8:
            features = codes.view(np.uint8) ^ 128
        self._memory.step(features, self._logits)
        if self._dtypes[1] is np.float32:
            logits[...] = quantize(self._logits, self._signature.output_quant)
        elif self._dtypes[1] is np.uint8:
            logits[...] = (self._logits ^ 128).view(np.int8)
        else:
            logits[...] = self._logits

    def bound(self) -> BoundStep | None:
        """See :class:`TensorMemory`."""
        return None


def _array_of(interpreter: Any, index: int, rows: int) -> Codes:
    """View ``[rows, values]`` of a tensor of any shape, which the interpreter does not know of."""
    details = (*interpreter.get_input_details(), *interpreter.get_output_details())
    detail = next(entry for entry in details if entry["index"] == index)
    return np.frombuffer(_bytes_of(interpreter, index), np.dtype(detail["dtype"])).reshape(rows, -1)


def _bytes_of(interpreter: Any, index: int) -> memoryview:
    view = interpreter.tensor(index)()
    # The interface is a plain dictionary: it holds the address, not the view.
    address, n_bytes = view.__array_interface__["data"][0], view.nbytes
    del view
    return memoryview((ctypes.c_ubyte * n_bytes).from_address(address)).cast("B")


def _address(view: memoryview) -> int:
    return np.frombuffer(view, np.uint8).ctypes.data


def _dtype_of(interpreter: Any, index: int) -> np.dtype[Any]:
    dtypes = {detail["index"]: detail["dtype"] for detail in interpreter.get_input_details()}
    dtype: np.dtype[Any] = np.dtype(dtypes[index])
    return dtype
