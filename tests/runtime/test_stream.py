"""AudioStream: words found where they were planted, however the audio is cut."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeaudio_runtime.bundle import open_bundle
from edgeaudio_runtime.errors import SpecError
from edgeaudio_runtime.events import Event
from edgeaudio_runtime.features import FeatureSpec, PcmSpec
from edgeaudio_runtime.front_end import compute_features
from edgeaudio_runtime.listener import activity
from edgeaudio_runtime.presets import preset
from edgeaudio_runtime.quantization import quantize
from edgeaudio_runtime.stream import AudioStream, LogitStream, clip_logits

WORDS = [("low", 0.7, 0.5), ("high", 1.9, 0.3), ("high", 3.1, 0.45), ("low", 4.4, 0.35), ("high", 5.3, 0.4)]
# No word is longer than this network needs to fire (0.2 s) and an event waits for its end (0.3 s).
TIME_TOLERANCE_S = 0.05
"""Half a frame of blur on either side, a hop, and the ramp of the level."""


def listen(stream: AudioStream, samples: np.ndarray, sizes: list[int]) -> list[Event]:
    events, position = [], 0
    while position < len(samples):
        size = sizes.pop(0) if sizes else 1600
        events += stream.process(samples[position : position + size])
        position += size
    return events + stream.flush()


@pytest.fixture(scope="module")
def pcm(make_scene: Callable[..., np.ndarray]) -> np.ndarray:
    return make_scene(WORDS, 6.5)


def test_every_planted_word_is_found_in_order_at_its_time_and_nothing_else(
    keyword_bundle: Path, pcm: np.ndarray
) -> None:
    events = listen(AudioStream(open_bundle(keyword_bundle)), pcm, [])
    assert [event.label for event in events] == [band for band, _, _ in WORDS]
    for event, (_, start_s, duration_s) in zip(events, WORDS, strict=True):
        assert event.start_s == pytest.approx(start_s, abs=TIME_TOLERANCE_S)
        assert event.end_s == pytest.approx(start_s + duration_s, abs=TIME_TOLERANCE_S)
        assert event.end_s <= event.detected_s <= event.end_s + 0.3
        assert 0.6 <= event.score <= 1.0


def test_the_transcript_names_the_words_in_order(ctc_bundle: Path, pcm: np.ndarray) -> None:
    events = listen(AudioStream(open_bundle(ctc_bundle)), pcm, [])
    assert "".join(event.text for event in events if event.final) == "lhhlh"
    assert [event.final for event in events][-1]


@settings(max_examples=25)
@given(sizes=st.lists(st.one_of(st.integers(0, 3), st.integers(0, 5000), st.just(160)), max_size=40))
def test_chunking_changes_no_event(keyword_bundle: Path, pcm: np.ndarray, sizes: list[int]) -> None:
    bundle = open_bundle(keyword_bundle)
    program = bundle.program("numpy")
    stream = AudioStream(bundle, program=program)
    whole = stream.process(pcm) + stream.flush()
    assert listen(AudioStream(bundle, program=program), pcm, sizes) == whole


@pytest.mark.parametrize("engine", ["numpy", "onnxruntime", "litert"])
def test_chunking_changes_no_logit_on_any_engine(every_engine_bundle: Path, pcm: np.ndarray, engine: str) -> None:
    bundle = open_bundle(every_engine_bundle)
    if engine not in bundle.engines():
        pytest.skip(f"{engine} is not installed")
    stream, rng, parts, position = LogitStream(bundle.features, bundle.program(engine)), np.random.default_rng(5), [], 0
    while position < len(pcm):
        size = int(rng.integers(0, 3000))
        parts.append(stream.process(pcm[position : position + size])[0])
        position += size
    parts.append(stream.flush()[0])
    offline = clip_logits(bundle, pcm, program=bundle.program("numpy"))
    np.testing.assert_array_equal(np.concatenate(parts), offline)


def test_two_streams_of_one_program_do_not_touch_each_other(keyword_bundle: Path, pcm: np.ndarray) -> None:
    bundle = open_bundle(keyword_bundle)
    program = bundle.program("numpy")
    alone = listen(AudioStream(bundle, program=program), pcm, [])
    first, second = AudioStream(bundle, program=program), AudioStream(bundle, program=program)
    events = []
    for position in range(0, len(pcm), 700):
        events += first.process(pcm[position : position + 700])
        second.process(pcm[::-1][position : position + 1100])
    assert events + first.flush() == alone


@pytest.mark.parametrize("how", ["reset", "flush"])
def test_a_stream_is_as_new_afterwards(keyword_bundle: Path, pcm: np.ndarray, how: str) -> None:
    bundle = open_bundle(keyword_bundle)
    stream = AudioStream(bundle)
    stream.process(pcm[:20_001])
    getattr(stream, how)()
    assert listen(stream, pcm, []) == listen(AudioStream(bundle), pcm, [])


def test_float_samples_say_the_same_as_int16(keyword_bundle: Path, pcm: np.ndarray) -> None:
    bundle = open_bundle(keyword_bundle)
    real = (pcm / np.float32(32768)).astype(np.float32)
    assert listen(AudioStream(bundle), real, []) == listen(AudioStream(bundle), pcm, [])


def test_the_tail_is_filled_up_to_a_whole_step(keyword_bundle: Path) -> None:
    bundle = open_bundle(keyword_bundle)
    program = bundle.program("numpy")
    # ceil(16000 / 160) = 100 frames are 25 steps; one sample more makes 101, 26 steps; a single one makes one step.
    for n_samples, n_steps in ((16_000, 25), (16_001, 26), (1, 1), (0, 0)):
        assert len(clip_logits(bundle, np.zeros(n_samples, dtype=np.int16), program=program)) == n_steps


def test_the_codes_that_reach_the_engine_are_the_quantized_features(keyword_bundle: Path, pcm: np.ndarray) -> None:
    bundle = open_bundle(keyword_bundle)
    program = bundle.program("numpy")
    features = compute_features(bundle.features, pcm, multiple_of=4)
    expected = program.session().run(quantize(features, bundle.manifest.network.input_quant))
    np.testing.assert_array_equal(clip_logits(bundle, pcm, program=program), expected)


@pytest.mark.parametrize(
    ("samples", "words"),
    [
        (np.zeros(10, dtype=np.float64), "float64"),
        (np.zeros((2, 10), dtype=np.int16), r"\[2, 10\]|2-D|1-D"),
        (np.full(10, np.nan, dtype=np.float32), "(?i)nan"),
        (np.full(10, 2000.0, dtype=np.float32), "2000"),
    ],
)
def test_samples_that_cannot_be_meant_are_refused(keyword_bundle: Path, samples: np.ndarray, words: str) -> None:
    with pytest.raises(SpecError, match=words):
        AudioStream(open_bundle(keyword_bundle)).process(samples)


def test_another_rate_is_refused(keyword_bundle: Path) -> None:
    with pytest.raises(SpecError, match="sample_rate=44100 must be 16000, the bundle's; resample first"):
        AudioStream(open_bundle(keyword_bundle)).process(np.zeros(10, dtype=np.int16), sample_rate=44100)


def test_activity_is_the_first_coefficient_where_there_is_a_dct() -> None:
    features = np.array([[3.0, 1.0, 2.0], [-1.0, 5.0, 0.0]], dtype=np.float32)
    np.testing.assert_array_equal(activity(preset("log_mel"), features), [6.0, 4.0])
    np.testing.assert_array_equal(activity(preset("tf_mfcc_kws"), features), [3.0, -1.0])


def test_activity_of_raw_samples_is_their_power_in_decibels() -> None:
    features = np.array([[1.0, -1.0], [0.1, 0.1], [0.0, 0.0]], dtype=np.float32)
    # The mean of the squares: 1, 0.01 and nothing, which counts as -100 dB.
    spec = PcmSpec(sample_rate=16_000, win_length=2, hop_length=2)
    np.testing.assert_allclose(activity(spec, features), [0.0, -20.0, -100.0], atol=1e-4)


def test_a_windowed_bundle_hears_its_clip_as_a_whole(keyword_bundle: Path, tmp_path: Path, pcm: np.ndarray) -> None:
    shutil.copytree(keyword_bundle, tmp_path / "windowed")
    manifest = json.loads((tmp_path / "windowed/manifest.json").read_text())
    manifest["features"] = {**manifest["features"], "utterance": "dynamic_range", "utterance_range": 8.0}
    spec = FeatureSpec.from_dict(manifest["features"])
    manifest |= {"mode": "windowed", "features_hash": spec.hash}
    (tmp_path / "windowed/manifest.json").write_text(json.dumps(manifest))
    bundle = open_bundle(tmp_path / "windowed")
    program = bundle.program("numpy")
    expected = program.session().run(
        quantize(compute_features(spec, pcm, multiple_of=4), bundle.manifest.network.input_quant)
    )
    stream = LogitStream(spec, program)
    assert all(len(stream.process(pcm[i : i + 9000])[0]) == 0 for i in range(0, len(pcm), 9000))
    np.testing.assert_array_equal(stream.flush()[0], expected)
    assert stream.flush()[0].shape == (0, 4)
    stream.process(pcm[:10])
    with pytest.raises(SpecError, match="samples are float32 after int16; one recording has one dtype"):
        stream.process(np.zeros(10, dtype=np.float32))
    with pytest.raises(SpecError, match="a windowed bundle hears at most"):
        stream.process(np.zeros(60 * 48_000, dtype=np.int16))


def test_memory_does_not_grow_with_time(keyword_bundle: Path, pcm: np.ndarray) -> None:
    import tracemalloc

    stream = AudioStream(open_bundle(keyword_bundle))
    chunk = pcm[:16_000]
    for _ in range(3):
        stream.process(chunk)
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for _ in range(40):
        stream.process(chunk)
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    # Forty seconds of features alone are 640 kB; caches of numpy and pieces of one chunk make about 20 kB.
    assert grown < 64_000


def test_the_readme_of_the_runtime_runs(keyword_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    readme = (Path(__file__).parents[2] / "runtime/README.md").read_text()
    code = readme.split("```python\n")[1].split("```")[0]
    (tmp_path / "bundle").symlink_to(keyword_bundle, target_is_directory=True)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})
