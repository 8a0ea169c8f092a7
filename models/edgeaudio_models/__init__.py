"""edgeaudio's build side: architectures, corpora, augmentation, training and checkpoints."""
