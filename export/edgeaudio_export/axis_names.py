"""What the axes of a tensor stand for, as a word: "NCTF" is batch, channels, time (frames), frequency (bins).

The batch is first. A tensor without "F" has one bin, one without "C" one channel, as features have that become an image
``[N, 1, T, F]``. The integer graph keeps every tensor as ``[N, T, F, C]``, so that an operation that only renames or
joins axes need not move a value.
"""

from __future__ import annotations

from collections.abc import Sequence

from edgeaudio_export.errors import ExportError

FEATURES, IMAGE_FEATURES, LOGITS = "NTC", "NTF", "NTC"
"""Features as channels of a convolution over time, features as an image, and logits."""
RESHAPES = (
    "the integer graph can add or take an axis of size 1, or make channels of bins and channels that lie in this "
    "order: permute(0, 2, 3, 1).flatten(2)"
)
"""Changes of shape that there are, for messages."""


def state_axes(state: str, rank: int) -> str:
    """``[N, C, K]`` or ``[N, C, K, F]``; refuses a state of another rank."""
    if rank not in (3, 4):
        raise ExportError(f"state {state!r} has {rank} axes, must be [N, C, K] or [N, C, K, F]; reshape it in forward")
    return "NCTF" if rank == 4 else "NCT"


def permuted(axes: str, order: Sequence[int]) -> str:
    """Axes after a transpose."""
    return "".join(axes[i] for i in order)


def unsqueezed(axes: str, position: int) -> str | None:
    """Axes with a new one of size 1, or None where the integer graph cannot see it so."""
    missing = [name for name in "FC" if name not in axes]
    position = position % (len(axes) + 1)
    if len(missing) != 1 or position == 0:
        return None
    return axes[:position] + missing[0] + axes[position:]


def squeezed(axes: str, position: int) -> str | None:
    """Axes without one of size 1; without the channels, the bins are the channels. None for batch or time."""
    position = position % len(axes)
    name, rest = axes[position], axes[:position] + axes[position + 1 :]
    if name == "F":
        return rest
    return rest.replace("F", "C") if name == "C" and "F" in rest else None


def reshaped(axes: str, before: Sequence[int], after: Sequence[int]) -> str | None:
    """Axes after a change of shape.

    Args:
        axes: Axes before.
        before: Sizes before.
        after: Sizes after; the first is that of the batch.

    Returns:
        None where it is none of :data:`RESHAPES`.
    """
    sizes = dict(zip(axes, before, strict=True))
    merged = axes.replace("FC", "C")
    candidates = [axes, merged]
    candidates += [named for i, name in enumerate(axes) if sizes[name] == 1 and (named := squeezed(axes, i))]
    candidates += [named for i in range(len(axes), 0, -1) if (named := unsqueezed(axes, i))]
    for named in candidates:
        expected = [_size(name, named, sizes) for name in named[1:]]
        if expected == list(after[1:]):
            return named
    return None


def _size(name: str, axes: str, sizes: dict[str, int]) -> int:
    """Size of an axis once the axes are ``axes``: channels hold the bins that have no axis any more."""
    size = sizes.get(name, 1)
    return size * sizes.get("F", 1) if name == "C" and "F" not in axes else size
