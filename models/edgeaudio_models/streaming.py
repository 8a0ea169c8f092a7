"""The streaming module: a pure function ``(features, state) -> (logits, state)`` with its geometry as attributes.

State is an argument and a result, never a buffer: exporters silently drop buffers that are written to, and a network
that forgets is worse than one that does not load. Reading order: this protocol, :mod:`edgeaudio_models.layers` for the
blocks, :mod:`edgeaudio_models.streaming_contract` for what every module must pass.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn

from edgeaudio_runtime.errors import SpecError

State = tuple[Tensor, ...]
"""One tensor ``[N, channels, frames]`` or ``[N, channels, frames, frequencies]`` a name in ``state_names``."""


class StreamingModule(nn.Module, ABC):
    """A network that reads features in steps and carries its past explicitly.

    Subclasses set every attribute below in their constructor and write :meth:`forward`.
    """

    step_frames: int
    """Feature frames one step consumes; the number of frames given to :meth:`forward` is a multiple of it."""
    n_features: int
    """Values in a feature frame."""
    n_labels: int
    """Values in a logit vector."""
    outputs_per_step: int
    """Logit vectors one step yields."""
    receptive_field_frames: int
    """Feature frames from the oldest to the newest that one logit vector depends on, both counted.

    Of a recurrent network: without what its hidden state remembers of older ones."""
    recurrent: bool = False
    """Whether a state is computed from its own past, so that what was heard never leaves it altogether."""
    latency_frames: int
    """Frames between the newest frame a logit vector depends on and the end of its part of the step (0: all used)."""
    state_names: tuple[str, ...]
    """One name a state, in the order of the state tuple."""
    state_shapes: tuple[tuple[int, ...], ...]
    """``(channels, frames)`` or ``(channels, frames, frequencies)`` a state, in the same order."""

    @property
    def learners(self) -> tuple[StreamingModule, ...]:
        """Networks that learn each by itself: this one, or those it is made of."""
        return (self,)

    def initial_state(self, batch: int = 1) -> State:
        """Zeros ``[batch, *shape]`` for every state, of the dtype and on the device of the weights."""
        reference = next(self.parameters())
        return tuple(reference.new_zeros(batch, *shape) for shape in self.state_shapes)

    @abstractmethod
    def forward(self, features: Tensor, state: State) -> tuple[Tensor, State]:
        """Run whole steps.

        Args:
            features: ``[N, T, n_features]``; T is a positive multiple of ``step_frames``.
            state: As :meth:`initial_state` or an earlier call returned it.

        Returns:
            Logits ``[N, T // step_frames * outputs_per_step, n_labels]`` and the state after the last step.
        """


def run_from_reset(module: StreamingModule, features: Tensor) -> Tensor:
    """Logits ``[N, T_out, n_labels]`` of a batch of whole clips ``[N, T, n_features]``, each from the initial state.

    Raises:
        SpecError: T is no positive multiple of ``module.step_frames``, or a frame is no ``n_features`` values.
    """
    check_features(module, features)
    logits, _ = module(features, module.initial_state(features.shape[0]))
    result: Tensor = logits
    return result


def check_features(module: StreamingModule, features: Tensor) -> None:
    """Raise SpecError unless ``features`` are ``[N, T, n_features]`` with T a positive multiple of ``step_frames``."""
    if features.ndim != 3 or features.shape[2] != module.n_features:
        raise SpecError(f"features of shape {list(features.shape)} must be [N, T, {module.n_features}]")
    frames = features.shape[1]
    if frames == 0 or frames % module.step_frames:
        rule = f"a positive multiple of step_frames={module.step_frames}"
        raise SpecError(f"frames={frames} must be {rule}; pad with frames of silence")
