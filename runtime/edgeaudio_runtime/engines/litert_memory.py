"""Reading and writing a LiteRT interpreter's tensors: in place through raw addresses, or by copies.

A numpy view held on ``interpreter.tensor(i)()`` makes the public ``invoke()`` raise, because memory may move. Memory moves only
in ``allocate_tensors()``, so an address taken after it stays good while the interpreter lives; arrays over such addresses are
not seen by that guard. Whoever re-allocates must bind again.
"""

from __future__ import annotations

import ctypes
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


class TensorMemory(Protocol):
    """Access to the input and output tensors of one allocated interpreter."""

    def write(self, tensor: int, values: Array) -> None:
        """Copy ``values`` into an input tensor, by tensor index."""
        ...

    def read(self, tensor: int) -> Array:
        """A new array with the values of an output tensor, by tensor index."""
        ...

    def carry(self) -> None:
        """Copy every state output to its state input."""
        ...


class InPlaceMemory:
    """Arrays bound to the raw addresses of the tensors once, after ``allocate_tensors()``."""

    def __init__(self, interpreter: Any, states: tuple[tuple[int, int], ...], tensors: tuple[int, ...]) -> None:
        # Keeps the memory alive as long as arrays over it exist.
        self._interpreter = interpreter
        wanted = {*tensors, *(index for pair in states for index in pair)}
        self._arrays = {index: _array_at_address(interpreter, index) for index in wanted}
        self._moves = tuple((self._arrays[before], self._arrays[after]) for before, after in states)

    def write(self, tensor: int, values: Array) -> None:
        """Copy ``values`` into an input tensor."""
        self._arrays[tensor][...] = values

    def read(self, tensor: int) -> Array:
        """A new array with the values of an output tensor."""
        return self._arrays[tensor].copy()

    def carry(self) -> None:
        """Copy every state output to its state input."""
        for before, after in self._moves:
            np.copyto(before, after)


class CopyingMemory:
    """The public ``set_tensor`` and ``get_tensor``: slower, and right on any interpreter."""

    def __init__(self, interpreter: Any, states: tuple[tuple[int, int], ...]) -> None:
        self._interpreter = interpreter
        self._states = states

    def write(self, tensor: int, values: Array) -> None:
        """Copy ``values`` into an input tensor."""
        self._interpreter.set_tensor(tensor, values)

    def read(self, tensor: int) -> Array:
        """A new array with the values of an output tensor."""
        values: Array = self._interpreter.get_tensor(tensor)
        return values

    def carry(self) -> None:
        """Copy every state output to its state input."""
        for before, after in self._states:
            self._interpreter.set_tensor(before, self._interpreter.get_tensor(after))


def _array_at_address(interpreter: Any, index: int) -> Array:
    view = interpreter.tensor(index)()
    address, shape, dtype = view.__array_interface__["data"][0], view.shape, view.dtype
    n_bytes = view.nbytes
    del view
    memory = (ctypes.c_byte * n_bytes).from_address(address)
    return np.frombuffer(memory, dtype=dtype).reshape(shape)
