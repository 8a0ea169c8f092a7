"""The zoo by its commands: what lies there holds what its cards say, and an entry can be made from any checkpoint."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeaudio.licences import commercial_use, spdx
from edgeaudio.parity.task import LabelledClips, confusion
from edgeaudio.parity.word_errors import SpokenString
from edgeaudio.zoo.card import render_entry_card
from edgeaudio.zoo.card_figures import string_lines
from edgeaudio.zoo.noise import Noise, in_noise, open_noise, without_label
from edgeaudio.zoo.reproduce import shown
from edgeaudio.zoo.speed import processor_model
from edgeaudio.zoo.string_figures import in_noise as strings_in_noise
from edgeaudio_models.zoo_entries import ZOO_FOLDER, entry_names
from edgeaudio_runtime.bundle import open_bundle
from edgeaudio_runtime.cli import main as run_main
from edgeaudio_runtime.errors import ParityError, SpecError

entries = pytest.mark.parametrize("name", entry_names())
keyword_entries = pytest.mark.parametrize(
    "name", [name for name in entry_names() if open_bundle(ZOO_FOLDER / name / "bundle").task == "keyword"]
)
CARD_SECTIONS = ("Data and licence", "Accuracy", "In noise", "By level", "What it hears", "Network", "Files")


def card_of(name: str) -> dict[str, Any]:
    card: dict[str, Any] = json.loads((ZOO_FOLDER / name / "card.json").read_text("utf-8"))
    return card


@entries
def test_the_bundle_of_an_entry_passes_its_self_test(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_main([str(ZOO_FOLDER / name / "bundle"), "--selftest", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["passed"]


@entries
def test_the_certificate_of_an_entry_covers_the_files_that_lie_there(name: str) -> None:
    from edgeaudio.parity.certificate import covered_digests

    bundle = open_bundle(ZOO_FOLDER / name / "bundle")
    assert bundle.parity is not None
    assert bundle.parity["passed"]
    assert bundle.parity["covers"] == covered_digests(bundle)
    engines = {stage["name"]: stage["mismatches"] for stage in bundle.parity["stages"]}
    assert [engines[f"engine {engine}"] for engine in ("numpy", "onnxruntime", "litert")] == [0, 0, 0]


@entries
def test_the_card_says_what_was_measured_and_nothing_else(name: str) -> None:
    assert (ZOO_FOLDER / name / "card.md").read_text("utf-8") == render_entry_card(card_of(name))


@entries
def test_the_card_gives_the_sizes_of_the_files(name: str) -> None:
    files = card_of(name)["files"]
    assert {"weights.safetensors", "bundle/model.tflite", "bundle/model.onnx", "bundle/model.bin"} <= set(files)
    assert files == {path: (ZOO_FOLDER / name / path).stat().st_size for path in files}


@entries
def test_no_card_names_a_folder_of_the_machine(name: str) -> None:
    texts = [path for path in (ZOO_FOLDER / name).rglob("*") if path.suffix in (".json", ".md", ".toml", ".svg")]
    for path in texts:
        text = path.read_text("utf-8")
        assert [words for words in ("/home", "/tmp", "/work", "/root") if words in text] == []


def test_the_card_of_averaged_weights_names_no_epoch() -> None:
    card = card_of("kws-12")
    assert "was kept for its macro_accuracy" in render_entry_card(card)
    card["training"]["averages_epochs"] = True
    text = render_entry_card(card)
    assert "The weights of the last epochs were averaged: macro_accuracy of" in text
    assert "was kept for its" not in text


@pytest.mark.parametrize("name", [name for name in entry_names() if "accuracy" in card_of(name)])
def test_the_confusion_matrix_agrees_with_the_accuracy(name: str) -> None:
    card = card_of(name)
    task = card["accuracy"]
    for kind in ("float", "int8"):
        counts = np.array(task["confusion"][kind])
        assert counts.sum() == task["n"]
        assert np.trace(counts) / task["n"] == pytest.approx(task[kind])
        rows = [counts[card["labels"].index(label)] for label in task["by_label"]]
        assert [int(row.sum()) for row in rows] == [row["n"] for row in task["by_label"].values()]


def test_the_list_has_a_row_for_every_entry(run: Any) -> None:
    rows = json.loads(run("zoo", "list", "--json").stdout)
    assert [row["name"] for row in rows] == list(entry_names())
    lines = run("zoo", "list").stdout.splitlines()[1:]
    for row, line in zip(rows, lines, strict=True):
        assert line.startswith(row["name"])
        assert f"{row['parameters']:,}" in line
        assert line.endswith(row["headline"])


@entries
def test_show_prints_the_card(run: Any, name: str) -> None:
    assert run("zoo", "show", name).stdout == (ZOO_FOLDER / name / "card.md").read_text("utf-8")


@keyword_entries
def test_a_copied_bundle_listens(run: Any, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    soundfile = pytest.importorskip("soundfile")
    pytest.importorskip("py_nanotts", reason="synthesized words need edgeaudio[synthesis]")
    from edgeaudio_models.synthesis import synthesize_scene

    copied = run("zoo", "copy", name, tmp_path / "bundle")
    assert (copied.exit_code, copied.stdout) == (0, f"{tmp_path / 'bundle'}\n")
    words = [label for label in card_of(name)["labels"] if label.isalpha()][:3]
    scene = synthesize_scene(words, seed=3)
    soundfile.write(tmp_path / "scene.wav", scene.samples, scene.sample_rate, subtype="PCM_16")
    capsys.readouterr()
    assert run_main([str(tmp_path / "bundle"), str(tmp_path / "scene.wav"), "--json"]) == 0
    heard = [json.loads(line)["label"] for line in capsys.readouterr().out.splitlines()]
    # Networks of real voices need not know every word of a synthesizer, but they hear no other word in it; the smallest
    # takes "up" for "left" there.
    assert heard
    mistaken = {"left"} if name == "kws-12-small" else set()
    assert set(heard) <= {*words, *mistaken}


def test_a_copy_overwrites_nothing(run: Any, tmp_path: Path) -> None:
    name = entry_names()[0]
    (tmp_path / "bundle").mkdir()
    refused = run("zoo", "copy", name, tmp_path / "bundle")
    assert refused.exit_code == 2
    assert "exists and nothing is overwritten; remove it or pass --force" in refused.stderr
    assert run("zoo", "copy", name, tmp_path / "bundle", "--force").exit_code == 0


def test_timing_an_entry_again_changes_the_speed_alone(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgeaudio.zoo import building

    figures = {"processor": "Fast 3000", "unit": "us", "engines": {"litert": 1.25}, "pipeline": {}, "cold_start": {}}
    monkeypatch.setattr(building, "speed_figures", lambda bundle, *, rounds: {**figures, "unit": f"{rounds} rounds"})
    folder = tmp_path / "entry"
    shutil.copytree(ZOO_FOLDER / "kws-12-small", folder)
    assert run("zoo", "time", folder, "--rounds", 7).stdout == f"{folder / 'card.md'}\n"
    card = json.loads((folder / "card.json").read_text("utf-8"))
    assert card == {**card_of("kws-12-small"), "speed": {**figures, "unit": "7 rounds"}}
    assert "| network alone, litert | 1.2 |" in (folder / "card.md").read_text("utf-8")


def test_an_unknown_entry_is_one_line(run: Any) -> None:
    refused = run("zoo", "show", "kws-99")
    assert refused.exit_code == 2
    assert refused.stderr.startswith("edgeaudio: entry='kws-99' must be a folder with card.json or one of ['")


@pytest.fixture(scope="module")
def built(run: Any, face: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An entry of three artificial words, trained again from its recipe alone."""
    root = tmp_path_factory.mktemp("zoo")
    (root / "tones").mkdir()
    shutil.copy(face.recipe, root / "tones" / "recipe.toml")
    (root / "tones" / "card.json").write_text("{}", "utf-8")
    noise = f"own silence={face.corpus}/_silence_/test_*"
    made = run(
        "zoo", "retrain", root / "tones", "--data", face.corpus, "--cache", face.cache, "--noise", noise,
        "--background", face.corpus / "low", "--rounds", 0, "--output", root / "again",
    )  # fmt: skip
    assert made.exit_code == 0, made.stderr
    assert made.stdout.splitlines()[-1] == str(root / "again" / "entry")
    return root / "again" / "entry"


