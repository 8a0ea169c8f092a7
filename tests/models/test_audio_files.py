"""Audio files: decoded once, converted once, and refused in one line where they are damaged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from edgeaudio_models.audio_files import (
    audio_info,
    fit_length,
    is_audio,
    read_audio,
    resample_audio,
    to_int16,
    whole_file,
    write_wav,
)
from edgeaudio_runtime.errors import AudioError

RATE = 16_000
N_SAMPLES = 16_000
RESAMPLED_TONE_ERROR = 1e-3  # soxr HQ is flat to -100 dB in band; its edges ring a little more
OPUS_SQNR_DB = 15.0  # a lossy codec on a tone: far above what a wrong scale (-6 dB) or shift would leave


def tone(n_samples: int = N_SAMPLES, *, hz: float = 440.0, rate: int = RATE, peak: float = 0.5) -> np.ndarray:
    return (peak * np.sin(2 * np.pi * hz * np.arange(n_samples) / rate)).astype(np.float32)


def write(path: Path, samples: np.ndarray, *, rate: int = RATE, **options: str) -> Path:
    soundfile.write(path, samples, rate, **options)
    return path


def cut(path: Path, share: float) -> Path:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path


def test_int16_takes_full_scale_rounds_half_to_even_and_saturates() -> None:
    samples = np.array([0.0, 1.0, -1.0, 1.5, -7.0, 0.5 / 32768, 1.5 / 32768, -2.4 / 32768, 0.25], np.float32)
    assert to_int16(samples).tolist() == [0, 32767, -32768, 32767, -32768, 0, 2, -2, 8192]


def test_int16_refuses_nan_and_infinity() -> None:
    with pytest.raises(AudioError, match="2 samples are NaN or infinite and have no int16 value"):
        to_int16(np.array([0.0, np.nan, np.inf], np.float32))


@pytest.mark.parametrize("name", ["clip.wav", "clip.flac", "0132a06d_nohash_0.wav.wav", "CLIP.WAV"])
def test_sixteen_bit_files_come_back_bit_for_bit(tmp_path: Path, name: str) -> None:
    codes = np.random.default_rng(1).integers(-32768, 32768, N_SAMPLES).astype(np.int16)
    samples, rate = read_audio(write(tmp_path / name, codes))
    assert rate == RATE
    assert samples.dtype == np.int16
    np.testing.assert_array_equal(samples, codes)


def test_float_wav_is_scaled_although_libsndfile_would_not(tmp_path: Path) -> None:
    path = write(tmp_path / "float.wav", tone(), subtype="FLOAT")
    assert np.abs(soundfile.read(path, dtype="int16")[0]).max() <= 1  # the trap itself
    samples, _ = read_audio(path)
    np.testing.assert_array_equal(samples, np.rint(tone() * 32768.0).astype(np.int16))


def test_opus_is_decoded_at_its_rate(tmp_path: Path) -> None:
    samples, rate = read_audio(write(tmp_path / "clip.ogg", tone(), format="OGG", subtype="OPUS"))
    assert (rate, len(samples)) == (RATE, N_SAMPLES)
    middle = slice(2000, 14000)  # the encoder rings at the ends of a tone that starts and stops at once
    error = samples[middle] / 32768.0 - tone()[middle]
    assert 10 * np.log10(np.mean(tone()[middle] ** 2) / np.mean(error**2)) > OPUS_SQNR_DB


@pytest.mark.parametrize("rate", [8_000, 44_100, 48_000])
def test_resampling_keeps_a_tone(tmp_path: Path, rate: int) -> None:
    path = write(tmp_path / "clip.wav", tone(rate, rate=rate), rate=rate, subtype="FLOAT")
    samples, new_rate = read_audio(path, sample_rate=RATE)
    assert (new_rate, len(samples)) == (RATE, RATE)
    middle = slice(1600, 14400)
    assert np.abs(samples[middle] / 32768.0 - tone()[middle]).max() < RESAMPLED_TONE_ERROR


def test_resampling_removes_what_would_alias() -> None:
    above = tone(48_000, hz=11_000, rate=48_000)
    assert np.abs(resample_audio(above, 48_000, RATE)[1600:-1600]).max() < 1e-3


def test_another_rate_is_refused_when_resampling_is_off(tmp_path: Path) -> None:
    path = write(tmp_path / "clip.wav", tone(), rate=44_100)
    with pytest.raises(AudioError, match=r"clip\.wav: sample_rate=44100 must be 16000; resample it \(--resample\)"):
        read_audio(path, sample_rate=RATE, resample=False)


def test_stereo_needs_a_chosen_channel(tmp_path: Path) -> None:
    path = write(tmp_path / "stereo.wav", np.stack([tone(), np.zeros(N_SAMPLES, np.float32)], axis=1))
    with pytest.raises(AudioError, match=r"channels=2, one is needed; choose it \(--channel 0\)"):
        read_audio(path)
    with pytest.raises(AudioError, match=r"channel=2 must be in \[0, 1\]"):
        read_audio(path, channel=2)
    assert read_audio(path, channel=0)[0].any()
    assert not read_audio(path, channel=1)[0].any()


def test_a_cut_is_read_at_the_files_own_rate(tmp_path: Path) -> None:
    codes = np.arange(1000, dtype=np.int16)
    path = write(tmp_path / "clip.flac", codes)
    np.testing.assert_array_equal(read_audio(path, start=100, stop=300)[0], codes[100:300])
    with pytest.raises(AudioError, match="start=5 and stop=5 must be 0 <= start < stop"):
        read_audio(path, start=5, stop=5)
    with pytest.raises(AudioError, match="holds no samples"):
        read_audio(path, start=1000)


def test_missing_empty_and_foreign_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match=r"none\.wav: no such file"):
        read_audio(tmp_path / "none.wav")
    (tmp_path / "empty.wav").touch()
    with pytest.raises(AudioError, match=r"empty\.wav: the file is empty \(0 bytes\)"):
        read_audio(tmp_path / "empty.wav")
    (tmp_path / "text.wav").write_text("this is no audio at all, whatever its name says")
    with pytest.raises(AudioError, match=r"text\.wav: cannot be decoded \(Format not recognised"):
        read_audio(tmp_path / "text.wav")
    with pytest.raises(AudioError, match="holds no samples; leave it out"):
        read_audio(write(tmp_path / "none-in-it.wav", tone(0)))


@pytest.mark.parametrize("share", [0.5, 0.95])
def test_truncated_wav_is_refused(tmp_path: Path, share: float) -> None:
    path = cut(write(tmp_path / "clip.wav", tone()), share)
    with pytest.raises(AudioError, match=r"clip\.wav: truncated, \d+ bytes of the audio are missing; fetch it again"):
        read_audio(path)


def test_truncated_flac_is_refused(tmp_path: Path) -> None:
    path = cut(write(tmp_path / "clip.flac", tone()), 0.6)
    with pytest.raises(AudioError, match=r"clip\.flac: (truncated|cannot be decoded)"):
        read_audio(path)


@pytest.mark.parametrize("share", [0.5, 0.95])
def test_truncated_opus_is_refused(tmp_path: Path, share: float) -> None:
    path = cut(write(tmp_path / "clip.ogg", tone(), format="OGG", subtype="OPUS"), share)
    with pytest.raises(AudioError, match=r"clip\.ogg: truncated, \d+ bytes of the audio are missing"):
        read_audio(path)


@pytest.mark.parametrize("unstated", [0x7FFFF000, 0x7FFFFFFF, 0xFFFFFFFF])
def test_wav_written_into_a_pipe_has_no_size_and_is_no_truncated_file(tmp_path: Path, unstated: int) -> None:
    path = write(tmp_path / "piped.wav", to_int16(tone()))
    data = bytearray(path.read_bytes())
    at = data.index(b"data") + 4
    data[at : at + 4] = unstated.to_bytes(4, "little")
    path.write_bytes(data)
    np.testing.assert_array_equal(read_audio(path)[0], to_int16(tone()))


@pytest.mark.parametrize("rate", [3, 2_000_000_000])
def test_absurd_rates_in_the_header_are_refused(tmp_path: Path, rate: int) -> None:
    path = write(tmp_path / "clip.wav", tone())
    data = bytearray(path.read_bytes())
    data[24:28] = rate.to_bytes(4, "little")
    path.write_bytes(data)
    with pytest.raises(AudioError, match=rf"sample_rate={rate} must be in \[4000, 768000\] Hz; the header is damaged"):
        audio_info(path)


def test_float_files_with_nan_are_refused_by_name(tmp_path: Path) -> None:
    samples = tone()
    samples[7] = np.nan
    path = write(tmp_path / "nan.wav", samples, subtype="FLOAT")
    with pytest.raises(AudioError, match=r"nan\.wav: holds samples that are NaN or infinite"):
        read_audio(path)


def test_info_tells_the_header(tmp_path: Path) -> None:
    info = audio_info(write(tmp_path / "clip.wav", np.zeros((123, 2), np.float32), rate=48_000, subtype="PCM_24"))
    assert (info.sample_rate, info.n_channels, info.n_samples, info.subtype) == (48_000, 2, 123, "PCM_24")


def test_length_is_made_by_zeros_or_a_cut_at_the_end() -> None:
    samples = np.array([1, 2, 3], np.int16)
    assert fit_length(samples, 5).tolist() == [1, 2, 3, 0, 0]
    assert fit_length(samples, 2).tolist() == [1, 2]
    assert fit_length(samples, 3).tolist() == [1, 2, 3]


def test_written_wav_reads_back_equal(tmp_path: Path) -> None:
    codes = np.array([0, 1, -1, 32767, -32768], np.int16)
    write_wav(tmp_path / "new" / "out.wav", codes, 22_050)
    samples, rate = read_audio(tmp_path / "new" / "out.wav")
    assert (samples.tolist(), rate) == (codes.tolist(), 22_050)


def test_a_failed_write_leaves_nothing_and_keeps_what_was_there(tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_text("before")

    def fail() -> None:
        with whole_file(target) as temporary:
            temporary.write_text("half")
            raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        fail()
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert target.read_text() == "before"


def test_hidden_files_and_other_suffixes_are_no_audio() -> None:
    assert [is_audio(Path(name)) for name in ("a.wav", "a.FLAC", "a.opus", "._a.wav", "a.txt")] == [
        True,
        True,
        True,
        False,
        False,
    ]
