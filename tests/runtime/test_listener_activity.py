"""The loudness that events are placed by: one value a frame, whatever the features are."""

from __future__ import annotations

import numpy as np

from edgeaudio_runtime.listener import activity
from edgeaudio_runtime.presets import preset


def test_features_near_the_largest_float_give_a_value_and_no_warning() -> None:
    features = np.full((2, 40), np.finfo(np.float32).max, np.float32)
    features[1, ::2] = -np.inf
    features[1, 1::2] = np.inf
    loudness = activity(preset("log_mel"), features)
    assert loudness[0] == np.inf
    assert np.isnan(loudness[1])
