"""Small trainings on tones that several test files share: recipes, clips, and a death in the middle."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import torch

from edgeaudio_models.checkpoint import Checkpoint
from edgeaudio_models.recipe import parse_recipe
from edgeaudio_models.training import TrainingProgress
from edgeaudio_models.training_data import Examples, TrainingData

SAMPLES = 3200
PITCHES = (400.0, 900.0, 2000.0)

KEYWORD = parse_recipe("""
name = "tones"
[corpus]
kind = "recordings"
labels = ["_silence_", "low", "middle"]
[model]
architecture = "ds_tc_resnet"
parameters = { channels = 8, kernel_sizes = [3], window_frames = 20 }
[training]
epochs = 3
batch_size = 8
learning_rate = 0.02
ema_decay = 0.5
[augmentation]
max_shift = 50
n_time_masks = 0
""")
CTC = parse_recipe("""
name = "tone-strings"
[corpus]
kind = "recordings"
labels = ["<blank>", "low", "middle", "high"]
[model]
architecture = "ctc_net"
parameters = { channels = 32, kernel_sizes = [3, 3] }
[training]
epochs = 1
batch_size = 8
[context]
max_words = 3
max_gap_seconds = 0.1
""")


def tones(n: int, labels: tuple[int, ...], *, seed: int) -> Examples:
    """Clips of tones, the pitch by the position of the label in ``labels``; every label in turn."""
    random = np.random.default_rng(seed)
    time = np.arange(SAMPLES) / 16000
    envelope = np.exp(-(((time - 0.1) / 0.04) ** 2))
    chosen = [position for position, _ in zip(itertools.cycle(range(len(labels))), range(n), strict=False)]
    rows = [9000 * envelope * np.sin(2 * np.pi * PITCHES[k] * random.uniform(0.95, 1.05) * time) for k in chosen]
    return Examples(
        waveforms=(np.stack(rows) + random.normal(0, 20, (n, SAMPLES))).astype(np.int16),
        label_indices=np.array([labels[k] for k in chosen]),
    )


DATA = TrainingData(
    train=tones(24, (0, 1, 2), seed=1),
    validation=tones(12, (0, 1, 2), seed=2),
    provenance={"sources": ["tones"]},
)
WORDS = TrainingData(train=tones(16, (1, 2, 3), seed=1), validation=tones(6, (1, 2, 3), seed=2))


def same_weights(one: Checkpoint, other: Checkpoint) -> bool:
    pairs = zip(one.module.state_dict().items(), other.module.state_dict().items(), strict=True)
    return all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs)


class Killed(BaseException):
    """Stands for the end of the process."""


def kill_at(step: int) -> Callable[[TrainingProgress], None]:
    def progress(now: TrainingProgress) -> None:
        if now.step == step:
            raise Killed

    return progress
