"""Wake words from a phrase alone: what is said by synthesizers, what is near it, what is mined, and the training."""
