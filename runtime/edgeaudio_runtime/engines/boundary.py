"""What every engine checks and knows at the boundary of a network step."""

from __future__ import annotations

import numpy as np

from edgeaudio_runtime.engines.base import Codes, NetworkSignature
from edgeaudio_runtime.errors import EngineError, SpecError
from edgeaudio_runtime.graph import IntegerGraph
from edgeaudio_runtime.quantization import QuantParams

# Looked up on every call of a session; making a dtype from its name takes longer than the rest of the check.
_DTYPES = {name: np.dtype(name) for name in ("int8", "int16", "int32")}


def signature_of(graph: IntegerGraph) -> NetworkSignature:
    """Signature of the network step that ``graph`` computes.

    Raises:
        SpecError: features or logits are float32, so that there are no codes to speak of.
    """
    features, logits = graph.input_tensor, graph.output_tensor
    return NetworkSignature(
        step_frames=graph.step_frames,
        n_features=features.shape[2] * features.shape[3],
        outputs_per_step=graph.outputs_per_step,
        n_labels=logits.shape[3],
        input_quant=_quant(graph.input, features.quant),
        output_quant=_quant(graph.output, logits.quant),
    )


def check_codes(codes: Codes, signature: NetworkSignature) -> int:
    """Number of network steps in feature codes ``[k * step_frames, n_features]``.

    Raises:
        SpecError: another shape, another dtype, or not a whole number of steps.
    """
    if not isinstance(codes, np.ndarray) or codes.dtype != _DTYPES[signature.input_quant.dtype]:
        have = codes.dtype if isinstance(codes, np.ndarray) else type(codes).__name__
        raise SpecError(f"codes are {have}, must be a {signature.input_quant.dtype} array; quantize the features first")
    if codes.ndim != 2 or codes.shape[1] != signature.n_features:
        raise SpecError(f"codes have shape {list(codes.shape)}, must be [frames, {signature.n_features}]")
    n_frames = len(codes)
    if n_frames % signature.step_frames:
        raise SpecError(f"codes have {n_frames} frames, must be a multiple of step_frames={signature.step_frames}")
    return n_frames // signature.step_frames


def _quant(name: str, quant: QuantParams | None) -> QuantParams:
    if quant is None:
        raise SpecError(f"tensor {name!r} is float32; features and logits must be codes")
    return quant


def check_initial_states(initial_states: tuple[int | float, ...], names: tuple[str, ...]) -> None:
    """Refuse a number of initial values that is not the model's number of states.

    Raises:
        SpecError: the numbers differ.
    """
    if len(initial_states) != len(names):
        raise SpecError(
            f"initial_states has {len(initial_states)} values, the model has {len(names)} states; give one each"
        )


def check_sizes(signature: NetworkSignature, n_features: int, n_logits: int) -> None:
    """Refuse a model whose tensors are not as large as the manifest says: their addresses are written to.

    Raises:
        EngineError: the sizes differ.
    """
    wanted = signature.step_frames * signature.n_features, signature.outputs_per_step * signature.n_labels
    if (n_features, n_logits) != wanted:
        found = f"the model takes {n_features} values a step and answers {n_logits}"
        raise EngineError(f"{found}, the manifest says {wanted[0]} and {wanted[1]}; export the bundle again")
