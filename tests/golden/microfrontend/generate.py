"""Write the golden vectors of the fixed-point front end, from TensorFlow's own C code.

Usage: ``generate.py FOLDER``, the unpacked source distribution of ``pymicro-features`` 2.0.2, whose wheel has one
configuration only; needs a C++ compiler. One text file a specification: a line of JSON, a line of int16 samples, then
one frame of integers a line.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

from edgeaudio_runtime.features import MicrofrontendSpec
from edgeaudio_runtime.presets import preset

FOLDER = Path(__file__).parent
LIBRARY = "tensorflow/lite/experimental/microfrontend/lib"
N_SAMPLES = 6400
BASE = replace(preset("microfrontend_20ms"), output_scale=1.0)
SPECS = {
    "every_20ms": BASE,
    "no_gain_control": replace(BASE, win_length=400, hop_length=160, n_mels=23, f_min=60.0, f_max=7900.0, pcan=False),
    # Its gain table overshoots int16 and wraps around.
    "wrapped_gain": replace(
        BASE, win_length=512, hop_length=272, n_mels=9, even_smoothing=0.1, odd_smoothing=0.25, pcan_strength=0.5,
        pcan_offset=37.0, min_signal_remaining=0.25,
    ),
}  # fmt: skip
WRAPPER = """
#include <cstdint>
#include <cstdlib>
#include <cstring>
extern "C" {
#include "%(library)s/frontend.h"
#include "%(library)s/frontend_util.h"
long features(const float* real, const int* whole, const int16_t* samples, long n, uint16_t* out) {
  FrontendConfig c; FrontendState s; memset(&s, 0, sizeof s);
  c.window.size_ms = whole[0]; c.window.step_size_ms = whole[1]; c.filterbank.num_channels = whole[2];
  c.pcan_gain_control.enable_pcan = whole[3]; c.pcan_gain_control.gain_bits = 21;
  c.noise_reduction.smoothing_bits = 10; c.log_scale.enable_log = 1; c.log_scale.scale_shift = 6;
  c.filterbank.lower_band_limit = real[0]; c.filterbank.upper_band_limit = real[1];
  c.noise_reduction.even_smoothing = real[2]; c.noise_reduction.odd_smoothing = real[3];
  c.noise_reduction.min_signal_remaining = real[4];
  c.pcan_gain_control.strength = real[5]; c.pcan_gain_control.offset = real[6];
  if (!FrontendPopulateState(&c, &s, whole[4])) return -1;
  long frames = 0;
  for (long i = 0; i < n;) {
    size_t read; FrontendOutput o = FrontendProcessSamples(&s, samples + i, n - i, &read); i += read;
    if (o.size) memcpy(out + frames++ * o.size, o.values, o.size * sizeof(uint16_t));
  }
  FrontendFreeStateContents(&s); return frames;
}
}
"""


def build(source: Path, folder: Path) -> ctypes.CDLL:
    """TensorFlow's code and the wrapper as a library."""
    own = ("test", "_io.cc", "main", "generator")
    parts = [path for path in (source / LIBRARY).glob("*.cc") if not any(word in path.name for word in own)]
    parts += [folder / "wrapper.cc", source / "kissfft/kiss_fft.cc", source / "kissfft/tools/kiss_fftr.cc"]
    (folder / "wrapper.cc").write_text(WRAPPER % {"library": LIBRARY})
    include = [f"-I{source}", f"-I{source / 'kissfft'}"]
    options = ["-O2", "-shared", "-fPIC", "-DFIXED_POINT=16", "-include", "cstring", *include]
    subprocess.run(["c++", *options, "-o", folder / "reference.so", *parts], check=True)
    return ctypes.CDLL(str(folder / "reference.so"))


def signal() -> np.ndarray:
    """int16 ``[N_SAMPLES]``: silence, faint noise, an impulse of -32768, a chirp at full scale, loud noise."""
    rng, t = np.random.default_rng(2024), np.arange(2400) / 16000
    chirp = 32767 * np.sin(2 * np.pi * (100 * t + 0.5 * 6900 / t[-1] * t**2))
    parts = [np.zeros(640), rng.integers(-3, 4, 960), np.rint(chirp), rng.integers(-9000, 9001, 2400)]
    samples = np.concatenate(parts).astype(np.int16)
    samples[1100] = -32768
    return samples


def text_of(library: ctypes.CDLL, spec: MicrofrontendSpec) -> str:
    """The golden file of a specification."""
    real = (spec.f_min, spec.f_max, spec.even_smoothing, spec.odd_smoothing, spec.min_signal_remaining,
            spec.pcan_strength, spec.pcan_offset)  # fmt: skip
    sizes = (spec.win_length // 16, spec.hop_length // 16, spec.n_mels, int(spec.pcan), spec.sample_rate)
    samples, out = signal(), np.zeros((N_SAMPLES // 80, spec.n_mels), np.uint16)
    n = library.features(
        (ctypes.c_float * len(real))(*real), (ctypes.c_int * len(sizes))(*sizes),
        ctypes.c_void_p(samples.ctypes.data), ctypes.c_long(len(samples)), ctypes.c_void_p(out.ctypes.data),
    )  # fmt: skip
    header = {"reference": "pymicro-features 2.0.2, its C code", "spec": spec.to_dict()}
    rows = [" ".join(map(str, row)) for row in out[:n]]
    return "\n".join([json.dumps(header), " ".join(map(str, samples)), *rows]) + "\n"


def main() -> None:
    """Write every file and their checksums."""
    with tempfile.TemporaryDirectory() as folder:
        library = build(Path(sys.argv[1]), Path(folder))
        sums = []
        for name, spec in SPECS.items():
            text = text_of(library, spec)
            (FOLDER / f"{name}.txt").write_text(text)
            sums.append(f"{hashlib.sha256(text.encode()).hexdigest()}  {name}.txt\n")
    (FOLDER / "SHA256SUMS").write_text("".join(sums))


if __name__ == "__main__":
    main()
