"""Corpora too large to hold or to download: read clip by clip while training, in an order that a seed decides."""

from edgeaudio_models.streams.clip_stream import ClipStream, EncodedClip
from edgeaudio_models.streams.hugging_face import HuggingFaceStream
from edgeaudio_models.streams.opening import is_stream, load_stream_data, open_stream
from edgeaudio_models.streams.shards import ShardStream, expand_braces
from edgeaudio_models.streams.window import ClipWindow, WindowDraws

__all__ = [
    "ClipStream",
    "ClipWindow",
    "EncodedClip",
    "HuggingFaceStream",
    "ShardStream",
    "WindowDraws",
    "expand_braces",
    "is_stream",
    "load_stream_data",
    "open_stream",
]
