"""Theory made runnable: uniform quantizers, optimal clips, Lloyd-Max codebooks and bounds; numpy and scipy alone.

``docs/theory.md`` holds the formulas; every number of its tables comes from here.
"""
