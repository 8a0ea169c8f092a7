"""Parity checks for anybody's tests: any callable, torch module, ONNX file or TensorFlow Lite file.

Plain functions that raise AssertionError; the pytest plugin ``edgeaudio-parity`` hands them out as fixtures of the same
names.
"""

from edgeaudio.testing.bundles import assert_bundle
from edgeaudio.testing.parity import assert_parity
from edgeaudio.testing.streaming import assert_streaming_equals_offline

__all__ = ["assert_bundle", "assert_parity", "assert_streaming_equals_offline"]
