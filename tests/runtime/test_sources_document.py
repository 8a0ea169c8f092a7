"""The examples of docs/sources.md run, and what the documents name exists."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soxr

from edgeaudio_runtime.cli import build_parser

DOCS = Path(__file__).parents[2] / "docs"
EXAMPLES = re.findall(r"```python\n(.*?)```", (DOCS / "sources.md").read_text(encoding="utf-8"), flags=re.DOTALL)


@pytest.mark.parametrize("example", EXAMPLES, ids=range(len(EXAMPLES)))
def test_an_example_runs_and_hears_both_words(
    example: str, keyword_bundle: Path, tmp_path: Path, make_scene: Callable[..., np.ndarray],
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    shutil.copytree(keyword_bundle, tmp_path / "bundle")
    monkeypatch.chdir(tmp_path)
    samples = make_scene([("low", 0.6, 0.4), ("high", 1.7, 0.4)], 2.8)
    fast = soxr.resample(samples / 32768, 16000, 48000).astype(np.float32)
    names = {"samples": samples, "stereo_48k": np.stack([np.zeros_like(fast), fast], axis=1)}
    exec(compile(example, "sources.md", "exec"), names)
    assert [line.split()[0] for line in capfd.readouterr().out.splitlines()] == ["low", "high"]


@pytest.mark.parametrize("document", ["sources.md", "wyoming.md", "doctor.md"])
def test_every_option_of_the_document_exists(document: str) -> None:
    named = set(re.findall(r"(?<![\w-])--[a-z]+", (DOCS / document).read_text(encoding="utf-8")))
    assert named
    assert named <= set(build_parser()._option_string_actions)
