"""Corpora: labelled recordings in the forms people keep them in, opened and decoded."""

from edgeaudio_models.corpora.checking import Finding, check_corpus, require_sound
from edgeaudio_models.corpora.clips import (
    BACKGROUND_LABELS,
    SILENCE,
    SPLITS,
    UNKNOWN,
    Clip,
    Corpus,
    Source,
    default_labels,
)
from edgeaudio_models.corpora.folders import open_folders
from edgeaudio_models.corpora.joining import join_corpora, label_by_word
from edgeaudio_models.corpora.loading import default_cache_folder, load_clip, load_waveforms
from edgeaudio_models.corpora.manifest import open_manifest
from edgeaudio_models.corpora.opening import open_corpus
from edgeaudio_models.corpora.speech_commands import LABELS_12, noise_files, open_speech_commands

__all__ = [
    "BACKGROUND_LABELS",
    "LABELS_12",
    "SILENCE",
    "SPLITS",
    "UNKNOWN",
    "Clip",
    "Corpus",
    "Finding",
    "Source",
    "check_corpus",
    "default_cache_folder",
    "default_labels",
    "join_corpora",
    "label_by_word",
    "load_clip",
    "load_waveforms",
    "noise_files",
    "open_corpus",
    "open_folders",
    "open_manifest",
    "open_speech_commands",
    "require_sound",
]