@pytest.mark.slow
def test_training_an_entry_again_gives_its_weights_bit_for_bit(built: Path, face: Any) -> None:
    import torch

    from edgeaudio_models.checkpoint import load_checkpoint
    from edgeaudio_models.half_weights import round_weights

    first, again = round_weights(load_checkpoint(face.checkpoint)).module, load_checkpoint(built).module
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in first.state_dict().items())
    card = json.loads((built / "card.json").read_text("utf-8"))
    assert [row["epoch"] for row in card["history"]] == [1, 2, 3]
    # Without its name space a browser shows no image.
    assert 'xmlns="http://www.w3.org/2000/svg"' in (built / "learning_curve.svg").read_text("utf-8")
    assert card["reproduce"][0].startswith("edgeaudio zoo retrain tones --data corpus --noise ")
    assert "](learning_curve.svg)" in (built / "card.md").read_text("utf-8")


@pytest.mark.slow
def test_an_entry_is_a_checkpoint_a_bundle_and_a_card(built: Path, face: Any, contents: Any) -> None:
    from edgeaudio_models.checkpoint import load_checkpoint

    card = json.loads((built / "card.json").read_text("utf-8"))
    assert (built / "card.md").read_text("utf-8") == render_entry_card(card)
    text = (built / "card.md").read_text("utf-8")
    assert [section for section in CARD_SECTIONS if f"\n## {section}\n" not in text] == []
    assert load_checkpoint(built).labels == load_checkpoint(face.checkpoint).labels
    assert not (built / "bundle" / "model.float.onnx").exists()
    assert "bundle/model.tflite" in contents(built)
    assert (card["commercial_use"], card["sources"][0]["spdx"]) == ("unknown", None)
    assert card["accuracy"]["n"] == 20  # 4 test clips of each of 5 labels
    assert card["accuracy"]["subsets"]["without _silence_"]["n"] == 16
    assert card["hearings"]["n_hearings"] == 16
    assert [row["gain_db"] for row in card["gain"]] == list(range(-30, 21, 5))
    assert {row["noise"] for row in card["noise"]} == {"own silence"}
    assert card["background"]["hours"] == pytest.approx(14 / 3600)  # 14 clips of a second
    assert "speed" not in card


