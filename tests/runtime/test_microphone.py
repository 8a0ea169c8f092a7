"""A microphone: devices, rates, channels, and one line for everything that a sound card can do wrong."""

import json
import sys
import types
from collections.abc import Callable
from contextlib import ExitStack
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeaudio_runtime import microphone
from edgeaudio_runtime.cli import main
from edgeaudio_runtime.errors import AudioError
from edgeaudio_runtime.microphone import Microphone


class FakeSoundDevice(types.ModuleType):
    """Stands for sounddevice: a device that calls back with the blocks of a given recording when it is opened."""

    class PortAudioError(Exception):
        pass

    def __init__(self, pcm: np.ndarray, *, rates: tuple[int, ...] = (16000,), n_channels: int = 1) -> None:
        super().__init__("sounddevice")
        self.__spec__ = ModuleSpec("sounddevice", None)
        self.pcm, self.rates, self.max_channels = pcm.reshape(len(pcm), -1), rates, n_channels
        self.overflows = False
        self.stops = False
        self.opened: list[dict[str, Any]] = []
        self.closed = False
        outer = self

        class RawInputStream:
            def __init__(self, *, callback: Any, finished_callback: Any, **asked: Any) -> None:
                if asked["samplerate"] not in outer.rates:
                    raise outer.PortAudioError("Invalid sample rate [PaErrorCode -9997]")
                if asked["channels"] > outer.max_channels:
                    raise outer.PortAudioError("Invalid number of channels [PaErrorCode -9998]")
                outer.opened.append(asked)
                self._asked, self._callback, self._finished = asked, callback, finished_callback

            def __enter__(self) -> "RawInputStream":
                size = self._asked["blocksize"]
                status = types.SimpleNamespace(input_overflow=outer.overflows)
                for start in range(0, len(outer.pcm), size):
                    block = np.ascontiguousarray(outer.pcm[start : start + size, : self._asked["channels"]])
                    self._callback(memoryview(block.tobytes()), len(block), None, status)
                if outer.stops:
                    self._finished()
                return self

            def __exit__(self, *exception: object) -> None:
                outer.closed = True

        self.RawInputStream = RawInputStream

    def query_devices(self, device: int | str | None = None, kind: str | None = None) -> Any:
        if device not in (None, 0, "USB"):
            raise ValueError(f"No input device matching {device!r}")
        found: dict[str, Any] = {"name": "USB PnP", "default_samplerate": float(self.rates[-1])}
        found |= {"index": 0, "max_input_channels": self.max_channels}
        return [found] if kind is None else found


@pytest.fixture(scope="module")
def pcm(make_scene: Callable[..., np.ndarray]) -> np.ndarray:
    return make_scene([("low", 0.6, 0.4), ("high", 1.7, 0.4)], 2.8)


@pytest.fixture
def plug_in(monkeypatch: pytest.MonkeyPatch) -> Callable[[FakeSoundDevice], FakeSoundDevice]:
    """Install a fake; a device that sends no more is taken for lost at once."""

    def install(device: FakeSoundDevice) -> FakeSoundDevice:
        monkeypatch.setitem(sys.modules, "sounddevice", device)
        monkeypatch.setattr(microphone, "_LOST_S", 0.01)
        return device

    return install


PlugIn = Callable[[FakeSoundDevice], FakeSoundDevice]


def labels(text: str) -> list[str]:
    return [json.loads(line)["label"] for line in text.splitlines()]


def test_a_lost_device_is_one_line_after_what_it_sent(
    keyword_bundle: Path, pcm: np.ndarray, plug_in: PlugIn, capfd: pytest.CaptureFixture[str]
) -> None:
    device = plug_in(FakeSoundDevice(pcm))
    assert main([str(keyword_bundle), "--mic", "--json"]) == 2
    out, err = capfd.readouterr()
    assert labels(out) == ["low", "high"]
    assert err == "edgeaudio-run: microphone 'USB PnP' has sent nothing for 0.01 s; was it unplugged?\n"
    assert device.closed


