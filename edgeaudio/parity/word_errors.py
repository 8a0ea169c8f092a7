"""The task metric of CTC networks: word error rate of float and int8 on strings joined from clips of single words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edgeaudio.parity.float_reference import FloatNetwork, FloatReference
from edgeaudio.parity.statistics import percentile_interval, resample_by_speaker
from edgeaudio.sweep.variants import VARIANTS, Variant
from edgeaudio_runtime.bundle import Bundle
from edgeaudio_runtime.engines.base import Program
from edgeaudio_runtime.errors import ParityError
from edgeaudio_runtime.events import TranscriptEvent
from edgeaudio_runtime.front_end import compute_features
from edgeaudio_runtime.listener import open_listener
from edgeaudio_runtime.quantization import quantize

if TYPE_CHECKING:
    from edgeaudio_models.ctc import Edits

N_STRINGS = 200
MIN_WORDS, MAX_WORDS = 3, 7
MIN_GAP_S, MAX_GAP_S = 0.05, 0.3
"""Digital silence between two words."""
EDGE_S = 0.3
"""Digital silence before the first word and after the last: more than any hearing shifts, so none cuts a word."""
SEED = 0
"""Of the strings: every network is asked to read the same ones."""

Int16 = npt.NDArray[np.int16]
Progress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class SpokenWord:
    """A recording of one word."""

    samples: Int16
    """``[n]``, without silence around the word."""
    word: str
    """A label of the model."""
    speaker: str
    """Who says it; empty where unknown."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SpokenString:
    """Words joined, all by one speaker where speakers are known."""

    samples: Int16
    """``[n]``."""
    words: tuple[str, ...]
    """What is said."""
    speaker: str
    """Who says it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WordErrorResult:
    """Word error rate ``(substitutions + deletions + insertions) / words`` of two engines on the same strings."""

    reference: float
    """Of the float network; it is above 1 where more is inserted than was said."""
    candidate: float
    """Of the int8 network."""
    delta: float
    """``candidate - reference``; positive is a loss."""
    ci95: tuple[float, float]
    """95 % interval of ``delta``, bootstrapped over strings, both networks on the same ones."""
    candidate_ci95: tuple[float, float]
    """95 % interval of ``candidate`` over strings: it says nothing of other speakers."""
    reference_ci95: tuple[float, float]
    """95 % interval of ``reference`` over strings."""
    agreement: float
    """Share of hearings in which both give the same words."""
    agreement_ci95: tuple[float, float]
    """95 % interval of ``agreement`` over strings."""
    reference_errors: dict[str, int]
    """Substitutions, deletions and insertions of the float network, all hearings together."""
    candidate_errors: dict[str, int]
    """The same of the int8 network."""
    n: int
    """Strings."""
    n_words: int
    """Words in them."""
    n_hearings: int
    """Ways each string was heard."""
    n_speakers: int
    """Speakers, those unknown counted as one."""

    def to_dict(self) -> dict[str, Any]:
        """JSON form; keys as in :class:`~edgeaudio.parity.statistics.TaskResult` where they mean the same."""
        names = {"reference": "float", "candidate": "int8"}
        values: dict[str, Any] = {"metric": "word_error_rate", "unit": "strings"}
        for key, value in asdict(self).items():
            first, _, rest = key.partition("_")
            name = names.get(first, first) + (f"_{rest}" if rest else "")
            values[name] = list(value) if isinstance(value, tuple) else value
        return values


def join_words(
    words: Sequence[SpokenWord], *, sample_rate: int, n_strings: int = N_STRINGS, seed: int = SEED
) -> list[SpokenString]:
    """Draw strings of :data:`MIN_WORDS` to :data:`MAX_WORDS` words, each by one speaker, with silence between.

    Args:
        words: To draw from, with replacement, evenly within a speaker; speakers are drawn evenly.
        sample_rate: In Hz.
        n_strings: How many.
        seed: Of all draws.

    Raises:
        ParityError: There are no words.
    """
    if not words:
        raise ParityError("words=[] must be at least one recording; give a corpus of single words")
    generator = np.random.default_rng(seed)
    speakers = sorted({word.speaker for word in words})
    strings = []
    for _ in range(n_strings):
        speaker = speakers[int(generator.integers(len(speakers)))]
        own = [word for word in words if word.speaker == speaker]
        count = int(generator.integers(MIN_WORDS, MAX_WORDS + 1))
        chosen = [own[i] for i in generator.integers(len(own), size=count)]
        gaps = np.rint(sample_rate * generator.uniform(MIN_GAP_S, MAX_GAP_S, size=count)).astype(int)
        strings.append(_joined(chosen, gaps.tolist(), edge=round(EDGE_S * sample_rate)))
    return strings


def _joined(words: Sequence[SpokenWord], gaps: Sequence[int], *, edge: int) -> SpokenString:
    pieces = [np.zeros(edge, dtype=np.int16)]
    for word, gap in zip(words, [*gaps[1:], edge], strict=True):
        pieces += [word.samples, np.zeros(gap, dtype=np.int16)]
    said = tuple(word.word for word in words)
    return SpokenString(samples=np.concatenate(pieces), words=said, speaker=words[0].speaker)


def score_strings(
    bundle: Bundle,
    program: Program,
    strings: Sequence[SpokenString],
    *,
    hearings: Sequence[Variant] = VARIANTS,
    float_network: FloatNetwork | None = None,
    progress: Progress | None = None,
) -> WordErrorResult:
    """Read every string in every hearing from reset, in float and in int8, by the decoder of the bundle.

    Args:
        bundle: Of a CTC network.
        program: Its int8 engine.
        strings: From :func:`join_words`.
        hearings: Shifts and gains; one is the quick form.
        float_network: The reference of a bundle without a float model.
        progress: Called with (strings done, strings in all).

    Raises:
        ParityError: There is no string, or no float reference.
    """
    readers = _Readers(bundle, program, float_network)
    reference: list[list[tuple[str, ...]]] = []
    candidate: list[list[tuple[str, ...]]] = []
    for done, string in enumerate(strings):
        heard = [readers.read(hearing.apply(string.samples, bundle.features.sample_rate)) for hearing in hearings]
        reference.append([words for words, _ in heard])
        candidate.append([words for _, words in heard])
        if progress is not None:
            progress(done + 1, len(strings))
    return compare_transcripts(strings, reference, candidate)


class _Readers:
    """Both networks, ready to read one recording after another."""

    def __init__(self, bundle: Bundle, program: Program, float_network: FloatNetwork | None) -> None:
        self._spec, self._signature = bundle.features, program.signature
        self._reference, self._session = FloatReference(bundle, network=float_network), program.session()
        self._listener = open_listener(bundle)

    def read(self, samples: Int16) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Words of the float and of the int8 network."""
        features = compute_features(self._spec, samples, multiple_of=self._signature.step_frames)
        self._session.reset()
        codes = self._session.run(quantize(features, self._signature.input_quant))
        # The decoder takes the best label of each output, of reals as of codes.
        return self._words(self._reference.run(features), features), self._words(codes, features)

    def _words(self, logits: npt.NDArray[Any], features: npt.NDArray[np.float32]) -> tuple[str, ...]:
        events = [*self._listener.hear(logits, features), *self._listener.finish()]
        self._listener.reset()
        final = [event for event in events if isinstance(event, TranscriptEvent) and event.final]
        return tuple(token.label for event in final for token in event.tokens)


