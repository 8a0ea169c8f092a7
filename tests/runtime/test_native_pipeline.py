"""The pipelines of the C core: the events of front end, session and listener one after the other, bit for bit."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeaudio_runtime import stream as stream_module
from edgeaudio_runtime.bundle import Bundle, open_bundle
from edgeaudio_runtime.errors import SpecError
from edgeaudio_runtime.events import Event
from edgeaudio_runtime.native import load_library
from edgeaudio_runtime.native_pipeline import FeaturePipeline, SamplePipeline
from edgeaudio_runtime.stream import AudioStream

pytestmark = pytest.mark.skipif(load_library() is None, reason="the C core was not built: no compiler at installation")

WORDS = [("low", 0.7, 0.5), ("high", 1.9, 0.3), ("high", 2.4, 0.3), ("low", 2.9, 0.35)]
SIZES = st.lists(st.sampled_from([0, 1, 159, 160, 640, 641, 1600, 5000, 20000]), max_size=30)


@pytest.fixture(scope="module")
def pcm(make_scene: Callable[..., np.ndarray]) -> np.ndarray:
    return make_scene(WORDS, 4.0)


def one_after_the_other(bundle: Bundle, pcm: np.ndarray, front_end: str, engine: str) -> list[Event]:
    """Events by the way that has no C core but for the frames, all audio in one call."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stream_module, "native_pipeline", lambda *_: None)
        stream = AudioStream(bundle, front_end=front_end, engine=engine)
    return [*stream.process(pcm), *stream.flush()]


def cut(stream: AudioStream, pcm: np.ndarray, sizes: list[int], real: list[bool]) -> list[Event]:
    events, position = [], 0
    for i, size in enumerate([*sizes, len(pcm)]):
        chunk = pcm[position : position + size]
        events += stream.process((chunk / 32768).astype(np.float32) if i < len(real) and real[i] else chunk)
        position += size
    return [*events, *stream.flush()]


@pytest.mark.parametrize(("front_end", "kind"), [("native", SamplePipeline), ("numpy", FeaturePipeline)])
@pytest.mark.parametrize("task", ["keyword", "ctc"])
@settings(max_examples=6)
@given(sizes=SIZES, real=st.lists(st.booleans(), max_size=30))
def test_any_cut_gives_the_events_of_one_stage_after_the_other(
    request: pytest.FixtureRequest, task: str, front_end: str, kind: type, pcm: np.ndarray, sizes: list[int], real: list
) -> None:
    bundle = open_bundle(request.getfixturevalue(f"{task}_bundle"))
    expected = one_after_the_other(bundle, pcm, front_end, "numpy")
    assert expected
    stream = AudioStream(bundle, front_end=front_end)
    assert isinstance(stream._pipeline, kind)
    assert cut(stream, pcm, sizes, real) == expected
    assert cut(stream, pcm, sizes[::-1], []) == expected  # as new after the flush


@pytest.mark.parametrize("engine", ["litert", "onnxruntime"])
@pytest.mark.parametrize("front_end", ["native", "numpy"])
def test_engines_of_others_are_written_to_in_place(
    every_engine_bundle: Path, engine: str, front_end: str, pcm: np.ndarray
) -> None:
    pytest.importorskip({"litert": "ai_edge_litert"}.get(engine, engine), reason="the engine is not installed")
    bundle = open_bundle(every_engine_bundle)
    stream = AudioStream(bundle, engine=engine, front_end=front_end)
    assert isinstance(stream._pipeline, (SamplePipeline, FeaturePipeline))
    expected = one_after_the_other(bundle, pcm, front_end, engine)
    assert cut(stream, pcm, [640] * 40 + [7, 9000], [True, False] * 20) == expected


def test_most_steps_wait_and_are_heard_together(keyword_bundle: Path, make_scene: Callable[..., np.ndarray]) -> None:
    quiet = make_scene([], 8.0)
    stream = AudioStream(open_bundle(keyword_bundle))
    heard: list[int] = []
    hear = stream._pipeline._listener.hear
    stream._pipeline._listener.hear = lambda codes, features: heard.append(len(codes)) or hear(codes, features)
    for i in range(0, len(quiet), 640):
        assert stream.process(quiet[i : i + 640]) == []
    assert len(heard) < len(quiet) / 640 / 10


@pytest.mark.parametrize("front_end", ["native", "numpy"])
@pytest.mark.parametrize("n_quiet", [0, 60, 76, 77, 200])
def test_what_waited_long_is_left_out_and_changes_no_event(
    keyword_bundle: Path, make_scene: Callable[..., np.ndarray], pcm: np.ndarray, n_quiet: int, front_end: str
) -> None:
    bundle = open_bundle(keyword_bundle)
    quiet = make_scene([], 8.0)[: n_quiet * 640]
    audio = np.concatenate([pcm[: 640 * 60], quiet, pcm, quiet])
    stream = AudioStream(bundle, front_end=front_end)
    passed: list[int] = []
    pass_over = stream._pipeline._listener.pass_over
    stream._pipeline._listener.pass_over = lambda codes, features, *, n_before: (
        passed.append(n_before) or pass_over(codes, features, n_before=n_before)
    )
    assert cut(stream, audio, [640] * (len(audio) // 640), []) == one_after_the_other(bundle, audio, front_end, "numpy")
    assert n_quiet < 200 or any(passed)
    assert cut(stream, pcm, [], []) == one_after_the_other(bundle, pcm, front_end, "numpy")  # nothing left of it


@pytest.mark.parametrize("bad", [np.array([0.1, np.nan], np.float32), np.zeros(3), np.zeros((2, 2), np.int16)])
def test_what_is_refused_leaves_the_stream_as_it_was(keyword_bundle: Path, pcm: np.ndarray, bad: np.ndarray) -> None:
    stream = AudioStream(open_bundle(keyword_bundle))
    events = stream.process(pcm[:30000])
    with pytest.raises(SpecError, match="samples"):
        stream.process(bad)
    events += [*stream.process(pcm[30000:]), *stream.flush()]
    assert events == one_after_the_other(open_bundle(keyword_bundle), pcm, "native", "numpy")


def test_a_reset_forgets_what_waits(keyword_bundle: Path, pcm: np.ndarray) -> None:
    stream = AudioStream(open_bundle(keyword_bundle))
    expected = [*stream.process(pcm), *stream.flush()]
    stream.process(pcm[:23456])
    stream.reset()
    assert [*stream.process(pcm), *stream.flush()] == expected
