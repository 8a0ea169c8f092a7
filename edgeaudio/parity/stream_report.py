"""What a certificate says of streams, as text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

SIDES = ("float", "int8")


def stream_lines(section: Mapping[str, Any]) -> Iterator[str]:
    """The outcomes of both sides, their difference, and what the hours allow one to claim."""
    yield f"streams at threshold {section['threshold']:g}: {', '.join(_heard(section))}"
    yield f"{'':8s}{'missed (95 %)':28s}{'false accepts an hour (95 %)':32s}seconds from the end of the sound"
    for side in SIDES:
        if section[side] is not None:
            latency = _latency(section["latency_s"][side])
            yield f"  {side:6s}{missed(section[side]):28s}{accepted(section[side]):32s}{latency}"
    yield from (f"  {line}" for line in _difference(section["difference"] or {}))
    claim = section["int8"]["claimable_an_hour"]
    if claim is not None:
        needed = "; ".join(f"{rate} takes {hours:.1f} h" for rate, hours in section["hours_needed"].items())
        yield f"  these hours allow no claim below {claim:.2f} an hour (95 %); without an event fewer than {needed}"


def missed(outcome: Mapping[str, Any]) -> str:
    """Miss rate with its interval."""
    if outcome["miss_rate"] is None:
        return "-"
    low, high = outcome["miss_rate_ci95"]
    return f"{outcome['miss_rate']:.1%} ({low:.1%} to {high:.1%})"


def accepted(outcome: Mapping[str, Any]) -> str:
    """Rate of false accepts with its interval."""
    if outcome["false_accepts_an_hour"] is None:
        return "-"
    least, most = outcome["false_accepts_an_hour_ci95"]
    return f"{outcome['false_accepts_an_hour']:.2f} ({least:.2f} to {most:.2f})"


def stream_badge(section: Mapping[str, Any]) -> str:
    """A part of one line."""
    outcome = section["int8"]
    said = []
    if outcome["miss_rate"] is not None:
        said.append(f"{outcome['miss_rate']:.1%} of {outcome['positives']} missed")
    if outcome["false_accepts_an_hour"] is not None:
        said.append(f"{outcome['false_accepts_an_hour']:.2f} false accepts an hour in {outcome['hours']:.2f} h")
    return "int8 in streams " + ", ".join(said)


def _heard(section: Mapping[str, Any]) -> Iterator[str]:
    positives = section["positives"]
    if positives is not None:
        yield f"{positives['n']} recordings of a keyword ({', '.join(positives['data'])})"
    for row in section["negatives"]:
        yield f"{row['hours']:.2f} h without one ({row['data']})"


def _latency(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return "-"
    return ", ".join(f"{name} {found[name]:.2f}" for name in ("p50", "p90", "p95", "p99"))


def _difference(difference: Mapping[str, Any]) -> Iterator[str]:
    misses, accepts = difference.get("misses"), difference.get("false_accepts")
    if misses is not None:
        low, high = (100 * end for end in misses["ci95"])
        yield (
            f"int8 misses {100 * misses['delta']:+.2f} points more (95 % {low:+.2f} to {high:+.2f}), budget "
            f"{100 * misses['budget']:g}: {misses['verdict']}"
        )
    if accepts is not None:
        least, most = accepts["ratio_ci95"]
        yield (
            f"int8 falsely accepts {least:.2f} to {'any number of' if most is None else f'{most:.2f}'} times as often "
            f"(95 %), budget {1 + accepts['budget']:g}: {accepts['verdict']}"
        )
