"""The whole way in one run, from no data at all to a bundle that has listened and was proven."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from edgeaudio.commands.export import run_export
from edgeaudio.commands.train import run_training
from edgeaudio.parity.report import render_stages
from edgeaudio.progress import say
from edgeaudio_runtime.staging import staged_file

SCENE_SEED = 7
TOLERANCE_S = 0.3
"""How far start, end and detection of an event may lie from the planted word."""


def run_demo(output: Path, recipe: str) -> bool:
    """Run every stage and say whether all words were heard and the certificate passed.

    ``output`` then holds checkpoint, bundle, parity.json, scene.wav, scene.json and events.jsonl.
    """
    begin, cache = time.monotonic(), output / "cache"
    output.mkdir(parents=True, exist_ok=True)
    _forget_finished_run(output)
    checkpoint = run_training(recipe, None, output, cache=cache)
    say(f"trained in {time.monotonic() - begin:.0f} s; now quantize, export, prove")
    proof = run_export(output / "checkpoint", output / "bundle", None, cache=cache, force=True)
    with staged_file(output / "parity.json") as path:
        path.write_text(json.dumps(proof, indent=2) + "\n", encoding="utf-8")
    words = [label for label in checkpoint.labels if not label.startswith(("_", "<"))]
    truth = _plant(output, [*words, *reversed(words)], cache)
    events = _listen(output)
    heard = matches(truth, events)
    click.echo(render_stages(proof))
    click.echo(_comparison(truth, events))
    click.echo(f"{'every' if heard else 'NOT every'} planted word was heard; {time.monotonic() - begin:.0f} s in all")
    return heard and bool(proof["passed"])


def _forget_finished_run(output: Path) -> None:
    """A demo that came to its end begins anew; one that was killed goes on."""
    if (output / "checkpoint").exists():
        shutil.rmtree(output / "checkpoint")
        (output / "training_state.pt").unlink(missing_ok=True)


def matches(truth: Sequence[dict[str, Any]], events: Sequence[dict[str, Any]]) -> bool:
    """Whether the events are the planted words: all, in order, no extras, each within :data:`TOLERANCE_S`."""
    return len(truth) == len(events) and all(_fits(word, event) for word, event in zip(truth, events, strict=True))


def _fits(word: dict[str, Any], event: dict[str, Any]) -> bool:
    times = ((word["start_s"], event["start_s"]), (word["end_s"], event["end_s"]), (word["end_s"], event["detected_s"]))
    return bool(word["label"] == event["label"]) and all(abs(a - b) <= TOLERANCE_S for a, b in times)


def _plant(output: Path, words: Sequence[str], cache: Path) -> list[dict[str, Any]]:
    import soundfile

    from edgeaudio_models.synthesis import synthesize_scene

    scene = synthesize_scene(words, seed=SCENE_SEED, cache_folder=cache)
    soundfile.write(output / "scene.wav", scene.samples, scene.sample_rate, subtype="PCM_16")
    truth = [
        {"label": word.label, "start_s": round(word.start_s, 3), "end_s": round(word.end_s, 3)} for word in scene.spoken
    ]
    (output / "scene.json").write_text(json.dumps(truth, indent=1) + "\n", encoding="utf-8")
    return truth


def _listen(output: Path) -> list[dict[str, Any]]:
    """Through the device's own command line, in a process of its own."""
    command = [
        sys.executable,
        "-m",
        "edgeaudio_runtime.cli",
        str(output / "bundle"),
        str(output / "scene.wav"),
        "--json",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    with staged_file(output / "events.jsonl") as path:
        path.write_text(done.stdout, encoding="utf-8")
    return [json.loads(line) for line in done.stdout.splitlines()]


def _comparison(truth: Sequence[dict[str, Any]], events: Sequence[dict[str, Any]]) -> str:
    lines = [f"{'planted':30s}heard"]
    for i in range(max(len(truth), len(events))):
        word = truth[i] if i < len(truth) else None
        event = events[i] if i < len(events) else None
        left = f"{word['label']:8s}{word['start_s']:7.2f} -{word['end_s']:7.2f}" if word else "-"
        right = "-"
        if event:
            times = f"{event['start_s']:7.2f} -{event['end_s']:7.2f}, known at{event['detected_s']:7.2f}"
            right = f"{event['label']:8s}{times}, score {event['score']:.2f}"
        lines.append(f"{left:30s}{right}")
    return "\n".join(lines)
