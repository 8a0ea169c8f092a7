"""Diagnosis: where quantization loses accuracy, why, and what to do about it.

``effective_precision`` and ``saturation`` need neither torch nor the float network; the rest compares with it.
"""
