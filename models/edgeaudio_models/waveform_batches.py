"""Turn clips into what a microphone would have heard: a clip in a stream for keywords, a string of words for CTC."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from edgeaudio_models.augmentation import (
    N_OCTAVES,
    AugmentationSpec,
    add_noise,
    apply_gain,
    coloured_noise,
    draw_integers,
    draw_uniform,
    equalize,
    narrow_band,
    noise_like,
)
from edgeaudio_models.recipe import Recipe
from edgeaudio_models.rooms import reverberate

GENERATED_NOISE_CLIPS = 40
"""Clips of generated noise that join the recorded noise."""
VOICED_FRAME = 160
"""Samples over which the energy of a clip is taken to find where speech begins and ends."""
VOICED_RANGE_DB = 35.0
"""Frames this far below the loudest frame count as silence."""


def noise_bed(recorded: Tensor | None, *, n_samples: int, seed: int) -> Tensor:
    """One long recording to cut noise from: the recorded noise, if any, and generated noise of many colours.

    Args:
        recorded: float32 ``[M]`` or None.
        n_samples: Length that one cut may have.
        seed: Of the generated noise.
    """
    generator = torch.Generator().manual_seed(seed)
    generated = coloured_noise(GENERATED_NOISE_CLIPS, n_samples, generator=generator).reshape(-1)
    return generated if recorded is None else torch.cat([recorded, generated])


def cut(streams: Tensor, starts: Tensor, n_samples: int) -> Tensor:
    """Piece ``[N, n_samples]`` of each stream ``[N, S]`` from its own start, int64 ``[N]``."""
    return streams.unfold(1, n_samples, 1)[torch.arange(len(streams)), starts]


def change_rate(waveforms: Tensor, factor: float) -> Tensor:
    """Play all clips ``1 / factor`` times as fast, pitch included, cut or padded evenly at both ends to ``[N, S]``."""
    n_samples = waveforms.shape[1]
    played = functional.interpolate(waveforms[:, None], size=round(n_samples * factor), mode="linear")[:, 0]
    missing = n_samples - played.shape[1]
    return functional.pad(played, (missing // 2, missing - missing // 2))


def keyword_batch(
    clips: Tensor,
    *,
    silent: Tensor,
    recipe: Recipe,
    sample_rate: int,
    bed: Tensor,
    generator: torch.Generator,
    rooms: Tensor | None = None,
) -> Tensor:
    """Vary clips and put them at the end of a stream.

    Args:
        clips: float32 ``[N, S]``, full scale 1.0.
        silent: bool ``[N]``, clips labelled as silence; some are replaced by cuts of the noise.
        recipe: Its ``augmentation`` and ``context``.
        sample_rate: Of the clips, in Hz.
        bed: From :func:`noise_bed`.
        generator: Source of every draw.
        rooms: From :func:`edgeaudio_models.rooms.bank_of`.

    Returns:
        float32 ``[N, S]``, or ``[N, context + S]`` in the share of batches that have context; the clip ends the row.
    """
    context = recipe.context
    clips = _vary_rate(clips, recipe, generator)
    chosen = torch.nonzero(silent & _coins(len(clips), context.silence_noise_probability, generator))[:, 0]
    if len(chosen):
        clips = clips.clone()
        clips[chosen] = noise_like(clips[chosen], generator=generator, noise=bed)
    has_context = bool(_coins(1, context.probability, generator))
    n_context = min(round(context.seconds * sample_rate), clips.shape[1]) if has_context else 0
    streams = _place(clips, n_context, recipe, generator)
    return add_surroundings(
        streams, recipe.augmentation, bed=bed, generator=generator, sample_rate=sample_rate, rooms=rooms
    )


def _place(clips: Tensor, n_context: int, recipe: Recipe, generator: torch.Generator) -> Tensor:
    """Ends of other clips or zeros, then the clip shifted by up to ``max_shift`` samples: ``[N, n_context + S]``."""
    n_clips, n_samples = clips.shape
    shift = min(recipe.augmentation.max_shift, n_samples)
    before = clips.new_zeros(n_clips, n_context + shift)
    if n_context:
        others = torch.randperm(n_clips, generator=generator)
        spoken = _coins(n_clips, recipe.context.speech_probability, generator)
        before[:, shift:] = clips[others, -n_context:] * spoken[:, None]
    streams = torch.cat([before, clips, clips.new_zeros(n_clips, shift)], dim=1)
    return cut(streams, draw_integers(n_clips, 0, 2 * shift, generator), n_context + n_samples)


def add_surroundings(
    streams: Tensor,
    spec: AugmentationSpec,
    *,
    bed: Tensor,
    generator: torch.Generator,
    sample_rate: int = 16_000,
    rooms: Tensor | None = None,
) -> Tensor:
    """Put some streams ``[N, S]`` into rooms, add noise to some, equalize, narrow the band of some, gain, then clip."""
    if rooms is not None:
        streams = reverberate(streams, rooms, probability=spec.room_probability, generator=generator)
    chosen = torch.nonzero(_coins(len(streams), spec.noise_probability, generator))[:, 0]
    if len(chosen):
        noise = noise_like(streams[chosen], generator=generator, noise=_long_enough(bed, streams.shape[1]))
        snr_db = draw_uniform(len(chosen), spec.min_snr_db, spec.max_snr_db, generator)
        streams = streams.index_copy(0, chosen, add_noise(streams[chosen], noise, snr_db))
    if spec.max_equalizer_db:
        octaves_db = draw_uniform(len(streams) * N_OCTAVES, -spec.max_equalizer_db, spec.max_equalizer_db, generator)
        streams = equalize(streams, octaves_db.reshape(-1, N_OCTAVES), sample_rate=sample_rate)
    if spec.narrow_band_probability:
        narrowed = torch.nonzero(_coins(len(streams), spec.narrow_band_probability, generator))[:, 0]
        if len(narrowed):  # transforms of no clips are refused
            streams = streams.index_copy(0, narrowed, narrow_band(streams[narrowed], sample_rate=sample_rate))
    gains_db = draw_uniform(len(streams), spec.min_gain_db, spec.max_gain_db, generator)
    return apply_gain(streams, gains_db).clamp_(-1.0, 1.0)


def _long_enough(bed: Tensor, n_samples: int) -> Tensor:
    return bed.repeat(-(-n_samples // len(bed))) if len(bed) < n_samples else bed


def _vary_rate(clips: Tensor, recipe: Recipe, generator: torch.Generator) -> Tensor:
    limit = recipe.context.max_rate_change
    return change_rate(clips, 1.0 + float(draw_uniform(1, -limit, limit, generator))) if limit else clips


def _draw_rate(limit: float, generator: torch.Generator) -> float:
    return 1.0 + float(draw_uniform(1, -limit, limit, generator)) if limit else 1.0


def _played(word: Tensor, factor: float) -> Tensor:
    """Play one word ``[n]`` slower or faster, pitch included, as long as that makes it."""
    length = max(1, round(len(word) * factor))
    if length == len(word):
        return word
    return functional.interpolate(word[None, None], size=length, mode="linear")[0, 0]


def _coins(n: int, probability: float, generator: torch.Generator) -> Tensor:
    return torch.rand(n, generator=generator) < probability


@dataclass(frozen=True, kw_only=True, slots=True)
class Strings:
    """Words joined to strings."""

    waveforms: Tensor
    """float32 ``[N, S]``, padded with zeros at the end."""
    n_samples: Tensor
    """Samples of each string without padding, int64 ``[N]``."""
    targets: Tensor
    """Label indices of all strings, one after the other, int64."""
    target_lengths: Tensor
    """Labels of each string, int64 ``[N]``."""
    word_ends: Tensor
    """One past the last sample of each word within its string, in the order of ``targets``, int64."""

    def references(self) -> list[list[int]]:
        """Label indices of each string."""
        return [part.tolist() for part in torch.split(self.targets, self.target_lengths.tolist())]


def voiced_spans(waveforms: Tensor) -> Tensor:
    """First sample and one past the last sample of speech in each clip ``[N, S]``: int64 ``[N, 2]``, by energy."""
    energy = functional.avg_pool1d(waveforms.square()[:, None], VOICED_FRAME, ceil_mode=True)[:, 0]
    loud = energy >= energy.amax(dim=1, keepdim=True) * 10.0 ** (-VOICED_RANGE_DB / 10.0)
    first = loud.to(torch.int8).argmax(dim=1)
    last = loud.shape[1] - loud.flip(1).to(torch.int8).argmax(dim=1)
    return torch.stack([first * VOICED_FRAME, (last * VOICED_FRAME).clamp_max(waveforms.shape[1])], dim=1)


def join_strings(
    waveforms: Tensor,
    spans: Tensor,
    label_indices: Tensor,
    *,
    words: Sequence[Tensor],
    recipe: Recipe,
    sample_rate: int,
    generator: torch.Generator,
) -> Strings:
    """Join clips to strings with random gaps before, between and after the words.

    Args:
        waveforms: float32 ``[n, S]`` clips of one word each.
        spans: Of the speech in each clip, from :func:`voiced_spans`.
        label_indices: Label of each clip, int64 ``[n]``.
        words: Of each string, the clips that it says: int64.
        recipe: Its ``context`` says how long the gaps are, and how much words vary.
        sample_rate: Of the clips, in Hz.
        generator: Source of every draw.
    """
    context = recipe.context
    longest_gap = round(context.max_gap_seconds * sample_rate)
    rows: list[Tensor] = []
    targets: list[Tensor] = []
    word_ends: list[int] = []
    for said in words:
        gaps = draw_integers(len(said) + 1, 0, longest_gap, generator).tolist()
        rate = _draw_rate(context.max_rate_change_of_voice, generator)
        pieces = [waveforms.new_zeros(gaps[0])]
        for word, gap in zip(said.tolist(), gaps[1:], strict=True):
            start, stop = spans[word].tolist()
            factor = rate * _draw_rate(context.max_word_rate_change, generator)
            pieces.append(_played(waveforms[word, start:stop], factor))
            word_ends.append(sum(map(len, pieces)))
            pieces.append(waveforms.new_zeros(gap))
        rows.append(torch.cat(pieces))
        targets.append(label_indices[said])
    return Strings(
        waveforms=torch.nn.utils.rnn.pad_sequence(rows, batch_first=True),
        n_samples=torch.tensor([len(row) for row in rows]),
        targets=torch.cat(targets),
        target_lengths=torch.tensor([len(said) for said in words]),
        word_ends=torch.tensor(word_ends),
    )
