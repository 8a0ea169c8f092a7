"""The measured sections of a zoo card: accuracy, noise and gain, hours of other sound."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from edgeaudio.zoo.markdown import table

Card = Mapping[str, Any]


def keyword_lines(card: Card) -> Iterator[str]:
    """Accuracy on labelled clips, with intervals, by label, as a confusion matrix, and over sixteen hearings."""
    task = card.get("accuracy")
    if task is None:
        return
    yield "## Accuracy"
    yield ""
    yield (
        f"{task['n']:,} clips of {task['data']}, split {task['split']}, by {task['n_speakers']} speakers (a clip "
        "without one counts as one); nothing was chosen by them. Intervals are 95 %, bootstrapped by speaker."
    )
    yield ""
    yield from _compared(task, task["macro"])
    yield ""
    yield from _hearings(card["hearings"])
    yield ""
    yield from _by_label(task)
    yield ""
    yield from _confusion(card["labels"], task["confusion"]["int8"])


def _compared(task: Mapping[str, Any], macro: Mapping[str, float]) -> Iterator[str]:
    rows = [_row("all clips", task), *(_row(name, other) for name, other in task["subsets"].items())]
    yield from table(("", "clips", "float", "int8", "int8 - float, points", "same answer"), rows)
    yield ""
    yield f"Mean over the labels: float {macro['float']:.2%}, int8 {macro['int8']:.2%}."


def _row(name: str, result: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        name,
        f"{result['n']:,}",
        f"{result['float']:.2%} {_interval(result['float_ci95'])}",
        f"{result['int8']:.2%} {_interval(result['int8_ci95'])}",
        f"{100 * result['delta']:+.2f} ({100 * result['ci95'][0]:+.2f} to {100 * result['ci95'][1]:+.2f})",
        f"{result['agreement']:.2%}",
    )


def _interval(ends: tuple[float, float]) -> str:
    return f"({100 * ends[0]:.1f} to {100 * ends[1]:.1f})"


def _hearings(result: Mapping[str, Any]) -> Iterator[str]:
    yield f"Each clip heard in {result['n_hearings']} fixed shifts and gains, what int8 costs:"
    yield ""
    rows = [_row("all clips", result), *(_row(name, other) for name, other in result["subsets"].items())]
    yield from table(("", "clips", "float", "int8", "int8 - float, points", "same answer"), rows)


def _by_label(task: Mapping[str, Any]) -> Iterator[str]:
    rows = [
        (label, str(row["n"]), f"{row['float']:.1%}", f"{row['int8']:.1%}") for label, row in task["by_label"].items()
    ]
    yield from table(("label", "clips", "float", "int8"), rows)


def _confusion(labels: list[str], counts: list[list[int]]) -> Iterator[str]:
    yield "Confusion of the int8 network, rows what was said, columns what it answered:"
    yield ""
    rows = [
        (label, *(str(count) if count else "." for count in row)) for label, row in zip(labels, counts, strict=True)
    ]
    yield from table(("", *labels), rows)


def string_lines(card: Card) -> Iterator[str]:
    """Word error rate on joined strings, once and over sixteen hearings."""
    once = card.get("word_errors")
    if once is None:
        return
    yield "## Word errors"
    yield ""
    yield (
        f"{once['n']} strings of 3 to 7 words ({once['n_words']:,} in all) joined with gaps of 50 to 300 ms, fixed "
        f"seed, from the words of {once['data']}, split {once['split']}; speakers: {once['n_speakers']}. Word error "
        "rate, with 95 % intervals bootstrapped over strings: they say nothing of other speakers."
    )
    yield ""
    rows = [_row(name, card[key]) for name, key in (("once", "word_errors"), ("in 16 shifts and gains", "hearings"))]
    yield from table(("heard", "strings", "float", "int8", "int8 - float, points", "same words"), rows)
    yield ""
    for kind in ("float", "int8"):
        yield f"- {kind}, once: " + ", ".join(f"{count} {name}" for name, count in once[f"{kind}_errors"].items())


def condition_lines(card: Card) -> Iterator[str]:
    """Accuracy (for CTC word error rate) by signal-to-noise ratio and by gain."""
    heard = "word error rate" if card["task"] == "ctc" else "accuracy on the clips without `_silence_`"
    if card.get("noise"):
        yield "## In noise"
        yield ""
        yield (
            f"Noise that training has not heard, mixed over each recording; {heard}, float / int8. The ratio is that "
            "of the mean powers over the recording."
        )
        yield ""
        yield from _noise_table(card["noise"])
    if card.get("gain"):
        if card.get("noise"):
            yield ""
        yield "## By level"
        yield ""
        yield f"The same recordings louder and softer, {heard}; what passes full scale is cut off, as by a microphone."
        yield ""
        yield from table(
            ("gain, dB", *(f"{row['gain_db']:+g}" for row in card["gain"])),
            [(name, *(f"{row[name]:.1%}" for row in card["gain"])) for name in ("float", "int8")],
        )


def _noise_table(rows: list[Mapping[str, Any]]) -> Iterator[str]:
    names = list(dict.fromkeys(row["noise"] for row in rows))
    ratios = list(dict.fromkeys(row["snr_db"] for row in rows))
    found = {(row["noise"], row["snr_db"]): f"{row['float']:.1%} / {row['int8']:.1%}" for row in rows}
    yield from table(
        ("noise", *(f"{ratio:+g} dB" for ratio in ratios)),
        [(name, *(found[name, ratio] for ratio in ratios)) for name in names],
    )


def background_lines(card: Card) -> Iterator[str]:
    """Detections an hour in sound that is not for the model, and what the hours can support."""
    found = card.get("background")
    if found is None:
        return
    low, high = found["per_hour_ci95"]
    yield "## Hours of other speech"
    yield ""
    yield (
        f"{found['hours']:.2f} hours of {found['data']} ({found['files']} recordings, no transcripts) gave "
        f"{found['detections']} detections with the detector of the bundle: {found['per_hour']:.1f} an hour (95 %, "
        f"Poisson: {low:.1f} to {high:.1f})."
    )
    by_label = ", ".join(f"{label} {count}" for label, count in found["by_label"].items())
    if by_label:
        yield f"By label: {by_label}."
    yield (
        "Words of the model do occur in read speech and nobody has marked them, so this bounds the false accepts from "
        f"above. {found['hours']:.2f} hours support no claim below {found['claimable_per_hour']:.1f} an hour; none is "
        "made."
    )


def wake_word_lines(card: Card) -> Iterator[str]:
    """Misses and false accepts by threshold, and what the hours can support."""
    found = card.get("wake_word")
    if found is None:
        return
    hours = ", ".join(f"{folder} {length:.2f} h" for folder, length in found["hours"].items())
    yield "## Misses and false accepts"
    yield ""
    yield (
        f"{found['rows'][0]['positives']} recordings of {found['data']}, each heard from a reset; other speech in one "
        f"stream a folder: {hours}. Intervals are 95 % (Clopper and Pearson; Poisson)."
    )
    yield ""
    yield from table(
        ("threshold", "missed, float", "missed, int8", "false accepts, float", "false accepts, int8", "an hour, int8"),
        [_threshold_row(row, other, found) for row, other in zip(found["rows"], found["float_rows"], strict=True)],
    )
    yield ""
    yield from _by_folder(found)
    yield ""
    needed = ", ".join(f"{rate} an hour {length:.1f} h" for rate, length in found["hours_needed"].items())
    yield (
        "These hours without a false accept support no claim below "
        f"{found['claimable_without_false_accept']:.1f} an hour; less is not claimed. Hours that lower rates would "
        f"take: {needed}."
    )


def _by_folder(found: Mapping[str, Any]) -> Iterator[str]:
    """Where the false accepts are, at the bundle's threshold and at the lowest that has none."""
    own = next(row for row in found["rows"] if row["threshold"] == found["threshold_of_bundle"])
    counts = ", ".join(f"{folder} {count}" for folder, count in own["false_accepts_by_folder"].items())
    yield f"False accepts of int8 at {own['threshold']:g}: {counts}."
    clear = found["first_without_false_accept"]
    if clear is None:
        yield "No threshold of the table is without a false accept."
    else:
        yield f"From {clear['threshold']:g} up there is none, and {clear['miss_rate']:.1%} are missed there."


def _threshold_row(row: Mapping[str, Any], other: Mapping[str, Any], found: Mapping[str, Any]) -> tuple[str, ...]:
    mark = " (bundle)" if row["threshold"] == found["threshold_of_bundle"] else ""
    least, most = row["false_accept_interval"]
    return (
        f"{row['threshold']:g}{mark}",
        f"{other['miss_rate']:.1%}",
        f"{row['miss_rate']:.1%} {_interval(row['miss_interval'])}",
        str(other["false_accepts"]),
        str(row["false_accepts"]),
        f"{row['false_accepts_an_hour']:.2f} ({least:.2f} to {most:.2f})",
    )
