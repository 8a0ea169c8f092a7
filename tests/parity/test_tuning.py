"""Tuning a detector: the halves, the search over fabricated logits, and the figures it reports."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from edgeaudio.cli import main
from edgeaudio.parity.stream_statistics import Outcome
from edgeaudio.parity.streams import with_threshold
from edgeaudio.tuning import search
from edgeaudio.tuning.material import CHOOSING, REPORTING, Half, Heard, half_of
from edgeaudio.tuning.search import candidates, choose, lowest_threshold, try_settings
from edgeaudio_models.audio_files import write_wav
from edgeaudio_models.zoo_entries import BUNDLE, entry_folder
from edgeaudio_runtime.bundle import Bundle, open_bundle
from edgeaudio_runtime.errors import ParityError

LABEL = "yes"
QUIET, LOUD = -100, 100


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return open_bundle(entry_folder("kws-12-small") / BUNDLE)


def heard(bundle: Bundle, levels: list[tuple[int, int]], n: int = 100) -> Heard:
    """A stream of ``n`` outputs that say ``_unknown_``, but for outbursts (first output, outputs) of a word."""
    codes = np.full((n, len(bundle.labels)), QUIET, np.int8)
    codes[:, bundle.labels.index("_unknown_")] = 0
    for first, length in levels:
        codes[first : first + length, bundle.labels.index(LABEL)] = LOUD
    frames = n * bundle.manifest.network.step_frames
    return Heard(codes=codes, activity=np.zeros(frames, np.float32))


@pytest.fixture(scope="module")
def half(bundle: Bundle) -> Half:
    """Eight words of 40 outputs, and an hour in which three clicks of 4 outputs look like the word."""
    words = tuple(heard(bundle, [(20, 40)]) for _ in range(8))
    clicks = heard(bundle, [(1000, 4), (2000, 4), (3000, 4)], n=5000)
    return Half(positives=words, negatives=clicks, hours=1.0)


def test_a_file_is_in_one_half_wherever_its_folder_lies(tmp_path: Path) -> None:
    halves = [half_of(tmp_path / f"{i}.wav", tmp_path) for i in range(200)]
    assert halves == [half_of(Path(f"/elsewhere/{i}.wav"), Path("/elsewhere")) for i in range(200)]
    assert 70 < halves.count(CHOOSING) < 130
    assert set(halves) == {CHOOSING, REPORTING}


def test_settings_are_judged_by_events(bundle: Bundle, half: Half) -> None:
    eager = replace(bundle.detector_config, smoothing_s=0.04, threshold=0.5, release=0.3, patience=1)
    assert try_settings(bundle, eager, half) == Outcome(misses=0, positives=8, false_accepts=3, hours=1.0)
    patient = replace(eager, patience=6)
    assert try_settings(bundle, patient, half).false_accepts == 0
    assert try_settings(bundle, replace(eager, patience=60), half).misses == 8


def test_the_lowest_threshold_that_keeps_the_target_is_found(bundle: Bundle, half: Half) -> None:
    # Smoothed over 5 outputs, 4 of which are all but certain of the word, a click comes just below 0.8.
    smooth = replace(bundle.detector_config, smoothing_s=0.2, patience=1)
    assert lowest_threshold(bundle, smooth, half, target=0.5) == (0.8, 0)
    assert lowest_threshold(bundle, smooth, half, target=3.0) == (0.3, 3)
    sharp = replace(smooth, smoothing_s=0.04)
    assert lowest_threshold(bundle, sharp, half, target=0.5) is None


def test_the_choice_misses_nothing_and_accepts_nothing_where_that_can_be(bundle: Bundle, half: Half) -> None:
    tried: list[int] = []
    config, outcome = choose(bundle, half, target=0.5, progress=lambda done, _: tried.append(done))
    assert outcome == Outcome(misses=0, positives=8, false_accepts=0, hours=1.0)
    assert tried == list(range(1, len(candidates(bundle.detector_config)) + 1))
    assert config.threshold in search.THRESHOLDS
    assert config.settle_s == bundle.detector_config.settle_s


def test_a_target_that_cannot_be_kept_or_means_nothing_is_refused(bundle: Bundle, half: Half) -> None:
    endless = heard(bundle, [(first, 60) for first in range(0, 5000, 100)], n=5000)
    with pytest.raises(ParityError, match=r"target=0\.5 false accepts an hour cannot be kept: even threshold 0\.99"):
        choose(bundle, replace(half, negatives=endless), target=0.5)
    with pytest.raises(ParityError, match=r"target=0 false accepts an hour must be > 0"):
        choose(bundle, half, target=0.0)


def test_a_release_is_never_above_its_threshold(bundle: Bundle) -> None:
    config = replace(bundle.detector_config, threshold=0.9, release=0.8)
    assert with_threshold(config, 0.5).release == 0.5


def test_figures_have_the_exact_intervals_of_the_tables() -> None:
    figures = Outcome(misses=1, positives=20, false_accepts=0, hours=2.0).to_dict()
    # Clopper and Pearson for 1 of 20; Poisson without an event: 3.689 / hours and 2.996 / hours.
    assert figures["miss_rate_ci95"] == pytest.approx([0.0012651, 0.2487328], abs=1e-6)
    assert figures["false_accepts_an_hour_ci95"] == pytest.approx([0.0, 3.688879 / 2], abs=1e-6)
    assert figures["claimable_an_hour"] == pytest.approx(2.995732 / 2, abs=1e-6)


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Recordings of noise: the network hears no word in them, so all are missed."""
    generator = np.random.default_rng(0)
    for kind in ("said", "other"):
        (tmp_path / kind).mkdir()
        for i in range(6):
            samples = generator.normal(0, 300, 16_000).astype(np.int16)
            write_wav(tmp_path / kind / f"{i}.wav", samples, 16_000)
    return tmp_path / "said", tmp_path / "other"


