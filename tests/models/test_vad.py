"""Speech or not: how windows are cut, what the recipe builds, and what its figures mean."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from edgeaudio_models.corpora import check_corpus, open_corpus
from edgeaudio_models.corpora.windows import WindowPlan, cut_windows, find_speech, held_out_split
from edgeaudio_models.errors import CorpusError

RATE = 16_000


def recording(seconds: float, spoken: list[tuple[float, float]], *, seed: int = 0) -> np.ndarray:
    """Faint noise, 40 dB louder where something is said: ``(start, stop)`` in seconds; int16."""
    samples = np.random.default_rng(seed).standard_normal(round(seconds * RATE)) * 30
    for start, stop in spoken:
        samples[round(start * RATE) : round(stop * RATE)] *= 100
    return np.rint(samples).clip(-32768, 32767).astype(np.int16)


def test_windows_of_speech_hold_speech_and_pauses_hold_none() -> None:
    spoken, quiet = find_speech(recording(3.0, [(0.5, 1.2), (2.0, 2.4)]), sample_rate=RATE, seconds=0.32)
    # Three quarters of 0.32 s are 0.24 s: a window may begin 0.08 s before the word and end as long after it.
    starts = np.array(spoken) / RATE
    first, second = starts[starts < 1.5], starts[starts > 1.5]
    assert (first.min(), first.max()) == pytest.approx((0.42, 0.96))
    assert (second.min(), second.max()) == pytest.approx((1.92, 2.16))
    for start in np.array(quiet) / RATE:
        assert all(start + 0.32 <= a or start >= b for a, b in ((0.5, 1.2), (2.0, 2.4)))
    assert min(quiet) == 0


def test_a_recording_in_which_nothing_stands_out_gives_no_windows() -> None:
    assert find_speech(recording(2.0, []), sample_rate=RATE, seconds=0.32) == ([], [])
    assert find_speech(recording(0.2, [(0.0, 0.1)]), sample_rate=RATE, seconds=0.32) == ([], [])
    assert find_speech(np.zeros(RATE, dtype=np.int16), sample_rate=RATE, seconds=0.32) == ([], [])


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, Path]:
    """A corpus with three speakers without splits, and noise of two recordings in two takes each."""
    speech, noise = tmp_path / "talk", tmp_path / "noise"
    speech.mkdir()
    noise.mkdir()
    rows = ["path,label,speaker,source"]
    for i, speaker in enumerate("abc"):
        soundfile.write(speech / f"{speaker}.wav", recording(4.0, [(0.5, 1.5), (2.5, 3.0)], seed=i), RATE)
        rows.append(f"{speaker}.wav,yes,{speaker},talk")
    soundfile.write(speech / "hush.wav", recording(1.0, []), RATE)
    rows.append("hush.wav,_silence_,,talk")
    (speech / "manifest.csv").write_text("\n".join(rows))
    for name in ("1-rain-A", "1-rain-B", "5-wind-A"):
        samples = recording(2.0, [(0.0, 2.0)], seed=9)
        samples[RATE:] = 0
        soundfile.write(noise / f"{name}.wav", samples, RATE)
    return {"talk": speech, "noise": noise}


def plan(folders: dict[str, Path], **changes: Any) -> WindowPlan:
    chosen: dict[str, Any] = {"speech": (folders["talk"],), "noise": (("storm", folders["noise"]),)}
    return WindowPlan(**{**chosen, **changes})


def test_windows_keep_speakers_and_takes_together(folders: dict[str, Path]) -> None:
    windows = list(cut_windows(plan(folders, test_noise=("5-",))))
    assert {len(window.samples) for window in windows} == {5120}
    for speaker in "abc":
        assert {w.split for w in windows if w.speaker == speaker} == {held_out_split(speaker)}
    assert {w.label for w in windows if w.speaker} == {"speech", "_silence_"}
    noise = [w for w in windows if w.source == "storm"]
    assert {w.label for w in noise} == {"_silence_"}
    assert "test" in {w.split for w in noise}
    assert len({w.split for w in noise} - {"test"}) == 1


def test_windows_do_not_overlap_and_are_drawn_again_alike(folders: dict[str, Path]) -> None:
    first, again = list(cut_windows(plan(folders))), list(cut_windows(plan(folders)))
    assert all((a.samples == b.samples).all() and a.split == b.split for a, b in zip(first, again, strict=True))
    other = list(cut_windows(plan(folders, seed=1)))
    assert any((a.samples != b.samples).any() for a, b in zip(first, other, strict=False))
    said = [window.samples for window in first if window.speaker == "a" and window.label == "speech"]
    # Two words of 1.0 and 0.5 s: no more than 4 windows of 0.32 s lie in them side by side, 0.08 s beyond each end.
    assert 2 <= len(said) <= 5
    assert len({samples.tobytes() for samples in said}) == len(said)


def test_noise_windows_leave_out_what_only_fills_the_file(folders: dict[str, Path]) -> None:
    noise = [w for w in cut_windows(plan(folders)) if w.source == "storm"]
    assert noise
    assert all(np.count_nonzero(w.samples) > 2560 for w in noise)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"noise": ()}, "speech=1 and noise=0 folders, there must be one of each at least"),
        ({"seconds": 0.01}, "seconds=0.01 must be in 0.1 to 2"),
    ],
)
def test_a_plan_that_cannot_be_meant_is_refused(folders: dict[str, Path], changes: dict[str, Any], words: str) -> None:
    with pytest.raises(CorpusError) as caught:
        plan(folders, **changes)
    assert words in str(caught.value)


def test_a_folder_without_noise_is_named(folders: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"nowhere: no recordings; give a folder of noise"):
        list(cut_windows(plan(folders, noise=(("storm", tmp_path / "nowhere"),))))


def test_the_command_writes_a_sound_corpus(folders: dict[str, Path], tmp_path: Path) -> None:
    from click.testing import CliRunner

    from edgeaudio.cli import main

    target = tmp_path / "windows"
    arguments = ["data", "windows", target, "--speech", folders["talk"], "--noise", "storm", folders["noise"]]
    result = CliRunner().invoke(main, [str(part) for part in arguments])
    assert result.exit_code == 0, result.output
    corpus = open_corpus(target)
    assert corpus.labels == ("_silence_", "speech")
    assert {source.name for source in corpus.sources} == {"talk", "storm"}
    assert not [finding for finding in check_corpus(corpus, files=True) if finding.severity == "error"]
    expected = [window.samples for window in cut_windows(plan(folders))]
    for clip, samples in zip(corpus.clips, expected, strict=True):
        np.testing.assert_array_equal(soundfile.read(clip.path, dtype="int16")[0], samples)


def test_the_recipe_builds_a_small_gate_with_a_short_window() -> None:
    pytest.importorskip("torch", reason="networks need torch: pip install 'edgeaudio[torch]'")
    from edgeaudio_models.architectures import build_module, count_parameters
    from edgeaudio_models.recipe import load_recipe

    recipe = load_recipe("vad")
    values = {**recipe.model.parameters, "n_features": 40, "n_labels": 2}
    assert count_parameters(build_module(recipe.model.architecture, values)) < 20_000
    # A label is true of a whole window, so the network averages no more than that.
    assert round(recipe.corpus.clip_seconds * 100) == values["window_frames"] == 32


def test_the_area_under_the_roc_is_the_share_of_pairs_in_order() -> None:
    from edgeaudio.speech_gate import area_under_roc

    # Pairs (2, 1), (2, 2), (3, 1), (3, 2), (0, 1), (0, 2): three in order, one tie, two not.
    assert area_under_roc(np.array([2.0, 3.0, 0.0]), np.array([1.0, 2.0])) == pytest.approx(3.5 / 6)
    assert area_under_roc(np.array([1.0]), np.array([0.0, -1.0])) == 1.0


def test_figures_of_a_gate_that_measures_loudness() -> None:
    """Level as the only feature: noise makes speech louder, so nothing is missed, and loud noise stays an alarm."""
    from edgeaudio.parity.task import LabelledClips
    from edgeaudio.speech_gate import Gate, gate_figures, render
    from edgeaudio.zoo.noise import Noise
    from edgeaudio_runtime.engines.base import NetworkSignature
    from edgeaudio_runtime.presets import preset
    from edgeaudio_runtime.quantization import QuantParams

    spec, quant = preset("log_mel"), QuantParams(scale=(0.05,))
    loud, faint = recording(0.32, [(0.0, 0.32)]), recording(0.32, [])
    level = (np.log(1e-6) + 6.5) * 0.2 + 1.5

    class Loudness:
        engine, numerics, version = "numpy", "fp32", "by hand"
        signature = NetworkSignature(
            step_frames=4, n_features=40, outputs_per_step=1, n_labels=2, input_quant=quant, output_quant=quant
        )

        def session(self) -> "Loudness":
            return self

        def run(self, codes: np.ndarray) -> np.ndarray:
            heard = codes.mean(axis=1, keepdims=True) * 0.05 > level
            return np.concatenate((~heard, heard), axis=1).astype(np.int8)

        def reset(self) -> None:
            pass

    def network(features: np.ndarray) -> np.ndarray:
        heard = features.mean(axis=1, keepdims=True) - np.float32(level)
        return np.concatenate((-heard, heard), axis=1)

    gate = Gate(labels=("_silence_", "speech"), features=spec, network=network, program=Loudness())
    clips = LabelledClips(
        waveforms=np.stack([loud, loud, faint, loud]), labels=("speech", "speech", "_silence_", "_silence_"),
        speakers=("", "", "", ""),
    )  # fmt: skip
    figures = gate_figures(gate, clips, Noise(name="hiss", samples=recording(2.0, [(0.0, 2.0)], seed=3)))
    assert (figures["n_speech"], figures["n_silence"]) == (2, 2)
    assert [row["snr_db"] for row in figures["rows"]] == [None, 20.0, 10.0, 5.0, 0.0]
    clean = figures["rows"][0]
    assert (clean["int8"]["missed"], clean["int8"]["false_alarms"], clean["int8"]["accuracy"]) == (0.0, 0.5, 0.75)
    # Against the faint window every pair is in order, against the loud one all are ties.
    assert clean["float"]["auc"] == pytest.approx(0.75)
    assert clean["agreement"] == 1.0
    assert " clean     0.7500  0.7500     75.0%   75.0%     0.0%   50.0%  100.00%" in render(figures)


def test_a_bundle_of_other_labels_is_no_gate() -> None:
    from edgeaudio.speech_gate import Gate
    from edgeaudio_runtime.errors import ParityError
    from edgeaudio_runtime.presets import preset

    with pytest.raises(ParityError, match="this is no speech gate"):
        Gate(labels=("yes", "no"), features=preset("log_mel"), network=lambda x: x, program=None)  # type: ignore[arg-type]
