"""Front ends of other libraries that express the same specification, in float64: the first rung of the ladder."""

from __future__ import annotations

from collections.abc import Callable

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
