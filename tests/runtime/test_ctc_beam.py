"""Prefix beam search against the sum over every alignment, and what word lists, hotwords and language models change."""

import gc
import itertools
from collections import defaultdict
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeaudio_runtime.ctc_beam import BeamSearch, LogProbabilities, _Prefix
from edgeaudio_runtime.ctc_bias import TextBias
from edgeaudio_runtime.ctc_decoder import CtcDecoder, DecoderConfig
from edgeaudio_runtime.detector_config import DetectorConfig
from edgeaudio_runtime.errors import EdgeAudioError, SpecError
from edgeaudio_runtime.events import TranscriptEvent
from edgeaudio_runtime.extent import StreamClock
from edgeaudio_runtime.ngram import NgramModel
from edgeaudio_runtime.quantization import QuantParams
from edgeaudio_runtime.spelling import Spelling

CLOCK = StreamClock(
    sample_rate=16000,
    hop_length=160,
    win_length=400,
    first_offset=0,
    step_frames=4,
    outputs_per_step=1,
    window_frames=20,
)
QUANT = QuantParams(scale=(0.1,), zero_point=0)
WORDS = ("-", "a", "b")
EVERYTHING = 256
"""A beam wider than the number of texts in these tests (3 labels, 6 outputs): nothing is lost."""
SUM_TOLERANCE = 1e-9
"""Float64 sums in another order."""
MODEL = NgramModel(
    ngrams={
        ("<s>",): (-99.0, -0.3),
        ("a",): (-0.4, -0.2),
        ("b",): (-0.9, -0.1),
        ("</s>",): (-0.7, 0.0),
        ("a", "b"): (-0.2, 0.0),
        ("<s>", "b"): (-1.5, 0.0),
        ("b", "</s>"): (-0.1, 0.0),
    }
)

Text = tuple[int, ...]


def logits(n_outputs: int, seed: int, *, n_labels: int = 3, spread: int = 40) -> np.ndarray:
    return np.random.default_rng(seed).integers(-spread, spread, (n_outputs, n_labels)).astype(np.int8)


def brute_force(codes: np.ndarray) -> dict[Text, float]:
    """Log probability of every text: the sum over all alignments that collapse to it."""
    real = codes.astype(np.float64) * float(np.float32(0.1))
    probs = np.exp(real) / np.exp(real).sum(axis=1, keepdims=True)
    total: dict[Text, float] = defaultdict(float)
    for path in itertools.product(range(codes.shape[1]), repeat=len(codes)):
        text = tuple(label for label, _ in itertools.groupby(path) if label)
        total[text] += float(np.prod(probs[np.arange(len(path)), path]))
    return {text: float(np.log(p)) for text, p in total.items()}


def search(config: DecoderConfig, labels: tuple[str, ...] = WORDS) -> BeamSearch:
    spelling = Spelling(labels, separator=config.separator)
    return BeamSearch(config.beam_width, LogProbabilities(QUANT), TextBias(config, spelling))


def words(**values: object) -> DecoderConfig:
    return DecoderConfig(**{"separator": " ", "beam_width": EVERYTHING, **values})


def run(found: BeamSearch, codes: np.ndarray) -> BeamSearch:
    for output, row in enumerate(codes):
        found.push(row, int(row.argmax()), output)
    return found


def final(config: DecoderConfig, codes: np.ndarray) -> Text:
    return tuple(span.label for span in run(search(config), codes).final())


@pytest.mark.parametrize("seed", range(4))
def test_a_text_has_the_probability_of_all_its_alignments(seed: int) -> None:
    codes = logits(6, seed)
    expected, found = brute_force(codes), run(search(words()), codes).texts()
    assert set(found) == set(expected)
    for text, log_p in found.items():
        assert log_p == pytest.approx(expected[text], abs=SUM_TOLERANCE)
    assert final(words(), codes) == max(expected, key=lambda text: expected[text])


