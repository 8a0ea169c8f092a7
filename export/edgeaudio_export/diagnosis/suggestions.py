"""What to do about a layer, from the measured cause of its error."""

from __future__ import annotations

from dataclasses import dataclass

from edgeaudio_export.diagnosis.activations import CAUSES, TensorReport
from edgeaudio_export.diagnosis.weights import WeightReport

NOTEWORTHY_SHARE = 0.05
"""Share of the error at the logits from which on a layer is worth a change: below it even a perfect layer would gain
less than 0.25 dB."""
IDLE_SHARE = 0.5
"""Share of idle codes from which on a tensor has lost a bit to the others of its group."""
UNEVEN_CHANNELS = 8.0
"""Ratio of channel ranges from which on the smallest channel has lost three of its eight bits."""
UNEVEN_WEIGHTS = 4.0
"""The same for weights with one scale a tensor: two bits."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Suggestion:
    """One thing to try."""

    cause: str
    """"clipping", "idle codes", "uneven channels", "weights" or "rounding"."""
    text: str
    """What was measured and what to try, in a sentence."""
    toml: str
    """Lines for the quantization recipe; "" where the remedy is not there."""


def suggest(
    tensor: TensorReport, weight: WeightReport | None, *, group: str, method: str, noise_share: float
) -> Suggestion | None:
    """The most promising change to one layer; None where it does not matter or computes in float.

    Args:
        tensor: Its output.
        weight: Its weight, where it has one.
        group: The activation group of its output, as rules of a recipe name it.
        method: How the ranges were found.
        noise_share: Its share of the error at the logits.
    """
    if noise_share < NOTEWORTHY_SHARE or tensor.dtype == "float32":
        return None
    own = {cause: tensor.causes[cause] for cause in CAUSES if cause != "input"}
    cause = max(own, key=lambda name: own[name])
    share = own[cause] / max(sum(own.values()), 1e-12)
    if cause == "clipping":
        return _clipping(tensor, group, method, share)
    if cause == "weights" and weight is not None:
        return _weights(weight, share)
    return _rounding(tensor, weight, group, share)


def _clipping(tensor: TensorReport, group: str, method: str, share: float) -> Suggestion:
    seen = (
        f"{share:.0%} of its own error is clipping: {tensor.saturated_share:.2%} of the values lie outside "
        f"[{tensor.clip_low:.4g}, {tensor.clip_high:.4g}], they reach [{tensor.minimum:.4g}, {tensor.maximum:.4g}]"
    )
    if method == "minmax":
        return Suggestion(
            cause="clipping",
            text=f"{seen}; calibrate on more and louder clips, or give this layer 16 bits",
            toml=layer_rule(group, "int16"),
        )
    return Suggestion(
        cause="clipping",
        text=f"{seen}; take a wider range (ranges are by {method!r}), or calibrate on louder clips",
        toml='[calibration]\nmethod = "minmax"',
    )


def _weights(weight: WeightReport, share: float) -> Suggestion:
    if not weight.per_channel and weight.channel_ratio >= UNEVEN_WEIGHTS:
        return Suggestion(
            cause="weights",
            text=f"{share:.0%} of its own error is its weights: one scale for channels that differ {_times(weight)}; "
            "give every channel its own",
            toml="per_channel = true",
        )
    return Suggestion(
        cause="weights",
        text=f"{share:.0%} of its own error is the rounding of its weights; choose the roundings by their effect",
        toml='recovery = ["adaround"]',
    )


def _rounding(tensor: TensorReport, weight: WeightReport | None, group: str, share: float) -> Suggestion:
    seen = f"{share:.0%} of its own error is rounding"
    if tensor.unused_code_share >= IDLE_SHARE:
        return Suggestion(
            cause="idle codes",
            text=f"{seen}: {tensor.unused_code_share:.0%} of the codes idle, because the range is that of its whole "
            f"group ({group}); give the group 16 bits",
            toml=layer_rule(group, "int16"),
        )
    if weight is not None and tensor.channel_ratio >= UNEVEN_CHANNELS:
        return Suggestion(
            cause="uneven channels",
            text=f"{seen}: its channels differ {tensor.channel_ratio:.0f} times in range; move the difference into the "
            "weights",
            toml='recovery = ["equalize"]',
        )
    return Suggestion(
        cause="rounding",
        text=f"{seen}: the values need more than 8 bits; give the layer 16",
        toml=layer_rule(group, "int16"),
    )


def layer_rule(group: str, activations: str) -> str:
    """TOML of a recipe's rule for one activation group."""
    return f'[[layers]]\nname = "{group}"\nactivations = "{activations}"'


def _times(weight: WeightReport) -> str:
    return f"{weight.channel_ratio:.0f} times in range"
