"""``edgeaudio-run``: what goes where, which exit code, and never a traceback."""

import io
import json
import os
import subprocess
import sys
import types
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeaudio_runtime import cli
from edgeaudio_runtime.cli import main
from edgeaudio_runtime.native import load_library


def write_wav(path: Path, samples: np.ndarray, *, rate: int = 16000, channels: int = 1) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(samples.astype(np.int16).tobytes())
    return path


@pytest.fixture(scope="module")
def pcm(make_scene: Callable[..., np.ndarray]) -> np.ndarray:
    return make_scene([("low", 0.6, 0.4), ("high", 1.7, 0.4)], 2.8)


@pytest.fixture
def clip(tmp_path: Path, pcm: np.ndarray) -> str:
    return str(write_wav(tmp_path / "clip.wav", pcm))


def feed(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(buffer=io.BytesIO(data)))


def labels(text: str) -> list[str]:
    return [json.loads(line)["label"] for line in text.splitlines()]


def test_events_are_json_lines_on_stdout(keyword_bundle: Path, clip: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main([str(keyword_bundle), clip, "--json"]) == 0
    out, err = capfd.readouterr()
    lines = [json.loads(line) for line in out.splitlines()]
    assert [line["label"] for line in lines] == ["low", "high"]
    assert list(lines[0]) == ["event", "label", "score", "start_s", "end_s", "detected_s"]
    assert lines[0]["event"] == "keyword"
    assert lines[0]["start_s"] == pytest.approx(0.6, abs=0.05)
    assert err == ""


def test_events_for_people_name_the_word_and_its_time(
    keyword_bundle: Path, clip: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main([str(keyword_bundle), clip]) == 0
    assert "low" in capfd.readouterr().out.splitlines()[0]


def test_a_transcript_ends_with_a_final_line(ctc_bundle: Path, clip: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["--json", str(ctc_bundle), clip]) == 0
    last = json.loads(capfd.readouterr().out.splitlines()[-1])
    assert set(last) == {"event", "text", "final", "start_s", "end_s"}
    assert (last["event"], last["text"], last["final"]) == ("transcript", "lh", True)
    assert main([str(ctc_bundle), clip]) == 0
    assert "lh" in capfd.readouterr().out


def test_standard_input_is_raw_or_wav(
    keyword_bundle: Path, clip: str, pcm: np.ndarray, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    streamed = bytearray(Path(clip).read_bytes())
    streamed[40:44] = b"\xff\xff\xff\xff"
    for data in (pcm.tobytes(), Path(clip).read_bytes(), bytes(streamed)):
        feed(monkeypatch, data)
        assert main([str(keyword_bundle), "-", "--json"]) == 0
        assert labels(capfd.readouterr().out) == ["low", "high"]


@pytest.mark.parametrize("data", [b"", b"\x01", b"RIF"])
def test_next_to_nothing_on_standard_input_is_no_error(
    keyword_bundle: Path, data: bytes, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    feed(monkeypatch, data)
    assert main([str(keyword_bundle), "-"]) == 0
    assert capfd.readouterr().out == ""


def test_a_channel_is_chosen_by_number(
    keyword_bundle: Path, tmp_path: Path, pcm: np.ndarray, capfd: pytest.CaptureFixture[str]
) -> None:
    both = write_wav(tmp_path / "both.wav", np.stack([np.zeros_like(pcm), pcm], axis=1), channels=2)
    assert main([str(keyword_bundle), str(both), "--json", "--channel", "1"]) == 0
    assert labels(capfd.readouterr().out) == ["low", "high"]
    assert main([str(keyword_bundle), str(both), "--json", "--channel", "0"]) == 0
    assert capfd.readouterr().out == ""
    assert main([str(keyword_bundle), str(both)]) == 2
    assert "has 2 channels, the bundle takes one; choose with --channel 0" in capfd.readouterr().err


def test_another_rate_needs_to_be_asked_for(
    keyword_bundle: Path, tmp_path: Path, pcm: np.ndarray, capfd: pytest.CaptureFixture[str]
) -> None:
    soxr = pytest.importorskip("soxr")
    path = str(write_wav(tmp_path / "cd.wav", soxr.resample(pcm, 16000, 44100), rate=44100))
    assert main([str(keyword_bundle), path]) == 2
    assert "sample_rate=44100 of" in (err := capfd.readouterr().err)
    assert "must be 16000, the bundle's; convert it with --resample" in err
    assert main([str(keyword_bundle), path, "--resample", "--json"]) == 0
    assert labels(capfd.readouterr().out) == ["low", "high"]


def test_the_self_test_passes_and_says_what_ran(keyword_bundle: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["--selftest", str(keyword_bundle), "--engine", "numpy", "--json"]) == 0
    report = json.loads(capfd.readouterr().out)
    assert (report["passed"], report["engine"], report["numerics"]) == (True, "numpy", "fp32")
    assert main([str(keyword_bundle), "--selftest"]) == 0
    assert capfd.readouterr().out.splitlines()[-1] == "passed"


def test_a_failed_self_test_exits_with_one(
    keyword_bundle: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgeaudio_runtime.selftest.FEATURE_ATOL", -1.0)
    assert main([str(keyword_bundle), "--selftest", "--json"]) == 1
    assert json.loads(capfd.readouterr().out)["passed"] is False
    assert main([str(keyword_bundle), "--selftest"]) == 1
    assert "FAILED pcm -> features" in capfd.readouterr().out


def test_info_tells_what_the_bundle_is(keyword_bundle: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main([str(keyword_bundle), "--info", "--json"]) == 0
    info = json.loads(capfd.readouterr().out)
    assert (info["name"], info["task"], info["step_ms"], info["sample_rate"]) == ("bands", "keyword", 40.0, 16000)
    assert info["usable_engines"] == ([] if load_library() is None else ["native"]) + ["numpy"]
    assert main([str(keyword_bundle), "--info"]) == 0
    assert "_silence_ _unknown_ low high" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], 'give a BUNDLE and exactly one of AUDIO, "-" and --mic'),
        (["{bundle}"], 'give a BUNDLE and exactly one of AUDIO, "-" and --mic'),
        (["{bundle}", "{clip}", "--mic"], 'give a BUNDLE and exactly one of AUDIO, "-" and --mic'),
        (["{bundle}", "{clip}", "--selftest"], "--selftest and --info take no audio"),
        (["{bundle}", "--selftest", "--info"], "not allowed with argument"),
        (["{bundle}", "{clip}", "--colour"], "unrecognized arguments: --colour"),
        (["{bundle}", "{clip}", "--channel", "left"], "argument --channel: invalid int value: 'left'"),
        (["{bundle}", "{clip}", "--channel", "3"], "channel=3 must be in 0..0"),
        (["{bundle}", "{clip}", "--engine", "tvm"], "engine='tvm' must be one of"),
        (["{bundle}", "{clip}", "--engine", "litert"], "no artifact for engine='litert'"),
        (["{bundle}", "/no/such.wav"], "cannot open audio '/no/such.wav': No such file or directory"),
        (["{bundle}", "{bundle}"], "cannot open audio"),
        (["{bundle}", "a\0b"], "cannot open audio"),
        (["{bundle}", "{bundle}/manifest.json"], "is not a WAV file, it begins with b'{"),
        (["/no/such", "{clip}"], "bundle '/no/such' does not exist"),
        (["{clip}", "{clip}"], "is neither a directory nor a .zip file"),
    ],
)
def test_wrong_usage_or_input_is_one_line_and_exit_two(
    keyword_bundle: Path, clip: str, arguments: list[str], words: str, capfd: pytest.CaptureFixture[str]
) -> None:
    filled = [a.replace("{bundle}", str(keyword_bundle)).replace("{clip}", clip) for a in arguments]
    assert main(filled) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert words in err
    assert err.startswith("edgeaudio-run: ")
    assert err.count("\n") == 1


def test_a_truncated_wav_is_refused(keyword_bundle: Path, clip: str, capfd: pytest.CaptureFixture[str]) -> None:
    data = Path(clip).read_bytes()
    Path(clip).write_bytes(data[: len(data) // 2])
    assert main([str(keyword_bundle), clip]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert "truncated WAV" in err


def test_a_damaged_bundle_is_one_line(own_bundle: Path, clip: str, capfd: pytest.CaptureFixture[str]) -> None:
    (own_bundle / "model.bin").write_bytes(b"")
    assert main([str(own_bundle), clip]) == 2
    assert "'model.bin' has 0 bytes, the manifest says" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (KeyboardInterrupt(), 130, ""),
        (MemoryError(), 2, "not enough memory for this bundle or audio"),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"), 2, "cannot go on: UnicodeDecodeError"),
        (OSError(5, "Input/output error"), 2, "cannot go on: OSError: [Errno 5] Input/output error"),
        (RecursionError("deep"), 2, "cannot go on: RecursionError: deep"),
    ],
)
def test_no_failure_is_a_traceback(
    keyword_bundle: Path, clip: str, error: BaseException, code: int, words: str,
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    def fail(arguments: object) -> int:
        raise error

    monkeypatch.setattr(cli, "_listen", fail)
    assert main([str(keyword_bundle), clip]) == code
    err = capfd.readouterr().err
    assert words in err
    assert err.count("\n") <= 1


def run(*arguments: str, **kwargs: Any) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "edgeaudio_runtime.cli", *arguments],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **kwargs,
    )  # fmt: skip


def test_a_reader_that_leaves_is_no_error(keyword_bundle: Path, clip: str) -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    done = subprocess.run(
        [sys.executable, "-m", "edgeaudio_runtime.cli", str(keyword_bundle), clip],
        stdout=write_end, stderr=subprocess.PIPE, check=False,
    )  # fmt: skip
    os.close(write_end)
    assert (done.returncode, done.stderr) == (0, b"")


def test_an_event_is_out_before_the_stream_ends(keyword_bundle: Path, pcm: np.ndarray) -> None:
    with run(str(keyword_bundle), "-", "--json") as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(pcm[:24_000].tobytes())
        process.stdin.flush()
        # Would block for ever if the line, or the samples, waited in a buffer for the end of the stream.
        assert json.loads(process.stdout.readline())["label"] == "low"
        process.stdin.close()
        assert process.wait() == 0


def test_help_and_version_exit_with_zero(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    assert "exit codes: 0 done, 1 a check failed, 2 wrong usage or input" in capfd.readouterr().out
    assert main(["--version"]) == 0