def test_the_sum_wins_where_every_single_alignment_loses() -> None:
    # Twice 0.6 for the blank and 0.4 for a: no single alignment beats two blanks (0.36), but those of "a" make 0.64.
    quant = QuantParams(scale=(float(np.log(1.5)),), zero_point=0)
    found = BeamSearch(4, LogProbabilities(quant), TextBias(words(), Spelling(("-", "a"), separator=" ")))
    run(found, np.array([[1, 0], [1, 0]], dtype=np.int8))
    assert [span.label for span in found.final()] == [1]
    assert found.texts()[(1,)] == pytest.approx(np.log(0.64), abs=1e-6)


def test_probabilities_of_networks_that_give_these_are_taken_as_they_are() -> None:
    found = LogProbabilities(QuantParams(scale=(1 / 256,), zero_point=-128), "probabilities")
    assert found(np.array([64, -128], dtype=np.int8)) == pytest.approx([np.log(0.75), np.log(1e-9)])
    assert found(np.array([0.75, 0.0])) == pytest.approx([np.log(0.75), np.log(1e-9)])


def test_the_float_network_of_a_bundle_is_read_by_its_real_logits() -> None:
    codes = logits(5, 2)
    found = run(search(words()), codes * np.float32(0.1)).texts()
    # Products of float32 and of float64 differ in the eighth digit.
    assert found == pytest.approx(brute_force(codes), abs=1e-5)


@settings(max_examples=40)
@given(best=st.lists(st.integers(0, 2), max_size=40))
def test_a_sure_network_is_read_as_greedily(best: list[int]) -> None:
    codes = np.zeros((len(best), 3), dtype=np.int8)
    codes[np.arange(len(best)), best] = 100  # the others have 5e-5
    greedy, beam = decoder(separator=" "), decoder(separator=" ", beam_width=2)
    expected, found = greedy.process(codes) + greedy.flush(), beam.process(codes) + beam.flush()
    assert [plain(event) for event in found] == [plain(event) for event in expected]


def plain(event: TranscriptEvent) -> tuple[object, ...]:
    tokens = [(token.label, token.start_s, token.end_s) for token in event.tokens]
    return event.text, event.final, event.start_s, event.end_s, event.detected_s, tokens


def decoder(labels: tuple[str, ...] = WORDS, **values: object) -> CtcDecoder:
    return CtcDecoder(DecoderConfig(**values), labels=labels, clock=CLOCK, output_quant=QUANT)


def best_of(codes: np.ndarray, worth: Callable[[Text], float | None]) -> Text:
    scored = {text: (worth(text), log_p) for text, log_p in brute_force(codes).items()}
    return max((text for text, (w, _) in scored.items() if w is not None), key=lambda text: sum(scored[text]))


@pytest.mark.parametrize("seed", range(6))
def test_a_word_list_leaves_the_most_probable_text_of_these_words(seed: int) -> None:
    codes = logits(6, seed)
    allowed = best_of(codes, lambda text: 0.0 if set(text) <= {2} else None)
    assert final(words(words=["b"]), codes) == allowed


@pytest.mark.parametrize("seed", range(6))
def test_phrases_leave_the_most_probable_of_them_or_nothing(seed: int) -> None:
    codes = logits(6, seed)
    phrases = {(1, 2, 1): 0.0, (2, 2): 0.0, (1,): 0.0, (): 0.0}
    assert final(words(phrases=["a b a", "b b", "a"]), codes) == best_of(codes, phrases.get)


@pytest.mark.parametrize("seed", range(6))
def test_hotwords_add_their_bonus_for_each_time_they_are_said(seed: int) -> None:
    def worth(text: Text) -> float:
        """1.5 for each "a b", left to right, and -0.7 for each "b b", none overlapping another."""
        bonus, i = 0.0, 0
        while i < len(text):
            pair = {(1, 2): 1.5, (2, 2): -0.7}.get(text[i : i + 2])
            bonus, i = (bonus + pair, i + 2) if pair is not None else (bonus, i + 1)
        return bonus

    codes = logits(6, seed)
    assert final(words(hotwords={"a b": 1.5, "b b": -0.7}), codes) == best_of(codes, worth)


def test_back_off_by_hand() -> None:
    assert MODEL.order == 2
    assert MODEL.log10(("a",), "b") == -0.2
    assert MODEL.log10(("b",), "a") == pytest.approx(-0.1 - 0.4)  # back-off of b, then a alone
    assert MODEL.log10(("<s>",), "a") == pytest.approx(-0.3 - 0.4)
    assert MODEL.log10(("a",), "c") == pytest.approx(-0.2 - 7.0)  # neither c nor <unk> is in the model
    known = NgramModel(ngrams={**MODEL.ngrams, ("<unk>",): (-2.0, 0.0)})
    assert known.log10(("a",), "c") == pytest.approx(-0.2 - 2.0)


@pytest.mark.parametrize("seed", range(6))
def test_a_language_model_and_a_bonus_a_word_weigh_in_as_their_formula_says(seed: int) -> None:
    def worth(text: Text) -> float:
        said = ["<s>", *(WORDS[label] for label in text), "</s>"]
        log10 = sum(MODEL.log10((before,), word) for before, word in itertools.pairwise(said)) if text else 0.0
        return 0.8 * np.log(10) * log10 + 1.3 * len(text)

    codes = logits(6, seed)
    found = final(words(language_model=MODEL, lm_weight=0.8, insertion_bonus=1.3), codes)
    assert found == best_of(codes, worth)


LETTERS = ("-", " ", "a", "r", "t", "i", "s")


def spelt(text: str, *, doubt: str = "") -> np.ndarray:
    """A letter an output, each sure; a letter of ``doubt`` after the text is as probable as a blank."""
    rows = np.zeros((2 * len(text) + 1 + len(doubt), len(LETTERS)), dtype=np.int8)
    rows[:, 0] = 60
    for i, letter in enumerate(text):
        rows[2 * i + 1, [0, LETTERS.index(letter)]] = 0, 100
    for i, letter in enumerate(doubt):
        rows[2 * len(text) + 1 + i, LETTERS.index(letter)] = 60
    return rows


def read(codes: np.ndarray, **values: object) -> str:
    reading = decoder(LETTERS, beam_width=64, **values)
    events = reading.process(codes) + reading.flush()
    return events[-1].text if events else ""


def test_a_word_list_of_letters_is_left_only_between_words() -> None:
    assert read(spelt("art is")) == "art is"
    assert read(spelt("art"), words=["is", "a"]) not in ("art", "ar", "at")
    assert read(spelt("is art"), words=["is", "art"]) == "is art"
    assert read(spelt("arti"), words=["art", "artist"]).strip() == "art"


def test_a_hotword_counts_as_a_whole_word_alone() -> None:
    doubtful = spelt("art", doubt="i")
    assert read(doubtful, hotwords={"art": 3.0}) == "art"
    assert read(doubtful, hotwords={"arti": 3.0}) == "arti"
    # A "t" that goes on a word is no word of its own.
    assert read(spelt("ar", doubt="t"), hotwords={"t": 3.0}) == read(spelt("ar", doubt="t"))


def test_a_language_model_of_words_judges_letters_when_the_word_is_over() -> None:
    model = NgramModel(ngrams={("art",): (-0.1, 0.0), ("a",): (-4.0, 0.0), ("</s>",): (-0.5, 0.0)})
    unsure = spelt("ar", doubt="t")
    assert read(unsure, language_model=model, lm_weight=1.0) == "art"
    rare = NgramModel(ngrams={("art",): (-6.0, 0.0), ("ar",): (-0.1, 0.0), ("</s>",): (-0.5, 0.0)})
    assert read(unsure, language_model=rare, lm_weight=1.0) == "ar"


