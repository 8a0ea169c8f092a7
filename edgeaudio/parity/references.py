"""Front ends of other libraries that express the same specification: the first rung of the ladder."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeaudio_runtime.features import FeatureSpec, MelSpec

_LOGS: dict[str, Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]]] = {
    "ln": np.log,
    "log10": np.log10,
    "10log10": lambda x: 10 * np.log10(x),
    "none": lambda x: x,
}

_LIBROSA_HAS = {
    "dc_removal": "none",
    "preemphasis": 0.0,
    "window": "hann",
    "window_symmetry": "periodic",
    "triangle_domain": "hz",
    "utterance": "none",
    "n_dct": 0,
    "edge": "zeros",
}
"""Fields librosa can express only with this value."""


def librosa_can_express(spec: FeatureSpec) -> bool:
    """Whether :func:`librosa_features` speaks of the same features.

    Mel banks without the bins at 0 Hz or Nyquist are the same bank: their triangles are 0 there.
    """
    if not isinstance(spec, MelSpec) or spec.bin_rule == "tf_op":
        return False
    return all(getattr(spec, name) == value for name, value in _LIBROSA_HAS.items())


KALDI_STAGE = "front end, kaldi-native-fbank"

_KALDI_HAS = {
    "first_offset": 0,
    "edge": "zeros",
    "preemphasis_scope": "frame",
    "window_symmetry": "symmetric",
    "mel_scale": "htk",
    "mel_norm": "none",
    "triangle_domain": "mel",
    "bin_rule": "no_nyquist",
    "spectrum_scale": 1.0,
    "log": "ln",
    "log_floor": 2.0**-23,
    "log_floor_mode": "max",
    "utterance": "none",
    "n_dct": 0,
}
"""Fields kaldi-native-fbank can express only with this value."""
_KALDI_WINDOWS = {"hann": "hanning", "hamming": "hamming", "povey": "povey", "rectangular": "rectangular"}


def kaldi_can_express(spec: FeatureSpec) -> bool:
    """Whether :func:`kaldi_features` speaks of the same features: log-mels of Kaldi's frames, ``snip_edges``."""
    if not isinstance(spec, MelSpec) or spec.n_fft != 1 << (spec.win_length - 1).bit_length():
        return False
    if spec.preemphasis and spec.preemphasis_first != "self":
        return False
    return all(getattr(spec, name) == value for name, value in _KALDI_HAS.items())


def kaldi_features(spec: MelSpec, samples: npt.NDArray[np.int16], n_frames: int) -> npt.NDArray[np.float64] | None:
    """Features ``[n_frames, n_mels]`` of ``samples [n]`` by kaldi-native-fbank, which computes in float32, zeros after
    the end; None where the package is not installed.
    """
    try:
        from kaldi_native_fbank import OnlineFbank
    except ImportError:
        return None
    bank = OnlineFbank(_kaldi_options(spec))
    padded = np.pad(samples / 32768.0 * spec.input_scale, (0, n_frames * spec.hop_length + spec.win_length))
    bank.accept_waveform(spec.sample_rate, padded.astype(np.float32))
    logged = np.array([bank.get_frame(i) for i in range(n_frames)], np.float64)
    features: npt.NDArray[np.float64] = np.clip(logged, spec.clamp_min, spec.clamp_max)
    return (features + spec.affine_offset) * spec.affine_scale


def _kaldi_options(spec: MelSpec) -> Any:
    from kaldi_native_fbank import FbankOptions

    options = FbankOptions()
    frames, mels = options.frame_opts, options.mel_opts
    # It cuts milliseconds to whole samples: half a sample more keeps the cut from losing one.
    frames.frame_length_ms = 1000 * (spec.win_length + 0.5) / spec.sample_rate
    frames.frame_shift_ms = 1000 * (spec.hop_length + 0.5) / spec.sample_rate
    frames.samp_freq, frames.dither, frames.snip_edges = spec.sample_rate, 0.0, True
    frames.remove_dc_offset, frames.preemph_coeff = spec.dc_removal == "frame", spec.preemphasis
    frames.window_type = _KALDI_WINDOWS[spec.window]
    mels.num_bins, mels.low_freq, mels.high_freq = spec.n_mels, spec.f_min, spec.f_max
    options.use_power = spec.power == 2
    return options


def pymicro_integers(samples: npt.NDArray[np.int16], n_frames: int) -> npt.NDArray[np.int64] | None:
    """Integers ``[n_frames, 40]`` of preset ``microfrontend`` by pymicro-features, zeros after the end of ``samples``;
    None where the package is not installed.
    """
    try:
        from pymicro_features import MicroFrontend
    except ImportError:
        return None
    reference, frames = MicroFrontend(), []
    hops = np.pad(samples, (0, max(0, (n_frames + 2) * 160 - len(samples))))[: (n_frames + 2) * 160].reshape(-1, 160)
    for hop in hops:
        features = reference.process_samples(hop.tobytes()).features
        if features:
            frames.append(features)
    return np.rint(np.array(frames) / PYMICRO_SCALE).astype(np.int64)


PYMICRO_SCALE = 10 / 256
"""What pymicro-features multiplies its integers by."""


def librosa_features(spec: MelSpec, samples: npt.NDArray[np.int16], n_frames: int) -> npt.NDArray[np.float64]:
    """Features ``[n_frames, n_mels]`` of ``samples [n]`` by librosa in float64, zeros after the end."""
    import librosa
    from librosa.filters import mel as mel_bank

    # librosa centres a window shorter than n_fft in its buffer and starts frame i at i * hop.
    lead = (spec.n_fft - spec.win_length) // 2 - spec.first_offset
    scaled = samples / 32768.0 * spec.input_scale
    padded = np.pad(scaled, (max(lead, 0), n_frames * spec.hop_length + spec.n_fft))[max(-lead, 0) :]
    spectrum = librosa.stft(
        padded,
        n_fft=spec.n_fft,
        hop_length=spec.hop_length,
        win_length=spec.win_length,
        window="hann",
        center=False,
        dtype=np.complex128,
    )
    power = np.abs(spectrum[:, :n_frames]) ** spec.power * spec.spectrum_scale
    bank = mel_bank(
        sr=spec.sample_rate,
        n_fft=spec.n_fft,
        n_mels=spec.n_mels,
        fmin=spec.f_min,
        fmax=spec.f_max,
        htk=spec.mel_scale == "htk",
        norm="slaney" if spec.mel_norm == "slaney" else None,
        dtype=np.float64,
    )
    mel = bank @ power
    floored = mel + spec.log_floor if spec.log_floor_mode == "add" else np.maximum(mel, spec.log_floor)
    logged = np.clip(_LOGS[spec.log](floored), spec.clamp_min, spec.clamp_max)
    features: npt.NDArray[np.float64] = ((logged + spec.affine_offset) * spec.affine_scale).T
    return features
