"""What can go wrong on the build side of data and training, each one line: the value, the rule, the remedy."""

from edgeaudio_runtime.errors import EdgeAudioError


class CorpusError(EdgeAudioError, ValueError):
    """A corpus is missing, empty, contradicts itself or asks for a split or label that it does not have."""


class DownloadError(EdgeAudioError):
    """A file could not be fetched whole, or is not the file that was asked for."""


class SynthesisError(EdgeAudioError):
    """A synthesizer is not installed, does not know the voice, or produced no speech."""