def test_words_have_times_and_the_score_of_their_weakest_letter() -> None:
    codes = spelt("is art")
    codes[11, LETTERS.index("t")] = 10  # softmax of (1, 0 six times) where the others have 6, 10 and 5 times 0
    codes[11, 0] = 0
    reading = decoder(LETTERS, beam_width=8)
    event = (reading.process(codes) + reading.flush())[-1]
    assert [word.label for word in event.words] == ["is", "art"]
    # i at output 1, s at 3, a at 7 and t at 11: 7.5 ms + 40 ms k to 47.5 ms + 40 ms k.
    spans = [(word.start_s, word.end_s) for word in event.words]
    assert spans == [(pytest.approx(0.0475), pytest.approx(0.1675)), (pytest.approx(0.2875), pytest.approx(0.4875))]
    assert event.words[0].score == pytest.approx(1 / (1 + 6 * np.exp(-10)), abs=1e-6)
    assert event.words[1].score == pytest.approx(np.exp(1) / (np.exp(1) + 6), abs=1e-6)
    line = event.to_dict()
    assert line["words"][0] == {"label": "is", "start_s": 0.0475, "end_s": 0.1675, "score": pytest.approx(0.999728)}


def test_greedy_transcripts_have_words_too_but_their_json_line_is_as_ever() -> None:
    event = decoder(("-", "a|", "|", "b"), separator="").process(np.eye(4, dtype=np.int8)[[1, 2, 3]])[-1]
    assert [word.label for word in event.words] == ["a|", "b"]
    assert set(event.to_dict()) == {"event", "text", "final", "start_s", "end_s"}


@pytest.mark.parametrize(
    ("labels", "options", "phrase", "spelling"),
    [
        (("-", "up", "down"), {"separator": " "}, "down up", (2, 1)),
        (("-", "a", "b", " "), {}, "ab a", (1, 2, 3, 1)),
        (("-", "A", "B", "|"), {}, "A B", (1, 3, 2)),
        (("-", "\u2581a", "\u2581", "b", "bb", "a"), {}, "abbb a", (1, 4, 3, 1)),
        (("-", "\u0120caf", "Ã", "©"), {"byte_level": True}, "café", (1, 2, 3)),
        (("-", "l", "h"), {}, "l h", (1, 2)),
    ],
)
def test_phrases_are_spelt_with_the_longest_labels(
    labels: tuple[str, ...], options: dict[str, object], phrase: str, spelling: tuple[int, ...]
) -> None:
    assert Spelling(labels, **options).spell(phrase) == spelling


def test_what_cannot_be_spelt_is_named() -> None:
    with pytest.raises(SpecError, match=r"'abc' cannot be spelt: no label is 'c'; labels are \['a', 'b'\]"):
        Spelling(("-", "b", "a")).spell("abc")
    with pytest.raises(SpecError, match="'c' cannot be spelt: no label is 'c'"):
        decoder(separator=" ", beam_width=4, hotwords={"c": 1.0})


