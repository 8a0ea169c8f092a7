"""Smoothed probabilities of logit codes (or of codes of probabilities), computed only where a keyword could fire."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeaudio_runtime.quantization import QuantParams
from edgeaudio_runtime.recent import RecentRows
from edgeaudio_runtime.record import Record

Codes = npt.NDArray[np.integer[Any]]
Float64 = npt.NDArray[np.float64]


def softmax_table(quant: QuantParams) -> Float64:
    """``exp(-scale * d)`` for the code differences ``d`` = 0 .. ``high - low``, float64.

    Logits of one scale need no other exponentials: ``softmax_i = table[max - code_i] / sum_j table[max - code_j]``.
    """
    return np.exp(-float(quant.scale[0]) * np.arange(quant.high - quant.low + 1, dtype=np.float64))


def quiet_lead(quant: QuantParams, threshold: float) -> int:
    """Codes by which the best background label must lead the best keyword so that none can reach ``threshold``.

    With keyword code k, background code b and scale s, the softmax of the keyword is at most
    ``exp(s k) / (exp(s k) + exp(s b)) = 1 / (1 + exp(s (b - k)))``. A mean over outputs that all have the lead
    ``ceil(log(1 / threshold - 1) / s)`` stays below the threshold; a margin covers the rounding of softmax and mean.
    """
    largest = quant.high - quant.low + 1  # more than any lead there can be
    odds = 1.0 / max(threshold * (1.0 - 1e-9), 1e-300) - 1.0
    return int(np.clip(np.ceil(np.log(odds) / float(quant.scale[0])), -largest, largest))


class Watch(Record):
    """When an idle detector must hear an output: once the smoothed probability of a label reaches its threshold.

    Not of a latched label; an output must be heard in which that falls below its release.
    """

    thresholds: tuple[float, ...]
    """One for each label, infinite for a background label."""
    releases: tuple[float, ...]
    """One for each label."""
    n_smoothing: int
    """Outputs averaged, those before the stream counting as 0."""
    is_probability: bool
    """Whether the codes stand for probabilities already."""
    memory_steps: int | None
    """Steps before the newest that are looked back on; None where each counts for ever."""


class SmoothedProbabilities:
    """Softmax of each output averaged over the newest outputs, with a look back; outputs before the stream count as 0.

    Codes are kept and probabilities computed when they are asked for, so leaving them out while nothing can fire (see
    :func:`quiet_lead`) changes none of those that are seen later. Memory is constant, and cutting the same outputs into
    other calls changes nothing, bit for bit.
    """

    def __init__(
        self,
        *,
        output_quant: QuantParams,
        thresholds: Sequence[float],
        n_smoothing: int,
        n_memory: int,
        block: int,
        output: str = "logits",
    ) -> None:
        """Start a stream.

        Args:
            output_quant: Quantization of the logit codes, per tensor.
            thresholds: Of each label, infinite for a background label.
            n_smoothing: Outputs averaged, >= 1.
            n_memory: Outputs that :meth:`scores` can look back on before the newest call.
            block: Most outputs in a call.
            output: What the codes stand for: "logits", or "probabilities", which are taken as they are.
        """
        self._real = output_quant if output == "probabilities" else None
        self._table = softmax_table(output_quant)
        self._n_smoothing, self._n_kept, self._block = n_smoothing, n_memory + n_smoothing - 1, block
        self._divisor = np.asarray(n_smoothing, dtype=np.float64)  # an array is not converted on every call
        keywords = np.flatnonzero(np.isfinite(thresholds))
        self._keywords = frozenset(keywords.tolist())
        # With this much added to the keywords, an output whose largest code is a background label's is quiet.
        self._handicap = np.zeros((block, len(thresholds)), dtype=np.intp)
        lead = quiet_lead(output_quant, min(*thresholds, 1.0))
        if self._real is not None:  # need not add up to 1 (sigmoid): no label's says anything of another's
            lead = output_quant.high - output_quant.low + 1
        self._handicap[:, keywords] = lead
        self._codes = RecentRows(self._n_kept, (len(thresholds),), fill=0, dtype=np.intp, block=block)
        self._probs = RecentRows(
            self._n_kept, (len(thresholds),), fill=0.0, dtype=np.float64, block=block, window=n_smoothing
        )
        self._n_behind = 0  # outputs whose probabilities were not computed
        self._n_newest = 0  # outputs of the newest call
        self._n_quiet = self._n_kept  # outputs since the last call that was not quiet

    def push(self, codes: Codes) -> bool:
        """Take the next outputs ``[n, n_labels]``, n <= block; whether a keyword may reach its threshold in one."""
        n = len(codes)
        leading = np.add(codes, self._handicap[:n], self._codes.extend(n)).argmax(1).tolist()
        may_fire = not self._keywords.isdisjoint(leading) or self._n_quiet < self._n_smoothing - 1
        self._n_quiet = self._n_quiet + n if self._keywords.isdisjoint(leading) else 0
        self._n_behind, self._n_newest = self._n_behind + n, n
        return may_fire

    def pass_over(self, codes: Codes) -> None:
        """Take outputs as :meth:`push` does, of which it is known that no keyword reaches its threshold in any."""
        n = len(codes)
        np.add(codes, self._handicap[:n], self._codes.extend(n))
        self._n_quiet, self._n_behind, self._n_newest = 0, self._n_behind + n, n

    def scores(self, n: int) -> Float64:
        """Smoothed probabilities ``[n, n_labels]`` of the newest outputs, up to the memory and the newest call."""
        if self._n_behind:
            self._catch_up()
        # The labels lie along the fast axis, so numpy adds whole rows, every output in one order, whatever the chunk;
        # a running sum would drift.
        total: Float64 = np.add.reduce(self._probs.windows(n), axis=1)
        return np.divide(total, self._divisor, total)

    def _catch_up(self) -> None:
        """Compute the probabilities that were left out, as far as they can still be looked back on."""
        n_older = min(self._n_behind - self._n_newest, self._n_kept)
        codes = self._codes.last(n_older + self._n_newest) - self._handicap[0]
        # The newest come in one piece: what can be looked back on begins with the newest extension.
        for first in range(0, n_older, self._block):
            block = codes[first : min(first + self._block, n_older)]
            self._softmax(block, out=self._probs.extend(len(block)))
        self._softmax(codes[n_older:], out=self._probs.extend(self._n_newest))
        self._n_behind = 0

    def _softmax(self, codes: npt.NDArray[np.intp], *, out: Float64) -> None:
        if self._real is not None:
            np.multiply(codes - self._real.zero_point, float(self._real.scale[0]), out=out)
            return
        powers = self._table[np.maximum.reduce(codes, axis=1, keepdims=True) - codes]
        np.divide(powers, np.add.reduce(powers, axis=1, keepdims=True), out=out)
