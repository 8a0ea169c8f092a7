"""From a phrase to a checkpoint in small: what is gathered, what is mined, and that a threshold comes out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from edgeaudio_models.checkpoint import load_checkpoint
from edgeaudio_models.errors import CorpusError, SynthesisError
from edgeaudio_models.recipe import Recipe, load_recipe
from edgeaudio_models.recipe_text import format_recipe
from edgeaudio_models.synthesis import PicoSynthesizer, Utterance
from edgeaudio_models.synthesis.further import FliteSynthesizer, HibariSynthesizer, every_synthesizer
from edgeaudio_models.wake_word import background, corpus, training
from edgeaudio_models.wake_word.corpus import WakeWordCorpus, gather, rows_of
from edgeaudio_models.wake_word.negatives import is_phrase
from edgeaudio_models.wake_word.phonemes import Phonemizer
from edgeaudio_models.wake_word.phrase import read_phrase
from edgeaudio_models.wake_word.speaking import Speakers, speakers
from edgeaudio_models.wake_word.threshold import GRID, with_margin
from edgeaudio_models.wake_word.training import fitted_to, train_wake_word, with_phrase, with_windows
from edgeaudio_runtime.errors import SpecError

RATE = 16_000
FEW = {
    "positives": 24, "near_words": 6, "near_clips": 12, "partial_clips": 8, "other_clips": 12, "noise_clips": 8,
    "mining_clips": 8, "mined": 6, "mining_epochs": 1, "variants": 1,
}  # fmt: skip


def small(phrase: str = "jarvis", **settings: object) -> Recipe:
    recipe = with_phrase(load_recipe("wake-word"), phrase)
    return replace(
        recipe,
        corpus=replace(recipe.corpus, synthesizers=("pico",)),
        model=replace(recipe.model, start="", parameters={"channels": 16, "kernel_sizes": [9, 9], "window_frames": 24}),
        training=replace(recipe.training, epochs=1, batch_size=16),
        augmentation=replace(recipe.augmentation, n_rooms=2),
        wake_word=replace(recipe.wake_word, **(FEW | settings)),  # type: ignore[arg-type]
    )


@pytest.fixture(autouse=True, scope="module")
def nothing_recorded() -> Iterator[None]:
    """Where recordings are at hand they would be heard too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("EDGEAUDIO_DATA", raising=False)
        yield


@pytest.fixture(scope="module")
def gathered(nothing_recorded: None) -> WakeWordCorpus:
    return gather(small(), background=None, cache_folder=None)


def test_the_phrase_is_the_second_label_and_names_the_model() -> None:
    recipe = with_phrase(load_recipe("wake-word"), "Hey  Jarvis")
    assert recipe.corpus.labels == ("_unknown_", "hey jarvis")
    assert (recipe.name, recipe.wake_word.phrase) == ("wake-word-hey-jarvis", "hey jarvis")


def test_recipes_of_other_kinds_say_nothing_of_wake_words() -> None:
    assert "wake_word" not in format_recipe(load_recipe("kws-12"))
    assert 'phrase = "jarvis"' in format_recipe(with_phrase(load_recipe("wake-word"), "jarvis"))


def test_rows_hold_the_phrase_at_their_end_and_other_speech_throughout(gathered: WakeWordCorpus) -> None:
    data = rows_of(small(), gathered)
    labels, rows = data.train.label_indices, data.train.waveforms
    assert int(labels.sum()) == len(gathered.positives.train) == 20  # 15 % of 24 to choose by, rounded
    longest = max(map(len, (*gathered.positives.train, *gathered.positives.validation)))
    assert rows.shape[1] == pytest.approx(1.16 * longest + 1.0 * RATE, abs=0.04 * RATE)
    assert rows.shape[1] % 640 == 0
    for row, clip in zip(rows[labels == 1], gathered.positives.train, strict=True):
        assert not row[: len(row) - len(clip)].any()
        assert np.corrcoef(row[-len(clip) :], clip)[0, 1] > 0.999  # at another level
    assert data.provenance["wake_word"]["phonemes"] == ["d͡ʒ", "ɑ", "ɹ", "v", "ɪ", "s"]
    assert data.provenance["sources"][0]["licence"] == "Apache-2.0 (SVOX Pico)"


