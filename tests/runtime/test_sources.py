"""Any source: FLAC and its kin, raw samples of any shape, several bundles; and what is said when it cannot be read."""

import io
import json
import sys
import types
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from edgeaudio_runtime.cli import main
from edgeaudio_runtime.errors import AudioError
from edgeaudio_runtime.sources import SourceOptions, mono_chunks, open_file


@pytest.fixture(scope="module")
def pcm(make_scene: Callable[..., np.ndarray]) -> np.ndarray:
    return make_scene([("low", 0.6, 0.4), ("high", 1.7, 0.4)], 2.8)


def labels(text: str) -> list[str]:
    return [json.loads(line)["label"] for line in text.splitlines()]


def read(path: Path, channel: int | None = None) -> np.ndarray:
    with ExitStack() as stack:
        return np.concatenate(list(mono_chunks(open_file(str(path), stack), 16000, channel=channel)))


@pytest.mark.parametrize(
    ("suffix", "container", "subtype"),
    [
        ("flac", "FLAC", "PCM_16"), ("wav", "RF64", "PCM_16"), ("aiff", "AIFF", "PCM_16"), ("w64", "W64", "PCM_16"),
        ("wav", "WAV", "PCM_16"),
    ],
)  # fmt: skip
def test_sixteen_bits_come_as_they_are_from_every_container(
    tmp_path: Path, pcm: np.ndarray, suffix: str, container: str, subtype: str
) -> None:
    path = tmp_path / f"a.{suffix}"
    soundfile.write(path, pcm, 16000, format=container, subtype=subtype)
    samples = read(path)
    assert samples.dtype == np.int16
    np.testing.assert_array_equal(samples, pcm)


@pytest.mark.parametrize(
    ("suffix", "subtype", "tolerance"), [("flac", "PCM_24", 2.0**-23), ("wav", "ULAW", 0.04), ("ogg", "VORBIS", 0.3)]
)
def test_other_codings_keep_the_signal(
    tmp_path: Path, pcm: np.ndarray, suffix: str, subtype: str, tolerance: float
) -> None:
    path = tmp_path / f"a.{suffix}"
    real = pcm / 32768
    soundfile.write(path, real, 16000, subtype=subtype)
    samples = read(path)
    heard = samples / (32768 if samples.dtype == np.int16 else 1)
    assert len(heard) == len(real)
    # Of 24 bits the step; of mu-law its quantization noise, of Vorbis its loss, relative to the signal's level.
    assert np.sqrt(np.mean((heard - real) ** 2)) <= tolerance * (1 if suffix == "flac" else np.sqrt(np.mean(real**2)))


