"""What can go wrong while a network is quantized, lowered or written."""

from edgeaudio_runtime.errors import EdgeAudioError


class ExportError(EdgeAudioError, ValueError):
    """A network or its calibration data cannot be turned into an integer graph as it is."""


class LoweringError(ExportError):
    """A quantized model is sound, but the integer graph cannot hold it."""