@pytest.mark.parametrize("seed", range(5))
def test_leaving_out_what_cannot_be_kept_changes_nothing(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model = NgramModel(ngrams={**MODEL.ngrams, ("b",): (0.4, 0.6)})  # no probability, but nothing forbids it
    config = words(beam_width=3, hotwords={"a b": 2.0, "b b": -1.0}, language_model=model, insertion_bonus=0.3)
    codes = logits(40, seed)
    found = run(search(config), codes)
    monkeypatch.setattr(TextBias, "_most_gain", lambda self: np.inf)
    assert run(search(config), codes).texts() == found.texts()


@settings(max_examples=8)
@given(seed=st.integers(0, 999), cuts=st.lists(st.integers(0, 90), max_size=6), min_words=st.integers(0, 3))
def test_cutting_the_outputs_changes_nothing(seed: int, cuts: list[int], min_words: int) -> None:
    codes = logits(90, seed)
    codes[30:50, 0] = 100  # a pause of 0.8 s
    settings = {
        "separator": " ", "beam_width": 5, "hotwords": {"a b": 1.0}, "language_model": MODEL, "min_words": min_words,
        "trailing_blank_s": 0.4, "max_utterance_s": 1.2,
    }  # fmt: skip
    whole, cut = decoder(**settings), decoder(**settings)
    found = []
    for a, b in itertools.pairwise([0, *sorted(cuts), 90]):
        found += cut.process(codes[a:b])
    assert found + cut.flush() == whole.process(codes) + whole.flush()
    assert cut.process(codes[:40]) == decoder(**settings).process(codes[:40])


def test_a_night_of_silence_leaves_the_search_as_new() -> None:
    used, new = decoder(separator=" ", beam_width=4), decoder(separator=" ", beam_width=4)
    silence = np.zeros((2000, 3), dtype=np.int8)
    silence[:, 0] = 46  # a and b have 1 % each, always; in 2000 outputs that would add up
    assert used.process(silence) == []
    said = logits(10, 3)
    assert [event.text for event in used.process(said)] == [event.text for event in new.process(said)]


def test_memory_is_that_of_the_prefixes_kept() -> None:
    reading = decoder(separator=" ", beam_width=6, max_utterance_s=2.0)
    reading.process(logits(600, 1, spread=20))
    gc.collect()
    alive = sum(type(thing) is _Prefix for thing in gc.get_objects())
    # Six prefixes and what they begin with, of 100 outputs at most (twice the longest transcript); most share much.
    assert alive <= 6 * 100


def said(text: str) -> np.ndarray:
    rows = np.zeros((len(text), len(WORDS)), dtype=np.int8)
    rows[np.arange(len(text)), [WORDS.index(letter) for letter in text]] = 100
    return rows


@pytest.mark.parametrize("beam_width", [1, 4])
def test_a_transcript_ends_when_its_time_is_over_and_a_token_that_goes_on_is_not_heard_twice(beam_width: int) -> None:
    # 0.6 s are 15 outputs: from the first a (output 3) to output 17.
    reading = decoder(separator=" ", beam_width=beam_width, max_utterance_s=0.6)
    events = reading.process(said("---aa--bb-aaabbbbbbbba--"))
    finals = [(event.text, event.detected_s) for event in events if event.final]
    assert finals == [("a b a b", pytest.approx((17 * 4 + 3) * 0.010 + 0.025))]
    assert [event.text for event in reading.flush()] == ["a"]


@pytest.mark.parametrize("beam_width", [1, 4])
def test_blanks_end_no_transcript_of_too_few_words(beam_width: int) -> None:
    reading = decoder(separator=" ", beam_width=beam_width, min_words=2, trailing_blank_s=0.2)
    events = reading.process(said("a-------b-------"))
    assert [(event.text, event.final) for event in events] == [("a", False), ("a b", False), ("a b", True)]


def test_a_phrase_that_the_audio_does_not_bear_out_is_dropped() -> None:
    codes = said("-b-b-")  # b twice, where the grammar knows one a alone: its label has 5e-5
    for score, texts in ((0.0, ["a"]), (0.3, [])):
        reading = decoder(separator=" ", beam_width=8, phrases=["a"], min_score=score)
        assert [event.text for event in reading.process(codes) + reading.flush() if event.final] == texts
    assert reading.process(codes) == []


def test_a_partial_text_is_reported_once_it_is_sure_enough() -> None:
    codes = np.array([[0, 2, 0], [0, 10, 0], [0, 40, 0], [90, 0, 0]], dtype=np.int8)  # a: 0.38, 0.58 and 0.96
    reading = decoder(separator=" ", beam_width=4, min_score=0.9)
    events = reading.process(codes)
    assert [(event.text, event.detected_s) for event in events] == [("a", pytest.approx((2 * 4 + 3) * 0.010 + 0.025))]
    assert events[0].tokens[0].start_s == pytest.approx(0.0075)


ARPA = """\
\\data\\
ngram 1=4
ngram 2=2

\\1-grams:
-99\t<s>\t-0.3
-0.4\ta\t-0.2
-0.9\tb\t-0.1
-0.7\t</s>

\\2-grams:
-0.2\ta b
-0.1 b </s>

\\end\\
"""


def test_an_arpa_file_is_read() -> None:
    model = NgramModel.from_arpa(ARPA)
    assert model.ngrams[("a",)] == (-0.4, -0.2)
    assert model.ngrams[("</s>",)] == (-0.7, 0.0)
    assert model.ngrams[("b", "</s>")] == (-0.1, 0.0)
    assert len(model.ngrams) == 6
    assert NgramModel.from_dict(model.to_dict()) == model


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("ngram 2=2", "ngram 2=3", r"has n-grams \{1: 4, 2: 2\}, its header says \{1: 4, 2: 3\}"),
        ("\\end\\", "", "must follow; get it whole"),
        ("-0.4\ta\t-0.2", "-0.4", "line 7 of the ARPA file, '-0.4', must be log10, 1 words and a back-off"),
        ("-0.4\ta", "x\ta", "line 7 of the ARPA file, .* could not convert string to float"),
    ],
)
def test_a_damaged_arpa_file_is_refused(old: str, new: str, words: str) -> None:
    with pytest.raises(SpecError, match=words):
        NgramModel.from_arpa(ARPA.replace(old, new))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"beam_width": 0}, "beam_width=0 must be an integer from 1 to 256"),
        ({"hotwords": {"a": 1.0}}, "beam_width=1 is greedy and knows no hotwords; set it to 8"),
        ({"beam_width": 4, "words": ["a"], "phrases": ["b"]}, "words and phrases exclude each other"),
        ({"beam_width": 4, "words": "a"}, "words='a' must be a list of strings that are not empty"),
        ({"beam_width": 4, "hotwords": ["a"]}, r"hotwords=\['a'\] must map words to numbers"),
        ({"beam_width": 4, "hotwords": {"a": 99}}, r"hotwords\['a'\]=99 must be a number from -50 to 50"),
        ({"max_utterance_s": 0.1}, "max_utterance_s=0.1 must be a number from 0.5 to 600"),
        ({"min_words": -1}, "min_words=-1 must be an integer from 0 to 100"),
        ({"beam_width": 4, "language_model": {"arpa": "x"}}, 'language_model must be {"ngrams": {...}}'),
        ({"beam_width": 4, "language_model": {"ngrams": {}}}, "ngrams must map from 1 to 200000 word sequences"),
        ({"beam_width": 4, "language_model": {"ngrams": {"a": [1]}}}, r"ngrams\['a'\]=\(1,\) must be two logarithms"),
    ],
)
def test_wrong_settings_are_named(values: dict[str, object], words: str) -> None:
    with pytest.raises(SpecError, match=words):
        DecoderConfig.from_dict({"schema_version": 1, **values})


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=3)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=3), inner, max_size=3)),
    max_leaves=6,
)
NAMES = st.sampled_from([*DecoderConfig.__dataclass_fields__, *DetectorConfig.__dataclass_fields__])


