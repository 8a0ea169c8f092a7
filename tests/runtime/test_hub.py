"""Several bundles on one microphone: each hears what a stream of its own would, and a gate holds events back."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import edgeaudio_runtime.hub as hub_module
from edgeaudio_runtime.bundle import open_bundle
from edgeaudio_runtime.detector_config import DetectorConfig
from edgeaudio_runtime.errors import EngineError, SpecError
from edgeaudio_runtime.events import Event
from edgeaudio_runtime.extent import StreamClock
from edgeaudio_runtime.features import PcmSpec
from edgeaudio_runtime.front_end import FrontEnd
from edgeaudio_runtime.hub import Hub
from edgeaudio_runtime.quantization import QuantParams
from edgeaudio_runtime.speech_gate import SpeechGate
from edgeaudio_runtime.stream import AudioStream

SIZES = st.lists(st.one_of(st.integers(0, 3), st.integers(0, 9000), st.just(160)), max_size=30)


class OtherSteps:
    """The bundle ``base`` with a network of another step, whose logits are four of the feature codes."""

    def __init__(self, base: Any, step_frames: int) -> None:
        self._base, self.name, self._step = base, f"steps of {step_frames}", step_frames
        self.clock = replace(base.clock, step_frames=step_frames)
        self.detector_config = DetectorConfig(smoothing_s=0.0, threshold=0.3, release=0.2, refractory_s=0.0)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._base, name)

    def program(self, engine: str) -> Any:
        signature = replace(self._base.program("numpy").signature, step_frames=self._step)

        def run(codes: np.ndarray) -> np.ndarray:
            return codes.reshape(-1, self._step, codes.shape[1])[:, -1, 8:12]

        session = SimpleNamespace(run=run, reset=lambda: None)
        return SimpleNamespace(signature=signature, session=lambda: session, engine="numpy")


@pytest.fixture(scope="module")
def pcm(make_scene: Callable[..., np.ndarray]) -> np.ndarray:
    return make_scene([("low", 0.7, 0.5), ("high", 1.9, 0.3), ("low", 3.4, 0.35)], 4.317)


def listen(stream: Hub | AudioStream, samples: np.ndarray, sizes: list[int]) -> list[Event]:
    events, position = [], 0
    for size in [*sizes, len(samples)]:
        events += stream.process(samples[position : position + size])
        position += size
    return events + stream.flush()


@pytest.fixture(scope="module")
def bundles(keyword_bundle: Path, ctc_bundle: Path) -> dict[str, Any]:
    """4, 4 and 6 frames a step: one front end whose tail is another length for each."""
    keyword = open_bundle(keyword_bundle)
    return {"word": keyword, "text": open_bundle(ctc_bundle), "six": OtherSteps(keyword, 6)}


@pytest.fixture(scope="module")
def alone(bundles: dict[str, Any], pcm: np.ndarray) -> dict[str, list[Event]]:
    """What each hears in a stream of its own."""
    heard = {name: listen(AudioStream(bundle), pcm, []) for name, bundle in bundles.items()}
    return {name: [replace(event, bundle=name) for event in events] for name, events in heard.items()}


@settings(max_examples=6)
@given(sizes=SIZES)
def test_each_bundle_hears_what_it_would_hear_alone(
    bundles: dict[str, Any], alone: dict[str, list[Event]], pcm: np.ndarray, sizes: list[int]
) -> None:
    events = listen(Hub(bundles), pcm, sizes)
    for name, expected in alone.items():
        assert expected
        assert [event for event in events if event.bundle == name] == expected
    # By the time of their report, then in the order of the bundles, whatever came in one chunk.
    assert events == sorted(events, key=lambda event: (event.detected_s, list(bundles).index(event.bundle)))


@pytest.mark.parametrize("engine", ["numpy", "onnxruntime", "litert", "native"])
@pytest.mark.parametrize("front_end", ["numpy", "auto"])
def test_it_does_so_on_every_engine_and_front_end(
    every_engine_bundle: Path, pcm: np.ndarray, engine: str, front_end: Any
) -> None:
    bundle = open_bundle(every_engine_bundle)
    try:
        bundle.program(engine)
    except EngineError as error:
        pytest.skip(str(error))
    alone = listen(AudioStream(bundle, engine=engine, front_end=front_end), pcm, [])
    events = listen(Hub({"a": bundle, "b": bundle}, engine=engine, front_end=front_end), pcm, [700, 20_000, 1])
    for name in ("a", "b"):
        assert [replace(event, bundle=None) for event in events if event.bundle == name] == alone


def test_bundles_of_one_feature_specification_share_one_front_end(
    keyword_bundle: Path, ctc_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = []
    monkeypatch.setattr(hub_module, "FrontEnd", lambda *a, **k: opened.append(a) or FrontEnd(*a, **k))
    Hub([open_bundle(keyword_bundle)] + [OtherSteps(open_bundle(keyword_bundle), n) for n in (2, 6)])
    assert len(opened) == 1


def test_a_hub_is_as_new_after_a_flush_and_after_a_reset(keyword_bundle: Path, pcm: np.ndarray) -> None:
    bundle = open_bundle(keyword_bundle)
    hub = Hub({"a": bundle, "b": bundle})
    first = listen(hub, pcm, [])
    assert {event.bundle for event in first} == {"a", "b"}
    hub.process(pcm[:20_001])
    hub.reset()
    assert listen(hub, pcm, []) == first


def test_the_json_line_names_the_bundle_and_is_else_that_of_one_stream(keyword_bundle: Path, pcm: np.ndarray) -> None:
    bundle = open_bundle(keyword_bundle)
    alone = listen(AudioStream(bundle), pcm, [])[0].to_dict()
    assert "bundle" not in alone
    assert listen(Hub([bundle]), pcm, [])[0].to_dict() == {**alone, "bundle": "bands"}


def test_a_gate_that_hears_speech_lets_all_pass_and_one_that_does_not_none(
    keyword_bundle: Path, pcm: np.ndarray
) -> None:
    bundle = open_bundle(keyword_bundle)
    deaf = OtherSteps(bundle, 4)
    deaf.detector_config = DetectorConfig(threshold=1.0)
    assert listen(Hub([bundle], gate=bundle), pcm, []) == listen(Hub([bundle]), pcm, [])
    assert listen(Hub([bundle], gate=deaf), pcm, []) == []


@settings(max_examples=8)
@given(sizes=SIZES)
def test_a_gate_decides_alike_however_the_audio_is_cut(keyword_bundle: Path, pcm: np.ndarray, sizes: list[int]) -> None:
    bundle, gate = open_bundle(keyword_bundle), OtherSteps(open_bundle(keyword_bundle), 6)
    gate.detector_config = DetectorConfig(smoothing_s=0.1, threshold=0.9)
    whole = listen(Hub([bundle], gate=gate), pcm, [])
    assert listen(Hub([bundle], gate=gate), pcm, sizes) == whole


def fake_gate(**changes: object) -> Any:
    quant = QuantParams(scale=(0.1,), zero_point=0)
    clock = StreamClock(
        sample_rate=16000, hop_length=160, win_length=400, first_offset=0, step_frames=4, outputs_per_step=1,
        window_frames=20,
    )  # fmt: skip
    values = {
        "name": "vad", "task": "keyword", "labels": ("_silence_", "speech"), "background_labels": ("_silence_",),
        "clock": clock, "detector_config": DetectorConfig(smoothing_s=0.0, threshold=0.6),
        "features": SimpleNamespace(streamable=True),
        "manifest": SimpleNamespace(mode="streaming", network=SimpleNamespace(output_quant=quant, output="logits")),
    }  # fmt: skip
    return SimpleNamespace(**(values | changes))


def event(start_s: float, detected_s: float) -> Any:
    return SimpleNamespace(start_s=start_s, detected_s=detected_s)


def test_an_event_passes_where_speech_was_heard_between_half_a_second_before_it_and_its_report() -> None:
    gate = SpeechGate(fake_gate())
    rows = np.zeros((100, 2), dtype=np.int8)
    rows[50, 1] = 50  # softmax of (0, 5) is 0.993; equal logits give 0.5
    gate.hear(rows)
    heard_s = 50 * 0.04 + 0.055  # the step's last frame begins at 30 ms and lasts 25 ms
    assert gate.passes(event(heard_s + 0.499, heard_s + 1))
    assert not gate.passes(event(heard_s + 0.501, heard_s + 1))
    assert gate.passes(event(heard_s - 1, heard_s))
    assert not gate.passes(event(heard_s - 1, heard_s - 0.001))
    gate.reset()
    assert not gate.passes(event(heard_s, heard_s))


def test_what_cannot_be_heard_together_is_refused(keyword_bundle: Path, ctc_bundle: Path) -> None:
    bundle = open_bundle(keyword_bundle)
    with pytest.raises(SpecError, match=r"bundles=\[\] must name at least one bundle"):
        Hub([])
    with pytest.raises(SpecError, match=r"names \['bands'\] twice; pass a mapping"):
        Hub([bundle, bundle])
    other = OtherSteps(bundle, 4)
    other.features = PcmSpec(sample_rate=8000, win_length=80, hop_length=80)
    with pytest.raises(SpecError, match=r"sample rates .* must be one; open a hub for each rate"):
        Hub({"a": bundle, "b": other})
    with pytest.raises(SpecError, match="sample_rate=8000 must be 16000, the bundles'; resample first"):
        Hub([bundle]).process(np.zeros(0, dtype=np.int16), sample_rate=8000)
    with pytest.raises(SpecError, match="samples of type bytes must be a numpy array"):
        Hub([bundle]).process(b"1234")
    with pytest.raises(SpecError, match="must be a streaming keyword bundle; train one with recipe vad"):
        Hub([bundle], gate=open_bundle(ctc_bundle))
    with pytest.raises(SpecError, match="has background labels alone; one must stand for speech"):
        SpeechGate(fake_gate(background_labels=("_silence_", "speech")))


def test_refused_samples_leave_the_hub_as_it_was(keyword_bundle: Path, ctc_bundle: Path, pcm: np.ndarray) -> None:
    bundles = {"a": open_bundle(keyword_bundle), "b": open_bundle(ctc_bundle)}
    hub = Hub(bundles)
    events = hub.process(pcm[:30_000])
    with pytest.raises(SpecError, match="must be finite"):
        hub.process(np.array([0.0, np.nan], dtype=np.float32))
    assert events + listen(hub, pcm[30_000:], []) == listen(Hub(bundles), pcm, [])
