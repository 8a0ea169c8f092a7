"""Wrong input to the commands: exit code 2, one line on stderr, no result on stdout, nothing written."""

from __future__ import annotations

import errno
import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edgeaudio_runtime.cli import main as run_device

pytestmark = pytest.mark.slow

PROGRESS = ("training ", "epoch ", "quantizing ", "climbing ", "compared: ")
"""How lines begin that tell of work before the error; all else on stderr is the error."""

Refuse = Callable[..., str]


@pytest.fixture
def refuse(run: Any, tmp_path: Path, contents: Callable[[Path], dict[str, bytes]]) -> Refuse:
    """Run a command that must fail for its input, see that it left the test's folder as it was, give its message."""

    def check(*arguments: object) -> str:
        before = contents(tmp_path)
        result = run(*arguments)
        lines = [line for line in result.stderr.splitlines() if not line.startswith(PROGRESS)]
        assert (result.exit_code, result.stdout, len(lines)) == (2, "", 1), result.output
        assert lines[0].startswith("edgeaudio: ")
        assert contents(tmp_path) == before
        return str(lines[0]).removeprefix("edgeaudio: ")

    return check


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("fly",), "No such command 'fly'; see edgeaudio --help"),
        (("train",), "Missing argument 'RECIPE'; see edgeaudio train --help"),
        (("export", "x"), "Missing option '--output'; see edgeaudio export --help"),
        (("export", "x", "--output", "y", "--backend", "tvm"), "'tvm' is not one of 'pt2e', 'onnxruntime'"),
        (("export", "x", "--output", "y", "--clips", "0"), "Invalid value for '--clips': 0 is not in the range x>=1"),
        (("bench", "x", "--rounds", "many"), "'many' is not a valid integer range; see edgeaudio bench --help"),
        (("parity", "x", "--colour"), "No such option"),
        (("data", "list"), "Missing argument 'FOLDER'; see edgeaudio data list --help"),
    ],
)
def test_wrong_usage_names_the_command_to_ask(refuse: Refuse, arguments: tuple[str, ...], words: str) -> None:
    assert words in refuse(*arguments)