@pytest.mark.slow
def test_an_entry_proves_itself_with_its_own_folder_as_checkpoint(run: Any, built: Path, face: Any) -> None:
    alone = run("parity", built / "bundle")
    assert alone.exit_code == 2
    assert (
        "has no model.float.onnx to compare with; give the checkpoint or the zoo entry it was made from" in alone.stderr
    )
    data = ("--data", face.corpus, "--cache", face.cache)
    proven = run("parity", built / "bundle", "--checkpoint", built, *data, "--json")
    assert proven.exit_code == 0, proven.stderr
    document = json.loads(proven.stdout)
    card = json.loads((built / "card.json").read_text("utf-8"))
    stages = {stage["name"]: stage for stage in document["stages"]}
    assert stages["quantization"]["reference"] == "torch"
    assert "float export" not in stages
    assert {name: document["task"][name] for name in ("float", "int8", "agreement", "n")} == {
        name: card["accuracy"][name] for name in ("float", "int8", "agreement", "n")
    }


@pytest.mark.slow
def test_an_entry_quantizes_to_the_graph_of_its_bundle_again(built: Path, face: Any, tmp_path: Path) -> None:
    from edgeaudio.exporting import ExportChoices, quantize_checkpoint
    from edgeaudio_models.checkpoint import load_checkpoint
    from edgeaudio_models.recipe_data import load_training_data
    from edgeaudio_runtime.graph_file import save_graph

    checkpoint = load_checkpoint(built)
    data = load_training_data(checkpoint.recipe, data_folder=face.corpus, cache_folder=face.cache)
    again = quantize_checkpoint(checkpoint, data.train, ExportChoices())
    save_graph(again.graph, tmp_path / "model.json", tmp_path / "model.bin")
    for name in ("model.json", "model.bin"):
        assert (tmp_path / name).read_bytes() == (built / "bundle" / name).read_bytes()


