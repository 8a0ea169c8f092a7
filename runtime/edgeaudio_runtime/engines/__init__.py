"""Engines behind one protocol: numpy (always there), onnxruntime, litert."""
