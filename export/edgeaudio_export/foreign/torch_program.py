"""Reading a ``torch.export`` program, or tracing a module: either becomes the same step model as an ONNX file."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from edgeaudio_export.checks import check_mutations
from edgeaudio_export.errors import ExportError
from edgeaudio_export.float_onnx import input_names, output_names
from edgeaudio_export.foreign.reader import regular_step_model
from edgeaudio_export.foreign.step_model import StepModel
from edgeaudio_export.onnx_runner import OnnxRunner
from edgeaudio_export.quiet import quiet_torch
from edgeaudio_export.step_graph import OPSET

PROGRAM_TOLERANCE = 1e-4
"""Largest difference between the program and its ONNX form, relative to the largest logit: they sum in other orders."""
COMPARED_STEPS = 3
"""Steps of noise on which the two are compared, chained by their states."""


def read_program(path: Path, *, n_features: int, n_labels: int, step_frames: int | None = None) -> StepModel:
    """Read a float step program that ``torch.export.save`` wrote.

    Args:
        path: A ``.pt2`` file: ``(features [1, T, n_features], *states) -> (logits, *states)``, or without states
            ``features -> logits``; logits ``[1, T_out, n_labels]`` or ``[1, n_labels]``.
        n_features: Values in a frame of the front end.
        n_labels: Number of labels.
        step_frames: T where the program leaves it open.

    Raises:
        ExportError: One line that begins with the file and says what does not fit and what to do.
    """
    try:
        return step_of_program(load_program(path), n_features=n_features, n_labels=n_labels, step_frames=step_frames)
    except ExportError as error:
        raise ExportError(f"{path}: {error}") from error


def load_program(path: Path) -> ExportedProgram:
    """The program of a ``.pt2`` file; raises ExportError for anything else."""
    path.stat()  # a file that is not there is no fault of its contents
    try:
        with quiet_torch():
            return torch.export.load(path)
    except Exception as error:  # zip, pickle and schema errors of a dozen types
        raise ExportError("not a torch.export program of this torch; write one with torch.export.save") from error


def trace_module(
    module: nn.Module, *, step_frames: int, n_features: int, states: Sequence[Tensor] = (), as_tuple: bool = False
) -> ExportedProgram:
    """One step of a module as a program.

    Args:
        module: ``forward(features [1, step_frames, n_features], *states)``; it is left as it was.
        step_frames: Feature frames in a call.
        n_features: Values in a frame.
        states: Examples, one for each state argument.
        as_tuple: Whether ``forward`` takes the states as one tuple.

    Raises:
        ExportError: ``torch.export`` cannot trace it, in one line.
    """
    features = torch.zeros(1, step_frames, n_features)
    was_training = module.training
    module.eval()
    try:
        with quiet_torch(), torch.no_grad():
            return torch.export.export(module, (features, tuple(states)) if as_tuple else (features, *states))
    except Exception as error:
        raise ExportError(
            f"torch.export cannot trace {type(module).__name__} on features {list(features.shape)} and "
            f"{len(states)} states: {_first_line(error)}"
        ) from error
    finally:
        module.train(was_training)


def step_of_program(
    program: ExportedProgram, *, n_features: int, n_labels: int, step_frames: int | None = None
) -> StepModel:
    """The step model of a program, held against it on noise.

    Raises:
        ExportError: It writes buffers, its inputs and outputs do not fit, or ONNX computes something else.
    """
    with quiet_torch():
        program = program.run_decompositions({})  # in this form alone a written buffer shows
    check_mutations(program)
    signature = program.graph_signature
    n_states, n_after = len(signature.user_inputs) - 1, len(signature.user_outputs) - 1
    if n_states != n_after or n_states < 0:
        raise ExportError(
            f"the program takes {n_states} states and returns {n_after}, must be "
            "(features, *states) -> (logits, *states); return each state once"
        )
    step = regular_step_model(
        onnx_of_program(program, input_names(n_states), output_names(n_states)),
        n_features=n_features,
        n_labels=n_labels,
        step_frames=step_frames,
    )
    _check_same(program, step)
    return step


def onnx_of_program(
    program: ExportedProgram, inputs: list[str], outputs: list[str], *, opset: int = OPSET
) -> onnx.ModelProto:
    """The ONNX form of a program, its inputs and outputs named in order.

    Raises:
        ExportError: The exporter of torch refuses an operation, in one line.
    """
    try:
        # The exporter reports its stages on stdout, which belongs to results.
        with quiet_torch(), contextlib.redirect_stdout(io.StringIO()):
            exported = torch.onnx.export(
                program, dynamo=True, opset_version=opset, verbose=False, input_names=inputs, output_names=outputs
            )
    except Exception as error:
        raise ExportError(f"torch.onnx cannot export the program: {_first_line(error)}") from error
    assert exported is not None
    return exported.model_proto


def _check_same(program: ExportedProgram, step: StepModel) -> None:
    """The ONNX form computes what the program computes, over some chained steps of noise."""
    runner, module = OnnxRunner(step.model, step), program.module()
    noise = np.random.default_rng(0).standard_normal((COMPARED_STEPS, step.step_frames, step.n_features))
    states, ours = [torch.zeros(shape) for shape in step.state_shapes], runner.initial_states()
    for features in noise.astype(np.float32):
        arguments, keywords = pytree.tree_unflatten([torch.from_numpy(features)[None], *states], _inputs(program))
        with torch.no_grad():
            logits, *states = pytree.tree_leaves(module(*arguments, **keywords))
        found, *ours = runner.step(features, ours)
        wanted = logits.numpy().reshape(found.shape)
        error, largest = float(np.abs(wanted - found).max()), max(float(np.abs(wanted).max()), 1.0)
        if not error <= PROGRAM_TOLERANCE * largest:
            raise ExportError(
                f"its ONNX form differs from the program by {error:.3g} at logits of {largest:.3g}; this is a fault of "
                "the export: please report the model"
            )


def _inputs(program: ExportedProgram) -> pytree.TreeSpec:
    spec: pytree.TreeSpec | None = program.call_spec.in_spec
    assert spec is not None
    return spec


def _first_line(error: Exception) -> str:
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
