"""``edgeaudio train`` from streams, with scalars, and what it refuses."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import soundfile
from click.testing import CliRunner, Result

from edgeaudio.cli import main
from edgeaudio_models.checkpoint import load_checkpoint
from edgeaudio_models.recipe_text import format_recipe
from tests.training_on_tones import KEYWORD, tones

WORDS = ("low", "middle")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def write_shard(path: Path, *, seed: int, speaker: str) -> None:
    examples = tones(16, (0, 1), seed=seed)
    with tarfile.open(path, "w") as archive:
        for i, (waveform, index) in enumerate(zip(examples.waveforms, examples.label_indices, strict=True)):
            audio = io.BytesIO()
            soundfile.write(audio, waveform, 16_000, format="WAV", subtype="PCM_16")
            described = json.dumps({"label": WORDS[index], "speaker": speaker}).encode()
            for suffix, content in (("wav", audio.getvalue()), ("json", described)):
                entry = tarfile.TarInfo(f"{i:03d}.{suffix}")
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("streams")
    for name, seed, speaker in (("train-0", 1, "anna"), ("train-1", 2, "ben"), ("validation", 3, "cara")):
        write_shard(made / f"{name}.tar", seed=seed, speaker=speaker)
    text = format_recipe(KEYWORD).replace("[training]", "[training]\nsteps_per_epoch = 2\nshuffle_buffer = 16")
    (made / "tones.toml").write_text(text.replace("[corpus]", "[corpus]\nclip_seconds = 0.2"), "utf-8")
    return made


def test_shards_train_a_checkpoint_and_leave_scalars(folder: Path, tmp_path: Path) -> None:
    result = run(
        "train", folder / "tones.toml", "--data", folder / "train-{0..1}.tar",
        "--validation", folder / "validation.tar", "--output", tmp_path / "run",
        "--log-dir", tmp_path / "scalars", "--device", "cpu", "--json",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["checkpoint"] == str(tmp_path / "run" / "checkpoint")
    checkpoint = load_checkpoint(tmp_path / "run" / "checkpoint")
    assert [row.epoch for row in checkpoint.history] == [1, 2, 3]
    assert checkpoint.metrics["validation"]["n_clips"] == 18  # two silent clips beside sixteen
    assert [path.name.split(".")[2] for path in (tmp_path / "scalars").iterdir()] == ["tfevents"]


def test_what_cannot_be_trained_on_is_one_line_and_exit_2(folder: Path, tmp_path: Path) -> None:
    recipe, output = folder / "tones.toml", ("--output", tmp_path / "run")
    shards = folder / "train-{0..1}.tar"
    for arguments, words in (
        (("--data", shards), "has no validation split; name other shards with --validation"),
        (("--data", shards, "--validation", folder / "train-1.tar"), "speaker='ben' is among those of validation"),
        (("--data", folder / "none.tar", "--validation", folder / "validation.tar"), "no readable tar file"),
        (("--data", folder, "--validation", folder / "validation.tar"), "goes with a stream in --data"),
        (("--data", folder, "--device", "tape"), "device='tape' is not available here; take cpu, or auto"),
    ):
        result = run("train", recipe, *arguments, *output)
        assert result.exit_code == 2, result.output
        assert result.stdout == ""
        progress, error = result.stderr.splitlines()[:-1], result.stderr.splitlines()[-1]
        assert all(line.startswith("training tones: ") for line in progress)
        assert error.startswith("edgeaudio: ")
        assert words in error


def test_a_missing_package_names_the_extra(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    result = run("train", folder / "tones.toml", "--data", "hf:some/set", "--output", tmp_path / "run")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == "edgeaudio: datasets is not installed; run: pip install 'edgeaudio[datasets]'\n"


def test_the_package_runs_as_a_module() -> None:
    done = subprocess.run([sys.executable, "-m", "edgeaudio", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("edgeaudio, version ")
