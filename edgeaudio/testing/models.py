"""Whatever a test has at hand, as one function from arrays to arrays."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeaudio_runtime.errors import ParityError

Array = npt.NDArray[Any]
Function = Callable[..., "list[Array]"]
"""Takes arrays, gives every output as an array, in order."""


def as_function(model: Any) -> tuple[str, Function]:
    """A name for messages, and the model as a function.

    Args:
        model: Path of an ``.onnx`` or ``.tflite`` file, a torch module (called in evaluation mode, without gradients,
            on tensors), or any callable that takes arrays. Outputs may be one array or tensor, or a tuple or list.

    Raises:
        ParityError: It is none of these, or there is no such file.
    """
    if isinstance(model, (str, Path)):
        return _file(Path(model))
    if _is_module(model):
        return type(model).__name__, lambda *inputs: _run_module(model, inputs)
    if callable(model):
        return getattr(model, "__name__", type(model).__name__), lambda *inputs: as_arrays(model(*inputs))
    raise ParityError(
        f"model={model!r:.60} must be a callable, a torch module, or the path of an .onnx or .tflite file"
    )


def as_arrays(outputs: Any) -> list[Array]:
    """One output or several, arrays or tensors, as arrays."""
    parts = outputs if isinstance(outputs, (tuple, list)) else [outputs]
    return [part.detach().cpu().numpy() if hasattr(part, "detach") else np.asarray(part) for part in parts]


def _file(path: Path) -> tuple[str, Function]:
    readers = {".onnx": _onnx, ".tflite": _tflite}
    if path.suffix not in readers:
        raise ParityError(f"model={str(path)!r} must end in .onnx or .tflite")
    if not path.is_file():
        raise ParityError(f"model={str(path)!r} is no file; give the path of one")
    return path.name, readers[path.suffix](path)


def _onnx(path: Path) -> Function:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_inputs()]

    def run(*inputs: Array) -> list[Array]:
        _check_count(path, len(inputs), len(names))
        return as_arrays(session.run(None, dict(zip(names, inputs, strict=True))))

    return run


def _tflite(path: Path) -> Function:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(path), num_threads=1)
    wanted = interpreter.get_input_details()

    def run(*inputs: Array) -> list[Array]:
        _check_count(path, len(inputs), len(wanted))
        for entry, value in zip(wanted, inputs, strict=True):
            interpreter.resize_tensor_input(entry["index"], value.shape)
        interpreter.allocate_tensors()
        for entry, value in zip(wanted, inputs, strict=True):
            interpreter.set_tensor(entry["index"], value)
        interpreter.invoke()
        return [interpreter.get_tensor(entry["index"]).copy() for entry in interpreter.get_output_details()]

    return run


def _check_count(path: Path, given: int, wanted: int) -> None:
    if given != wanted:
        raise ParityError(f"{path.name} takes {wanted} inputs, {given} were given; a case is a tuple with all of them")


def _is_module(model: Any) -> bool:
    return any(
        f"{kind.__module__}.{kind.__qualname__}" == "torch.nn.modules.module.Module" for kind in type(model).__mro__
    )


def _run_module(module: Any, inputs: tuple[Any, ...]) -> list[Array]:
    import torch

    training = module.training
    module.eval()
    try:
        with torch.no_grad():
            return as_arrays(module(*(torch.from_numpy(value) for value in inputs)))
    finally:
        module.train(training)
