"""Counting events in kept logit codes, whatever the bundle's detector is set to."""

from types import SimpleNamespace

import numpy as np

from edgeaudio.bench.wake_word import count_events
from edgeaudio_runtime.detector_config import DetectorConfig
from edgeaudio_runtime.extent import StreamClock
from edgeaudio_runtime.quantization import QuantParams


def test_releases_by_label_and_a_gate_do_not_hinder_it() -> None:
    clock = StreamClock(
        sample_rate=16000, hop_length=160, win_length=400, first_offset=0, step_frames=4, outputs_per_step=1,
        window_frames=20,
    )  # fmt: skip
    config = DetectorConfig(smoothing_s=0.0, threshold=0.9, releases={"yes": 0.8}, gate_db=20.0)
    bundle = SimpleNamespace(
        detector_config=config, labels=("_unknown_", "yes"), background_labels=("_unknown_",), clock=clock
    )
    codes = np.zeros((60, 2), dtype=np.int8)
    codes[[10, 40], 1] = 20  # softmax of (0, 2) is 0.88
    quant = QuantParams(scale=(0.1,), zero_point=0)
    # Between the two "yes" both labels have 0.5: above a release of 0.35 unless the threshold sought is lower.
    assert count_events(bundle, codes, threshold=0.95, quant=quant) == 0
    codes[11:40, 1] = -20
    assert count_events(bundle, codes, threshold=0.7, quant=quant) == 2
