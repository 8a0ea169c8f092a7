"""The robustness sweep: every condition by hand numbers, the verdicts on many conditions, and both networks."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from scipy.stats import norm

from edgeaudio.cli import main
from edgeaudio.parity.certificate import certificate
from edgeaudio.parity.conditions import (
    Condition,
    all_conditions,
    clipped,
    poorly_resampled,
    resampled,
    white_noise,
    with_dc,
    without_blocks,
)
from edgeaudio.parity.robustness import (
    ClipSubject,
    StringSubject,
    changed_clips,
    changed_strings,
    conditions_of,
    judged,
    spread_clips,
    sweep_conditions,
    widened,
)
from edgeaudio.parity.task import LabelledClips, score_clips
from edgeaudio.parity.verdict import INFERIOR, NON_INFERIOR, NOT_ENOUGH_DATA
from edgeaudio.parity.word_errors import SpokenString
from edgeaudio.zoo.noise import Noise
from edgeaudio_models.audio_files import write_wav
from edgeaudio_models.checkpoint import load_checkpoint
from edgeaudio_models.zoo_entries import BUNDLE, entry_folder
from edgeaudio_runtime.bundle import Bundle, open_bundle
from edgeaudio_runtime.errors import ParityError

RATE, HOP = 16_000, 160
SOXR_DB = 0.1
"""soxr's pass band is flat to far less; rounding to int16 twice is the rest."""
LINEAR_DB = 0.01
"""Rounding to int16 twice."""
RATIO_DB = 0.01
"""Noise is rounded to int16 after it is scaled."""


def by_name(name: str) -> Condition:
    noise = Noise(name="street", samples=np.arange(-RATE, RATE, dtype=np.int16))
    found = [each for each in all_conditions(RATE, HOP, [noise]) if each.name == name]
    assert len(found) == 1
    return found[0]


def heard(name: str, samples: Any) -> np.ndarray:
    change = by_name(name).change
    assert change is not None
    return change(np.asarray(samples, dtype=np.int16))


def tone(hertz: float) -> np.ndarray:
    """One second at a quarter of full scale."""
    return np.rint(8192 * np.sin(2 * np.pi * hertz * np.arange(RATE) / RATE)).astype(np.int16)


