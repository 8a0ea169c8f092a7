"""The word error rate: hand counts, the strings it is measured on, and the command that measures it."""

from __future__ import annotations

import csv
import functools
import importlib.util
import itertools
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from edgeaudio.cli import main
from edgeaudio.parity.corpus import load_labelled_clips, load_spoken_words
from edgeaudio.parity.labelled_task import StringTask
from edgeaudio.parity.verdict import judge_task
from edgeaudio.parity.word_errors import SpokenString, SpokenWord, compare_transcripts, join_words, score_strings
from edgeaudio.sweep.variants import first_variants
from edgeaudio_models.audio_files import write_wav
from edgeaudio_models.ctc import Edits, count_edits
from edgeaudio_runtime.bundle import Bundle, open_bundle
from edgeaudio_runtime.errors import ParityError
from edgeaudio_runtime.quantization import quantize

RATE = 16_000
LOUD = 1000
SHORT = st.lists(st.integers(0, 2), max_size=6)


def string(*words: str, speaker: str = "ann") -> SpokenString:
    return SpokenString(samples=np.zeros(1, np.int16), words=words, speaker=speaker)


def words(n: int, *, speakers: tuple[str, ...] = ("ann",)) -> list[SpokenWord]:
    """Recordings of constant level, each of its own length, so that strings can be taken apart again."""
    return [
        SpokenWord(samples=np.full(1000 + i, LOUD, np.int16), word=f"w{i}", speaker=speakers[i % len(speakers)])
        for i in range(n)
    ]


def runs(samples: np.ndarray) -> list[tuple[bool, int]]:
    """(is loud, samples) of every stretch."""
    cuts = [0, *(np.flatnonzero(np.diff(samples)) + 1).tolist(), len(samples)]
    return [(bool(samples[a]), b - a) for a, b in itertools.pairwise(cuts)]


@pytest.mark.parametrize(
    ("said", "read", "expected"),
    [
        ("one two", "one two", (0, 0, 0)),
        ("one two three", "one three", (0, 1, 0)),
        ("one two", "one two two", (0, 0, 1)),
        ("one two", "one six", (1, 0, 0)),
        ("one two three", "", (0, 3, 0)),
        ("", "four", (0, 0, 1)),
        ("one two three four", "two three four five", (0, 1, 1)),
        ("one two", "two one", (2, 0, 0)),  # as short as a deletion and an insertion
    ],
)
def test_edits_are_told_apart(said: str, read: str, expected: tuple[int, int, int]) -> None:
    substitutions, deletions, insertions = expected
    found = count_edits(said.split(), read.split())
    assert found == Edits(substitutions=substitutions, deletions=deletions, insertions=insertions)


@given(SHORT, SHORT)
def test_edits_are_as_few_as_the_textbook_recursion_finds(said: list[int], read: list[int]) -> None:
    @functools.cache
    def distance(i: int, j: int) -> int:
        if not i or not j:
            return i + j
        kept = distance(i - 1, j - 1) + (said[i - 1] != read[j - 1])
        return min(kept, distance(i - 1, j) + 1, distance(i, j - 1) + 1)

    found = count_edits(said, read)
    assert found.total == distance(len(said), len(read))
    assert found.insertions - found.deletions == len(read) - len(said)


def test_strings_are_three_to_seven_words_with_gaps_of_50_to_300_ms() -> None:
    strings = join_words(words(40), sample_rate=RATE)
    assert len(strings) == 200
    assert {len(one.words) for one in strings} == {3, 4, 5, 6, 7}
    gaps = []
    for one in strings:
        stretches = runs(one.samples)
        assert stretches[0] == stretches[-1] == (False, 4800)  # 0.3 s at both ends: no hearing shifts a word out
        assert [f"w{n - 1000}" for loud, n in stretches if loud] == list(one.words)
        gaps += [n for loud, n in stretches[1:-1] if not loud]
    assert 800 <= min(gaps) < 900
    assert 4700 < max(gaps) <= 4800


def test_strings_are_the_same_every_time_and_others_by_another_seed() -> None:
    first, again = (join_words(words(9), sample_rate=RATE) for _ in range(2))
    assert [one.words for one in first] == [one.words for one in again]
    assert first[0].samples.tobytes() == again[0].samples.tobytes()
    assert [one.words for one in join_words(words(9), sample_rate=RATE, seed=1)] != [one.words for one in first]


