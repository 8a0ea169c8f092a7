"""The native front end: as near to float64 as float32 results can be, the same bits however compiled, and optional."""

import importlib.util
import shutil
import subprocess
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeaudio_runtime import front_end as front_end_module
from edgeaudio_runtime import native
from edgeaudio_runtime.errors import EngineError, SpecError
from edgeaudio_runtime.features import MelSpec
from edgeaudio_runtime.front_end import (
    FrontEnd,
    choose_implementation,
    compute_features,
    front_end_choice,
    front_end_in_use,
)
from edgeaudio_runtime.presets import KALDI80, LOG_MEL, PRESETS, WHISPER80, WINDOWED_PRESETS

RUNTIME = Path(__file__).parents[2] / "runtime"

NATS = 1e-5
"""The numpy front end runs mel and logarithm in float32; measured up to 2e-6 nats away on the presets."""
CEPSTRUM = 1e-4
"""40 logs of up to 28 nats are summed in float32 by numpy; c0 of silence is -247, where one float32 step is 1.5e-5."""
LAST_BIT = 2.0**-23
"""Largest relative error of one rounding to float32, twice over: C rounds once, at the very end."""

ODD_SPECS = {
    "odd window": replace(LOG_MEL, win_length=399, first_offset=-7),
    "hop of one sample": replace(LOG_MEL, hop_length=1, win_length=64, n_fft=64, n_mels=8),
    "magnitude, decibels, lifter": replace(LOG_MEL, power=1, log="10log10", n_dct=13, dct_lifter=22.0),
    "no logarithm": replace(LOG_MEL, log="none", affine_offset=0.0),
    "clamped": replace(LOG_MEL, clamp_min=-9.0, clamp_max=-3.0),
    "dc and pre-emphasis from zero": replace(KALDI80, preemphasis_first="zero"),
    "all bins": replace(LOG_MEL, f_min=0.0, f_max=8000.0, n_mels=6),
    "mels too narrow for a bin": replace(LOG_MEL, n_fft=400, n_mels=120, f_min=0.0),
    "length 2 * 3 * 5 * 7": replace(LOG_MEL, n_fft=420),
    "length 2 * 11 * 13": replace(LOG_MEL, win_length=286, n_fft=286),
    "length of two": replace(LOG_MEL, win_length=2, hop_length=2, n_fft=2, n_mels=1, f_min=0.0, f_max=8000.0),
}
SPECS = {name: spec for name, spec in {**PRESETS, **ODD_SPECS}.items() if isinstance(spec, MelSpec)}

needs_library = pytest.mark.skipif(
    native.load_library() is None, reason="the native front end was not built: no C compiler at installation"
)


def signals() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(5)
    time = np.arange(8000) / 16000
    return {
        "silence": np.zeros(8000, dtype=np.int16),
        "noise": rng.normal(0, 3000, 8000).astype(np.int16),
        "faint noise": rng.integers(-1, 2, 8000).astype(np.int16),
        "tone": (20000 * np.sin(2 * np.pi * 1000 * time)).astype(np.int16),
        "constant": np.full(8000, -32768, dtype=np.int16),
        "square": np.where(np.sin(2 * np.pi * 200 * time) > 0, 32767, -32768).astype(np.int16),
    }