def test_the_command_writes_the_detector_and_leaves_the_manifest(tmp_path: Path, folders: tuple[Path, Path]) -> None:
    own = Path(shutil.copytree(entry_folder("kws-12-small") / BUNDLE, tmp_path / "bundle"))
    manifest = (own / "manifest.json").read_bytes()
    said, other = folders
    command = ["tune", str(own), "--positives", str(said), "--negatives", str(other), "--target", "2", "--write"]
    result = CliRunner().invoke(main, [*command, "--json"])
    assert result.exit_code == 0, result.output
    values = json.loads(result.stdout)
    reported = values["reported"]
    assert reported["positives"] + values["chosen_by"]["positives"] == 6
    assert reported["miss_rate"] == 1.0
    tuned = open_bundle(own)
    assert tuned.detector_config.tuned is not None
    assert tuned.detector_config.tuned["miss_rate_ci95"] == reported["miss_rate_ci95"]
    assert tuned.detector_config.threshold == values["detector"]["threshold"]
    assert (own / "manifest.json").read_bytes() == manifest
    assert "hours allow no claim below" in CliRunner().invoke(main, command[:-1]).stdout


def test_wrong_recordings_are_refused_in_one_line(tmp_path: Path, folders: tuple[Path, Path]) -> None:
    bundle, (said, other) = entry_folder("kws-12-small") / BUNDLE, folders
    (tmp_path / "none").mkdir()
    lone = tmp_path / "lone"
    lone.mkdir()
    shutil.copy(said / "0.wav", lone)
    for positives, message in ((tmp_path / "none", "no recordings"), (lone, "1 recordings in")):
        result = CliRunner().invoke(
            main, ["tune", str(bundle), "--positives", str(positives), "--negatives", str(other)]
        )
        assert result.exit_code == 2
        assert message in result.stderr
        assert len(result.stderr.strip().splitlines()) == 1
