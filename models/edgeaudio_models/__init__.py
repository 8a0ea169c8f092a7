"""edgeaudio."""
