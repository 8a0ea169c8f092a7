"""Choosing when a keyword counts as heard: jointly, for a rate of false accepts, on one part of the recordings."""
