"""How far codes may be from the reference's on an engine that promises no equality, by the type of the codes."""

from __future__ import annotations

from edgeaudio_runtime.quantization import QuantParams
from edgeaudio_runtime.record import Record

OTHER_NUMERICS_CODES = 0.5
"""Share of int8 logit codes that may differ on an engine with other numerics. tflite-runtime 2.14 without a delegate
was measured at 0.29 to 0.34 on random residual nets of six blocks, its argmax at 99.6 % and more the same."""
OTHER_NUMERICS_LSB = 3
"""And by how many int8 codes at most; 2 were measured."""
OTHER_NUMERICS_INT16_LSB = 64
"""By how many int16 codes logits may differ, any share of them: a quarter of what one int8 code covers. Where int16
operations compute in float32 (ONNX Runtime), every layer may round to the next code, and half of the logits of six
blocks were measured off, by up to 4; float islands differ by the order of their sums, 0.3 % of the logits by 1."""

DYNAMIC_INT16_LSB = 2048
"""By how many int16 codes logits may differ, any share of them, where activations get their int8 scale at run time: one
activation that falls to the next of its 256 codes moves what is summed over it. Eight int8 codes."""


class CodeTolerance(Record):
    """What a comparison of codes forgives."""

    lsb: int
    """Largest difference in codes."""
    share: float
    """Share of the codes that may differ at all."""


EXACT = CodeTolerance(lsb=0, share=0.0)


def code_tolerance(logits: QuantParams, *, exact: bool, method: str = "") -> CodeTolerance:
    """What logit codes of this type are held to on an engine that promises to be exact, or does not.

    Args:
        logits: Quantization of the logit codes.
        exact: What the engine promises.
        method: Quantization method of the bundle; its name begins with "dynamic" where scales are found at run time.
    """
    if exact:
        return EXACT
    if logits.dtype == "int8":
        return CodeTolerance(lsb=OTHER_NUMERICS_LSB, share=OTHER_NUMERICS_CODES)
    lsb = DYNAMIC_INT16_LSB if method.startswith("dynamic") else OTHER_NUMERICS_INT16_LSB
    return CodeTolerance(lsb=lsb, share=1.0)
