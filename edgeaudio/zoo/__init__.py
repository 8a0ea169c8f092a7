"""The zoo: entries are built, measured, described and handed out here; they lie in ``edgeaudio_models``."""
