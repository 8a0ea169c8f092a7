"""From a float streaming network to an integer graph and its containers: calibration, quantization, lowering, targets.

Start at :func:`edgeaudio_export.quantize.quantize_network`.
"""
