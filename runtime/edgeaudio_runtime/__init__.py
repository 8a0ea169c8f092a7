"""Streaming audio front end and int8 inference for edgeaudio bundles."""

__version__ = "0.1.0"