def test_a_device_that_stops_is_one_line(
    keyword_bundle: Path, pcm: np.ndarray, plug_in: PlugIn, capfd: pytest.CaptureFixture[str]
) -> None:
    plug_in(FakeSoundDevice(pcm)).stops = True
    assert main([str(keyword_bundle), "--mic", "--json"]) == 2
    out, err = capfd.readouterr()
    assert labels(out) == ["low", "high"]
    assert err == "edgeaudio-run: microphone 'USB PnP' has stopped; was it unplugged?\n"


def test_the_microphone_is_heard_until_interrupted(
    keyword_bundle: Path, pcm: np.ndarray, plug_in: PlugIn, capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    device = plug_in(FakeSoundDevice(pcm))
    take = Microphone._next_block

    def interrupted(self: Microphone) -> Any:
        if self._blocks.empty():
            raise KeyboardInterrupt
        return take(self)

    monkeypatch.setattr(Microphone, "_next_block", interrupted)
    assert main([str(keyword_bundle), "--mic", "--json"]) == 130
    assert labels(capfd.readouterr().out) == ["low", "high"]
    assert device.closed
    assert device.opened == [{"samplerate": 16000, "blocksize": 1600, "device": None, "channels": 1, "dtype": "int16"}]


def test_lost_samples_are_told_once(
    keyword_bundle: Path, pcm: np.ndarray, plug_in: PlugIn, capfd: pytest.CaptureFixture[str]
) -> None:
    plug_in(FakeSoundDevice(pcm)).overflows = True
    main([str(keyword_bundle), "--mic"])
    err = capfd.readouterr().err.splitlines()
    assert err[0] == ("edgeaudio-run: microphone 'USB PnP' dropped samples (input overflow); is the machine too busy?")
    assert len(err) == 2


def test_a_device_of_another_rate_needs_resampling_to_be_asked_for(
    keyword_bundle: Path, pcm: np.ndarray, plug_in: PlugIn, capfd: pytest.CaptureFixture[str]
) -> None:
    soxr = pytest.importorskip("soxr")
    at_48k = soxr.resample(pcm, 16000, 48000).astype(np.int16)
    device = plug_in(FakeSoundDevice(at_48k, rates=(48000,)))
    assert main([str(keyword_bundle), "--mic"]) == 2
    assert capfd.readouterr().err == (
        "edgeaudio-run: microphone 'USB PnP' refused sample_rate=16000 with 1 channels: Invalid sample rate "
        "[PaErrorCode -9997]; try --rate 48000 --resample, or another --device\n"
    )
    assert main([str(keyword_bundle), "--mic", "--rate", "48000"]) == 2
    assert "sample_rate=48000 of microphone 'USB PnP' must be 16000" in capfd.readouterr().err
    for arguments in (["--rate", "48000", "--resample"], ["--resample"]):
        main([str(keyword_bundle), "--mic", "--json", *arguments])
        assert labels(capfd.readouterr().out) == ["low", "high"]
        assert device.opened[-1]["blocksize"] == 4800


def test_a_channel_of_several_is_chosen(
    keyword_bundle: Path, pcm: np.ndarray, plug_in: PlugIn, capfd: pytest.CaptureFixture[str]
) -> None:
    frames = np.stack([np.zeros_like(pcm), pcm], axis=1)
    device = plug_in(FakeSoundDevice(frames, n_channels=2))
    main([str(keyword_bundle), "--mic", "--json", "--channel", "1"])
    assert labels(capfd.readouterr().out) == ["low", "high"]
    assert device.opened[-1]["channels"] == 2
    assert main([str(keyword_bundle), "--mic", "--channels", "2"]) == 2
    assert "microphone 'USB PnP' has 2 channels, the bundle takes one; choose with --channel 0" in (
        capfd.readouterr().err
    )
    assert main([str(keyword_bundle), "--mic", "--channel", "2"]) == 2
    assert "refused sample_rate=16000 with 3 channels: Invalid number of channels" in capfd.readouterr().err


@pytest.mark.parametrize(("name", "device"), [("0", 0), ("USB", "USB")])
def test_a_device_is_chosen_by_number_or_name(
    keyword_bundle: Path, pcm: np.ndarray, plug_in: PlugIn, name: str, device: int | str
) -> None:
    fake = plug_in(FakeSoundDevice(pcm))
    main([str(keyword_bundle), "--mic", "--device", name])
    assert fake.opened[-1]["device"] == device


def test_a_device_that_is_not_there_is_one_line(
    keyword_bundle: Path, pcm: np.ndarray, plug_in: PlugIn, capfd: pytest.CaptureFixture[str]
) -> None:
    plug_in(FakeSoundDevice(pcm))
    assert main([str(keyword_bundle), "--mic", "--device", "Array"]) == 2
    assert capfd.readouterr().err == (
        "edgeaudio-run: there is no microphone device='Array' (No input device matching 'Array'); "
        "python -m sounddevice lists them\n"
    )


def test_a_listener_too_slow_for_its_microphone_says_so(
    keyword_bundle: Path, pcm: np.ndarray, plug_in: PlugIn, capfd: pytest.CaptureFixture[str]
) -> None:
    plug_in(FakeSoundDevice(np.tile(pcm, 8)))
    assert main([str(keyword_bundle), "--mic"]) == 2
    assert "listening is 10 s behind the microphone" in capfd.readouterr().err


def test_the_doctor_lists_the_inputs_and_listens_for_three_seconds(
    keyword_bundle: Path, pcm: np.ndarray, plug_in: PlugIn, capfd: pytest.CaptureFixture[str]
) -> None:
    plug_in(FakeSoundDevice(np.tile(pcm, 2)))
    assert main([str(keyword_bundle), "--doctor", "--mic", "--json"]) == 0
    out, err = capfd.readouterr()
    found = {finding["subject"]: finding for finding in json.loads(out)["findings"]}
    assert found["recording"]["text"] == "3.0 s at 16000 Hz"
    assert found["extra mic"]["text"].startswith("sounddevice ")
    assert found["extra mic"]["text"].endswith(", inputs: 0 USB PnP (1 ch, 16000 Hz)")
    assert err == "edgeaudio-run: speak for 3 s\n"


def test_the_doctor_tells_of_a_microphone_that_is_not_there(
    pcm: np.ndarray, plug_in: PlugIn, capfd: pytest.CaptureFixture[str]
) -> None:
    plug_in(FakeSoundDevice(pcm))
    assert main(["--doctor", "--mic", "--device", "Array"]) == 1
    assert "PROBLEM microphone: there is no microphone device='Array'" in capfd.readouterr().out


def test_without_the_package_or_portaudio_there_is_one_line(
    keyword_bundle: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    assert main([str(keyword_bundle), "--mic"]) == 2
    assert capfd.readouterr().err == (
        "edgeaudio-run: sounddevice is not installed; run: pip install 'edgeaudio-runtime[mic]'\n"
    )


def test_the_real_package_where_there_is_no_such_device(
    keyword_bundle: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main([str(keyword_bundle), "--mic", "--device", "no such device"]) == 2
    err = capfd.readouterr().err
    # The wheel for Linux brings no PortAudio; where it is missing, that is what the line says.
    assert "PortAudio library not found; on Debian run: apt install libportaudio2" in err or (
        "there is no microphone device='no such device'" in err
    )
    assert err.count("\n") == 1


def test_a_microphone_of_limited_time_ends(pcm: np.ndarray, plug_in: PlugIn) -> None:
    plug_in(FakeSoundDevice(pcm))
    with ExitStack() as stack:
        frames = list(Microphone(stack, sample_rate=16000, seconds=0.3).frames())
    np.testing.assert_array_equal(np.concatenate(frames)[:, 0], pcm[:4800])


def test_a_device_of_the_wrong_rate_is_an_error_in_python_too(pcm: np.ndarray, plug_in: PlugIn) -> None:
    plug_in(FakeSoundDevice(pcm))
    with ExitStack() as stack, pytest.raises(AudioError, match="refused sample_rate=8000 with 1 channels"):
        Microphone(stack, sample_rate=8000)
