"""A small real way through the build side, made once by the commands: corpus, recipe, checkpoint and bundle."""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
import sys
import wave
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from edgeaudio.cli import main
from edgeaudio.parity import ladder

RATE = 16_000
MIN_CODES = 2_000
"""Logit codes an engine is compared on here; ``tests/parity`` compares the 50,000 of the product."""
LABELS = ("_silence_", "_unknown_", "chirp", "low", "high")
PER_SPLIT = {"train": 8, "validation": 2, "test": 4}

RECIPE = """
name = "tones"

[corpus]
kind = "recordings"
labels = ["_silence_", "_unknown_", "chirp", "low", "high"]

[model]
architecture = "ds_tc_resnet"
parameters = { channels = 16, kernel_sizes = [5, 5] }

[training]
epochs = 3
batch_size = 8
learning_rate = 0.01

[calibration]
clips = 12
"""


@dataclass(frozen=True, kw_only=True)
class Face:
    """What the commands left behind; tests read it and copy what they change."""

    corpus: Path
    """Folder with a ``manifest.csv``."""
    recipe: Path
    """TOML file."""
    checkpoint: Path
    """What ``edgeaudio train`` wrote."""
    bundle: Path
    """What ``edgeaudio export`` wrote from it."""
    cache: Path
    """Decoded clips."""


Run = Callable[..., Result]


def call(*arguments: object) -> Result:
    """Run ``edgeaudio`` in this process."""
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture(scope="session")
def short_ladder() -> Generator[None]:
    """Every rung, on a shorter stream."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ladder, "MIN_CODES", MIN_CODES)
        yield


@pytest.fixture(scope="session")
def run(short_ladder: None) -> Run:
    """``run("parity", bundle, "--json")`` gives exit_code, stdout and stderr."""
    return call


@pytest.fixture(scope="session")
def start() -> Callable[..., subprocess.Popen[str]]:
    """``start("train", ...)`` begins ``edgeaudio`` in a process of its own."""
    program = (
        "import edgeaudio.parity.ladder as ladder; from edgeaudio.cli import main; "
        f"ladder.MIN_CODES = {MIN_CODES}; main()"
    )

    def begin(*arguments: object) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", program, *(str(argument) for argument in arguments)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    return begin


@pytest.fixture(scope="session")
def face(short_ladder: None, tmp_path_factory: pytest.TempPathFactory) -> Face:
    """Train, quantize, export and prove a keyword network of three artificial words."""
    pytest.importorskip("torchao", reason="training and export need torch and torchao: pip install 'edgeaudio[torch]'")
    root = tmp_path_factory.mktemp("face")
    made = Face(
        corpus=root / "corpus", recipe=root / "tones.toml", checkpoint=root / "run" / "checkpoint",
        bundle=root / "bundle", cache=root / "cache",
    )  # fmt: skip
    write_corpus(made.corpus)
    made.recipe.write_text(RECIPE, "utf-8")
    shared = ("--data", made.corpus, "--cache", made.cache)
    for command in (
        ("train", made.recipe, "--output", root / "run", *shared),
        ("export", made.checkpoint, "--output", made.bundle, *shared),
    ):
        result = call(*command)
        assert result.exit_code == 0, result.output
    return made


@pytest.fixture
def own_bundle(face: Face, tmp_path: Path) -> Path:
    """A copy of the bundle that a test may damage."""
    return Path(shutil.copytree(face.bundle, tmp_path / "bundle"))


@pytest.fixture
def own_corpus(face: Face, tmp_path: Path) -> Path:
    """A copy of the corpus that a test may damage."""
    return Path(shutil.copytree(face.corpus, tmp_path / "corpus"))


def write_corpus(folder: Path) -> None:
    """A folder a label and a manifest; speakers are the seeds of the sounds and belong to one split each."""
    folder.mkdir()
    with (folder / "manifest.csv").open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "label", "speaker", "split"])
        seed = 0
        for split, count in PER_SPLIT.items():
            for i in range(count):
                for label in LABELS:
                    seed += 1
                    path = Path(label) / f"{split}_{i}.wav"
                    (folder / label).mkdir(exist_ok=True)
                    write_wav(folder / path, sound(label, seed))
                    rows.writerow([path.as_posix(), label, f"{split}_{i // 2}", split])


def sound(label: str, seed: int) -> np.ndarray:
    """A second of int16: faint noise and in its middle what the label names, in a seed's own pitch and loudness."""
    rng = np.random.default_rng(seed)
    time = np.arange(RATE) / RATE
    pitch = rng.uniform(0.9, 1.1)
    tones = {
        "_silence_": np.zeros(RATE),
        "_unknown_": rng.standard_normal(RATE),
        "chirp": np.sin(2 * np.pi * (300 + 1500 * time) * time * pitch),
        "low": np.sign(np.sin(2 * np.pi * 150 * pitch * time)),
        "high": np.sin(2 * np.pi * 3500 * pitch * time) + np.sin(2 * np.pi * 5000 * pitch * time),
    }
    inside = (np.abs(time - rng.uniform(0.4, 0.6)) < 0.25).astype(np.float64)
    samples = 6000 * rng.uniform(0.3, 1) * inside * tones[label] + 20 * rng.standard_normal(RATE)
    return np.asarray(np.rint(samples), np.int16)


@pytest.fixture(scope="session", name="write_wav")
def write_wav_fixture() -> Callable[..., Path]:
    """``write_wav(path, samples, rate=, channels=)``."""
    return write_wav


def write_wav(path: Path, samples: np.ndarray, *, rate: int = RATE, channels: int = 1) -> Path:
    """16-bit PCM; ``samples`` interleaved."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(samples.astype("<i2").tobytes())
    return path


@pytest.fixture(scope="session")
def contents() -> Callable[[Path], dict[str, bytes]]:
    """Every file below a folder by its path, to compare two folders."""
    return lambda folder: {
        os.path.relpath(path, folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }
