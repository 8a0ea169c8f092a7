"""How often a network that looks at a window of frames runs in a stream, and where its windows lie."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from edgeaudio_runtime.errors import SpecError
from edgeaudio_runtime.features import FeatureSpec


@dataclass(frozen=True, kw_only=True, slots=True)
class Windows:
    """Windows of ``input_frames`` frames, ``hop_frames`` apart."""

    input_frames: int
    """Feature frames the network takes at once."""
    hop_frames: int
    """Feature frames from one window to the next; a step of the stream."""
    latency_frames: int
    """Feature frames between the end of a window and the end of its step."""


def plan_windows(features: FeatureSpec, input_frames: int, *, hop_frames: int | None = None) -> Windows:
    """Where the windows of a stream lie, so that a clip as long as a window ends with the window on all of it.

    Args:
        features: Front end of the network.
        input_frames: Feature frames the network takes at once.
        hop_frames: From one window to the next; by default about a quarter of a window (an eighth to a third): what
            puts a window onto a clip of its own length with the fewest frames of latency, and of these what is nearest
            to a quarter.

    Raises:
        SpecError: Windows would leave frames out.

    Of a clip as long as ``input_frames`` frames, the tail rule counts some frames more (those that begin in it) and
    rounds up to whole steps. The latency is what both add.
    """
    counted = input_frames - 1 + -(-features.win_length // features.hop_length)
    if hop_frames is None:
        quarter = Fraction(input_frames, 4)
        hops = range(max(1, input_frames // 8), max(1, input_frames // 3) + 1)
        hop_frames = min(hops, key=lambda hop: (-counted % hop, abs(hop - quarter)))
    if not 1 <= hop_frames <= input_frames:
        raise SpecError(f"hop_frames={hop_frames} must be 1 to {input_frames}, the frames of a window")
    latency = counted - input_frames + -counted % hop_frames
    return Windows(input_frames=input_frames, hop_frames=hop_frames, latency_frames=latency)
