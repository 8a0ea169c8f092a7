"""The greedy CTC decoder by hand: repeats, blanks, the end of a transcript, times."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeaudio_runtime.bundle import open_bundle
from edgeaudio_runtime.ctc_decoder import CtcDecoder, DecoderConfig, byte_level_text
from edgeaudio_runtime.errors import BundleError, SpecError
from edgeaudio_runtime.extent import StreamClock

LABELS = ("-", "a", "b")
CLOCK = StreamClock(
    sample_rate=16000,
    hop_length=160,
    win_length=400,
    first_offset=0,
    step_frames=4,
    outputs_per_step=1,
    window_frames=20,
)


def decoder(*, separator: str = "", trailing_blank_s: float = 0.2, latency_frames: int = 0) -> CtcDecoder:
    config = DecoderConfig(separator=separator, trailing_blank_s=trailing_blank_s)
    return CtcDecoder(config, labels=LABELS, clock=CLOCK, latency_frames=latency_frames)


def codes(best: str) -> np.ndarray:
    rows = np.zeros((len(best), len(LABELS)), dtype=np.int8)
    rows[np.arange(len(best)), [LABELS.index(letter) for letter in best]] = 50
    return rows


def collapse(best: str) -> str:
    """CTC's map B: repeats merged, then blanks dropped."""
    return "".join(letter for letter, _ in itertools.groupby(best)).replace("-", "")


def test_repeats_are_one_token_and_a_blank_divides_them() -> None:
    events = decoder(trailing_blank_s=9).process(codes("aa-ab-b"))
    assert [event.text for event in events] == ["a", "aa", "aab", "aabb"]
    assert not any(event.final for event in events)


def test_enough_blanks_make_it_final_and_the_next_begins_anew() -> None:
    # 0.2 s are five outputs.
    events = decoder().process(codes("a----b-----b"))
    assert [(event.text, event.final) for event in events] == [("a", False), ("ab", False), ("ab", True), ("b", False)]


def test_flush_makes_it_final() -> None:
    listening = decoder()
    listening.process(codes("ab"))
    assert [(event.text, event.final) for event in listening.flush()] == [("ab", True)]
    assert listening.flush() == []


def test_words_are_joined_with_the_separator() -> None:
    assert decoder(separator=" ").process(codes("a-b"))[-1].text == "a b"


def test_tokens_carry_the_time_of_their_outputs() -> None:
    # Output k speaks of frames 4k..4k+3, which stand for 7.5 ms + 40k ms to 47.5 ms + 40k ms.
    listening = decoder()
    listening.process(codes("--aab"))
    final = listening.flush()[0]
    spans = [(token.label, token.start_s, token.end_s) for token in final.tokens]
    assert spans == [
        ("a", pytest.approx(0.0875), pytest.approx(0.1675)),
        ("b", pytest.approx(0.1675), pytest.approx(0.2075)),
    ]
    assert (final.start_s, final.end_s) == (pytest.approx(0.0875), pytest.approx(0.2075))


def test_latency_is_taken_off_and_nothing_is_before_the_stream() -> None:
    late = decoder(latency_frames=8)
    late.process(codes("a--b"))
    first, last = late.flush()[0].tokens
    assert (first.start_s, first.end_s) == (0.0, 0.0)
    assert last.start_s == pytest.approx(0.1275 - 0.08)


def test_the_json_line_has_the_fields_of_the_contract() -> None:
    event = decoder().process(codes("a"))[0]
    assert event.to_dict() == {"event": "transcript", "text": "a", "final": False, "start_s": 0.0075, "end_s": 0.0475}


def test_reset_forgets() -> None:
    used = decoder()
    used.process(codes("ab"))
    used.reset()
    assert used.process(codes("-b")) == decoder().process(codes("-b"))


@given(best=st.text(alphabet="-ab", max_size=60), cuts=st.lists(st.integers(0, 60), max_size=5))
def test_cutting_the_outputs_changes_nothing_and_the_text_is_the_collapsed_path(best: str, cuts: list[int]) -> None:
    whole, cut = decoder(trailing_blank_s=60), decoder(trailing_blank_s=60)
    expected = whole.process(codes(best)) + whole.flush()
    found = []
    for a, b in itertools.pairwise([0, *sorted(cuts), max(60, len(best))]):
        found += cut.process(codes(best[a:b]))
    assert found + cut.flush() == expected
    assert (expected[-1].text if expected else "") == collapse(best)


def test_another_shape_is_refused() -> None:
    with pytest.raises(SpecError, match=r"logit codes have shape \[2, 4\], it must be \[k, 3\]"):
        decoder().process(np.zeros((2, 4), dtype=np.int8))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"schema_version": 1, "separator": 3}, "separator=3 must be a string"),
        ({"schema_version": 1, "trailing_blank_s": 0}, "trailing_blank_s=0 must be a number from 0.04 to 60"),
        ({"schema_version": 9}, "decoder schema_version=9 must be 1"),
        ({"schema_version": 1, "beam": 4}, "unknown decoder fields ['beam']"),
    ],
)
def test_wrong_settings_are_named(values: dict[str, object], words: str) -> None:
    with pytest.raises((SpecError, BundleError)) as caught:
        DecoderConfig.from_dict(values)
    assert words in str(caught.value)


def test_settings_survive_the_way_to_json_and_back(ctc_bundle: Path) -> None:
    config = open_bundle(ctc_bundle).decoder_config
    assert DecoderConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_byte_level_labels_are_read_as_the_utf_8_they_spell() -> None:
    # GPT-2's alphabet: a space is U+0120; é is the bytes C3 A9, which stand for themselves.
    config = DecoderConfig(byte_level=True)
    listening = CtcDecoder(config, labels=("<blank>", "\u0120caf", "Ã", "©"), clock=CLOCK)
    rows = np.eye(4, dtype=np.int8)[[1, 2, 3]]
    assert [event.text for event in listening.process(rows)] == [" caf", " caf\ufffd", " café"]
    # Bytes 0 to 255 each have one letter: the first of those that are not printable is U+0100.
    assert byte_level_text("\u0100\u010aa\u3042") == "\x00\na"
