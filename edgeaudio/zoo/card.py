"""The card of a zoo entry as Markdown: ``card.json`` for people, nothing measured and nothing added here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from edgeaudio.licences import SHARE_ALIKE
from edgeaudio.zoo.card_figures import background_lines, condition_lines, keyword_lines, string_lines, wake_word_lines
from edgeaudio.zoo.markdown import table

Card = Mapping[str, Any]


def render_entry_card(card: Card) -> str:
    """Markdown of a card's JSON form; sections whose figures are missing are left out."""
    sections = [list(section(card)) for section in _SECTIONS]
    return "\n\n".join("\n".join(lines) for lines in sections if lines) + "\n"


def _head(card: Card) -> Iterator[str]:
    words = [label for label in card["labels"] if label not in (*card["background_labels"], "<blank>")]
    doing = "detects" if card["task"] == "keyword" else "transcribes"
    yield f"# {card['name']}"
    yield ""
    yield f"A streaming int8 network that {doing} {', '.join(words)}. {card['headline']}"


def _data(card: Card) -> Iterator[str]:
    yield "## Data and licence"
    yield ""
    yield from table(
        ("trained on", "licence", "SPDX", "commercial use", "by"),
        [
            (one["name"], one["licence"], one["spdx"] or "-", one["commercial_use"], one["citation"] or "-")
            for one in card["sources"]
        ],
    )
    yield ""
    yield f"Commercial use: **{card['commercial_use']}**, derived from the licences of the data alone; no legal advice."
    if any(one["spdx"] in SHARE_ALIKE for one in card["sources"]):
        yield "Some of the data are share-alike: attribute them, and settle whether weights are an adaptation of data."
    yield "Weights and card: Apache-2.0. No recording of a person is in the entry; its golden audio is synthesized."


def _hears(card: Card) -> Iterator[str]:
    features = card["features"]
    yield "## What it hears"
    yield ""
    yield f"- preset `{features['preset']}`: {features['summary']}"
    yield f"- feature specification `{features['hash']}`"


def _network(card: Card) -> Iterator[str]:
    network, quantization = card["network"], card["quantization"]
    yield "## Network"
    yield ""
    work = f"{network['macs_per_second']:,.0f} MACs a second"
    yield f"- {network['architecture']}, {network['parameters']:,} parameters, {work}"
    times = f"latency {network['latency_ms']:g} ms beyond the step of {network['step_ms']:g} ms"
    yield f"- receptive field {network['receptive_field_ms']:g} ms, {times}"
    yield f"- {network['streams']}"
    shares = ", ".join(f"{engine} {share:.0%}" for engine, share in network["int8_macs_share"].items())
    yield f"- multiply-accumulates in int8: {shares}"
    recovery = " + ".join(quantization["recovery"]) or "none"
    yield (
        f"- {quantization['method']} by {quantization['backend']}, ranges by {quantization['calibration']} over "
        f"{quantization['clips']} training clips, recovery {recovery}"
    )


def _training(card: Card) -> Iterator[str]:
    training = card["training"]
    yield "## Training"
    yield ""
    yield f"{training['epochs']} epochs from seed {training['seed']}."
    if training["validation"] is not None:
        score = f"{training['chosen_by']} of {training['validation']:.2%} on validation clips"
        if training.get("averages_epochs"):
            yield f"The weights of the last epochs were averaged: {score}; the test split had no say."
        else:
            yield f"Epoch {training['epoch']} was kept for its {score}; the test split had no say."
    if training.get("started_from"):
        yield f"It began with the weights of `{training['started_from']}`, whose data stand in the table above."
    if training.get("threshold"):
        yield _threshold(training["threshold"])
    if card["history"]:
        yield ""
        yield f"![Loss and validation error by epoch]({training['curve']})"


def _threshold(chosen: Mapping[str, Any]) -> str:
    """What the threshold of a wake word rests on."""
    return (
        f"Threshold {chosen['value']:g}: the highest that misses few more of the synthesized phrases held out than the "
        f"lowest without a false accept on speech held out ({chosen['miss_rate']:.1%} of them, in rooms and noise, and "
        f"{chosen['false_accepts']} false accepts in {chosen['hours']:.2f} hours); no recording below chose it."
    )


def _sizes(card: Card) -> Iterator[str]:
    yield "## Files"
    yield ""
    yield from table(("file", "bytes"), [(name, f"{size:,}") for name, size in card["files"].items()])


def _speed(card: Card) -> Iterator[str]:
    speed = card.get("speed")
    if speed is None:
        return
    yield "## Speed"
    yield ""
    yield f"On {speed['processor']}, one core of a machine that did other work too; {speed['unit']}, medians."
    yield ""
    rows = [
        *((f"network alone, {name}", f"{us:.1f}") for name, us in speed["engines"].items()),
        *((f"PCM to events, {name}", f"{us:.1f}") for name, us in speed["pipeline"].items()),
    ]
    yield from table(("", "us"), rows)
    yield ""
    yield from table(
        ("fresh process", "first answer, ms", "peak memory, MB"),
        [
            (engine, f"{row['first_answer_ms']:g}", f"{row['peak_memory_mb']:g}")
            for engine, row in speed["cold_start"].items()
        ],
    )


def _reproduce(card: Card) -> Iterator[str]:
    yield "## How to reproduce"
    yield ""
    for command in card["reproduce"]:
        yield f"    {command}"
    yield ""
    versions = ", ".join(f"{name} {version}" for name, version in card["environment"].items())
    yield f"Measured with {versions}; `card.json` holds every figure."


_SECTIONS: tuple[Callable[[Card], Iterator[str]], ...] = (
    _head,
    _data,
    keyword_lines,
    string_lines,
    wake_word_lines,
    condition_lines,
    background_lines,
    _hears,
    _network,
    _training,
    _sizes,
    _speed,
    _reproduce,
)