@pytest.mark.parametrize("command", ["parity", "bench", "inspect"])
class TestBundle:
    def test_a_missing_bundle(self, refuse: Refuse, tmp_path: Path, command: str) -> None:
        path = tmp_path / "none"
        assert refuse(command, path) == f"bundle '{path}' does not exist; pass a bundle directory or its .zip"

    def test_a_folder_that_is_no_bundle(self, refuse: Refuse, face: Any, command: str) -> None:
        assert refuse(command, face.corpus) == "bundle lacks 'manifest.json'; copy the whole bundle again"

    def test_a_corrupt_manifest(self, refuse: Refuse, own_bundle: Path, command: str) -> None:
        text = (own_bundle / "manifest.json").read_text()
        (own_bundle / "manifest.json").write_text(text[: len(text) // 2])
        assert "manifest.json" in refuse(command, own_bundle)

    def test_a_wrong_hash(self, refuse: Refuse, own_bundle: Path, command: str) -> None:
        data = bytearray((own_bundle / "model.tflite").read_bytes())
        data[-1] ^= 1
        (own_bundle / "model.tflite").write_bytes(data)
        assert "'model.tflite'" in refuse(command, own_bundle)

    def test_a_path_outside_the_bundle(self, refuse: Refuse, own_bundle: Path, command: str) -> None:
        change_manifest(own_bundle, lambda manifest: manifest["artifacts"][0].update(path="../model.json"))
        assert "'../model.json'" in refuse(command, own_bundle)

    def test_a_newer_schema(self, refuse: Refuse, own_bundle: Path, command: str) -> None:
        change_manifest(own_bundle, lambda manifest: manifest.update(schema_version=99))
        assert "schema_version=99" in refuse(command, own_bundle)


def change_manifest(bundle: Path, change: Callable[[dict[str, Any]], None]) -> None:
    manifest = json.loads((bundle / "manifest.json").read_text())
    change(manifest)
    (bundle / "manifest.json").write_text(json.dumps(manifest))


class TestCorpus:
    def test_an_empty_corpus(self, refuse: Refuse, face: Any, tmp_path: Path) -> None:
        (tmp_path / "empty").mkdir()
        words = f"{tmp_path / 'empty'}: clips=0, a corpus needs audio files; see `edgeaudio data list`"
        for command in (("data", "list", tmp_path / "empty"), ("parity", face.bundle, "--data", tmp_path / "empty")):
            assert refuse(*command) == words

    def test_a_label_without_clips(self, refuse: Refuse, face: Any, own_corpus: Path, tmp_path: Path) -> None:
        manifest = own_corpus / "manifest.csv"
        manifest.write_text("\n".join(line for line in manifest.read_text().splitlines() if ",low," not in line))
        message = refuse("train", face.recipe, "--data", own_corpus, "--output", tmp_path / "run")
        assert message == f"{own_corpus}: labels ['low'] have no clips; add recordings or leave the labels out"

    def test_an_unknown_split(self, refuse: Refuse, face: Any, own_corpus: Path) -> None:
        message = refuse("parity", face.bundle, "--data", face.corpus, "--split", "dev")
        assert message.endswith("split='dev' is not in the corpus; it has ['train', 'validation', 'test']")
        manifest = own_corpus / "manifest.csv"
        manifest.write_text(manifest.read_text().replace(",validation\n", ",dev\n"))
        rule = "split='dev' must be one of ['train', 'validation', 'test']"
        assert refuse("data", "check", own_corpus).endswith(rule)

    def test_recordings_without_any_label_of_the_bundle(
        self, refuse: Refuse, face: Any, own_corpus: Path, tmp_path: Path
    ) -> None:
        shutil.copytree(own_corpus / "low", tmp_path / "others" / "hello")
        message = refuse("parity", face.bundle, "--data", tmp_path / "others")
        assert "labels=['hello'] share none with the bundle's ['_silence_', '_unknown_', 'chirp'" in message

    @pytest.mark.parametrize("table", [b"\xff\xfe\x00p\x00a", b"path,label\n" + b"a" * 200_000 + b",low\n"])
    def test_a_manifest_that_is_no_table(self, refuse: Refuse, own_corpus: Path, table: bytes) -> None:
        (own_corpus / "manifest.csv").write_bytes(table)
        assert "manifest.csv: not a UTF-8 table with commas" in refuse("data", "list", own_corpus)

    def test_a_recording_that_does_not_decode(
        self, refuse: Refuse, face: Any, own_corpus: Path, tmp_path: Path
    ) -> None:
        (own_corpus / "low" / "train_0.wav").write_bytes(b"no sound")
        message = refuse("train", face.recipe, "--data", own_corpus, "--output", tmp_path / "run", "--cache", tmp_path)
        assert "train_0.wav" in message

    def test_no_corpus_for_a_recipe_of_recordings(self, refuse: Refuse, face: Any, tmp_path: Path) -> None:
        message = refuse("train", face.recipe, "--output", tmp_path / "run")
        assert message == "recipe 'tones' trains on recordings; give their folder with --data"


class TestRecipeAndCheckpoint:
    def test_an_unknown_recipe(self, refuse: Refuse, tmp_path: Path) -> None:
        message = refuse("train", "kws-99", "--output", tmp_path / "run")
        assert message.startswith(
            "recipe='kws-99' must be a TOML file or one of ['digits-ctc', 'kws-12', 'kws-12-small'"
        )

    def test_a_recipe_with_an_unknown_key(self, refuse: Refuse, face: Any, tmp_path: Path) -> None:
        recipe = tmp_path / "typo.toml"
        recipe.write_text(face.recipe.read_text().replace("batch_size", "batchsize"))
        message = refuse("train", recipe, "--data", face.corpus, "--output", tmp_path / "run")
        assert f"{recipe}: training: unknown keys ['batchsize']; it has ['averaged_epochs', 'batch_size'" in message

    def test_a_missing_checkpoint(self, refuse: Refuse, face: Any, tmp_path: Path) -> None:
        words = f"{tmp_path / 'none' / 'checkpoint.json'} is missing or unreadable; a checkpoint has"
        assert words in refuse("export", tmp_path / "none", "--output", tmp_path / "bundle")
        assert words in refuse("parity", face.bundle, "--checkpoint", tmp_path / "none")

    def test_a_checkpoint_with_broken_weights(self, refuse: Refuse, face: Any, tmp_path: Path) -> None:
        own = shutil.copytree(face.checkpoint, tmp_path / "checkpoint")
        (own / "weights.safetensors").write_bytes(b"\0" * 100)
        message = refuse("export", own, "--data", face.corpus, "--output", tmp_path / "bundle")
        assert message == f"{own / 'weights.safetensors'} is missing or unreadable; fetch or train the checkpoint again"


class TestOutput:
    def test_what_exists_is_kept_without_force(self, refuse: Refuse, face: Any, tmp_path: Path) -> None:
        for name in ("run/checkpoint", "bundle", "words"):
            (tmp_path / name).mkdir(parents=True)
            (tmp_path / name / "mine").write_text("kept")
        shared = ("--data", face.corpus, "--cache", face.cache)
        for path, command in {
            "run/checkpoint": ("train", face.recipe, "--output", tmp_path / "run", *shared),
            "bundle": ("export", face.checkpoint, "--output", tmp_path / "bundle", *shared),
            "words": ("data", "synthesize", tmp_path / "words", "--word", "hello"),
        }.items():
            rule = "exists and nothing is overwritten; remove it or pass --force"
            assert refuse(*command) == f"{tmp_path / path} {rule}"

    def test_a_file_where_a_folder_must_be(self, refuse: Refuse, face: Any, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("mine")
        shared = ("--data", face.corpus, "--cache", face.cache)
        message = refuse("train", face.recipe, "--output", tmp_path / "file", *shared)
        assert str(tmp_path / "file") in message


@pytest.fixture
def small_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A file system of 64 KiB; without the right to mount one, every large write says what a full one says."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    mounted = bool(shutil.which("mount")) and subprocess.run(mount, check=False, capture_output=True).returncode == 0
    if not mounted:
        for owner, name in ((Path, "write_bytes"), (np, "save"), (torch, "save")):
            monkeypatch.setattr(owner, name, no_space)
    yield folder
    if mounted:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def no_space(*arguments: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


class TestFullDisk:
    def test_of_an_export_keeps_nothing(self, run: Any, face: Any, small_disk: Path) -> None:
        shared = ("--data", face.corpus, "--cache", face.cache)
        result = run("export", face.checkpoint, "--output", small_disk / "bundle", *shared)
        assert result.exit_code == 2, result.output
        words = "edgeaudio: no space left on the device; nothing was kept, free some space and run again"
        assert result.stderr.splitlines()[-1] == words
        assert result.stdout == ""
        assert list(small_disk.iterdir()) == []

    def test_of_a_training_keeps_no_checkpoint_and_no_half_state(self, run: Any, face: Any, small_disk: Path) -> None:
        (small_disk / "ballast").touch()
        if small_disk.is_mount():
            (small_disk / "ballast").write_bytes(b"\0" * 56 * 1024)
        shared = ("--data", face.corpus, "--cache", face.cache)
        result = run("train", face.recipe, "--output", small_disk / "run", "--epochs", 1, *shared)
        assert result.exit_code == 2, result.output
        assert result.stdout == ""
        assert not (small_disk / "run" / "checkpoint").exists()
        # What is left, if anything, is a whole state that the next run goes on from.
        assert {path.name for path in (small_disk / "run").iterdir()} <= {"training_state.pt"}

    def test_of_the_cache_names_it(self, refuse: Refuse, face: Any, small_disk: Path, tmp_path: Path) -> None:
        cache = small_disk / "cache"
        command = ("train", face.recipe, "--output", tmp_path / "run", "--data", face.corpus, "--cache", cache)
        message = refuse(*command)
        assert message.startswith(f"{cache}/waveforms/")
        assert message.endswith("free space or choose another cache folder")
        assert "the cache of decoded clips cannot be written (" in message


class TestDevice:
    """``edgeaudio-run`` on recordings that need an option; the rest stands in ``tests/runtime/test_run_cli.py``."""

    def test_two_channels_ask_for_one(
        self, face: Any, tmp_path: Path, write_wav: Any, capfd: pytest.CaptureFixture[str]
    ) -> None:
        path = write_wav(tmp_path / "two.wav", np.zeros(32_000), channels=2)
        assert run_device([str(face.bundle), str(path)]) == 2
        out, err = capfd.readouterr()
        assert (out, err.count("\n")) == ("", 1)
        assert "two.wav has 2 channels" in err
        assert "--channel" in err

    def test_another_rate_asks_to_be_resampled(
        self, face: Any, tmp_path: Path, write_wav: Any, capfd: pytest.CaptureFixture[str]
    ) -> None:
        path = write_wav(tmp_path / "cd.wav", np.zeros(44_100), rate=44_100)
        assert run_device([str(face.bundle), str(path)]) == 2
        out, err = capfd.readouterr()
        assert (out, err.count("\n")) == ("", 1)
        assert "44100" in err
        assert "16000" in err
        assert "--resample" in err
