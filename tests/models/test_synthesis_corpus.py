"""Synthesized corpora and scenes: the truth about them holds, the seed decides them, validation hears other voices."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from edgeaudio_models.audio_files import Int16
from edgeaudio_models.errors import CorpusError, SynthesisError
from edgeaudio_models.synthesis import (
    UNKNOWN_WORDS,
    PicoSynthesizer,
    Scene,
    SynthesizedCorpus,
    Utterance,
    corpus,
    generate_noise,
    generate_silence,
    speak,
    speech_extent,
    synthesize_corpus,
    synthesize_scene,
    unknown_words,
)
from edgeaudio_models.synthesis.speech import set_level
from edgeaudio_runtime.errors import SpecError

RATE = 16_000
LEVEL_ERROR_DB = 0.1  # rounding to int16 at quiet levels, room noise beside a word


class Beeper:
    """A synthesizer of the tests: a tone between two silences, as long as the word and as high as the voice."""

    deterministic = True
    slow = False
    licence = "none"

    def __init__(self, name: str = "beeper", n_voices: int = 20) -> None:
        self.name = name
        self.voices = tuple(f"{'ab'[i % 2]}+{i // 2}" for i in range(n_voices))
        self.said: list[Utterance] = []

    def synthesize(self, text: str, voice: str, rate: float = 1.0, pitch: float = 1.0) -> tuple[Int16, int]:
        self.said.append(Utterance(text=text, voice=voice, rate=rate, pitch=pitch))
        hz = (200 + 10 * self.voices.index(voice)) * pitch
        tone = 8000 * np.sin(2 * np.pi * hz * np.arange(int(800 * len(text) / rate)) / 8000)
        silence = np.zeros(1200)
        return np.concatenate([silence, tone, silence]).astype(np.int16), 8000


def make(**options: object) -> SynthesizedCorpus:
    defaults: dict[str, object] = {"synthesizers": [Beeper()], "n_unknown": 12, "n_silence": 14}
    return synthesize_corpus(["yes", "no"], 20, 7, **(defaults | options))  # type: ignore[arg-type]


def test_a_corpus_has_the_asked_clips_of_every_label() -> None:
    made = make()
    assert made.labels == ("_silence_", "_unknown_", "yes", "no")
    assert Counter(made.labels[i] for i in made.label_indices) == {
        "yes": 20,
        "no": 20,
        "_unknown_": 12,
        "_silence_": 14,
    }
    assert (made.waveforms.shape, made.waveforms.dtype) == ((66, 16_000), np.int16)
    assert [len(part) for part in (made.words, made.voices, made.splits)] == [66] * 3
    for label, word, voice in zip(made.label_indices, made.words, made.voices, strict=True):
        assert {0: word == voice == "", 1: word in UNKNOWN_WORDS, 2: word == "yes", 3: word == "no"}[int(label)]
    assert [(source.name, source.licence) for source in made.sources] == [("synthesized by beeper", "none")]


def test_the_seed_decides_every_sample() -> None:
    first, again = make(), make()
    np.testing.assert_array_equal(first.waveforms, again.waveforms)
    assert (first.voices, first.splits) == (again.voices, again.splits)
    other = synthesize_corpus(["yes", "no"], 20, 8, synthesizers=[Beeper()], n_unknown=12, n_silence=14)
    assert not np.array_equal(first.waveforms, other.waveforms)


def test_validation_hears_voices_that_training_never_does() -> None:
    made = make()
    train, validation = made.select("train"), made.select("validation")
    assert made.voices_disjoint
    kinds = [{voice.rpartition("+")[2] for voice in part.voices if voice} for part in (train, validation)]
    assert not kinds[0] & kinds[1]  # not even with another accent
    assert len(train) + len(validation) == len(made)
    assert Counter(validation.label_indices.tolist()) == {0: 2, 1: 2, 2: 3, 3: 3}  # 15 % of each, rounded


def test_with_two_voices_alone_both_splits_share_them_and_say_so() -> None:
    made = make(synthesizers=[Beeper(n_voices=2)])
    assert not made.voices_disjoint
    assert set(made.select("validation").voices) - {""} == set(made.select("train").voices) - {""}


def test_synthesizers_take_turns_and_the_one_with_few_voices_only_trains() -> None:
    made = make(synthesizers=[Beeper("few", 2), Beeper("many", 20)])
    spoken = Counter(voice.partition(":")[0] for voice in made.select("train").voices if voice)
    assert abs(spoken["few"] - spoken["many"]) <= 3
    assert {voice.partition(":")[0] for voice in made.select("validation").voices if voice} == {"many"}


def test_a_further_word_changes_no_other() -> None:
    two, three = Beeper(), Beeper()
    synthesize_corpus(["yes", "no"], 20, 7, synthesizers=[two], n_unknown=0, n_silence=0, workers=1)
    synthesize_corpus(["yes", "no", "stop"], 20, 7, synthesizers=[three], n_unknown=0, n_silence=0, workers=1)
    assert three.said[: len(two.said)] == two.said
    assert {utterance.text for utterance in two.said} == {"yes", "no"}


def test_words_stand_whole_at_varied_places_and_levels_in_room_noise() -> None:
    made = make(n_unknown=0, n_silence=0)
    starts, levels = [], []  # levels within 1 dB: frames at the edges are half silent
    for clip in made.waveforms:
        start, stop = speech_extent(clip, RATE, below_db=-12.0)
        assert stop - start >= 0.14 * RATE  # "no" at the fastest rate: 2 * 0.1 s / 1.35
        starts.append(start)
        levels.append(10 * np.log10(np.mean((clip[start:stop] / 32768.0) ** 2)))
        assert np.count_nonzero(clip) > 0.8 * len(clip)  # -75 dB is six steps of int16, rarely rounded to 0
    assert max(starts) - min(starts) > 0.4 * RATE
    assert corpus.MIN_LEVEL_DB - 1 < min(levels) < corpus.MIN_LEVEL_DB + 3
    assert corpus.MAX_LEVEL_DB - 3 < max(levels) < corpus.MAX_LEVEL_DB + 1


def test_an_engine_that_fails_ends_the_work_at_once() -> None:
    class Failing(Beeper):
        def synthesize(self, text: str, voice: str, rate: float = 1.0, pitch: float = 1.0) -> tuple[Int16, int]:
            if len(self.said) >= 5:
                raise SynthesisError("beeper: out of breath")
            return super().synthesize(text, voice, rate, pitch)

    with pytest.raises(SynthesisError, match="beeper: out of breath"):
        make(synthesizers=[failing := Failing()])
    assert len(failing.said) < 10


def test_the_number_of_workers_changes_nothing() -> None:
    np.testing.assert_array_equal(make(workers=1).waveforms, make(workers=3).waveforms)


def test_progress_and_rates_and_lengths_are_passed_on() -> None:
    seen: list[tuple[int, int]] = []
    made = make(progress=lambda *counts: seen.append(counts), sample_rate=8_000, n_samples=12_000)
    assert seen[0] == (1, 52)
    assert seen[-1] == (52, 52)
    assert (made.sample_rate, made.waveforms.shape[1]) == (8_000, 12_000)


def test_what_was_said_once_comes_from_the_cache(tmp_path: Path) -> None:
    first, second = Beeper(), Beeper()
    made = make(synthesizers=[first], cache_folder=tmp_path)
    again = make(synthesizers=[second], cache_folder=tmp_path)
    assert len(first.said) > 0
    assert second.said == []
    np.testing.assert_array_equal(made.waveforms, again.waveforms)


def test_a_damaged_cached_clip_is_said_again(tmp_path: Path) -> None:
    utterance = Utterance(text="yes", voice="a+1")
    expected = speak(Beeper(), utterance, cache_folder=tmp_path)
    (file,) = (tmp_path / "speech").iterdir()
    file.write_bytes(file.read_bytes()[:1000])
    np.testing.assert_array_equal(speak(Beeper(), utterance, cache_folder=tmp_path), expected)


@pytest.mark.parametrize("field", ["text", "voice", "rate", "pitch", "name"])
def test_the_cache_tells_utterances_apart(tmp_path: Path, field: str) -> None:
    told = {"text": "yes", "voice": "a+1", "rate": 1.0, "pitch": 1.0}
    speak(Beeper(), Utterance(**told), cache_folder=tmp_path)  # type: ignore[arg-type]
    other = Beeper(name="other" if field == "name" else "beeper")
    changed = {"text": "no", "voice": "a+2", "rate": 1.1, "pitch": 1.1, "name": "x"}[field]
    speak(other, Utterance(**(told | ({} if field == "name" else {field: changed}))), cache_folder=tmp_path)  # type: ignore[arg-type]
    assert len(other.said) == 1


def test_bad_requests_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CorpusError, match=r"words=\[\] must name at least one keyword"):
        synthesize_corpus([], 10, 1)
    with pytest.raises(CorpusError, match=r"words \['yes'\] must be unlike each other and unlike \['_silence_'"):
        synthesize_corpus(["yes", "yes"], 10, 1)
    with pytest.raises(CorpusError, match="n_per_word=1 must be >= 2; 100 and more train a usable net"):
        synthesize_corpus(["yes"], 1, 1)
    with pytest.raises(CorpusError, match=r"label='_unknown_' needs texts to say for its 12 clips"):
        make(unknown=["yes"])
    with pytest.raises(CorpusError, match=r"split='test' is not in the synthesized corpus; it has \['train', 'valid"):
        make().select("test")
    monkeypatch.setattr(corpus, "installed_synthesizers", lambda: ())
    with pytest.raises(SynthesisError, match=r"no synthesizer is installed; run: pip install 'edgeaudio\[synthesis\]'"):
        synthesize_corpus(["yes"], 10, 1)


def test_unknown_words_hold_no_keyword() -> None:
    assert unknown_words(["Write", "cat"], ["write it", "CAT", "catfish", "dog"]) == ("catfish", "dog")
    assert unknown_words(["no", "stop"], ["know", "I know", "knot", "stop it", "write"]) == ("knot", "write")
    commands = {"yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go"}
    assert unknown_words(sorted(commands)) == UNKNOWN_WORDS
    assert len(UNKNOWN_WORDS) == len(set(UNKNOWN_WORDS)) >= 60


def test_the_extent_of_speech_is_found_to_five_milliseconds() -> None:
    samples = np.zeros(RATE, np.int16)
    samples[3200:8000] = (8000 * np.sin(np.arange(4800) * 0.3)).astype(np.int16)
    samples[:3200:2] = 3  # 60 dB below: a noise floor, no speech
    assert speech_extent(samples, RATE) == (3200, 8000)
    assert speech_extent(samples[:7000], RATE) == (3200, 7000)
    assert speech_extent(np.zeros(100, np.int16), RATE) == (0, 0)
    assert speech_extent(np.zeros(0, np.int16), RATE) == (0, 0)


def test_levels_are_set_in_db_and_never_clip() -> None:
    tone = (1000 * np.sin(np.arange(RATE) * 0.1)).astype(np.int16)
    rms_db = 10 * np.log10(np.mean((set_level(tone, -20.0) / 32768.0) ** 2))
    assert rms_db == pytest.approx(-20.0, abs=LEVEL_ERROR_DB)
    assert np.abs(set_level(tone, 20.0).astype(int)).max() == pytest.approx(0.999 * 32768, abs=1)
    assert not set_level(np.zeros(5, np.int16), -20.0).any()


@pytest.mark.parametrize(("kind", "slope_db"), [("white", 0.0), ("pink", -3.01), ("brown", -6.02)])
def test_noise_falls_by_its_colour_for_each_octave(kind: str, slope_db: float) -> None:
    noise = generate_noise(kind, 64_000, rms_db=-30.0, generator=np.random.default_rng(3))
    power = np.abs(np.fft.rfft(noise.astype(np.float64))) ** 2
    octaves = [10 * np.log10(power[n : 2 * n].mean()) for n in (1000, 2000, 4000, 8000)]
    np.testing.assert_allclose(np.diff(octaves), slope_db, atol=0.6)  # means of 1000 and more random bins
    assert 10 * np.log10(np.mean(noise.astype(np.float64) ** 2)) == pytest.approx(-30.0, abs=1e-3)


def test_hum_has_the_mains_and_its_harmonics_alone() -> None:
    hum = generate_noise("hum", RATE, rms_db=-20.0, generator=np.random.default_rng(3)).astype(np.float64)
    power = np.abs(np.fft.rfft(hum * np.hanning(RATE))) ** 2
    mains = 40 + int(np.argmax(power[40:70]))  # bins are 1 Hz apart
    assert min(abs(mains - 50), abs(mains - 60)) <= 1
    assert power[1000:].sum() < 1e-6 * power.sum()


def test_bad_noise_is_refused() -> None:
    with pytest.raises(SpecError, match=r"kind='blue' must be one of \['white', 'pink', 'brown', 'hum'\]"):
        generate_noise("blue", 10, rms_db=0.0, generator=np.random.default_rng(1))
    with pytest.raises(SpecError, match="n_samples=0 must be >= 1"):
        generate_noise("white", 0, rms_db=0.0, generator=np.random.default_rng(1))


def test_silence_goes_from_digital_zero_to_a_loud_fan() -> None:
    clips = generate_silence(200, 1600, generator=np.random.default_rng(2))
    assert not clips[:20].any()
    levels = 10 * np.log10(np.mean((clips[20:] / 32768.0) ** 2, axis=1) + 1e-10)
    assert levels.min() < -70
    assert -25 < levels.max() <= -20 + LEVEL_ERROR_DB
    assert generate_silence(0, 100, generator=np.random.default_rng(2)).shape == (0, 100)


def test_a_scene_plants_every_word_where_it_says() -> None:
    scene = synthesize_scene(["yes", "no", "seventeen"], 0.5, 3, synthesizer=Beeper())
    assert [word.label for word in scene.spoken] == ["yes", "no", "seventeen"]
    frame = RATE // 200
    energy = np.square(scene.samples[: len(scene.samples) // frame * frame].astype(np.float64))
    loud = energy.reshape(-1, frame).mean(axis=1) > 300.0**2
    edges = np.flatnonzero(np.diff(loud.astype(int), prepend=0, append=0)) * frame / RATE
    expected = [edge for word in scene.spoken for edge in (word.start_s, word.end_s)]
    np.testing.assert_allclose(edges, expected, atol=0.011)  # two frames of 5 ms
    gaps = np.diff([0.0, *expected, len(scene.samples) / RATE])[::2]
    assert gaps.min() >= 0.5 - 1e-4
    assert gaps.max() <= 0.75 + 1e-4


def same(first: Scene, second: Scene) -> bool:
    return np.array_equal(first.samples, second.samples) and first.spoken == second.spoken


def test_the_demo_scene_is_the_same_in_every_run() -> None:
    pytest.importorskip("py_nanotts", reason="py-nanotts is not installed")
    first, again, other = (synthesize_scene(["yes", "no", "stop", "go"], seed=seed) for seed in (1, 1, 2))
    assert same(first, again)
    assert not same(first, other)
    assert all(0.2 < word.end_s - word.start_s < 0.9 for word in first.spoken)
    chosen = synthesize_scene(["yes"], seed=1, synthesizer=PicoSynthesizer(), voices=["en-GB"])
    assert chosen.spoken[0].label == "yes"


def test_a_scene_without_words_is_refused() -> None:
    with pytest.raises(CorpusError, match=r"words=\[\] must name a word and gap_s=1.0 must be >= 0"):
        synthesize_scene([])
    with pytest.raises(CorpusError, match=r"gap_s=-1 must be >= 0"):
        synthesize_scene(["yes"], -1)


def test_real_engines_make_a_corpus_together(tmp_path: Path) -> None:
    for module in ("py_nanotts", "espeakng_loader"):
        pytest.importorskip(module, reason=f"{module} is not installed")
    made = synthesize_corpus(["yes", "no"], 8, 1, tmp_path, n_unknown=8, n_silence=4)
    engines = Counter(voice.partition(":")[0] for voice in made.voices)
    assert made.voices_disjoint
    assert engines["pico"] >= 8
    assert engines["espeak-ng"] >= 8
    np.testing.assert_array_equal(
        made.waveforms, synthesize_corpus(["yes", "no"], 8, 1, tmp_path, n_unknown=8, n_silence=4).waveforms
    )
