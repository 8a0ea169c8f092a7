"""The examples of docs/detection.md run, each for itself, on bundles of the names they use."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgeaudio_runtime.decoder_config import DecoderConfig
from edgeaudio_runtime.detector_config import DetectorConfig

DOCUMENT = Path(__file__).parents[2] / "docs/detection.md"
EXAMPLES = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), flags=re.DOTALL)
HEARD = [
    [r"low 0\.(6[5-9]|7\d) to 1\.(1[5-9]|2\d) s", r"high 1\.(8[5-9]|9\d) to 2\.(1[5-9]|2\d) s"],
    ["wake {'event': 'keyword', 'label': 'low'", "'label': 'high'", "digits .*'text': 'lh', 'final': True"],
    ["low [56]", "high 2[4-6]"],
    [r"lh \[\('lh', 0\.(6[5-9]|7\d)"],
    [r"'language_model': {'ngrams': {'l': \[-0.5, -0.3\]"],
]
"""What the output of each example says; words begin where they were planted, within 50 ms."""


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_the_examples_run_and_hear_what_was_said(
    number: int,
    keyword_bundle: Path,
    ctc_bundle: Path,
    make_scene: Callable[..., np.ndarray],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, bundle in {"bundle": keyword_bundle, "text": ctc_bundle, "vad": keyword_bundle}.items():
        (tmp_path / name).symlink_to(bundle, target_is_directory=True)
    monkeypatch.chdir(tmp_path)
    scene = make_scene([("low", 0.7, 0.5), ("high", 1.9, 0.3)], 3.2)
    exec(compile(EXAMPLES[number], DOCUMENT.name, "exec"), {"samples": scene})
    said = capsys.readouterr().out
    for words in HEARD[number]:
        assert re.search(words, said), said


def test_there_is_a_figure_for_every_example() -> None:
    assert len(HEARD) == len(EXAMPLES)


@pytest.mark.parametrize("config", [DetectorConfig, DecoderConfig])
def test_every_setting_and_its_default_stand_in_the_tables(config: type) -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| (`.*`) \| (.*?) \|", text, flags=re.MULTILINE))
    named = {name: default for key, default in rows.items() for name in re.findall(r"`(\w+)`", key)}
    fields = {name: field.default for name, field in config.__dataclass_fields__.items() if name != "schema_version"}
    assert set(fields) <= set(named)
    for name, default in fields.items():
        if isinstance(default, (int, float, bool)):
            assert json.dumps(default).removesuffix(".0") in named[name].split(", ")
