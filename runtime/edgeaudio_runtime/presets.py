"""Named feature specifications: the one table of constants (``docs/presets.md`` says where each comes from).

``PRESETS`` can all be streamed. Where a published front end looks at the whole recording, the preset is its fixed
substitute and ``WINDOWED_PRESETS`` holds the original under the same name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from edgeaudio_runtime.errors import SpecError
from edgeaudio_runtime.features import FeatureSpec, MelSpec, MicrofrontendSpec
from edgeaudio_runtime.quantization import QuantParams

LOG_MEL = MelSpec(
    sample_rate=16000, win_length=400, hop_length=160, n_fft=512,
    n_mels=40, f_min=20.0, f_max=7600.0,
    log_floor=1e-6, affine_offset=6.5, affine_scale=0.2,
)  # fmt: skip
"""House default: 40 HTK mels, ``(ln(power + 1e-6) + 6.5) * 0.2``: mean 0.0, deviation 0.9 on one-second clips."""

KALDI80 = MelSpec(
    sample_rate=16000, win_length=400, hop_length=160, n_fft=512,
    dc_removal="frame", preemphasis=0.97, preemphasis_first="self", window="povey", window_symmetry="symmetric",
    n_mels=80, f_min=20.0, f_max=7600.0, triangle_domain="mel", bin_rule="no_nyquist",
    log_floor=2.0**-23, log_floor_mode="max",
)  # fmt: skip
"""Kaldi fbank as sherpa-onnx, icefall and lhotse use it: 80 mels, samples in -1..1, snip_edges, no dither."""

TF_MFCC_KWS = MelSpec(
    sample_rate=16000, win_length=480, hop_length=320, n_fft=512, power=1,
    n_mels=40, f_min=20.0, f_max=4000.0, triangle_domain="mel", bin_rule="tf_op",
    log_floor=1e-12, log_floor_mode="max", n_dct=40, dct_norm="tf",
)  # fmt: skip
"""TensorFlow's ``audio_spectrogram`` and ``mfcc`` operations as speech_commands uses them (30 ms window, 20 ms hop)."""

MLPERF_TINY_KWS = MelSpec(
    sample_rate=16000, win_length=480, hop_length=320, n_fft=512, power=1, input_scale=2.5,
    n_mels=40, f_min=20.0, f_max=4000.0, triangle_domain="mel", bin_rule="no_dc",
    log_floor=1e-6, n_dct=10, dct_norm="tf",
)  # fmt: skip
"""MLPerf Tiny keyword spotting; the fixed gain 2.5 stands for ``samples / max(samples)`` (median peak: 0.4)."""

MLPERF_STREAMING_WAKEWORD = MelSpec(
    sample_rate=16000, win_length=1024, hop_length=512, n_fft=1024,
    preemphasis=1 - 2.0**-5, preemphasis_scope="stream", window="hamming", window_symmetry="symmetric",
    spectrum_scale=1 / 1024, n_mels=40, f_min=0.0, f_max=8000.0, triangle_domain="mel", bin_rule="no_dc",
    log="10log10", log_floor=1e-30, log_floor_mode="max", clamp_min=-52.0, clamp_max=12.0,
    affine_offset=52.0, affine_scale=1 / 64, input_rounding="truncate",
)  # fmt: skip
"""MLPerf Tiny streaming wake word (LFBE): ``clip((decibels + 52) / 64, 0, 1)``."""

WHISPER80 = MelSpec(
    sample_rate=16000, win_length=400, hop_length=160, n_fft=400, first_offset=-200,
    n_mels=80, f_min=0.0, f_max=8000.0, mel_scale="slaney", mel_norm="slaney",
    log="log10", log_floor=1e-10, log_floor_mode="max", clamp_min=-7.0, affine_offset=4.0, affine_scale=0.25,
)  # fmt: skip
"""Whisper's 80 log-mels; the fixed floor -7 stands for "global maximum - 8" (median maximum of read speech: 1.0)."""

