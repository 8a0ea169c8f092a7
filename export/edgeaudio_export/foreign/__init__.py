"""Float ONNX models from elsewhere: read and made regular, lowered where they can be, else left to ONNX Runtime.

Start at :func:`edgeaudio_export.foreign.reader.read_step_model` and
:func:`edgeaudio_export.foreign.quantize.quantize_foreign`.
"""
