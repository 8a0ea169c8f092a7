"""The torch front end, fed so that its frames fill whole network steps."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional

from edgeaudio_runtime.features import FeatureSpec


class StepFrontEnd:
    """Waveforms to features whose number of frames is a multiple of ``step_frames``, by the tail rule of ``flush``."""

    def __init__(self, spec: FeatureSpec, *, step_frames: int, compute: Callable[[Tensor], Tensor]) -> None:
        self.spec = spec
        self.step_frames = step_frames
        self.compute = compute

    def n_steps(self, n_samples: int) -> int:
        """Network steps that ``n_samples`` samples fill, the last one with silence behind."""
        return -(-self.spec.n_frames(n_samples) // self.step_frames)

    def n_outputs(self, n_samples: Tensor, outputs_per_step: int) -> Tensor:
        """Outputs that belong to each of some lengths in samples, int64 both."""
        return n_samples.new_tensor([self.n_steps(n) * outputs_per_step for n in n_samples.tolist()])

    def __call__(self, waveforms: Tensor) -> Tensor:
        """float32 ``[N, S]``, full scale 1.0, to features ``[N, steps * step_frames, F]``."""
        n_samples = waveforms.shape[1]
        n_frames = self.n_steps(n_samples) * self.step_frames
        silence = self.spec.first_offset + n_frames * self.spec.hop_length - n_samples
        return self.compute(functional.pad(waveforms, (0, max(0, silence))))
