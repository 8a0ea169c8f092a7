"""The history of a training: one row an epoch, kept over a kill, written with the checkpoint and read back."""

import pytest

from edgeaudio_models.history import HistoryRow, format_history, parse_history
from edgeaudio_runtime.errors import SpecError

ROWS = (
    HistoryRow(epoch=1, loss=1.5, learning_rate=0.008, score=0.25, seconds=3.0),
    HistoryRow(epoch=2, loss=0.75, learning_rate=0.0, score=0.5, seconds=2.5),
)
TEXT = """[
 {
  "epoch": 1,
  "loss": 1.5,
  "learning_rate": 0.008,
  "score": 0.25,
  "seconds": 3.0
 },
 {
  "epoch": 2,
  "loss": 0.75,
  "learning_rate": 0.0,
  "score": 0.5,
  "seconds": 2.5
 }
]
"""


def test_rows_are_a_json_list_of_objects_and_come_back() -> None:
    assert format_history(ROWS) == TEXT
    assert parse_history(TEXT) == ROWS


@pytest.mark.parametrize(
    "text", ["3", '[{"epoch": 1}]', TEXT.replace("1.5", '"low"'), TEXT.replace("1.5", "true"), '["row"]']
)
def test_what_is_no_history_is_refused(text: str) -> None:
    with pytest.raises(SpecError, match=r"history=.* must be a list of objects with the numbers \['epoch', 'loss'"):
        parse_history(text)


def test_a_broken_file_is_said_to_be_no_json() -> None:
    with pytest.raises(SpecError, match="not JSON: Expecting value"):
        parse_history("")