def test_blocks_are_cut_small_and_an_mp3_is_decoded_as_at_once(
    tmp_path: Path, pcm: np.ndarray, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.mp3"
    soundfile.write(path, pcm, 16000)
    with ExitStack() as stack:
        blocks = list(open_file(str(path), stack).frames())
    assert {len(block) for block in blocks[:-1]} == {1600}
    at_once = soundfile.read(path, dtype="float32")[0]
    # The decoder's vector code rounds by the address of its buffer: two steps of float32 near 1.
    np.testing.assert_allclose(np.concatenate(blocks)[:, 0], at_once, atol=2.0**-22)
    assert capfd.readouterr().err == ""


def test_flac_is_heard_like_wav_and_a_channel_is_chosen(
    keyword_bundle: Path, tmp_path: Path, pcm: np.ndarray, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "both.flac"
    soundfile.write(path, np.stack([np.zeros_like(pcm), pcm], axis=1), 16000)
    assert main([str(keyword_bundle), str(path), "--json", "--channel", "1"]) == 0
    assert labels(capfd.readouterr().out) == ["low", "high"]
    assert main([str(keyword_bundle), str(path)]) == 2
    assert "has 2 channels, the bundle takes one; choose with --channel 0" in capfd.readouterr().err


def test_a_damaged_or_shortened_flac_is_one_line(tmp_path: Path, pcm: np.ndarray) -> None:
    path = tmp_path / "a.flac"
    soundfile.write(path, pcm, 16000)
    data = path.read_bytes()
    for damaged in (data[: len(data) // 2], data[: len(data) // 2] + bytes(len(data) - len(data) // 2)):
        path.write_bytes(damaged)
        with pytest.raises(AudioError) as caught:
            read(path)
        assert "; copy or record it again" in str(caught.value)
        assert "\n" not in str(caught.value)


def test_without_soundfile_the_extra_is_named(tmp_path: Path, pcm: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.flac"
    soundfile.write(path, pcm, 16000)
    monkeypatch.setitem(sys.modules, "soundfile", None)
    with pytest.raises(AudioError) as caught:
        read(path)
    assert str(caught.value).startswith(f"{path} is not a WAV file, it begins with b'fLaC")
    assert str(caught.value).endswith("or pip install 'edgeaudio-runtime[flac]' to read FLAC and Ogg")


def test_what_libsndfile_does_not_read_either_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "a.flac"
    path.write_text("no sound at all")
    with pytest.raises(AudioError) as caught:
        read(path)
    assert str(caught.value) == (
        f"{path} is not a WAV file, it begins with b'no sound at ', and libsndfile cannot read it; "
        "run: ffmpeg -i IN -c:a pcm_s16le OUT.wav"
    )


def feed(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(buffer=io.BytesIO(data)))


@pytest.mark.parametrize("encoding", ["s16le", "f32le"])
def test_raw_samples_of_any_rate_width_and_channels_are_heard(
    keyword_bundle: Path, pcm: np.ndarray, encoding: str, capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    soxr = pytest.importorskip("soxr")
    sound = soxr.resample(pcm / 32768, 16000, 48000)
    frames = np.stack([np.zeros_like(sound), sound, np.zeros_like(sound)], axis=1)
    data = frames.astype("<f4") if encoding == "f32le" else (32767 * frames).astype("<i2")
    feed(monkeypatch, data.tobytes())
    shape = ["--rate", "48000", "--channels", "3", "--format", encoding, "--channel", "1"]
    assert main([str(keyword_bundle), "-", "--json", "--resample", *shape]) == 0
    assert labels(capfd.readouterr().out) == ["low", "high"]
    feed(monkeypatch, data.tobytes())
    assert main([str(keyword_bundle), "-", *shape]) == 2
    assert "sample_rate=48000 of standard input must be 16000" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["{clip}", "--rate", "8000"], "--rate is for raw standard input and --mic; a file says its own"),
        (["{clip}", "--format", "f32le"], "--format is for raw standard input and --mic; a file says its own"),
        (["{clip}", "--device", "0"], "--device is for --mic; leave one of them out"),
        (["--mic", "--format", "s16le"], "--format is for raw standard input; a microphone gives what it has"),
        (["-", "--rate", "8000"], "standard input is a WAV stream, which says its own; leave --rate, --channels"),
        (["-", "--rate", "fast"], "argument --rate: invalid int value: 'fast'"),
    ],
)
def test_options_that_do_not_fit_the_source_are_one_line(
    keyword_bundle: Path, tmp_path: Path, pcm: np.ndarray, arguments: list[str], words: str,
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    clip = tmp_path / "a.wav"
    soundfile.write(clip, pcm, 16000)
    feed(monkeypatch, clip.read_bytes())
    assert main([str(keyword_bundle), *(a.replace("{clip}", str(clip)) for a in arguments)]) == 2
    err = capfd.readouterr().err
    assert words in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("data", "arguments", "words"),
    [
        (b"fLaC\0\0\0\x22", [], "standard input begins with b'fLaC', a compressed file; give its path instead of -"),
        (b"OggS\0\0\0\0", [], "standard input begins with b'OggS', a compressed file"),
        (b"\0\0\xc0\x7f", ["--format", "f32le"], "samples[0]=nan must be finite"),
        (b"", ["--format", "u8"], "format='u8' must be one of ['s16le', 'f32le']"),
        (b"", ["--channels", "2"], "standard input has 2 channels, the bundle takes one; choose with --channel 0"),
        (b"", ["--channel", "1"], "channel=1 must be in 0..0; standard input has 1"),
        (b"", ["--rate", "12"], "sample_rate=12 must be 1000 to 768000 Hz"),
    ],
)
def test_raw_samples_that_cannot_be_meant_are_one_line(
    keyword_bundle: Path, data: bytes, arguments: list[str], words: str, capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    feed(monkeypatch, data)
    assert main([str(keyword_bundle), "-", *arguments]) == 2
    assert words in capfd.readouterr().err


def test_options_name_the_flag_that_is_too_much() -> None:
    with pytest.raises(AudioError, match="--channels is for raw standard input and --mic"):
        SourceOptions(audio="a.wav", channels=2)


def renamed(bundle: Path, name: str) -> Path:
    manifest = json.loads((bundle / "manifest.json").read_text())
    (bundle / "manifest.json").write_text(json.dumps({**manifest, "name": name}))
    return bundle


def test_several_bundles_hear_one_source_and_say_who_heard(
    keyword_bundle: Path, own_bundle: Path, tmp_path: Path, pcm: np.ndarray, capfd: pytest.CaptureFixture[str]
) -> None:
    clip = tmp_path / "a.wav"
    soundfile.write(clip, pcm, 16000)
    other = renamed(own_bundle, "others")
    assert main([str(keyword_bundle), str(other), str(clip), "--json"]) == 0
    heard = [(event["label"], event["bundle"]) for event in map(json.loads, capfd.readouterr().out.splitlines())]
    assert heard == [("low", "bands"), ("low", "others"), ("high", "bands"), ("high", "others")]
    assert main([str(keyword_bundle), str(other), str(clip)]) == 0
    assert capfd.readouterr().out.splitlines()[1].endswith("  others")


def test_a_gate_lets_pass_what_it_heard_too(
    keyword_bundle: Path, own_bundle: Path, tmp_path: Path, pcm: np.ndarray, capfd: pytest.CaptureFixture[str]
) -> None:
    clip = tmp_path / "a.wav"
    soundfile.write(clip, pcm, 16000)
    gate = renamed(own_bundle, "gate")
    arguments: list[Any] = [str(keyword_bundle), str(clip), "--json", "--gate", str(gate)]
    assert main(arguments) == 0
    assert labels(capfd.readouterr().out) == ["low", "high"]
    settings = json.loads((gate / "detector.json").read_text())
    (gate / "detector.json").write_text(json.dumps({**settings, "threshold": 1.0}))
    assert main(arguments) == 0
    assert capfd.readouterr().out == ""