@settings(max_examples=30)
@given(values=st.dictionaries(NAMES, JSON, max_size=4), kind=st.sampled_from([DecoderConfig, DetectorConfig]))
def test_any_json_makes_settings_or_one_line(values: dict[str, object], kind: type) -> None:
    try:
        config = kind.from_dict({"schema_version": 1, "beam_width": 2, **values} if kind is DecoderConfig else values)
    except EdgeAudioError:
        return
    assert kind.from_dict(config.to_dict()) == config


def test_settings_survive_the_way_to_json_and_back_and_new_ones_are_left_out_where_unset() -> None:
    config = DecoderConfig(beam_width=8, words=["a"], hotwords={"a": 1.0}, language_model=MODEL, max_utterance_s=9.0)
    assert DecoderConfig.from_dict(config.to_dict()) == config
    assert set(DecoderConfig().to_dict()) == {"schema_version", "separator", "trailing_blank_s", "byte_level"}


def test_a_beam_needs_the_scale_of_the_logits() -> None:
    with pytest.raises(SpecError, match=r"output_quant \(missing\) must be per tensor for a beam search"):
        CtcDecoder(DecoderConfig(beam_width=2), labels=WORDS, clock=CLOCK)


def test_lists_that_would_fill_a_device_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeaudio_runtime.spelling.MOST_SPELT", 10)
    with pytest.raises(SpecError, match="have 11 characters, they must have <= 10; list fewer"):
        decoder(beam_width=2, words=["a" * 6], hotwords={"b" * 5: 1.0})