LIBROSA_DB = MelSpec(
    sample_rate=16000, win_length=2048, hop_length=512, n_fft=2048, first_offset=-1024,
    n_mels=128, f_min=0.0, f_max=8000.0, mel_scale="slaney", mel_norm="slaney",
    log="10log10", log_floor=1e-10, log_floor_mode="max", clamp_min=-55.0,
)  # fmt: skip
"""librosa's ``power_to_db(melspectrogram(y=y, sr=16000))``; the fixed floor -55 dB stands for "maximum - 80 dB"."""

OPENWAKEWORD32 = MelSpec(
    sample_rate=16000, win_length=400, hop_length=160, n_fft=512, first_offset=56, input_scale=32768.0,
    n_mels=32, f_min=60.0, f_max=3800.0, mel_scale="slaney", mel_norm="slaney",
    log="10log10", log_floor=1e-10, log_floor_mode="max", clamp_min=15.0, affine_offset=20.0, affine_scale=0.1,
)  # fmt: skip
"""openWakeWord's 32 mels on the int16 scale, ``decibels / 10 + 2``; the fixed floor 15 dB stands for "maximum of 80 ms
- 80 dB" (median maximum of a spoken word: 95 dB)."""

MICROFRONTEND = MicrofrontendSpec(sample_rate=16000, win_length=480, hop_length=160)
"""TensorFlow Lite Micro's fixed-point front end every 10 ms, as microWakeWord and ESPHome use it."""

MICROFRONTEND_CODES = QuantParams(scale=(666 / 256 * 10 / 256,), zero_point=-128)
"""int8 codes of its features as ESPHome and micro_speech compute them: ``(256 * v + 333) / 666 - 128`` in integers."""

PRESETS: Mapping[str, FeatureSpec] = MappingProxyType(
    {
        "log_mel": LOG_MEL,
        "kaldi80": KALDI80,
        "tf_mfcc_kws": TF_MFCC_KWS,
        "mlperf_tiny_kws": MLPERF_TINY_KWS,
        "mlperf_streaming_wakeword": MLPERF_STREAMING_WAKEWORD,
        "whisper80": WHISPER80,
        "librosa_db": LIBROSA_DB,
        "openwakeword32": OPENWAKEWORD32,
        "microfrontend": MICROFRONTEND,
        "microfrontend_20ms": replace(MICROFRONTEND, hop_length=320),
    }
)
"""Streamable specifications by name."""

WINDOWED_PRESETS: Mapping[str, FeatureSpec] = MappingProxyType(
    {
        "mlperf_tiny_kws": replace(MLPERF_TINY_KWS, input_scale=1.0, utterance="signed_peak"),
        "mlperf_streaming_wakeword": replace(MLPERF_STREAMING_WAKEWORD, utterance="centred_peak"),
        "whisper80": replace(WHISPER80, edge="reflect", clamp_min=None, utterance="dynamic_range", utterance_range=8.0),
        "librosa_db": replace(LIBROSA_DB, clamp_min=None, utterance="dynamic_range", utterance_range=80.0),
        "openwakeword32": replace(OPENWAKEWORD32, clamp_min=None, utterance="dynamic_range", utterance_range=80.0),
    }
)
"""The originals that look at the whole recording, by the name of their streamable substitute."""


def preset(name: str) -> FeatureSpec:
    """The streamable specification called ``name``.

    Raises:
        SpecError: no preset has this name.
    """
    if name not in PRESETS:
        raise SpecError(f"preset={name!r} must be one of {sorted(PRESETS)}")
    return PRESETS[name]


def windowed_preset(name: str) -> FeatureSpec:
    """The original of preset ``name`` that looks at the whole recording; for bundles declared windowed.

    Raises:
        SpecError: no preset has this name, or the preset is its own original.
    """
    preset(name)
    if name not in WINDOWED_PRESETS:
        raise SpecError(f"preset={name!r} has no windowed original; those that have one are {sorted(WINDOWED_PRESETS)}")
    return WINDOWED_PRESETS[name]
