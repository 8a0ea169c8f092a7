"""Accuracy recovery: rewrites of a float step graph after which 8 bits lose less.

Each step takes a :class:`~edgeaudio_export.step_graph.StepGraph` and returns one of the same operations with other
weights and biases, and facts for the manifest. Quantization itself comes after them and knows nothing of them, so
both paths and every target gain. The order that works: equalize, round weights (or train), correct biases last.
"""