def test_a_string_is_said_by_one_speaker() -> None:
    strings = join_words(words(9, speakers=("ann", "bob")), sample_rate=RATE, n_strings=50)
    assert {one.speaker for one in strings} == {"ann", "bob"}
    assert all({int(word[1:]) % 2 for word in one.words} == {int(one.speaker == "bob")} for one in strings)


def test_strings_need_words() -> None:
    with pytest.raises(ParityError, match=r"words=\[\] must be at least one recording; give a corpus of single words"):
        join_words([], sample_rate=RATE)


def test_word_error_rates_of_a_hand_counted_case() -> None:
    strings = [string("one", "two", "three"), string("four", "five", speaker="bob")]
    reference = [[("one", "two", "three"), ("one", "three")], [("four", "five"), ("four", "five")]]
    candidate = [[("one", "two", "two"), ("one", "three")], [("four",), ("four", "five", "five")]]
    result = compare_transcripts(strings, reference, candidate)
    assert (result.n, result.n_words, result.n_hearings, result.n_speakers) == (2, 5, 2, 2)
    assert result.reference == pytest.approx(1 / 10)
    assert result.candidate == pytest.approx(4 / 10)
    assert result.delta == pytest.approx(3 / 10)
    assert result.agreement == 1 / 4 + 0 / 4 + 0 / 4
    assert result.reference_errors == {"substitutions": 0, "deletions": 1, "insertions": 0}
    assert result.candidate_errors == {"substitutions": 1, "deletions": 2, "insertions": 1}


def test_the_interval_is_that_of_a_ratio_of_sums_over_strings() -> None:
    # Half of 400 strings of 4 words have one error: the rate is 1/8, its standard error 0.5 / sqrt(400) / 4.
    strings = [string("a", "b", "c", "d")] * 400
    right, wrong = ("a", "b", "c", "d"), ("a", "b", "c")
    read = [[right if i % 2 else wrong] for i in range(400)]
    result = compare_transcripts(strings, [[right]] * 400, read)
    low, high = result.candidate_ci95
    assert high - low == pytest.approx(2 * 1.96 * 0.5 / 20 / 4, rel=0.05)
    assert result.ci95 == result.candidate_ci95  # the reference makes no errors
    assert result.reference_ci95 == (0.0, 0.0)


def test_long_strings_weigh_by_their_words() -> None:
    # One error in 2 words and none in 6: 1/8 of all words, not the mean of 1/2 and 0.
    strings = [string("a", "b"), string(*"cdefgh")]
    result = compare_transcripts(strings, [[("a",)], [tuple("cdefgh")]], [[("a",)], [tuple("cdefgh")]])
    assert result.candidate == 1 / 8
    assert (result.delta, result.ci95, result.agreement) == (0.0, (0.0, 0.0), 1.0)


def judged(lost: int) -> str:
    """Verdict where int8 loses the last word of ``lost`` of 200 strings of five words."""
    strings = [string("a", "b", "c", "d", "e")] * 200
    right, wrong = tuple("abcde"), tuple("abcd")
    result = compare_transcripts(strings, [[right]] * 200, [[wrong if i < lost else right] for i in range(200)])
    verdict = judge_task(result.to_dict())
    assert verdict is not None
    assert verdict["budget"] == 0.005
    return str(verdict["verdict"])


def test_int8_may_lose_half_a_point_and_the_interval_decides() -> None:
    assert judged(0) == "non-inferior"
    assert judged(5) == "not enough data"  # half a point, give or take
    assert judged(40) == "inferior"  # four points


def test_a_gain_of_int8_is_not_inferior() -> None:
    result = compare_transcripts([string("a")], [[()]], [[("a",)]])
    assert result.delta == -1.0
    assert judge_task(result.to_dict()) == {"budget": 0.005, "verdict": "non-inferior"}


def test_the_json_form_names_what_it_measures() -> None:
    document = compare_transcripts([string("a")], [[("a",)]], [[("b",)]]).to_dict()
    assert (document["metric"], document["unit"]) == ("word_error_rate", "strings")
    assert (document["float"], document["int8"], document["delta"]) == (0.0, 1.0, 1.0)
    assert document["int8_ci95"] == [1.0, 1.0]
    assert document["int8_errors"] == {"substitutions": 1, "deletions": 0, "insertions": 0}
    assert {"float_ci95", "float_errors", "ci95", "agreement", "n", "n_words", "n_hearings"} <= set(document)