def test_a_long_phrase_gets_longer_kernels(gathered: WakeWordCorpus) -> None:
    said = replace(gathered.positives, train=(np.ones(2 * RATE, np.int16),))
    fitted = fitted_to(small(), replace(gathered, positives=said))
    assert fitted.model.parameters["kernel_sizes"] == [18, 18]
    assert fitted.wake_word.clip_seconds == pytest.approx(3.32)  # 1.16 * 2 + 1
    assert fitted_to(fitted, replace(gathered, positives=said)) == fitted  # trained once more by its own recipe
    said = replace(said, train=(np.ones(4 * RATE, np.int16),))
    with pytest.raises(SpecError, match=r"takes 4\.6 s to say slowly, it must take at most 2\.5 s"):
        fitted_to(small(), replace(gathered, positives=said))


def test_two_trainings_and_a_threshold_leave_a_checkpoint(gathered: WakeWordCorpus, tmp_path: Path) -> None:
    told: list[str] = []
    run = train_wake_word(small(), gathered, tmp_path, say=told.append)
    read = load_checkpoint(tmp_path / "checkpoint")
    assert read.labels == ("_unknown_", "jarvis")
    assert read.recipe.detector["threshold"] == run.threshold.value
    assert run.threshold.value in GRID
    assert read.metrics["threshold"]["hours"] == pytest.approx(run.threshold.hours)
    assert read.recipe.wake_word.clip_seconds > 1.0
    assert told[0].startswith("20 phrases and ")
    assert (tmp_path / "second" / "checkpoint").is_dir() == bool(read.provenance["mined"]["windows"])


def test_a_committee_listens_for_the_phrase_with_the_mean_of_its_members(
    gathered: WakeWordCorpus, tmp_path: Path
) -> None:
    recipe = small()
    shape = {**recipe.model.parameters, "members": 2}
    committee = replace(
        recipe,
        model=replace(recipe.model, architecture="ds_tc_committee", parameters=shape),
        training=replace(recipe.training, epochs=2, averaged_epochs=2),  # of which the second training has one
    )
    train_wake_word(committee, gathered, tmp_path)
    read = load_checkpoint(tmp_path / "checkpoint")
    assert read.architecture == "ds_tc_committee"
    assert len(read.module.learners) == 2
    assert read.metrics["threshold"]["value"] in GRID


def test_a_twentieth_of_the_phrases_is_spent_on_a_higher_threshold() -> None:
    scores = np.concatenate([np.linspace(0.61, 0.79, 4), np.full(96, 0.99)])
    assert with_margin(scores, 0.0) == 0.98  # 4 of 100 are missed there, none at the lowest
    scores = np.concatenate([np.linspace(0.61, 0.79, 8), np.full(92, 0.99)])
    assert with_margin(scores, 0.0) == 0.725  # five are missed there, 0.713 the last of them, six at 0.75
    assert with_margin(scores, 0.7) == 0.98  # five are missed at the lowest, so ten may be
    assert with_margin(scores, 0.999) == 0.98  # nothing is without a false accept


def test_mined_windows_are_further_rows_without_the_phrase(gathered: WakeWordCorpus) -> None:
    data = rows_of(small(), gathered)
    windows = np.full((3, data.train.waveforms.shape[1]), 7, np.int16)
    more = with_windows(data, windows)
    assert len(more.train) == len(data.train) + 3
    assert int(more.train.label_indices.sum()) == int(data.train.label_indices.sum())
    assert more.train.waveforms[-3:].min() == 7


