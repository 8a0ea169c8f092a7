"""The face of edgeaudio: commands, the way from recipe to bundle, the parity ladder and the benchmark."""

__version__ = "0.1.0"
