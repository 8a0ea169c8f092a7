"""Counting events in streams: records that merge, float beside int8, and what counts as heard."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edgeaudio.parity.float_reference import _OnnxSteps, float_steps, module_steps
from edgeaudio.parity.recordings import negative_files, positive_files, said_in
from edgeaudio.parity.streams import (
    FLOAT,
    INT8,
    Networks,
    StreamCounts,
    count_stream,
    detector,
    hear,
    hear_spoken,
    sound_end_s,
    with_threshold,
)
from edgeaudio_models.audio_files import write_wav
from edgeaudio_models.checkpoint import load_checkpoint
from edgeaudio_models.zoo_entries import BUNDLE, entry_folder
from edgeaudio_runtime.bundle import open_bundle
from edgeaudio_runtime.detector_config import DetectorConfig
from edgeaudio_runtime.errors import ParityError
from edgeaudio_runtime.extent import StreamClock
from edgeaudio_runtime.front_end import compute_features
from edgeaudio_runtime.presets import preset
from edgeaudio_runtime.quantization import QuantParams, quantize
from edgeaudio_runtime.stream import AudioStream

ENTRY = "kws-12-small"
FLOAT_ATOL = 1e-4
"""Logits of a network in steps and in one call: the sums are those of float32 in another order."""


@pytest.fixture(scope="module")
def networks() -> Networks:
    folder = entry_folder(ENTRY)
    bundle = open_bundle(folder / BUNDLE)
    steps = float_steps(bundle, load_checkpoint(folder).module)
    return Networks(bundle=bundle, program=bundle.program("numpy"), float_steps=steps)


@pytest.fixture(scope="module")
def babble() -> list[np.ndarray]:
    """Recordings of amplitude-modulated noise, of lengths that fit no step: any network hears something in them."""
    generator = np.random.default_rng(3)
    lengths = (20_011, 9_000, 31_234)
    envelopes = (np.sin(np.arange(n) / 1500.0) ** 2 for n in lengths)
    noises = (8000 * envelope * generator.standard_normal(len(envelope)) for envelope in envelopes)
    return [np.rint(noise).clip(-32768, 32767).astype(np.int16) for noise in noises]


def test_int8_events_are_those_that_the_runtime_reports(networks: Networks, babble: list[np.ndarray]) -> None:
    golden = entry_folder(ENTRY) / BUNDLE / "golden"
    audio = [np.load(golden / "pcm.npy"), *babble]
    stream = AudioStream(networks.bundle, engine="numpy")
    events = [event for samples in audio for event in stream.process(samples)] + stream.flush()
    counts = count_stream(networks, audio, [networks.bundle.detector_config])
    assert counts.events[INT8] == (len(events),)
    assert len(events) >= len(json.loads((golden / "events.json").read_text())) > 0
    assert (counts.n_recordings, counts.n_samples) == (4, 60_245 + len(audio[0]))


def test_float_logits_of_a_stream_are_those_of_one_call(networks: Networks, babble: list[np.ndarray]) -> None:
    import torch

    blocks = [block.codes[FLOAT] for block in hear(networks, babble)]
    module, signature = load_checkpoint(entry_folder(ENTRY)).module, networks.program.signature
    features = compute_features(networks.bundle.features, np.concatenate(babble), multiple_of=signature.step_frames)
    with torch.no_grad():
        logits, _ = module(torch.from_numpy(features)[None], module.initial_state(1))
    scale = networks.quants[FLOAT].scale[0]
    assert np.concatenate(blocks) * scale == pytest.approx(logits[0].numpy(), abs=scale / 2 + FLOAT_ATOL)


def test_records_of_shards_add_up_and_survive_json() -> None:
    one = StreamCounts(n_recordings=2, n_samples=100, events={FLOAT: (3, 1), INT8: (4, 0)})
    two = StreamCounts(n_recordings=1, n_samples=7, events={INT8: (1, 1), FLOAT: (0, 2)})
    both = one + two
    assert both == StreamCounts(n_recordings=3, n_samples=107, events={FLOAT: (3, 3), INT8: (5, 1)})
    assert StreamCounts.from_dict(json.loads(json.dumps(both.to_dict()))) == both


def test_only_the_keyword_that_a_recording_says_counts(networks: Networks, babble: list[np.ndarray]) -> None:
    never = with_threshold(networks.bundle.detector_config, 1.0)
    any_word = with_threshold(networks.bundle.detector_config, 0.05)
    heard = [hear_spoken(networks, babble[2], [any_word, never], label=label) for label in (None, "yes", "stop")]
    assert heard[0].heard[INT8] == (True, False)
    assert heard[0].latency_s(INT8) == heard[0].detected_s[INT8] - heard[0].sound_end_s  # type: ignore[operator]
    assert [one.is_labelled for one in heard] == [False, True, True]
    assert not all(one.heard[INT8][0] for one in heard[1:])


def test_the_sound_of_a_recording_ends_with_its_last_loud_hundredth_of_a_second() -> None:
    samples = np.zeros(16_000, np.int16)
    samples[3_000:8_000] = 10_000
    samples[12_000:] = 50  # 46 dB below
    assert sound_end_s(samples, 16_000) == 0.5


def test_thresholds_of_labels_and_a_gate_do_not_hinder_a_common_threshold() -> None:
    clock = StreamClock(
        sample_rate=16000, hop_length=160, win_length=400, first_offset=0, step_frames=4, outputs_per_step=1,
        window_frames=20,
    )  # fmt: skip
    config = DetectorConfig(smoothing_s=0.0, threshold=0.9, releases={"yes": 0.8}, thresholds={"yes": 0.99})
    network = SimpleNamespace(output="logits", output_quant=QuantParams(scale=(0.1,), zero_point=0))
    bundle: Any = SimpleNamespace(
        labels=("_unknown_", "yes"), background_labels=("_unknown_",), clock=clock,
        features=preset("log_mel"), manifest=SimpleNamespace(network=network),
    )  # fmt: skip
    codes = np.zeros((60, 2), dtype=np.int8)
    codes[[10, 40], 1] = 20  # softmax of (0, 2) is 0.88
    codes[11:40, 1] = -20

    def n_events(threshold: float) -> int:
        each = detector(bundle, with_threshold(config, threshold))
        return len([*each.process(codes), *each.flush()])

    assert n_events(0.95) == 0
    assert n_events(0.7) == 2


def test_float_logits_reach_the_detector_finely_enough() -> None:
    # Of two labels at 0.9, half a code of 2**-9 moves the probability by 0.9 * 0.1 * 2**-10 = 9e-5.
    from edgeaudio.parity.streams import FLOAT_LOGITS

    assert quantize(np.array([63.99, -64.0], np.float32), FLOAT_LOGITS).tolist() == [32763, -32768]
    assert FLOAT_LOGITS.scale == (2.0**-9,)


def test_folders_named_for_labels_say_which_recordings_count(tmp_path: Path, networks: Networks) -> None:
    for name in ("yes", "_unknown_", "_silence_", "talk"):
        write_wav(tmp_path / name / "a.wav", np.ones(160, np.int16), 16_000)
    bundle = networks.bundle
    assert [path.parent.name for path in positive_files(bundle, tmp_path)] == ["talk", "yes"]
    assert [path.parent.name for path in negative_files(bundle, tmp_path)] == ["_unknown_", "talk"]
    assert [path.parent.name for path in negative_files(bundle, tmp_path / "_silence_")] == ["_silence_"]
    names = ("yes", "_unknown_", "talk")
    assert [said_in(bundle, tmp_path / name / "a.wav") for name in names] == ["yes", None, None]


def test_a_folder_without_recordings_and_a_bundle_without_keywords_are_refused(tmp_path: Path) -> None:
    bundle = open_bundle(entry_folder("digits-ctc") / BUNDLE)
    with pytest.raises(ParityError, match="task='ctc' has no threshold; give a keyword bundle"):
        Networks(bundle=bundle, program=bundle.program("numpy"))
    with pytest.raises(ParityError, match="no recordings; give a folder that holds some"):
        positive_files(bundle, tmp_path)
    with pytest.raises(ParityError, match=r"has no model\.float\.onnx to compare with; give the checkpoint"):
        float_steps(bundle)


def test_two_streams_of_one_network_do_not_share_a_state() -> None:
    module = load_checkpoint(entry_folder(ENTRY)).module
    start = module_steps(module)
    features = np.random.default_rng(0).standard_normal((8, module.n_features)).astype(np.float32)
    one, other = start(), start()
    first = one(features)
    one(features)
    assert np.array_equal(other(features), first)


def test_a_network_of_windows_remembers_the_frames_before_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    # Eight frames a window and four a step, over 0, 1, ..., 15 after silence of zeros: sums by hand.
    session = SimpleNamespace(run=lambda _, given: [given["features"].sum(axis=1)[:, None]])
    steps = object.__new__(_OnnxSteps)
    about = {"_whole": False, "_window": 8, "_step_frames": 4, "_session": session}
    for name, value in {**about, "_silence": np.zeros((4, 1), np.float32)}.items():
        monkeypatch.setattr(steps, name, value, raising=False)
    features = np.arange(16, dtype=np.float32)[:, None]
    hear_next = steps.start()
    parts = [hear_next(features[:12]), hear_next(features[12:])]
    assert np.concatenate(parts)[:, 0].tolist() == steps.run(features)[:, 0].tolist() == [6.0, 28.0, 60.0, 92.0]