@pytest.mark.parametrize("factor", [0.88, 1.0, 1.14])
def test_a_stream_is_replayed_in_blocks_as_it_would_be_whole(factor: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "REPLAY_BLOCK", 64)
    stream = np.random.default_rng(0).integers(-32768, 32768, 999).astype(np.int16)
    whole = np.interp(np.arange(round(999 * factor)) / factor, np.arange(999), stream)
    np.testing.assert_array_equal(training._replayed(stream, factor), np.rint(whole))


def test_recorded_speech_is_split_by_speaker_and_its_test_split_is_not_read(tmp_path: Path) -> None:
    folder = tmp_path / "speech"
    folder.mkdir()
    for speaker in range(40):
        for take in range(2):
            soundfile.write(folder / f"{speaker}-{take}.wav", np.full(100, speaker + 1, np.int16), RATE)
    read = background.read_speech(tmp_path, ["speech", "absent"], sample_rate=RATE)
    train, validation = ({int(clip[0]) for clip in part} for part in (read.train, read.validation))
    assert len(read.train) + len(read.validation) == 80
    assert not train & validation
    assert 0 < len(validation) < 12  # a tenth of 40, by a hash
    rows = "\n".join(f"{speaker}-0.wav,speech,{speaker},{'test' if speaker < 20 else 'train'}" for speaker in range(40))
    (folder / "manifest.csv").write_text(f"path,label,speaker,split\n{rows}\n")
    read = background.read_speech(tmp_path, ["speech"], sample_rate=RATE)
    assert {int(clip[0]) for clip in (*read.train, *read.validation)} == set(range(21, 41))


def test_recordings_of_the_phrase_itself_are_left_out(tmp_path: Path) -> None:
    phonemizer = Phonemizer()
    phrase = read_phrase("happy", phonemizer)
    (tmp_path / "speech").mkdir()
    rows = ["path,label,word,speaker,split"]
    words = ["happy", "Happi", "harpy", "cat", "", ""]
    labels = ["happy", "_unknown_", "_unknown_", "cat", "happy", "_silence_"]
    for i, (label, word) in enumerate(zip(labels, words, strict=True)):
        soundfile.write(tmp_path / "speech" / f"{i}.wav", np.full(100, i + 1, np.int16), RATE)
        rows.append(f"{i}.wav,{label},{word},s{i},train")
    (tmp_path / "speech" / "manifest.csv").write_text("\n".join(rows) + "\n")
    read = background.read_speech(
        tmp_path, ["speech"], sample_rate=RATE, is_phrase=lambda text: is_phrase(text, phrase, phonemizer)
    )
    assert sorted(int(clip[0]) for clip in (*read.train, *read.validation)) == [3, 4, 6]  # harpy, cat and silence
    assert read.n_left_out == 3


def test_recordings_come_from_the_folder_that_is_given_or_else_from_the_named_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert background.background_folder(None) is None
    monkeypatch.setenv("EDGEAUDIO_DATA", str(tmp_path))
    assert background.background_folder(None) == tmp_path
    assert background.background_folder(tmp_path / "own") == tmp_path / "own"
    with pytest.raises(CorpusError, match="no recordings in"):
        gather(small(), background=None, cache_folder=None)


def test_a_background_folder_without_recordings_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"no recordings in \['speech', .*, 'noise'"):
        gather(small(), background=tmp_path, cache_folder=None)


def test_missing_synthesizers_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = small()
    with pytest.raises(SynthesisError, match=r"synthesizers \['nobody'\] are not installed"):
        gather(
            replace(recipe, corpus=replace(recipe.corpus, synthesizers=("nobody",))), background=None, cache_folder=None
        )
    monkeypatch.setattr(corpus, "every_synthesizer", lambda: ())
    with pytest.raises(SynthesisError, match=r"pip install 'edgeaudio\[synthesis,wake-word\]'"):
        gather(replace(recipe, corpus=replace(recipe.corpus, synthesizers=())), background=None, cache_folder=None)


