"""Write the golden vectors of the front end, from librosa and kaldi-native-fbank.

One text file a preset: a line of JSON (preset, reference, rate, shape), a line of int16 samples, then one frame a line.
The signal is made here, so no recording is stored: silence, an impulse, a chirp over noise, noise, silence.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import kaldi_native_fbank
import librosa
import numpy as np

FOLDER = Path(__file__).parent
RATE = 16000
N_SAMPLES = 6400


def signal() -> np.ndarray:
    """int16 ``[N_SAMPLES]``: silence, impulse, chirp from 100 Hz to 7 kHz over noise of 30 codes, noise, silence."""
    samples = np.zeros(N_SAMPLES)
    samples[700] = 30000
    t = np.arange(2800) / RATE
    samples[1200:4000] = 12000 * np.sin(2 * np.pi * (100 * t + 0.5 * (7000 - 100) / t[-1] * t**2))
    # Noise under the chirp: kaldi-native-fbank computes in float32, whose rounding would show in a pure tone's valleys.
    samples[1200:5200] += np.random.default_rng(2024).normal(0, 30, 4000)
    return np.rint(samples).astype(np.int16)


def librosa_mel(x: np.ndarray, n_fft: int, win_length: int, hop_length: int, **mel: object) -> np.ndarray:
    """Power mel spectrogram ``[frames, mels]`` in float64, the frames where librosa puts them with ``center=False``."""
    power = np.abs(librosa.stft(x, n_fft=n_fft, win_length=win_length, hop_length=hop_length, center=False)) ** 2
    return (librosa.filters.mel(sr=RATE, n_fft=n_fft, dtype=np.float64, **mel) @ power).T


def log_mel(x: np.ndarray) -> np.ndarray:
    # librosa puts the window in the middle of the FFT buffer: 56 zeros before the signal put it at sample 0.
    x = np.pad(x, (56, 56))
    mel = librosa_mel(x, 512, 400, 160, n_mels=40, fmin=20.0, fmax=7600.0, htk=True, norm=None)
    return (np.log(mel + 1e-6) + 6.5) * 0.2


def whisper80(x: np.ndarray) -> np.ndarray:
    mel = librosa_mel(np.pad(x, (200, 0)), 400, 400, 160, n_mels=80, fmin=0.0, fmax=8000.0)
    return (np.maximum(np.log10(np.maximum(mel, 1e-10)), -7.0) + 4.0) / 4.0


def librosa_db(x: np.ndarray) -> np.ndarray:
    mel = librosa_mel(np.pad(x, (1024, 0)), 2048, 2048, 512, n_mels=128)
    return np.maximum(librosa.power_to_db(mel, ref=1.0, amin=1e-10, top_db=None), -55.0)


def kaldi80(x: np.ndarray) -> np.ndarray:
    options = kaldi_native_fbank.FbankOptions()
    options.frame_opts.samp_freq = RATE
    options.frame_opts.dither = 0.0
    options.frame_opts.snip_edges = True
    options.mel_opts.num_bins = 80
    options.mel_opts.low_freq = 20.0
    options.mel_opts.high_freq = -400.0
    bank = kaldi_native_fbank.OnlineFbank(options)
    bank.accept_waveform(RATE, x.tolist())
    bank.input_finished()
    return np.stack([bank.get_frame(i) for i in range(bank.num_frames_ready)]).astype(np.float64)


REFERENCES = {
    "log_mel": (log_mel, f"librosa {librosa.__version__}, float64"),
    "whisper80": (whisper80, f"librosa {librosa.__version__}, float64"),
    "librosa_db": (librosa_db, f"librosa {librosa.__version__}, float64"),
    "kaldi80": (kaldi80, "kaldi-native-fbank, float32"),
}


def text_of(name: str) -> str:
    """The golden file of preset ``name``."""
    function, reference = REFERENCES[name]
    samples = signal()
    features = function(samples / 32768.0)
    header = {"preset": name, "reference": reference, "sample_rate": RATE, "shape": list(features.shape)}
    rows = [" ".join(f"{value:.8f}" for value in row) for row in features]
    return "\n".join([json.dumps(header), " ".join(map(str, samples)), *rows]) + "\n"


def main() -> None:
    """Write every file and their checksums."""
    sums = []
    for name in sorted(REFERENCES):
        text = text_of(name)
        (FOLDER / f"{name}.txt").write_text(text)
        sums.append(f"{hashlib.sha256(text.encode()).hexdigest()}  {name}.txt\n")
        sys.stderr.write(f"{name}: {len(text)} bytes\n")
    (FOLDER / "SHA256SUMS").write_text("".join(sums))


if __name__ == "__main__":
    main()