@pytest.mark.slow
def test_a_wake_word_is_judged_in_streams_float_beside_int8(built: Path, face: Any) -> None:
    from edgeaudio.parity.float_reference import module_steps
    from edgeaudio.zoo.card_figures import wake_word_lines
    from edgeaudio.zoo.stream_figures import stream_figures
    from edgeaudio_models.checkpoint import load_checkpoint

    bundle, steps = open_bundle(built / "bundle"), module_steps(load_checkpoint(built).module)
    found = stream_figures(bundle, steps, face.corpus / "low", [face.corpus / "chirp", face.corpus / "high"])
    figures = found["wake_word"]
    # 14 clips of a second in each folder.
    assert list(figures["hours"]) == ["chirp", "high"]
    assert list(figures["hours"].values()) == pytest.approx([14 / 3600] * 2)
    for row, other in zip(figures["rows"], figures["float_rows"], strict=True):
        assert row["threshold"] == other["threshold"]
        assert row["positives"] == other["positives"] == 14
        # int8 may move a decision on the edge of a threshold, not more.
        assert abs(row["misses"] - other["misses"]) <= 2
        assert abs(row["false_accepts"] - other["false_accepts"]) <= 2
        assert list(row["false_accepts_by_folder"]) == list(other["false_accepts_by_folder"]) == ["chirp", "high"]
        assert sum(row["false_accepts_by_folder"].values()) == row["false_accepts"]
    text = "\n".join(wake_word_lines(found))
    assert "14 recordings of low, each heard from a reset" in text
    assert "| 0.6 (bundle) |" in text
    assert "False accepts of int8 at 0.6: chirp " in text


def test_negatives_are_for_wake_words_alone(run: Any, face: Any, tmp_path: Path) -> None:
    refused = run(
        "zoo", "build", face.checkpoint, "--data", face.corpus, "--cache", face.cache, "--negatives", face.corpus,
        "--output", tmp_path / "entry",
    )  # fmt: skip
    assert refused.exit_code == 2
    assert "negatives are for wake words; recipe 'tones' is judged on labelled recordings" in refused.stderr


def test_strings_are_mixed_with_noise_that_is_repeated_as_needed() -> None:
    noise = Noise(name="n", samples=np.array([10, -10], dtype=np.int16))
    string = SpokenString(samples=np.array([100, -100, 100, -100, 100], dtype=np.int16), words=("a",), speaker="")
    (mixed,) = strings_in_noise([string], noise, 20.0)
    # Mean powers of 10,000 and 100 are 20 dB apart already.
    assert np.abs(mixed.samples - string.samples).tolist() == [10] * 5
    assert mixed.words == ("a",)


def test_word_errors_have_a_section_of_their_own() -> None:
    errors = {"substitutions": 3, "deletions": 2, "insertions": 1}
    row = {
        "n": 200, "n_words": 1000, "n_speakers": 1, "n_hearings": 16, "data": "digits", "split": "test", "float": 0.1,
        "int8": 0.104, "delta": 0.004, "ci95": [0.001, 0.007], "float_ci95": [0.08, 0.12], "int8_ci95": [0.085, 0.125],
        "agreement": 0.97, "float_errors": errors, "int8_errors": errors,
    }  # fmt: skip
    lines = list(string_lines({"word_errors": row, "hearings": row}))
    assert lines[0] == "## Word errors"
    assert "200 strings of 3 to 7 words (1,000 in all)" in lines[2]
    assert "| once | 200 | 10.00% (8.0 to 12.0) | 10.40% (8.5 to 12.5) | +0.40 (+0.10 to +0.70) | 97.00% |" in lines
    assert lines[-1] == "- int8, once: 3 substitutions, 2 deletions, 1 insertions"