def test_transcripts_must_be_there_for_every_string() -> None:
    with pytest.raises(ParityError, match=r"1 strings, 0 and 1 read, each in \[1\] hearings; all must be one number"):
        compare_transcripts([string("a")], [], [[("a",)]])
    with pytest.raises(ParityError, match=r"each in \[1, 2\] hearings"):
        compare_transcripts([string("a")], [[("a",)]], [[("a",), ("a",)]])


def listening_bundles() -> ModuleType:
    """The bundles of ``tests/runtime``, which hear low ("l") and high ("h") bursts of noise."""
    path = Path(__file__).parents[1] / "runtime" / "conftest.py"
    spec = importlib.util.spec_from_file_location("listening_bundles", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    path = tmp_path_factory.mktemp("ctc") / "bundle"
    return open_bundle(listening_bundles().write_test_bundle(path, task="ctc"))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Low and high bursts, 3 of each in every split, with half a second of faint noise around."""
    folder, bundles = tmp_path_factory.mktemp("bursts"), listening_bundles()
    rows: list[Sequence[str]] = [["path", "label", "word", "speaker", "split"]]
    for i in range(12):
        band, split = ("low", "high")[i % 2], ("train", "test")[i // 6]
        burst = np.concatenate([np.zeros(RATE // 2), bundles.noise_word(band, 0.3, seed=i), np.zeros(RATE // 2)])
        noise = np.random.default_rng(i).integers(-20, 21, len(burst))
        write_wav(folder / f"{i}.wav", (burst + noise).astype(np.int16), RATE)
        rows.append([f"{i}.wav", band[0], band[0], f"s{i // 4}", split])
    with (folder / "manifest.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    return folder


def deaf(features: np.ndarray) -> np.ndarray:
    """A float network that never hears anything: the blank wins every step."""
    return np.tile(np.float32([1.0, 0.0, 0.0]), (len(features) // 4, 1))


def test_words_are_trimmed_by_energy_and_taken_from_the_test_split(bundle: Bundle, corpus: Path) -> None:
    found, split = load_spoken_words(bundle, corpus)
    assert split == "test"
    assert [(word.word, word.speaker) for word in found] == [
        ("l", "s1"), ("h", "s1"), ("l", "s2"), ("h", "s2"), ("l", "s2"), ("h", "s2"),
    ]  # fmt: skip
    # 0.3 s from 0.5 s on, in frames of 10 ms
    assert {len(word.samples) for word in found} == {4800}


def test_both_networks_read_the_strings_by_the_decoder_of_the_bundle(bundle: Bundle, corpus: Path) -> None:
    found, _ = load_spoken_words(bundle, corpus)
    strings = join_words(found, sample_rate=RATE, n_strings=12)
    program = bundle.program("numpy")
    result = score_strings(bundle, program, strings, hearings=first_variants(2), float_network=deaf)
    n_words = sum(len(one.words) for one in strings)
    assert (result.n, result.n_words, result.n_hearings) == (12, n_words, 2)
    assert result.reference == 1.0
    assert result.reference_errors == {"substitutions": 0, "deletions": 2 * n_words, "insertions": 0}
    # Bursts are merged by CTC where a gap is shorter than a step or two: l l becomes l.
    assert result.candidate_errors["substitutions"] == 0
    assert result.candidate < 0.1


def test_a_network_against_itself_loses_nothing(bundle: Bundle, corpus: Path) -> None:
    program = bundle.program("numpy")

    def itself(features: np.ndarray) -> np.ndarray:
        return program.session().run(quantize(features, program.signature.input_quant)).astype(np.float32)

    task = StringTask(bundle, corpus, split="train", hearings=1)
    result = task.measure(itself)
    assert [result[key] for key in ("delta", "agreement", "n", "n_speakers")] == [0.0, 1.0, 200, 2]
    assert (result["data"], result["split"]) == (corpus.name, "train")
    assert len(task.probe) == 16


def test_tasks_are_not_confused(bundle: Bundle, corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(ParityError, match="task='ctc' is not judged by single clips but by load_spoken_words"):
        load_labelled_clips(bundle, corpus)
    keyword = listening_bundles().write_test_bundle(tmp_path / "keyword", task="keyword")
    with pytest.raises(ParityError, match="task='keyword' has no word error rate; it is judged by load_labelled_clips"):
        load_spoken_words(open_bundle(keyword), corpus)
    missing = CliRunner().invoke(main, ["parity", str(bundle.path), "--data", str(corpus), "--split", "dev"])
    assert missing.exit_code == 2
    assert "split='dev' is not in the corpus" in missing.stderr