class Mute(PicoSynthesizer):
    """Cannot say every so many-th word."""

    every = 2
    asked = 0

    def synthesize(self, text: str, voice: str, rate: float = 1.0, pitch: float = 1.0):  # type: ignore[no-untyped-def]
        self.asked += 1
        if self.asked % self.every == 0:
            raise SynthesisError("mute: no")
        return np.full(1000, 500, np.int16), RATE


def voices(engine: PicoSynthesizer) -> Speakers:
    return speakers([engine], sample_rate=RATE, cache_folder=None, seed=0)


def test_a_few_words_that_an_engine_cannot_say_are_left_out_and_many_end_the_work() -> None:
    engine = Mute()
    engine.every = 20
    said = voices(engine).say("other", ["one", "two"], 40)
    assert len(said.train) + len(said.validation) == 38
    with pytest.raises(SynthesisError, match="texts could not be said") as caught:
        voices(Mute()).say("other", ["one", "two"], 40)
    assert "mute: no" in str(caught.value.__cause__)


def test_slow_synthesizers_say_long_phrases_less_often() -> None:
    short, long = (read_phrase(text, Phonemizer()) for text in ("jarvis", "hey raspberry"))
    assert (len(short.phonemes), len(long.phonemes)) == (6, 9)
    assert [corpus.slow_rounds(kind, short) for kind in ("phrase", "near", "other")] == [1, 4, 10]
    assert [corpus.slow_rounds(kind, long) for kind in ("phrase", "near", "other")] == [2, 8, 20]


def test_a_share_of_the_recordings_is_followed_at_once() -> None:
    pieces = [np.full(100, i + 1, np.int16) for i in range(400)]
    gap_seconds = (0.05, 0.1)
    apart = background.joined(pieces, gap_seconds=gap_seconds, sample_rate=1000, seed=0)
    closer = background.joined(pieces, gap_seconds=gap_seconds, sample_rate=1000, seed=0, abutting=0.4)
    ends = np.flatnonzero((closer[:-1] > 0) & (closer[1:] != closer[:-1]))
    assert np.mean(closer[ends + 1] > 0) == pytest.approx(0.4, abs=0.08)  # one standard error is 0.025
    assert not np.any((apart[:-1] > 0) & (apart[1:] > 0) & (apart[1:] != apart[:-1]))
    np.testing.assert_array_equal(closer[closer > 0], apart[apart > 0])


def test_the_stream_is_mined_in_another_order_at_every_rate(gathered: WakeWordCorpus) -> None:
    recorded = tuple(np.full(2000, 1000 + i, np.int16) for i in range(12))
    heard = replace(gathered, speech=background.RecordedSpeech(train=recorded), noise=None)
    streams = training.mining_streams(small(), heard)
    assert [len(each) for each in streams] == [2] * len(training.REPLAYED)
    orders = {tuple(np.unique(each[0][np.isin(each[0], range(1000, 1012))], return_index=True)[1]) for each in streams}
    assert len(orders) == len(streams)
    for spoken, rest in streams:
        assert all(np.count_nonzero(spoken == 1000 + i) >= 2000 for i in range(12))
        np.testing.assert_array_equal(rest, gathered.negatives.train)


@pytest.mark.parametrize("kind", [FliteSynthesizer, HibariSynthesizer])
def test_further_synthesizers_speak_faster_when_told(kind: type[FliteSynthesizer | HibariSynthesizer]) -> None:
    engine = next((each for each in every_synthesizer() if isinstance(each, kind)), None)
    if engine is None:
        pytest.skip(f"{kind.__name__} is not installed here")
    from edgeaudio_models.synthesis import speak

    for voice in engine.voices[:2]:
        slow, fast = (speak(engine, Utterance(text="jarvis", voice=voice, rate=rate)) for rate in (0.8, 1.25))
        assert 0.25 * RATE < len(fast) < len(slow) < 1.2 * RATE
