"""CTC prefix beam search: the probability of a text summed over its alignments, the most probable texts kept.

Hannun, Maas, Jurafsky, Ng: First-Pass Large Vocabulary Continuous Speech Recognition using Bi-Directional Recurrent
DNNs, 2014 (arXiv:1408.2873), in log probabilities. What a text is worth beside the audio depends on the text alone and
is kept apart (``ctc_bias``). Each prefix also carries its single best alignment, which says when its tokens sounded.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, inf, log, log1p
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
import numpy.typing as npt

from edgeaudio_runtime.ctc_bias import Bias, TextBias
from edgeaudio_runtime.probabilities import softmax_table
from edgeaudio_runtime.quantization import QuantParams

BLANK = 0
_NO_LABEL = -1
_LEAST_LOG_PROBABILITY = -14.0
"""Labels less probable than this (8e-7) extend no prefix at an output."""
_MOST_LABELS = 64
"""Nor do those beyond the most probable ones."""
_LEAST_PROBABILITY = 1e-9
"""Taken for the 0 of a network that gives probabilities."""


@dataclass(frozen=True, slots=True)
class Span:
    """A token and where it sounded: the outputs that named it, both inclusive."""

    label: int
    first: int
    last: int
    score: float | None = None
    """Largest probability of the label in these outputs; None if it was not looked at."""


_Path = tuple[Any, int, int, int, float] | None
"""Best alignment, newest token first: (the path before it, label, first and last output, log probability)."""


class LogProbabilities:
    """Log probabilities of logit codes, or of codes of probabilities; real numbers stand for themselves."""

    def __init__(self, quant: QuantParams, output: str = "logits") -> None:
        self._scale, self._zero_point = float(quant.scale[0]), quant.zero_point
        self._table = softmax_table(quant)
        self._is_probability = output == "probabilities"

    def __call__(self, codes: npt.NDArray[Any]) -> list[float]:
        """Of the codes ``[n_labels]`` of one output, or of what they stand for."""
        is_real = codes.dtype.kind == "f"  # the float network of a bundle, in comparisons
        if self._is_probability:
            scale, zero_point = (1.0, 0) if is_real else (self._scale, self._zero_point)
            return [log(max((code - zero_point) * scale, _LEAST_PROBABILITY)) for code in codes.tolist()]
        if is_real:
            largest = float(codes.max())
            powers = [exp(value - largest) for value in codes.tolist()]
            return [value - largest - log(sum(powers)) for value in codes.tolist()]
        wide = codes.astype(np.int64)
        behind = wide.max() - wide
        total = log(float(self._table[behind].sum()))
        return [-self._scale * lead - total for lead in behind.tolist()]


class _Prefix:
    """A sequence of labels: one object as long as anything refers to it, so that alignments of a text meet."""

    __slots__ = ("__weakref__", "bias", "children", "label", "parent")

    def __init__(self, parent: _Prefix | None, label: int, bias: Bias) -> None:
        self.parent, self.label, self.bias = parent, label, bias
        self.children: WeakValueDictionary[int, _Prefix] | None = None

    def register(self) -> None:
        """Let the parent find this prefix again; only those that were kept, or memory would follow the candidates."""
        parent = self.parent
        if parent is not None:
            if parent.children is None:
                parent.children = WeakValueDictionary()
            parent.children[self.label] = self


class _Entry:
    """Alignments of one prefix that end in a blank, and those that end in its last label."""

    __slots__ = ("best_blank", "best_label", "blank", "label", "path_blank", "path_label", "prefix")

    def __init__(self, prefix: _Prefix) -> None:
        self.prefix = prefix
        self.blank = self.label = self.best_blank = self.best_label = -inf
        self.path_blank: _Path = None
        self.path_label: _Path = None

    @property
    def total(self) -> float:
        """Log probability of the prefix given the audio so far."""
        return _log_add(self.blank, self.label)

    @property
    def best(self) -> tuple[float, _Path]:
        """The best alignment."""
        if self.best_label > self.best_blank:
            return self.best_label, self.path_label
        return self.best_blank, self.path_blank

    @property
    def worth(self) -> float:
        """What prefixes are ranked by."""
        return self.total + self.prefix.bias.bonus

    def add_blank(self, log_p: float, best: float, path: _Path) -> None:
        self.blank = _log_add(self.blank, log_p)
        if best > self.best_blank:
            self.best_blank, self.path_blank = best, path

    def add_label(self, log_p: float, best: float, path: _Path) -> None:
        self.label = _log_add(self.label, log_p)
        if best > self.best_label:
            self.best_label, self.path_label = best, path


class BeamSearch:
    """Prefix beam search over the outputs of a stream, one at a time; deterministic, memory that of the prefixes."""

    def __init__(self, width: int, log_probabilities: LogProbabilities, bias: TextBias) -> None:
        """Keep ``width`` prefixes."""
        self._width, self._log_probabilities, self._bias = width, log_probabilities, bias
        self.restart(BLANK)

    def restart(self, sounding: int) -> None:
        """Begin a new text; ``sounding`` is the label of the output before, whose repetition is no new token."""
        root = _Entry(_Prefix(None, sounding if sounding != BLANK else _NO_LABEL, self._bias.start))
        if sounding == BLANK:
            root.blank = root.best_blank = 0.0
        else:
            root.label = root.best_label = 0.0
        self._entries = [root]

    def push(self, codes: npt.NDArray[np.integer[Any]], best: int, output: int) -> bool:
        """Take the codes of an output; whether another text leads now."""
        step = _Step(self._bias, self._log_probabilities(codes), output)
        for entry in self._entries:
            step.take(entry)
        before = self._entries[0].prefix
        # Ties keep the order in which prefixes were met.
        self._entries = sorted(step.entries(self._width), key=lambda entry: -entry.worth)[: self._width]
        for entry in self._entries:
            entry.prefix.register()
        return self._entries[0].prefix is not before

    def leading(self) -> tuple[Span, ...]:
        """The most probable text so far."""
        return _spans(self._entries[0])

    def final(self) -> tuple[Span, ...]:
        """The most probable text that may end here; empty if none may."""
        ranked = [(self._bias.final_bonus(entry.prefix.bias), entry) for entry in self._entries]
        ending = [(entry.total + bonus, entry) for bonus, entry in ranked if bonus is not None]
        return _spans(max(ending, key=lambda pair: pair[0])[1]) if ending else ()

    def texts(self) -> dict[tuple[int, ...], float]:
        """All prefixes kept and their log probabilities given the audio, most probable first."""
        return {tuple(span.label for span in _spans(entry)): entry.total for entry in self._entries}


class _Step:
    """From the prefixes before an output to those after it."""

    def __init__(self, bias: TextBias, log_p: list[float], output: int) -> None:
        self._bias, self._log_p, self._output = bias, log_p, output
        self._labels = _candidates(log_p)
        self._known: dict[_Prefix, _Entry] = {}
        self._fresh: list[tuple[_Prefix, int, float, float, _Path]] = []

    def entries(self, width: int) -> list[_Entry]:
        """All prefixes that may be among the best ``width``."""
        entries = list(self._known.values())
        worth = sorted(entry.worth for entry in entries)
        least = worth[-width] if len(worth) >= width else -inf
        for prefix, label, log_p, best, path in self._fresh:
            # A new prefix comes of its parent alone, so this is all it will be worth.
            if log_p + prefix.bias.bonus + self._bias.most_gain < least:
                continue
            bias = self._bias.step(prefix.bias, label)
            if bias is not None:
                entry = _Entry(_Prefix(prefix, label, bias))
                entry.add_label(log_p, best, (path, label, self._output, self._output, self._log_p[label]))
                entries.append(entry)
        return entries

    def take(self, entry: _Entry) -> None:
        """What comes of one prefix: the same text, or one more label, the last one again only after a blank."""
        log_p, output, last = self._log_p, self._output, entry.prefix.label
        total, (best, path) = entry.total, entry.best
        own = self._entry(entry.prefix)
        own.add_blank(total + log_p[BLANK], best + log_p[BLANK], path)
        if last != _NO_LABEL and entry.label > -inf:
            longer = entry.path_label
            if longer is not None:
                longer = (longer[0], last, longer[2], output, max(longer[4], log_p[last]))
            own.add_label(entry.label + log_p[last], entry.best_label + log_p[last], longer)
        for label in self._labels:
            if label != last:
                self._extend(entry.prefix, label, total, best, path)
            elif entry.blank > -inf:
                self._extend(entry.prefix, label, entry.blank, entry.best_blank, entry.path_blank)

    def _extend(self, prefix: _Prefix, label: int, total: float, best: float, path: _Path) -> None:
        log_p = self._log_p[label]
        known = prefix.children.get(label) if prefix.children is not None else None
        if known is None:
            self._fresh.append((prefix, label, total + log_p, best + log_p, path))
        else:
            longer = (path, label, self._output, self._output, log_p)
            self._entry(known).add_label(total + log_p, best + log_p, longer)

    def _entry(self, prefix: _Prefix) -> _Entry:
        if prefix not in self._known:
            self._known[prefix] = _Entry(prefix)
        return self._known[prefix]


def _candidates(log_p: list[float]) -> list[int]:
    labels = [label for label, value in enumerate(log_p) if label != BLANK and value >= _LEAST_LOG_PROBABILITY]
    if len(labels) > _MOST_LABELS:
        labels = sorted(sorted(labels, key=lambda label: -log_p[label])[:_MOST_LABELS])
    return labels


def _log_add(a: float, b: float) -> float:
    if a < b:
        a, b = b, a
    return a if b == -inf else a + log1p(exp(b - a))


def _spans(entry: _Entry) -> tuple[Span, ...]:
    spans: list[Span] = []
    path = entry.best[1]
    while path is not None:
        spans.append(Span(path[1], path[2], path[3], exp(path[4])))
        path = path[0]
    return tuple(reversed(spans))
