"""``edgeaudio train wake-word --phrase`` and what comes after it: export, and counting on recordings."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from edgeaudio.bench.wake_word import Row as BenchRow
from edgeaudio.bench.wake_word import evaluate, first_without_false_accept, render
from edgeaudio.cli import main
from edgeaudio_models.audio_files import write_wav
from edgeaudio_models.synthesis import PicoSynthesizer, Utterance, speak
from edgeaudio_runtime.errors import ParityError

RATE = 16_000
RECIPE = """
name = "wake-word"

[corpus]
kind = "wake_word"
labels = ["_unknown_", "phrase"]
synthesizers = ["pico"]

[model]
architecture = "ds_tc_resnet"
parameters = { channels = 16, kernel_sizes = [9, 9], window_frames = 24 }

[training]
epochs = 2
batch_size = 16

[calibration]
clips = 12

[wake_word]
positives = 32
near_words = 6
near_clips = 12
partial_clips = 8
other_clips = 16
noise_clips = 8
mining_clips = 8
mined = 6
mining_epochs = 1
variants = 1
"""


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wake")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("EDGEAUDIO_DATA", raising=False)  # recordings at hand would be heard too
        return trained_and_exported(folder)


def trained_and_exported(folder: Path) -> Path:
    (folder / "quick.toml").write_text(RECIPE)
    cache = ("--cache", folder / "cache")
    trained = run("train", folder / "quick.toml", "--phrase", "Jarvis", "--output", folder / "run", *cache)
    assert trained.exit_code == 0, trained.output
    exported = run("export", folder / "run" / "checkpoint", "--output", folder / "bundle", "--clips", "8", *cache)
    assert exported.exception is None or isinstance(exported.exception, SystemExit), exported.output
    return folder / "bundle"


def test_the_bundle_listens_for_the_phrase_with_the_chosen_threshold(bundle: Path) -> None:
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert manifest["labels"] == ["_unknown_", "jarvis"]
    assert manifest["background_labels"] == ["_unknown_"]
    checkpoint = json.loads((bundle.parent / "run" / "checkpoint" / "checkpoint.json").read_text())
    detector = json.loads((bundle / "detector.json").read_text())
    assert detector["threshold"] == checkpoint["metrics"]["threshold"]["value"]


def test_misses_and_false_accepts_are_counted_on_recordings(bundle: Path, tmp_path: Path) -> None:
    engine = PicoSynthesizer()
    for kind, word in (("said", "jarvis"), ("other", "watermelon")):
        for i, rate in enumerate((0.9, 1.0, 1.1)):
            write_wav(tmp_path / kind / f"{i}.wav", speak(engine, Utterance(text=word, voice="en-US", rate=rate)), RATE)
    values = evaluate(bundle, tmp_path / "said", [tmp_path / "other"])
    spoken = sum(len(speak(engine, Utterance(text="watermelon", voice="en-US", rate=r))) for r in (0.9, 1.0, 1.1))
    assert values["hours"][str(tmp_path / "other")] == pytest.approx(spoken / RATE / 3600)
    row = values["rows"][-1]
    assert row["positives"] == 3
    assert row["miss_rate"] == row["misses"] / 3
    assert values["claimable_without_false_accept"] == pytest.approx(2.9957 / (spoken / RATE / 3600), rel=1e-4)
    needed = {"10": 0.29957, "1": 2.9957, "0.1": 29.957}
    assert values["hours_needed"] == pytest.approx(needed, rel=1e-4)
    assert "hours without a false accept that would show fewer than: 10 an hour 0.3 h" in render(values)


def table_row(threshold: float, false_accepts: int) -> BenchRow:
    return BenchRow(
        threshold=threshold,
        misses=0,
        positives=1,
        miss_rate=0.0,
        miss_interval=(0.0, 1.0),
        false_accepts=false_accepts,
        false_accepts_by_folder={"other": false_accepts},
        false_accepts_an_hour=0.0,
        false_accept_interval=(0.0, 1.0),
        claimable_rate=1.0,
    )


def test_the_threshold_without_a_false_accept_is_the_lowest_above_which_there_is_none() -> None:
    table = [table_row(0.5, 3), table_row(0.6, 0), table_row(0.7, 1), table_row(0.8, 0), table_row(0.9, 0)]
    clear = first_without_false_accept(table)
    assert clear is not None
    assert clear.threshold == 0.8
    assert first_without_false_accept([table_row(0.9, 1)]) is None


def test_a_folder_without_recordings_cannot_be_listened_to(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(ParityError, match="no recordings; give a folder that holds some"):
        evaluate(bundle, tmp_path, [tmp_path])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("wake-word", "--phrase", ""), "phrase='' must hold a word"),
        (("wake-word",), "phrase='' must hold a word"),
        (("wake-word", "--phrase", "a"), "it must have >= 3 to be told from other speech"),
        (("wake-word", "--phrase", "日本"), "know Latin letters"),
        (("kws-demo", "--phrase", "jarvis"), "does not go with recipe 'kws-demo'"),
    ],
)
def test_what_cannot_be_trained_is_one_line_and_exit_2(arguments: tuple[str, ...], words: str, tmp_path: Path) -> None:
    result = run("train", *arguments, "--output", tmp_path / "out")
    assert result.exit_code == 2
    assert words in result.output
    assert len(result.output.strip().splitlines()) == 1