def test_the_card_of_a_bundle_tells_word_errors_and_licences() -> None:
    from edgeaudio.card import render_card

    task = {
        "metric": "word_error_rate", "data": "digits", "split": "test", "n": 200, "n_words": 1000, "n_hearings": 16,
        "n_speakers": 1, "float": 0.1, "int8": 0.104, "delta": 0.004, "ci95": [0.001, 0.007],
        "int8_ci95": [0.085, 0.125], "agreement": 0.97,
    }  # fmt: skip
    text = render_card(open_bundle(ZOO_FOLDER / "kws-12" / "bundle"), {"task": task, "stages": []})
    assert "200 strings of 1000 words joined from digits (split test), each heard in 16 shifts and gains" in text
    assert "| int8 | 10.40% (95 % by string: 8.50% to 12.50%) |" in text
    assert "- Speech Commands v0.01: CC-BY-4.0, Pete Warden" in text
    assert "Commercial use, as the licences of the data have it: yes; this is no legal advice." in text


@pytest.mark.slow
def test_a_recipe_that_differs_in_training_is_refused(run: Any, face: Any, tmp_path: Path) -> None:
    other = tmp_path / "other.toml"
    other.write_text(face.recipe.read_text("utf-8").replace("learning_rate = 0.01", "learning_rate = 0.02"), "utf-8")
    refused = run(
        "zoo", "build", face.checkpoint, "--data", face.corpus, "--recipe", other, "--output", tmp_path / "entry"
    )
    assert refused.exit_code == 2
    words = "differs from the one that 'tones' was trained by in ['training']; only calibration and detector may"
    assert words in refused.stderr
    assert not (tmp_path / "entry").exists()


@pytest.mark.slow
def test_a_corpus_without_a_test_split_is_refused(run: Any, face: Any, own_corpus: Path, tmp_path: Path) -> None:
    shutil.copy(own_corpus / "manifest.csv", tmp_path / "all.csv")
    (own_corpus / "manifest.csv").unlink()
    refused = run("zoo", "build", face.checkpoint, "--data", own_corpus, "--output", tmp_path / "entry")
    assert refused.exit_code == 2
    assert "no split 'test', and an entry is measured on clips that training has not heard" in refused.stderr


def clips(*waveforms: list[int], labels: tuple[str, ...] = ("a", "b")) -> LabelledClips:
    found = np.array(waveforms, dtype=np.int16)
    return LabelledClips(waveforms=found, labels=labels[: len(found)], speakers=("",) * len(found))


def test_noise_is_mixed_at_the_ratio_that_was_asked_for() -> None:
    # Mean powers of 400 and 100 are 6.02 dB apart; at 26.02 dB the noise is a tenth as large.
    speech, noise = clips([20, -20, 20, -20]), Noise(name="n", samples=np.array([10, 10, 10, 10], dtype=np.int16))
    assert in_noise(speech, noise, 20 * np.log10(2)).waveforms.tolist() == [[30, -10, 30, -10]]
    assert in_noise(speech, noise, 20 * np.log10(20)).waveforms.tolist() == [[21, -19, 21, -19]]
    loud = clips([32000, 32000, 32000, 32000])
    assert in_noise(loud, noise, 0.0).waveforms.tolist() == [[32767] * 4]


def test_noise_of_silence_leaves_a_clip_as_it_is() -> None:
    silence = Noise(name="n", samples=np.zeros(9, dtype=np.int16))
    assert in_noise(clips([1, 2, 3, 4]), silence, 0.0).waveforms.tolist() == [[1, 2, 3, 4]]


def test_a_label_is_left_out() -> None:
    kept = without_label(clips([1, 1], [2, 2], labels=("_silence_", "yes")), "_silence_")
    assert (kept.waveforms.tolist(), kept.labels, len(kept.speakers)) == ([[2, 2]], ("yes",), 1)


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ("street.wav", "noise='street.wav' must be NAME=PATTERN, for instance 'street=recordings/street"),
        ("=street.wav", "must be NAME=PATTERN"),
        ("street=nothing*.wav", "no audio file has a name of this pattern; quote it, or mend the path"),
    ],
)
def test_noise_that_is_not_there_is_refused(wanted: str, words: str) -> None:
    with pytest.raises(SpecError) as refused:
        open_noise(wanted, sample_rate=16_000, n_samples=16_000)
    assert words in str(refused.value)