def compare_transcripts(
    strings: Sequence[SpokenString],
    reference: Sequence[Sequence[tuple[str, ...]]],
    candidate: Sequence[Sequence[tuple[str, ...]]],
    *,
    seed: int = 0,
) -> WordErrorResult:
    """Paired comparison of what two networks read, ``[strings][hearings]`` of words each; ``seed`` is the bootstrap's.

    Raises:
        ParityError: No strings, or the numbers of strings or hearings differ.
    """
    hearings = {len(heard) for heard in (*reference, *candidate)}
    if not strings or not len(strings) == len(reference) == len(candidate) or len(hearings) != 1:
        given = (
            f"{len(strings)} strings, {len(reference)} and {len(candidate)} read, each in {sorted(hearings)} hearings"
        )
        raise ParityError(f"{given}; all must be one number > 0")
    n_hearings = hearings.pop()
    first, second = _edits(strings, reference), _edits(strings, candidate)
    same = [sum(map(tuple.__eq__, *pair)) for pair in zip(reference, candidate, strict=True)]
    words = np.array([len(string.words) for string in strings])
    values = np.array([[sum(e.total for e in a), sum(e.total for e in b)] for a, b in zip(first, second, strict=True)])
    rates = values.sum(axis=0) / (n_hearings * words.sum())
    alone = [""] * len(strings)  # every string is drawn for itself
    samples = resample_by_speaker(values / n_hearings, alone, seed, sizes=words)
    agreements = resample_by_speaker(np.array(same)[:, None] / n_hearings, alone, seed)
    return WordErrorResult(
        reference=float(rates[0]),
        candidate=float(rates[1]),
        delta=float(rates[1] - rates[0]),
        ci95=percentile_interval(samples[:, 1] - samples[:, 0]),
        candidate_ci95=percentile_interval(samples[:, 1]),
        reference_ci95=percentile_interval(samples[:, 0]),
        agreement=sum(same) / (len(strings) * n_hearings),
        agreement_ci95=percentile_interval(agreements[:, 0]),
        reference_errors=_counted(first),
        candidate_errors=_counted(second),
        n=len(strings),
        n_words=int(words.sum()),
        n_hearings=n_hearings,
        n_speakers=len({string.speaker for string in strings}),
    )


def _edits(strings: Sequence[SpokenString], read: Sequence[Sequence[tuple[str, ...]]]) -> list[list[Edits]]:
    from edgeaudio_models.ctc import count_edits

    return [[count_edits(string.words, words) for words in heard] for string, heard in zip(strings, read, strict=True)]


def _counted(edits: Sequence[Sequence[Edits]]) -> dict[str, int]:
    every = [one for heard in edits for one in heard]
    return {name: sum(getattr(one, name) for one in every) for name in ("substitutions", "deletions", "insertions")}
