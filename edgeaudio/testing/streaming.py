"""A streaming model in pieces of any size against the same model on the whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from edgeaudio.testing.models import Array
from edgeaudio_runtime.errors import ParityError

LONGEST_PIECE = 7
"""Largest piece, in units of ``multiple_of``."""


def assert_streaming_equals_offline(
    step: Callable[[Any, Any], tuple[Any, Any]],
    inputs: Array,
    *,
    initial_state: Any = None,
    offline: Callable[[Any], Any] | None = None,
    axis: int = 1,
    multiple_of: int = 1,
    latency: int = 0,
    atol: float = 0.0,
    n_chunkings: int = 8,
    seed: int = 0,
) -> None:
    """Assert that a streaming model gives the same outputs however its input is cut, and the same again after a reset.

    Args:
        step: ``step(piece, state) -> (outputs, new state)``; a torch module gets tensors, anything else arrays.
        inputs: The whole input; time runs along ``axis``.
        initial_state: State of a fresh stream, or a callable that makes one; None takes ``step.initial_state()`` where
            there is one, with the batch size of ``inputs`` as its argument.
        offline: The same network on the whole input; None gives the whole input to ``step`` in one call.
        axis: Of time, in inputs and outputs.
        multiple_of: Pieces are multiples of so many inputs.
        latency: Outputs by which the stream is behind ``offline``.
        atol: Largest absolute difference that is allowed; 0 is exact.
        n_chunkings: Random ways of cutting, beside one piece at a time.
        seed: Of the cuts.

    Raises:
        AssertionError: A way of cutting gives other outputs, or a second stream remembers the first; the message says
            which output is the first, and in which piece it lies.
        ParityError: The input is no multiple of ``multiple_of``, or is empty.
    """
    length = inputs.shape[axis]
    if not length or length % multiple_of:
        raise ParityError(f"inputs of {length} along axis {axis} must be a multiple of {multiple_of}, and not none")
    stream = _Stream(step, initial_state, axis, batch=inputs.shape[0])
    whole = stream.run([inputs]) if offline is None else _array(offline(stream.given(inputs)))
    n_outputs = whole.shape[axis]
    for cuts in _chunkings(length, multiple_of, n_chunkings, seed):
        pieces = np.split(inputs, cuts, axis=axis)
        streamed, again = stream.run(pieces), stream.run(pieces)
        if not np.array_equal(streamed, again, equal_nan=True):
            raise AssertionError(
                f"a second stream gives other outputs than the first: state leaks ({len(pieces)} pieces)"
            )
        late = np.take(streamed, np.arange(latency, streamed.shape[axis]), axis=axis)
        wanted = np.take(whole, np.arange(late.shape[axis]), axis=axis) if latency else whole
        _compare(wanted, late, axis, atol, ends=[*(cut * n_outputs // length for cut in cuts), n_outputs])


class _Stream:
    """Runs pieces through a step function, from a fresh state."""

    def __init__(
        self, step: Callable[[Any, Any], tuple[Any, Any]], initial_state: Any, axis: int, *, batch: int
    ) -> None:
        self._step, self._state, self._axis, self._batch = step, initial_state, axis, batch
        self._is_module = hasattr(step, "state_dict")
        if self._is_module:
            step.eval()  # type: ignore[attr-defined]

    def given(self, piece: Array) -> Any:
        """What the model takes: a tensor for a torch module, else the array."""
        if not self._is_module:
            return piece
        import torch

        return torch.from_numpy(np.ascontiguousarray(piece))

    def run(self, pieces: list[Array]) -> Array:
        """Outputs of all pieces, joined along time."""
        state, outputs = self._fresh(), []
        with _no_grad(self._is_module):
            for piece in pieces:
                said, state = self._step(self.given(piece), state)
                outputs.append(_array(said))
        return np.concatenate(outputs, axis=self._axis)

    def _fresh(self) -> Any:
        if self._state is not None:
            return self._state() if callable(self._state) else self._state
        if hasattr(self._step, "initial_state"):
            return self._step.initial_state(self._batch)
        return None


def _no_grad(is_module: bool) -> Any:
    from contextlib import nullcontext

    if not is_module:
        return nullcontext()
    import torch

    return torch.no_grad()


def _array(outputs: Any) -> Array:
    return outputs.detach().cpu().numpy() if hasattr(outputs, "detach") else np.asarray(outputs)


def _chunkings(length: int, multiple_of: int, n: int, seed: int) -> Iterator[list[int]]:
    """Where to cut: one unit at a time, then ``n`` ways at random."""
    yield list(range(multiple_of, length, multiple_of))
    generator = np.random.default_rng(seed)
    for _ in range(n):
        sizes = generator.integers(1, LONGEST_PIECE + 1, size=length // multiple_of) * multiple_of
        places = np.cumsum(sizes)
        yield places[places < length].tolist()


def _compare(wanted: Array, given: Array, axis: int, atol: float, *, ends: list[int]) -> None:
    if wanted.shape != given.shape:
        raise AssertionError(f"the stream gives outputs of shape {list(given.shape)}, the whole {list(wanted.shape)}")
    error = np.abs(wanted.astype(np.float64) - given)
    outside = ~(error <= atol)
    if not outside.any():
        return
    others = tuple(i for i in range(error.ndim) if i != axis % error.ndim)
    first = int(np.flatnonzero(outside.any(axis=others))[0])
    piece = next(i for i, end in enumerate(ends) if first < end)
    raise AssertionError(
        f"cut into {len(ends)} pieces the stream is not the whole: output {first} is the first, in piece {piece} "
        f"(counted from 0); largest difference {float(np.nanmax(error)):.3g}, allowed {atol:g}"
    )