def test_too_little_noise_is_refused(write_wav: Any, tmp_path: Path) -> None:
    write_wav(tmp_path / "short.wav", np.ones(100, dtype=np.int16))
    with pytest.raises(SpecError, match="has 100 samples, it must have >= 16000, a clip's length"):
        open_noise(f"short={tmp_path}/*.wav", sample_rate=16_000, n_samples=16_000)


def test_a_background_without_recordings_is_refused(run: Any, tmp_path: Path) -> None:
    from edgeaudio.zoo.background import background_figures

    with pytest.raises(ParityError, match="holds no audio file; give a folder of recordings"):
        background_figures(open_bundle(ZOO_FOLDER / entry_names()[0] / "bundle"), tmp_path)


def test_confusions_are_counted() -> None:
    truth, decided = np.array([0, 0, 1, 2, 2, 2]), np.array([0, 1, 1, 2, 0, 2])
    assert confusion(truth, decided, 3) == [[1, 1, 0], [0, 1, 0], [1, 0, 2]]


@pytest.mark.parametrize(
    ("name", "identifier"),
    [
        ("CC BY 4.0", "CC-BY-4.0"),
        ("CC BY-SA 4.0", "CC-BY-SA-4.0"),
        ("Apache-2.0", "Apache-2.0"),
        ("cc0", "CC0-1.0"),
        ("GPL-3.0-or-later", "GPL-3.0-or-later"),
        ("Apache-2.0 (SVOX Pico)", "Apache-2.0"),
        ("unstated", None),
    ],
)
def test_licences_have_their_spdx_identifiers(name: str, identifier: str | None) -> None:
    assert spdx(name) == identifier


@pytest.mark.parametrize(
    ("licences", "answer"),
    [
        (["CC BY 4.0", "Apache-2.0"], "yes"),
        (["CC BY 4.0", "unstated"], "unknown"),
        (["CC-BY-NC-4.0", "unstated"], "no"),
        ([], "unknown"),
    ],
)
def test_the_worst_licence_decides_on_commercial_use(licences: list[str], answer: str) -> None:
    assert commercial_use(licences) == answer


def test_commands_on_a_card_name_no_folder_of_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEAUDIO_DATA", str(tmp_path))
    assert shown(tmp_path / "speech_commands") == "$EDGEAUDIO_DATA/speech_commands"
    assert shown(Path("/elsewhere/my clips")) == "'my clips'"


def test_the_processor_is_named_by_its_model(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nmodel name\t: Fast 3000 @ 2 GHz\n", "utf-8")
    assert processor_model(tmp_path / "cpuinfo") == "Fast 3000 @ 2 GHz"
    assert processor_model(tmp_path / "missing")


@pytest.mark.real_speech
@pytest.mark.slow
def test_the_accuracy_on_the_card_comes_out_again_on_the_test_split(real_data: Path, tmp_path: Path) -> None:
    from edgeaudio.parity.corpus import load_labelled_clips
    from edgeaudio.sweep.hearings import hear, integer_decisions
    from edgeaudio.sweep.variants import first_variants
    from edgeaudio_runtime.engines.numpy_engine import NumpyProgram

    bundle = open_bundle(ZOO_FOLDER / "kws-12" / "bundle")
    program = bundle.program("numpy")
    assert isinstance(program, NumpyProgram)
    heard, split = load_labelled_clips(bundle, real_data / "speech_commands")
    features = hear(heard, first_variants(1), spec=bundle.features, step_frames=program.signature.step_frames)
    decided = integer_decisions(program, features)[:, 0]
    right = sum(bundle.labels[index] == label for index, label in zip(decided, heard.labels, strict=True))
    task = card_of("kws-12")["accuracy"]
    assert (split, len(heard.labels)) == (task["split"], task["n"])
    assert right / task["n"] == pytest.approx(task["int8"], abs=1e-12)
