"""DsTcCommittee: several :class:`DsTcResNet` of one shape, each trained by itself, heard as one by their mean logits.

After deep ensembles (Lakshminarayanan et al., arXiv:1612.01474), which average probabilities; the mean of logits is a
sum that int8 computes exactly in every engine. Where one member is wrong the others often are not: how well it does
hangs less on the seed (``docs/decisions/0017-committees-for-wake-words.md``).

The logits of every frame are added up and averaged over the window once: the divisor is part of that average.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

from torch import Tensor, nn

from edgeaudio_models.ds_tc_resnet import DsTcResNet, DsTcResNetConfig
from edgeaudio_models.layers import WindowAverage
from edgeaudio_models.streaming import State, StreamingModule
from edgeaudio_runtime.errors import SpecError


@dataclass(frozen=True, kw_only=True, slots=True)
class DsTcCommitteeConfig(DsTcResNetConfig):
    """Shape of a :class:`DsTcCommittee`: that of one member, and how many there are."""

    members: int = 3
    """Networks; with one it computes what a :class:`DsTcResNet` does."""

    def __post_init__(self) -> None:
        # slots=True makes the class anew, so that super() without arguments finds the old one.
        super(DsTcCommitteeConfig, self).__post_init__()
        if self.members < 1:
            raise SpecError(f"members={self.members} must be >= 1")


class DsTcCommittee(StreamingModule):
    """Members side by side, the sum of their logits, average over a window; one logit vector a step."""

    def __init__(self, config: DsTcCommitteeConfig) -> None:
        super().__init__()
        shape = asdict(config)
        member = DsTcResNetConfig(**{name: value for name, value in shape.items() if name != "members"})
        self.members = nn.ModuleList(DsTcResNet(member) for _ in range(config.members))
        first = self._members[0]
        self.average = WindowAverage(
            config.n_labels, window=first.average.window, stride=first.average.stride, gain=1.0 / config.members
        )
        self.step_frames, self.outputs_per_step, self.latency_frames = config.step_frames, 1, 0
        self.n_features, self.n_labels, self.window_frames = config.n_features, config.n_labels, config.window_frames
        self.receptive_field_frames = first.receptive_field_frames
        self.state_names = (
            *(f"member_{i}_{name}" for i in range(config.members) for name in first.state_names[:-1]),
            "average",
        )
        self.state_shapes = (*config.members * first.state_shapes[:-1], self.average.state_shape)

    @property
    def learners(self) -> tuple[StreamingModule, ...]:
        """See :attr:`StreamingModule.learners`: the members. Taught together they would be one wide network."""
        return self._members

    @property
    def _members(self) -> tuple[DsTcResNet, ...]:
        return tuple(member for member in self.members if isinstance(member, DsTcResNet))

    def forward(self, features: Tensor, state: State) -> tuple[Tensor, State]:
        """See :meth:`StreamingModule.forward`."""
        x = features.transpose(1, 2)
        total, new_state = self._members[0].frame_logits(x, state[: self._n_pasts])
        for i, member in enumerate(self._members[1:], start=1):
            logits, pasts = member.frame_logits(x, state[i * self._n_pasts : (i + 1) * self._n_pasts])
            total, new_state = total + logits, (*new_state, *pasts)
        mean, past = self.average(total, state[-1])
        return mean.transpose(1, 2), (*new_state, past)

    @property
    def _n_pasts(self) -> int:
        """States of one member."""
        return (len(self.state_names) - 1) // len(self.members)