@pytest.fixture(scope="module")
def build_hook() -> ModuleType:
    pytest.importorskip("hatchling", reason="the build hook needs hatchling")
    spec = importlib.util.spec_from_file_location("hatch_build", RUNTIME / "hatch_build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@needs_library
@pytest.mark.parametrize("name", SPECS)
def test_native_and_numpy_agree(name: str) -> None:
    spec = SPECS[name]
    assert isinstance(spec, MelSpec)
    for signal in signals().values():
        samples = signal[:700] if spec.hop_length < 3 else signal
        mine = compute_features(spec, samples, implementation="native")
        theirs = compute_features(spec, samples, implementation="numpy")
        nats = {"10log10": np.log(10) / 10, "log10": np.log(10)}.get(spec.log, 1.0) / abs(spec.affine_scale)
        atol = (CEPSTRUM if spec.n_dct else NATS) / nats if spec.log != "none" else 0.0
        # Without a logarithm the float32 sum of a band counts, relative to what it sums.
        np.testing.assert_allclose(mine, theirs, atol=atol, rtol=1e-6 if spec.log != "none" else 1e-5)


def float64_log_mel(samples: np.ndarray) -> np.ndarray:
    """LOG_MEL before its affine by its formula, all in float64."""
    frames = np.lib.stride_tricks.sliding_window_view(samples / 32768.0, 400)[::160]
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
    power = np.abs(np.fft.rfft(frames * window, 512)) ** 2
    edges = 700 * (10 ** (np.linspace(*(2595 * np.log10(1 + np.array([20, 7600]) / 700)), 42) / 2595) - 1)
    bank = [np.interp(np.arange(257) * 31.25, edges[i : i + 3], [0.0, 1.0, 0.0]) for i in range(40)]
    return np.log(power @ np.stack(bank, axis=1) + 1e-6)


@needs_library
@pytest.mark.parametrize("name", signals())
def test_native_is_the_formula_in_float64_rounded_once(name: str) -> None:
    samples = signals()[name]
    spec = replace(LOG_MEL, affine_offset=0.0, affine_scale=1.0)
    expected = float64_log_mel(samples)
    features = FrontEnd(spec, implementation="native").process(samples)
    np.testing.assert_allclose(features, expected, rtol=LAST_BIT, atol=1e-9)


@cache
def one_sample_at_a_time(name: str) -> np.ndarray:
    """Frames of the noise, computed one by one, up to a multiple of 28."""
    stream = FrontEnd(SPECS[name], implementation="native")
    samples = noise_for(name)
    return np.concatenate([*(stream.process(samples[i : i + 1]) for i in range(len(samples))), stream.flush(28)])


def noise_for(name: str) -> np.ndarray:
    return signals()["noise"][: 700 if SPECS[name].hop_length < 3 else 8000]


@needs_library
@pytest.mark.parametrize("name", SPECS)
@settings(max_examples=10)
@given(
    sizes=st.lists(st.sampled_from([0, 1, 7, 159, 160, 161, 640, 1600, 9000]), max_size=25),
    multiple_of=st.sampled_from([1, 2, 4, 7]),
)
def test_native_frames_do_not_depend_on_chunks_or_on_being_computed_four_at_a_time(
    name: str, sizes: list[int], multiple_of: int
) -> None:
    samples, parts, position = noise_for(name), [], 0
    stream = FrontEnd(SPECS[name], multiple_of=multiple_of, implementation="native")
    for size in [*sizes, len(samples)]:
        parts.append(stream.process(samples[position : position + size]))
        position += size
    found = np.concatenate([*parts, stream.flush()])
    assert np.array_equal(found, one_sample_at_a_time(name)[: len(found)])


@needs_library
def test_int16_and_float32_may_alternate_and_equal_each_other() -> None:
    codes = signals()["noise"]
    real = (codes / 32768).astype(np.float32)
    stream = FrontEnd(LOG_MEL, implementation="native")
    parts = [stream.process((codes, real)[i % 2][i * 100 : (i + 1) * 100]) for i in range(80)]
    expected = compute_features(LOG_MEL, codes, implementation="native")
    assert np.array_equal(np.concatenate([*parts, stream.flush()]), expected)


@pytest.fixture(scope="module")
def compiled(build_hook: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("cc") is None:
        pytest.skip("there is no C compiler")
    library = tmp_path_factory.mktemp("native") / "reference.so"
    assert build_hook.compile_library(RUNTIME, library) is None
    return library


def sources(build_hook: ModuleType) -> list[Path]:
    return [RUNTIME / source for source in build_hook.SOURCES]


@pytest.mark.parametrize("level", ["-O0", "-O2 -march=native"])
def test_the_bits_do_not_depend_on_the_optimization_level(
    build_hook: ModuleType, compiled: Path, tmp_path: Path, level: str
) -> None:
    other = tmp_path / "other.so"
    flags = [flag for flag in build_hook.FLAGS if not flag.startswith("-O")]
    subprocess.run(["cc", *flags, *level.split(), "-o", other, *sources(build_hook)], check=True)
    for spec in (LOG_MEL, KALDI80, WHISPER80):
        results = [features_of(spec, path) for path in (compiled, other)]
        assert np.array_equal(*results)


def features_of(spec: MelSpec, library: Path) -> np.ndarray:
    opened = native.open_library(library)
    assert opened is not None
    n_frames = 7
    buffer = np.zeros(spec.win_length + (n_frames - 1) * spec.hop_length)
    buffer[:] = np.resize(signals()["noise"], len(buffer))
    return native.NativeTransform(spec, buffer, n_frames, 2.0**-15, opened).features(0, n_frames)


def test_the_sources_compile_without_a_warning_and_need_no_library_but_c_memory(
    build_hook: ModuleType, tmp_path: Path
) -> None:
    if shutil.which("cc") is None:
        pytest.skip("there is no C compiler")
    strict = ["-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-O1", "-ffp-contract=off", "-fno-math-errno"]
    target = tmp_path / "core.o"
    # One unit, so that what one source needs of another is no foreign symbol.
    subprocess.run(["cc", *strict, "-fPIC", "-r", "-nostdlib", "-o", target, *sources(build_hook)], check=True)
    if shutil.which("nm") is None:
        pytest.skip("nm is not there to list what it needs")
    listed = subprocess.run(["nm", "-u", target], capture_output=True, text=True, check=True).stdout
    needed = {line.split()[-1] for line in listed.splitlines() if line.strip()}
    # The last two serve the choice between CPUs and position-independent code.
    assert needed <= {
        "memset",
        "memcpy",
        "memmove",
        "_GLOBAL_OFFSET_TABLE_",
        "__cpu_indicator_init",
        "__cpu_model",
        "__cpu_features2",
    }


@pytest.mark.parametrize(
    ("length", "radices"),
    [(256, (4, 4, 4, 4)), (200, (4, 2, 5, 5)), (1, ()), (8, (4, 2)), (45, (3, 3, 5)), (17, (17,))],
)
def test_a_transform_is_factored_into_its_passes(length: int, radices: tuple[int, ...]) -> None:
    assert native.fft_radices(length) == radices


def test_without_a_library_numpy_does_the_work_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EDGEAUDIO_FRONT_END", raising=False)
    monkeypatch.setattr(front_end_module, "load_library", lambda: None)
    monkeypatch.setattr(native, "load_library", lambda: None)
    assert FrontEnd(LOG_MEL).implementation == front_end_in_use(LOG_MEL) == "numpy"
    assert front_end_choice(LOG_MEL).startswith("numpy: its library was not built with this installation")
    with pytest.raises(SpecError, match="implementation='native' cannot be had: its library was not built"):
        FrontEnd(LOG_MEL, implementation="native")
    with pytest.raises(
        EngineError, match=r"native_front_end.so was not built with this installation; install with a C"
    ):
        native.NativeTransform(LOG_MEL, np.zeros(400), 1, 1.0)


def test_a_library_that_does_not_load_is_no_library(tmp_path: Path) -> None:
    broken = tmp_path / "broken.so"
    broken.write_bytes(b"not a library")
    assert native.open_library(broken) is None
    assert native.open_library(tmp_path / "missing.so") is None


@needs_library
def test_a_length_with_a_large_prime_factor_is_left_to_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EDGEAUDIO_FRONT_END", raising=False)
    spec = replace(LOG_MEL, n_fft=2 * 211)
    assert FrontEnd(spec).implementation == "numpy"
    assert front_end_choice(spec) == "numpy: half of n_fft=422 has a prime factor above 13"
    with pytest.raises(SpecError, match="half of n_fft=422 has a prime factor above 13; use 'auto' or 'numpy'"):
        FrontEnd(spec, implementation="native")


@needs_library
def test_the_environment_decides_what_auto_means(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EDGEAUDIO_FRONT_END", raising=False)
    assert (FrontEnd(LOG_MEL).implementation, front_end_choice(LOG_MEL)) == ("native", "native (C)")
    monkeypatch.setenv("EDGEAUDIO_FRONT_END", "numpy")
    assert FrontEnd(LOG_MEL).implementation == "numpy"
    assert front_end_choice(LOG_MEL) == "numpy: EDGEAUDIO_FRONT_END says so"
    assert choose_implementation(LOG_MEL, "native") == "native"
    monkeypatch.setenv("EDGEAUDIO_FRONT_END", "fortran")
    with pytest.raises(SpecError, match=r"EDGEAUDIO_FRONT_END='fortran' must be one of \['auto', 'native', 'numpy'\]"):
        FrontEnd(LOG_MEL)


def test_an_unknown_implementation_is_refused() -> None:
    with pytest.raises(SpecError, match="implementation='fortran' must be one of"):
        FrontEnd(LOG_MEL, implementation="fortran")


def test_what_looks_at_the_whole_recording_is_computed_by_numpy() -> None:
    spec = WINDOWED_PRESETS["whisper80"]
    assert front_end_in_use(spec) == "numpy"
    assert front_end_choice(spec) == "numpy: these features look at the whole recording"


def test_a_compiler_that_fails_or_is_missing_is_named_and_leaves_nothing(
    build_hook: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "library.so"
    monkeypatch.setenv("CC", "false")
    assert build_hook.compile_library(RUNTIME, target) == "false ended with 1: no message"
    monkeypatch.setenv("CC", str(tmp_path / "no-compiler"))
    assert "No such file" in str(build_hook.compile_library(RUNTIME, target))
    assert list(tmp_path.iterdir()) == []
