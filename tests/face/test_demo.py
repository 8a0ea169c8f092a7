"""The demo as a newcomer runs it, and the README's words about what it leaves behind."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOLERANCE_S = 0.3
"""What the project promises: a word is reported within 0.3 s of where it was planted."""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which ``edgeaudio demo`` has run as ``make demo`` runs it."""
    folder = tmp_path_factory.mktemp("newcomer")
    command = [Path(sys.executable).with_name("edgeaudio"), "demo", "--output", "build/demo"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "every planted word was heard" in done.stdout
    return folder


def test_every_planted_word_is_heard_in_order_and_in_time(workplace: Path) -> None:
    truth = json.loads((workplace / "build/demo/scene.json").read_text())
    events = [json.loads(line) for line in (workplace / "build/demo/events.jsonl").read_text().splitlines()]
    assert [event["label"] for event in events] == [word["label"] for word in truth]
    for word, event in zip(truth, events, strict=True):
        assert event["event"] == "keyword"
        assert abs(event["start_s"] - word["start_s"]) <= TOLERANCE_S
        assert abs(event["end_s"] - word["end_s"]) <= TOLERANCE_S
        assert abs(event["detected_s"] - word["end_s"]) <= TOLERANCE_S


def test_the_certificate_passed_and_covers_the_bundle(workplace: Path) -> None:
    proof = json.loads((workplace / "build/demo/parity.json").read_text())
    bundle = workplace / "build/demo/bundle"
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert proof["passed"] is True
    assert {entry["path"] for entry in manifest["artifacts"]} < set(proof["covers"])
    exact = {s["name"]: s for s in proof["stages"] if s["name"].startswith(("engine", "streaming"))}
    other_rounding = exact.pop("engine litert, reference kernels")
    assert other_rounding["passed"] is True
    assert {name for name in exact if name.startswith("engine")} - {"engine native"} == {
        "engine numpy",
        "engine onnxruntime",
        "engine onnxruntime, not optimized",
        "engine litert",
    }
    assert all(stage["mismatches"] == 0 and stage["compared"] >= 50_000 for stage in exact.values())


def test_the_readme_example_hears_the_scene(workplace: Path) -> None:
    block = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    assert block is not None
    done = subprocess.run([sys.executable, "-c", block[1]], cwd=workplace, capture_output=True, text=True, check=True)
    heard = [line.split(" from ")[0] for line in done.stdout.splitlines() if " from " in line]
    truth = json.loads((workplace / "build/demo/scene.json").read_text())
    assert heard == [word["label"] for word in truth]


def test_the_readme_device_commands_work(workplace: Path) -> None:
    run = Path(sys.executable).with_name("edgeaudio-run")
    listened = subprocess.run(
        [run, "build/demo/bundle", "build/demo/scene.wav"], cwd=workplace, capture_output=True, text=True, check=True
    )
    assert len(listened.stdout.splitlines()) == len(json.loads((workplace / "build/demo/scene.json").read_text()))
    tested = subprocess.run(
        [run, "build/demo/bundle", "--selftest", "--json"], cwd=workplace, capture_output=True, text=True, check=True
    )
    assert json.loads(tested.stdout)["passed"] is True
