"""The front end in torch, for batches in training: the same constants as the numpy one, held to it by test.

``docs/presets.md`` states how close the two stay.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgeaudio_runtime import filterbanks
from edgeaudio_runtime.errors import SpecError
from edgeaudio_runtime.features import FeatureSpec, MelSpec
from edgeaudio_runtime.front_end import mel_spec_of
from edgeaudio_runtime.whole_recording import end_of_frames, padded_frames

BLOCK_CLIPS = 16
"""Clips computed at once: the frames of a whole batch would leave the cache, which doubles the time."""

FLOAT32_FLOOR = 1e-6
"""Lowest floor under the logarithm, for full scale at -1..1, at which float32 up to the FFT stays within tolerance."""


class TorchFrontEnd(nn.Module):
    """Features of a batch of whole clips: ``[N, samples]`` float32 to ``[N, n_frames, n_features]`` float32.

    Args:
        spec: Any specification; utterance rules apply to each clip of the batch.
        multiple_of: The number of frames is ``spec.n_frames(samples)`` rounded up to this; silence follows the clip.
        precision: Of everything up to the FFT: torch.float64, as in the runtime, or torch.float32, more than twice as
            fast. None takes float32 where the floor under the logarithm is high enough to hide its rounding.

    Raises:
        SpecError: the front end does not know the kind of ``spec``, or ``multiple_of`` is < 1.

    Pure: nothing is kept between calls.
    """

    _window: Tensor
    _mel: Tensor
    _dct: Tensor

    def __init__(self, spec: FeatureSpec, multiple_of: int = 1, precision: torch.dtype | None = None) -> None:
        super().__init__()
        self.spec: MelSpec = mel_spec_of(spec)
        self.multiple_of = multiple_of
        padded_frames(self.spec, 0, multiple_of)
        precision = precision or _sufficient_precision(self.spec)
        filterbank = filterbanks.mel_filterbank(self.spec)
        self._bins = filterbanks.support(filterbank)
        constants = {
            "_window": torch.from_numpy(filterbanks.window(self.spec) * self.spec.input_scale).to(precision),
            "_mel": torch.from_numpy(filterbank[self._bins] * self.spec.spectrum_scale).float(),
            "_dct": torch.from_numpy(filterbanks.dct_matrix(self.spec)).float(),
        }
        for name, value in constants.items():
            self.register_buffer(name, value, persistent=False)

    def forward(self, samples: Tensor) -> Tensor:
        """Features ``[N, n_frames, n_features]`` of clips ``[N, samples]``, float32 with full scale at -1..1.

        Raises:
            SpecError: another shape or dtype.
        """
        if samples.dim() != 2 or samples.dtype != torch.float32:
            raise SpecError(
                f"samples of shape {list(samples.shape)} and {samples.dtype} must be [N, samples] and torch.float32;"
                " divide int16 by 32768"
            )
        n_frames = padded_frames(self.spec, samples.shape[1], self.multiple_of)
        if not n_frames or not len(samples):
            return samples.new_zeros(len(samples), n_frames, self.spec.n_features)
        blocks = (samples[first : first + BLOCK_CLIPS] for first in range(0, len(samples), BLOCK_CLIPS))
        return torch.cat([self._features(block, n_frames) for block in blocks])

    def _features(self, samples: Tensor, n_frames: int) -> Tensor:
        signal = self._normalize_utterance(samples.to(self._window.dtype))
        if self.spec.edge == "zeros":
            # Silence behind the clip is part of the stream, so it goes through the pre-emphasis too.
            signal = functional.pad(signal, (0, max(0, end_of_frames(self.spec, n_frames) - signal.shape[1])))
        if self.spec.preemphasis and self.spec.preemphasis_scope == "stream":
            signal = self._preemphasize(signal)
        spectrum = self._power_spectrum(self._frames(signal, n_frames))
        return self._finish(self._take_log(spectrum @ self._mel))

    def _normalize_utterance(self, signal: Tensor) -> Tensor:
        if self.spec.utterance == "signed_peak":
            peak = signal.amax(dim=1, keepdim=True)
        elif self.spec.utterance == "centred_peak":
            signal = signal - signal.mean(dim=1, keepdim=True)
            peak = signal.abs().amax(dim=1, keepdim=True)
        else:
            return signal
        return signal / torch.where(peak > 0, peak, 1.0)

    def _preemphasize(self, signal: Tensor) -> Tensor:
        before = functional.pad(signal[..., :-1], (1, 0))
        if self.spec.preemphasis_first == "self":
            before = torch.cat([signal[..., :1], signal[..., :-1]], dim=-1)
        return signal - self.spec.preemphasis * before

    def _frames(self, signal: Tensor, n_frames: int) -> Tensor:
        left = max(0, -self.spec.first_offset)
        right = max(0, end_of_frames(self.spec, n_frames) - signal.shape[1])
        padded = functional.pad(signal, (left, right), mode="reflect" if self.spec.edge == "reflect" else "constant")
        start = max(0, self.spec.first_offset)
        return padded[:, start:].unfold(1, self.spec.win_length, self.spec.hop_length)[:, :n_frames]

    def _power_spectrum(self, frames: Tensor) -> Tensor:
        if self.spec.dc_removal == "frame":
            frames = frames - frames.mean(dim=-1, keepdim=True)
        if self.spec.preemphasis and self.spec.preemphasis_scope == "frame":
            frames = self._preemphasize(frames)
        spectrum = torch.fft.rfft(frames * self._window, n=self.spec.n_fft)[..., self._bins]
        squares = torch.view_as_real(spectrum.to(torch.complex64)).square()
        power = squares[..., 0] + squares[..., 1]
        return power.sqrt() if self.spec.power == 1 else power

    def _take_log(self, mel: Tensor) -> Tensor:
        floor = self.spec.log_floor
        if self.spec.log == "none":
            log_mel = mel
        else:
            floored = mel + floor if self.spec.log_floor_mode == "add" else mel.clamp(min=floor)
            log_mel = torch.log(floored) if self.spec.log == "ln" else torch.log10(floored)
            log_mel = log_mel * 10.0 if self.spec.log == "10log10" else log_mel
        if self.spec.utterance == "dynamic_range":
            return torch.maximum(log_mel, log_mel.amax(dim=(1, 2), keepdim=True) - self.spec.utterance_range)
        return log_mel

    def _finish(self, log_mel: Tensor) -> Tensor:
        if self.spec.clamp_min is not None or self.spec.clamp_max is not None:
            log_mel = log_mel.clamp(self.spec.clamp_min, self.spec.clamp_max)
        values = log_mel @ self._dct if self.spec.n_dct else log_mel
        return (values + self.spec.affine_offset) * self.spec.affine_scale


def _sufficient_precision(spec: MelSpec) -> torch.dtype:
    floor = spec.log_floor / abs(spec.input_scale) ** spec.power / spec.spectrum_scale
    return torch.float32 if spec.log != "none" and floor >= FLOAT32_FLOOR else torch.float64
