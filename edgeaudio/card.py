"""The model card: manifest and certificate, rendered for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from edgeaudio.licences import commercial_use, spdx
from edgeaudio.parity.stream_report import accepted, missed
from edgeaudio_runtime.bundle import Bundle
from edgeaudio_runtime.features import MelSpec, MicrofrontendSpec


def render_card(bundle: Bundle, proof: Mapping[str, Any]) -> str:
    """Markdown card of a bundle; ``proof`` is its certificate."""
    sections = (
        _head(bundle),
        _hears(bundle),
        _network(bundle),
        _quality(proof),
        *([_streams(proof["streams"])] if proof.get("streams") else []),
        _ladder(proof),
        _data(bundle),
        _sizes(bundle),
    )
    return "\n\n".join("\n".join(section) for section in sections) + "\n"


def _head(bundle: Bundle) -> Iterator[str]:
    yield f"# {bundle.name}"
    yield ""
    words = [label for label in bundle.labels if label not in bundle.background_labels and label != "<blank>"]
    doing = "detects the keywords" if bundle.task == "keyword" else "transcribes the words"
    made_of = _KINDS.get(bundle.manifest.quantization.method, "A network")
    yield f"{made_of} that {doing} {', '.join(words)} in a stream of audio."


_KINDS = {
    "static_w8a8": "An int8 network",
    "static_w8a16": "A network of int8 weights and int16 activations",
    "dynamic_w8": "A network of int8 weights, activations quantized as it runs,",
    "weight_only_w8": "A float network of int8 weights",
    "float16": "A float network of float16 weights",
    "float32": "A float network",
    "as_is": "A TensorFlow Lite network, as it came,",
}
"""What a quantization method makes of a network."""


def _hears(bundle: Bundle) -> Iterator[str]:
    spec = bundle.features
    yield "## What it hears"
    yield ""
    yield f"- sample rate {spec.sample_rate} Hz, mono; window {spec.win_length} samples, hop {spec.hop_length}"
    if isinstance(spec, MelSpec):
        band = f"{spec.f_min:g} to {spec.f_max:g} Hz"
        yield f"- {spec.n_mels} {spec.mel_scale} mels, {band}, log {spec.log}, floor {spec.log_floor:g}"
    if isinstance(spec, MicrofrontendSpec):
        yield f"- {spec.n_mels} channels, {spec.f_min:g} to {spec.f_max:g} Hz, TensorFlow Lite Micro's fixed point"
    yield f"- feature specification `{spec.hash}`"


def _network(bundle: Bundle) -> Iterator[str]:
    network, provenance, hop = bundle.manifest.network, bundle.manifest.provenance, _frame_ms(bundle)
    yield "## Network"
    yield ""
    yield f"- {provenance.get('architecture', 'network')}, {provenance.get('parameters', 0):,} parameters"
    if "listens" in provenance:
        yield f"- {provenance['listens']}; licence {provenance.get('licence', 'unknown')}"
    yield from (f"- {note}" for note in provenance.get("notes", ()))
    step_ms, latency_ms = network.step_frames * hop, network.latency_frames * hop
    if network.input_frames is not None:
        yield f"- looks at windows of {network.input_frames} frames ({network.input_frames * hop:g} ms), one each step"
    yield f"- one step is {network.step_frames} frames ({step_ms:g} ms), latency {latency_ms:g} ms"
    yield f"- receptive field {network.receptive_field_frames * hop:g} ms, {len(network.states)} states"
    quantization = bundle.manifest.quantization
    calibration = quantization.calibration
    if quantization.method == "as_is":
        yield f"- neither quantized nor changed here; licence {provenance.get('licence', 'unknown')}"
        yield "- for litert only"
        return
    yield (
        f'- {quantization.method} by {quantization.backend}, requantization "{quantization.requantization}", ranges by '
        f"{calibration.get('method')} over {calibration.get('clips')} clips"
    )
    if quantization.recipe.get("only_for"):
        yield f"- {only_for(quantization.recipe)}"


def only_for(recipe: Mapping[str, Any]) -> str:
    """Which engine alone runs the network, what keeps it there, and what it computes in float."""
    kept = [f"{entry['count'] or ''} {entry['operation'] or entry['reason']}".strip() for entry in recipe["kept_by"]]
    in_float = [f"{count} {operation}" for operation, count in recipe["float_operations"].items()]
    return (
        f"for {recipe['only_for']} only, kept there by {', '.join(kept) or 'method ' + recipe['method']}; in float32: "
        f"{', '.join(in_float) or 'nothing'}"
    )


def _quality(proof: Mapping[str, Any]) -> Iterator[str]:
    task = proof.get("task")
    if task is not None and task["metric"] == "word_error_rate":
        yield from _word_errors(task)
        return
    yield "## Accuracy"
    yield ""
    if task is None:
        yield "Not measured on labelled recordings yet; `edgeaudio parity BUNDLE --data DIR --write` does."
        return
    low, high = task["int8_ci95"]
    units = f"{task['n_speakers']} speakers or clips without one"
    yield f"{task['n']} clips of {task['data']} (split {task['split']}), {units}."
    yield ""
    yield "| | |"
    yield "|---|---|"
    if task["float"] is None:
        yield f"| as it came | {task['int8']:.2%} (95 % by speaker: {low:.2%} to {high:.2%}) |"
        for name, other in task.get("subsets", {}).items():
            yield f"| {name} | {other['int8']:.2%} ({other['n']} clips) |"
        return
    yield f"| float | {task['float']:.2%} |"
    yield f"| int8 | {task['int8']:.2%} (95 % by speaker: {low:.2%} to {high:.2%}) |"
    low, high = task["ci95"]
    interval = f"95 % by speaker: {100 * low:+.2f} to {100 * high:+.2f}"
    yield f"| int8 - float | {100 * task['delta']:+.2f} points ({interval}) |"
    yield f"| same answer | {task['agreement']:.2%} |"
    for name, other in task.get("subsets", {}).items():
        yield f"| int8 {name} | {other['int8']:.2%} ({other['n']} clips) |"
    yield from _by_label(task.get("by_label", {}))


def _streams(section: Mapping[str, Any]) -> Iterator[str]:
    yield "## In streams"
    yield ""
    heard = [] if section["positives"] is None else [f"{section['positives']['n']} recordings of a keyword"]
    heard += [f"{row['hours']:.2f} hours of {row['data']}" for row in section["negatives"]]
    yield f"{', '.join(heard)}; threshold {section['threshold']:g}; 95 % intervals."
    yield ""
    yield "| | missed | false accepts an hour |"
    yield "|---|---|---|"
    for side in ("float", "int8"):
        if section[side] is not None:
            yield f"| {side} | {missed(section[side])} | {accepted(section[side])} |"


def _word_errors(task: Mapping[str, Any]) -> Iterator[str]:
    yield "## Word error rate"
    yield ""
    heard = f"each heard in {task['n_hearings']} shifts and gains, speakers: {task['n_speakers']}"
    yield f"{task['n']} strings of {task['n_words']} words joined from {task['data']} (split {task['split']}), {heard}."
    yield ""
    yield "| | |"
    yield "|---|---|"
    yield f"| float | {task['float']:.2%} |"
    low, high = task["int8_ci95"]
    yield f"| int8 | {task['int8']:.2%} (95 % by string: {low:.2%} to {high:.2%}) |"
    low, high = task["ci95"]
    interval = f"95 % by string: {100 * low:+.2f} to {100 * high:+.2f}"
    yield f"| int8 - float | {100 * task['delta']:+.2f} points ({interval}) |"
    yield f"| same words | {task['agreement']:.2%} |"


def _by_label(rows: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    if rows:
        yield ""
        yield "| label | clips | float | int8 |"
        yield "|---|---|---|---|"
    for label, row in rows.items():
        yield f"| {label} | {row['n']} | {row['float']:.1%} | {row['int8']:.1%} |"


def _ladder(proof: Mapping[str, Any]) -> Iterator[str]:
    yield "## Parity"
    yield ""
    yield "| stage | reference | candidate | compared | outside | worst | rule |"
    yield "|---|---|---|---|---|---|---|"
    for row in proof["stages"]:
        cells = (
            row["name"],
            row["reference"],
            row["candidate"],
            f"{row['compared']:,}",
            f"{row['mismatches']:,}",
            worst(row),
        )
        verdict = "" if row["passed"] else " **failed**"
        yield "| " + " | ".join(cells) + f" | {row['tolerance']}{verdict} |"


def worst(row: Mapping[str, Any]) -> str:
    """Largest deviation of a stage, in the unit it was judged by."""
    if "max_lsb" in row:
        return f"{row['max_lsb']} codes"
    if "at least" in row["tolerance"]:
        return f"{row['sqnr_db']:.1f} dB" if "sqnr_db" in row else "equal"
    return f"{row['max_abs_error']:.1e}" if "max_abs_error" in row else "-"


def _data(bundle: Bundle) -> Iterator[str]:
    yield "## Training data"
    yield ""
    sources = bundle.manifest.provenance.get("sources", [])
    for source in sources:
        citation = f", {source['citation']}" if source.get("citation") else ""
        yield f"- {source['name']}: {spdx(source['licence']) or source['licence']}{citation}"
    if not sources:
        yield "Not known: the model came without word of it."
    yield ""
    answer = commercial_use(source["licence"] for source in sources)
    yield f"Commercial use, as the licences of the data have it: {answer}; this is no legal advice."
    yield "No recording of a person is in the bundle: its golden audio is synthesized."


def _sizes(bundle: Bundle) -> Iterator[str]:
    yield "## Files"
    yield ""
    yield "| file | engine | bytes |"
    yield "|---|---|---|"
    for artifact in bundle.manifest.artifacts:
        yield f"| {artifact.path} | {artifact.engine or '-'} | {artifact.size:,} |"


def _frame_ms(bundle: Bundle) -> float:
    return 1000 * bundle.features.hop_length / bundle.features.sample_rate