def level_db(samples: np.ndarray, hertz: float) -> float:
    """How much of a tone is left, away from the ends, in dB of :func:`tone`."""
    middle = slice(RATE // 4, RATE // 4 + RATE // 2)
    wave = np.exp(-2j * np.pi * hertz * np.arange(RATE) / RATE)[middle]
    return float(20 * np.log10(abs(np.mean(samples[middle] * wave)) / 4096))


def test_every_condition_has_its_own_name_and_there_are_27_with_two_noises() -> None:
    noises = [Noise(name=name, samples=np.ones(RATE, np.int16)) for name in ("one", "two")]
    names = [each.name for each in all_conditions(RATE, HOP, noises)]
    assert len(set(names)) == len(names) == 27
    assert names[0] == "as it is"
    assert "two, 0 dB" in names


def test_conditions_of_an_8_khz_bundle_name_its_rates() -> None:
    names = [each.name for each in all_conditions(8000, 80, [])]
    assert {"8 -> 24 -> 8 kHz, soxr", "8 -> 4 -> 8 kHz, soxr", "20 samples later (0.25 hop)"} <= set(names)


def test_20_db_are_a_factor_of_ten_that_is_cut_off_at_full_scale() -> None:
    louder = heard("gain +20 dB", [0, 1000, 3276, 3277, -3276, -3277, 32767])
    assert louder.tolist() == [0, 10000, 32760, 32767, -32760, -32768, 32767]


def test_minus_40_db_are_a_hundredth_rounded_to_even() -> None:
    assert heard("gain -40 dB", [149, 151, 250, 350, -50, 32767]).tolist() == [1, 2, 2, 4, 0, 328]


def test_a_quarter_of_a_hop_is_40_samples_of_silence_first() -> None:
    ramp = np.arange(1, 1001)
    assert heard("40 samples later (0.25 hop)", ramp).tolist() == [0] * 40 + list(range(1, 961))


def test_clips_are_cut_off_at_a_share_of_their_own_peak() -> None:
    assert clipped(np.array([-8000, 3999, 4001, 7000], np.int16), share=0.5).tolist() == [-4000, 3999, 4000, 4000]
    assert heard("clipped at 25% of the peak", [-100, 24, 26]).tolist() == [-25, 24, 25]
    assert clipped(np.array([-32768, 20000], np.int16), share=0.5).tolist() == [-16384, 16384]
    assert clipped(np.zeros(3, np.int16), share=0.5).tolist() == [0, 0, 0]


def test_a_tenth_of_full_scale_is_added_and_cut_off() -> None:
    assert with_dc(np.array([0, -5000, 32000], np.int16), share=0.1).tolist() == [3277, -1723, 32767]


def test_10_ms_are_lost_at_each_quarter_of_a_second_and_the_rest_moves_up() -> None:
    late = heard("10 ms lost every 250 ms", np.arange(RATE))
    kept = [*range(4000), *range(4160, 8000), *range(8160, 12000), *range(12160, 16000)]
    assert late.tolist() == kept + [0] * 480


def test_single_samples_are_lost_at_each_thousandth() -> None:
    late = heard("1 sample lost of 1000", np.arange(3500))
    assert late.tolist() == [i for i in range(3500) if i not in (1000, 2000, 3000)] + [0] * 3


def test_blocks_at_the_end_of_a_clip_are_lost_as_far_as_it_goes() -> None:
    assert without_blocks(np.arange(12, dtype=np.int16), length=5, every=10).tolist() == [*range(10), 0, 0]


@pytest.mark.parametrize("other", [48_000, 8_000])
def test_soxr_keeps_a_tone_that_both_rates_hold(other: int) -> None:
    there_and_back = resampled(tone(1000), rate=RATE, other=other)
    assert there_and_back.shape == (RATE,)
    assert abs(level_db(there_and_back, 1000)) < SOXR_DB


def test_8_khz_in_between_take_away_what_lies_above_4_khz() -> None:
    assert np.abs(resampled(tone(6000), rate=RATE, other=8_000)[RATE // 4 : -RATE // 4]).max() <= 1
    assert abs(level_db(resampled(tone(6000), rate=RATE, other=48_000), 6000)) < SOXR_DB


@pytest.mark.parametrize("hertz", [500, 3000, 7000])
def test_linear_interpolation_there_and_back_dulls_as_its_two_neighbours_say(hertz: int) -> None:
    # A sample comes back from the points at a before and b after it, a + b = d, as (1 - 2ab/d) x[k] + ab/d (x[k-1] +
    # x[k+1]); over all samples a is even in 0..d, and the mean of ab is d^2 / 6.
    distance = 160 / 441
    gain = 1 - distance / 3 * (1 - np.cos(2 * np.pi * hertz / RATE))
    heard_db = level_db(poorly_resampled(tone(hertz), ratio=441 / 160), hertz)
    assert heard_db == pytest.approx(20 * np.log10(gain), abs=LINEAR_DB)


@pytest.mark.parametrize("snr_db", [20.0, 0.0])
def test_noise_is_added_at_the_ratio_of_mean_powers(snr_db: float) -> None:
    noise = white_noise(RATE)
    condition = Condition(name="x", kind="x", noise=noise, snr_db=snr_db)
    clips = LabelledClips(waveforms=np.stack([tone(440), tone(880)]), labels=("a", "b"), speakers=("", ""))
    mixed = changed_clips(clips, condition).waveforms.astype(float)
    added = mixed - clips.waveforms
    ratios = 10 * np.log10(np.mean(clips.waveforms.astype(float) ** 2, axis=1) / np.mean(added**2, axis=1))
    assert np.abs(ratios - snr_db).max() < RATIO_DB
    assert not np.array_equal(added[0], added[1])  # each clip has a cut of its own
    assert np.array_equal(changed_clips(clips, condition).waveforms, mixed)  # and always the same


def test_white_noise_is_always_the_same_20_db_below_full_scale() -> None:
    noise = white_noise(RATE).samples
    assert len(noise) == 10 * RATE
    assert 20 * np.log10(np.std(noise / 32768)) == pytest.approx(-20, abs=RATIO_DB)
    assert np.array_equal(noise, white_noise(RATE).samples)


def test_strings_of_any_length_are_changed_like_clips() -> None:
    strings = [SpokenString(samples=np.full(n, 100, np.int16), words=("a",), speaker="") for n in (50, 70)]
    louder = changed_strings(strings, by_name("gain +20 dB"))
    assert [each.samples.tolist() for each in louder] == [[1000] * 50, [1000] * 70]
    assert [len(each.samples) for each in changed_strings(strings, by_name("street, 0 dB"))] == [50, 70]
    assert changed_strings(strings, by_name("as it is")) is strings


def test_clips_are_spread_over_labels_and_speakers() -> None:
    labels = ("yes",) * 60 + ("no",) * 30 + ("up",) * 10
    speakers = tuple(f"s{i % 5}" for i in range(100))
    clips = LabelledClips(waveforms=np.arange(100, dtype=np.int16)[:, None], labels=labels, speakers=speakers)
    few = spread_clips(clips, 20)
    assert {label: few.labels.count(label) for label in ("yes", "no", "up")} == {"yes": 12, "no": 6, "up": 2}
    assert set(few.speakers) == {"s0", "s1", "s2", "s3", "s4"}
    assert all(labels[row[0]] == label for row, label in zip(few.waveforms, few.labels, strict=True))
    assert spread_clips(clips, 100) is clips


def task(delta: float, low: float, high: float, metric: str = "accuracy") -> dict[str, Any]:
    return {"metric": metric, "delta": delta, "ci95": [low, high]}


def test_intervals_are_widened_by_the_quantiles_of_the_normal() -> None:
    factor = norm.ppf(1 - 0.05 / 27 / 2) / norm.ppf(0.975)
    assert widened(task(-0.5, -0.9, -0.3), 27) == pytest.approx([-0.5 - 0.4 * factor, -0.5 + 0.2 * factor], rel=1e-9)
    assert widened(task(-0.5, -0.9, -0.3), 1) == pytest.approx([-0.9, -0.3])


@pytest.mark.parametrize(
    ("result", "n_conditions", "verdict"),
    [
        (task(-0.010, -0.014, -0.006), 1, INFERIOR),
        (task(-0.010, -0.014, -0.006), 27, INFERIOR),  # widened to -0.0037
        (task(-0.010, -0.014, -0.005), 1, INFERIOR),
        (task(-0.010, -0.014, -0.005), 27, NOT_ENOUGH_DATA),  # widened to -0.0021
        (task(0.000, -0.002, 0.002), 27, NON_INFERIOR),  # an acquittal needs no correction
        (task(0.000, -0.004, 0.004), 27, NOT_ENOUGH_DATA),
        (task(0.020, 0.018, 0.022, "word_error_rate"), 27, INFERIOR),
        (task(-0.020, -0.022, -0.018, "word_error_rate"), 27, NON_INFERIOR),
    ],
)
def test_a_condition_is_called_inferior_only_if_all_together_allow_it(
    result: dict[str, Any], n_conditions: int, verdict: str
) -> None:
    assert judged(result, n_conditions=n_conditions)["verdict"] == verdict


class Told:
    """A subject whose results are told."""

    def __init__(self, results: dict[str, dict[str, Any]]) -> None:
        self.n, self._results = 10, results

    def measure(self, condition: Condition, progress: Any = None) -> dict[str, Any]:
        if progress is not None:
            progress(self.n, self.n)
        return self._results[condition.name]


@pytest.mark.parametrize(
    ("second", "verdict", "worst"),
    [
        (task(0.001, 0.0, 0.002), NON_INFERIOR, "a"),
        (task(-0.001, -0.02, 0.002), NOT_ENOUGH_DATA, "b"),
        (task(-0.1, -0.11, -0.09), INFERIOR, "b"),
    ],
)
def test_one_condition_that_is_inferior_is_enough(second: dict[str, Any], verdict: str, worst: str) -> None:
    subject = Told({"a": task(0.0, -0.001, 0.001), "b": second})
    seen: list[tuple[int, int | None]] = []
    swept = sweep_conditions(
        subject,
        [Condition(name=name, kind="k") for name in "ab"],
        progress=lambda done, total: seen.append((done, total)),
    )
    assert (swept["verdict"], swept["worst"], swept["n_conditions"], swept["n"]) == (verdict, worst, 2, 10)
    assert [row["name"] for row in swept["conditions"]] == ["a", "b"]
    assert seen == [(10, 20), (20, 20)]


def test_more_word_errors_are_worse() -> None:
    rise, fall = task(0.01, 0.0, 0.02, "word_error_rate"), task(-0.01, -0.02, 0.0, "word_error_rate")
    conditions = [Condition(name=name, kind="k") for name in "ab"]
    assert sweep_conditions(Told({"a": fall, "b": rise}), conditions)["worst"] == "b"


@pytest.fixture(scope="module")
def small() -> Bundle:
    return open_bundle(entry_folder("kws-12-small") / BUNDLE)


@pytest.fixture(scope="module")
def clips(small: Bundle) -> LabelledClips:
    """The three golden words, each at two levels: half of them hard to hear."""
    starts = (8_000, 30_000, 52_000)
    words = [small.golden.pcm[start : start + RATE] for start in starts]
    quiet = [(word // 300).astype(np.int16) for word in words]
    return LabelledClips(
        waveforms=np.stack([*words, *quiet]), labels=("yes", "no", "left") * 2, speakers=("a", "b", "c") * 2
    )


def test_many_clips_at_once_are_decided_as_one_by_one(small: Bundle, clips: LabelledClips) -> None:
    checkpoint = load_checkpoint(entry_folder("kws-12-small"))
    module, program = checkpoint.module, small.program("numpy")

    def alone(features: np.ndarray) -> np.ndarray:
        import torch

        with torch.no_grad():
            logits: np.ndarray = module(torch.from_numpy(features)[None], module.initial_state(1))[0][0].numpy()
        return logits

    as_it_is = by_name("as it is")
    batched = ClipSubject(small, program, clips, module=module).measure(as_it_is)
    one_by_one = ClipSubject(small, program, clips, float_network=alone).measure(as_it_is)
    assert batched == one_by_one
    assert batched == score_clips(small, program, clips, module=module).result().to_dict()
    assert batched["int8"] > 0


def test_a_float_network_that_says_another_word_shows_as_a_gain_of_int8(small: Bundle, clips: LabelledClips) -> None:
    never = np.eye(12, dtype=np.float32)[[0]]  # always _silence_
    subject = ClipSubject(small, small.program("numpy"), clips, float_network=lambda _: never)
    found = subject.measure(by_name("gain +20 dB"))
    assert found["float"] == 0.0
    assert found["delta"] == found["int8"] > 0


class AsIs:
    """A bundle of a model that came as it is."""

    name = "foreign"

    class manifest:
        class quantization:
            method = "as_is"


@pytest.mark.parametrize("subject", [ClipSubject, StringSubject])
def test_a_model_without_a_float_network_is_refused(subject: Any) -> None:
    with pytest.raises(ParityError, match=r"bundle='foreign' came as it is, .*; leave --robustness out"):
        subject(AsIs(), None, None)


def test_strings_are_read_by_both_networks_under_a_condition(tmp_path: Path) -> None:
    path = Path(__file__).parents[1] / "runtime" / "conftest.py"
    spec = importlib.util.spec_from_file_location("listening_bundles", path)
    assert spec is not None
    assert spec.loader is not None
    bundles = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bundles)
    bundle = open_bundle(bundles.write_test_bundle(tmp_path / "ctc", task="ctc"))
    program = bundle.program("numpy")
    quiet = np.zeros(RATE // 2)
    burst = np.concatenate([quiet, bundles.noise_word("low", 0.3, seed=0), quiet]).astype(np.int16)
    strings = [
        SpokenString(samples=burst, words=("l",), speaker=""),
        SpokenString(samples=burst, words=("h",), speaker=""),
    ]

    def deaf(features: np.ndarray) -> np.ndarray:
        return np.tile(np.float32([1.0, 0.0, 0.0]), (len(features) // 4, 1))

    found = StringSubject(bundle, program, strings, float_network=deaf).measure(by_name("gain -10 dB"))
    # Float deletes both words; int8 reads "l" twice, which is right once and a substitution once.
    assert (found["metric"], found["float"], found["int8"]) == ("word_error_rate", 1.0, 0.5)
    assert found["int8_errors"] == {"substitutions": 1, "deletions": 0, "insertions": 0}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--robustness"], "robustness is measured on labelled recordings; give --data too"),
        (["--robustness-clips", "5"], "robustness_clips=5 are heard under conditions; give --robustness too"),
    ],
)
def test_the_command_says_what_is_missing_before_it_works(options: list[str], message: str) -> None:
    refused = CliRunner().invoke(main, ["parity", str(entry_folder("kws-12-small") / BUNDLE), *options])
    assert refused.exit_code == 2
    assert refused.stderr == f"edgeaudio: {message}\n"


def test_recorded_noise_is_heard_where_the_corpus_has_some(small: Bundle, tmp_path: Path) -> None:
    assert len(conditions_of(small, tmp_path)) == 23
    noise = tmp_path / "_background_noise_" / "hum.wav"
    noise.parent.mkdir()
    write_wav(noise, tone(50), RATE)
    conditions = conditions_of(small, tmp_path)
    assert len(conditions) == 27
    heard_noise = next(each.noise for each in conditions if each.name == "recorded noise, 5 dB")
    assert heard_noise is not None
    assert np.array_equal(heard_noise.samples, tone(50))


@pytest.mark.parametrize(("verdict", "passed"), [(NON_INFERIOR, True), (NOT_ENOUGH_DATA, True), (INFERIOR, False)])
def test_a_certificate_fails_only_where_a_condition_is_inferior(small: Bundle, verdict: str, passed: bool) -> None:
    document = certificate(small, [], robustness={"verdict": verdict})
    assert document["passed"] is passed
    assert document["robustness"] == {"verdict": verdict}
