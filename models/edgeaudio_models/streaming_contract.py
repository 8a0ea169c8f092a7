"""What every streaming module must pass before it is trained, exported or believed.

One reusable check after ``verify_contract`` of google/sequence-layers: the whole clip in one call equals steps of any
size, nothing is remembered outside the state, and receptive field and latency are what the module says.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from edgeaudio_models.streaming import State, StreamingModule
from edgeaudio_runtime.errors import SpecError

CHUNKING_TOLERANCE = 1e-9
"""Largest difference between chunkings, relative to the standard deviation of the logits, in float64: rounding alone
leaves about 1e-15, one wrong frame at least 1e-4."""
EXTRA_STEPS = 5
"""Steps run beyond the declared receptive field, so that a longer one shows."""
DRAWS = 16
"""Random inputs tried while the measured receptive field is shorter than declared: a relu may hide a frame in some."""


class ContractError(SpecError):
    """A module breaks the streaming contract."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StreamingReport:
    """What was measured on a module that passed."""

    receptive_field_frames: int
    """Frames from the oldest to the newest that changed the last logit vector."""
    latency_frames: int
    """Frames at the end of the input that did not change the last logit vector."""
    chunkings: int
    """Ways of cutting the input that gave the same logits and state."""
    max_relative_error: float
    """Largest difference between chunkings, over the standard deviation of the logits."""
    state_values: int
    """Numbers in the state of one stream."""


def verify_streaming_contract(module: StreamingModule, *, batch: int = 2, seed: int = 0) -> StreamingReport:
    """Check ``module`` against the streaming contract and measure it.

    Runs a float64 copy in evaluation mode; ``module`` itself is untouched.

    Args:
        module: Any streaming module, trained or fresh.
        batch: Streams run together, >= 2.
        seed: Of the random features.

    Returns:
        The measured geometry.

    Raises:
        ContractError: The first rule that is broken, in one line.
    """
    candidate = copy.deepcopy(module).double().eval()
    steps = math.ceil(module.receptive_field_frames / module.step_frames) + EXTRA_STEPS
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, steps * module.step_frames, module.n_features)
    features = torch.randn(shape, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        _check_shapes(candidate, features)
        _check_purity(candidate, features)
        error, chunkings = _check_chunkings(candidate, features, generator)
        _check_streams_apart(candidate, features)
    field, latency = _check_receptive_field(candidate, shape, generator)
    return StreamingReport(
        receptive_field_frames=field,
        latency_frames=latency,
        chunkings=chunkings,
        max_relative_error=error,
        state_values=sum(math.prod(size) for size in module.state_shapes),
    )


def _check_shapes(module: StreamingModule, features: Tensor) -> None:
    batch = features.shape[0]
    state = module.initial_state(batch)
    if not len(module.state_names) == len(set(module.state_names)) == len(module.state_shapes) == len(state):
        counts = f"{len(set(module.state_names))} state_names, {len(module.state_shapes)} state_shapes, {len(state)}"
        raise ContractError(f"{counts} states: one distinct name and one shape is needed for each state")
    if any(torch.count_nonzero(tensor) for tensor in state):
        raise ContractError("the initial state must be 0 everywhere, which is the zero point in int8")
    _check_state_shapes(module, state, batch, "initial")
    logits, after = module(features, state)
    _check_state_shapes(module, after, batch, "new")
    expected = (batch, features.shape[1] // module.step_frames * module.outputs_per_step, module.n_labels)
    if tuple(logits.shape) != expected:
        raise ContractError(f"logits of shape {list(logits.shape)} must be {list(expected)}")


def _check_state_shapes(module: StreamingModule, state: State, batch: int, which: str) -> None:
    if len(state) != len(module.state_names):
        raise ContractError(f"forward returned {len(state)} states, it was given {len(module.state_names)}")
    for name, size, tensor in zip(module.state_names, module.state_shapes, state, strict=True):
        if tuple(tensor.shape) != (batch, *size):
            found = f"the {which} state has shape {list(tensor.shape)}"
            raise ContractError(f"state {name!r}: {found}, declared is {[batch, *size]}")


def _check_purity(module: StreamingModule, features: Tensor) -> None:
    kept = {name: tensor.clone() for name, tensor in [*module.named_buffers(), *module.named_parameters()]}
    state = module.initial_state(features.shape[0])
    given = features.clone()
    first, _ = module(given, state)
    tensors = {**dict(module.named_buffers()), **dict(module.named_parameters())}
    changed = [name for name, old in kept.items() if name not in tensors or not torch.equal(old, tensors[name])]
    if changed:
        raise ContractError(f"buffers {changed} changed during a call; exporters drop such state, pass it in and out")
    if not torch.equal(given, features) or any(torch.count_nonzero(tensor) for tensor in state):
        raise ContractError("a call wrote into its features or state; return new tensors instead")
    second, _ = module(features, module.initial_state(features.shape[0]))
    if not torch.equal(first, second):
        raise ContractError("two calls from the initial state differ; something is remembered outside the state")


def _chunkings(steps: int, generator: torch.Generator) -> Iterator[tuple[int, ...]]:
    """Ways to cut ``steps`` steps: all of one size, a long and a short end, and random ones."""
    for size in (1, 2, 3):
        yield tuple(min(size, steps - start) for start in range(0, steps, size))
    yield (steps - 1, 1)
    yield (1, steps - 1)
    for _ in range(3):
        sizes: list[int] = []
        while sum(sizes) < steps:
            draw = int(torch.randint(1, 6, (1,), generator=generator))
            sizes.append(min(draw, steps - sum(sizes)))
        yield tuple(sizes)


def _run_chunks(module: StreamingModule, features: Tensor, sizes: tuple[int, ...]) -> tuple[Tensor, State]:
    state = module.initial_state(features.shape[0])
    logits: list[Tensor] = []
    for chunk in torch.split(features, [size * module.step_frames for size in sizes], dim=1):
        some, state = module(chunk, state)
        logits.append(some)
    return torch.cat(logits, dim=1), state


def _check_chunkings(module: StreamingModule, features: Tensor, generator: torch.Generator) -> tuple[float, int]:
    steps = features.shape[1] // module.step_frames
    reference, final = _run_chunks(module, features, (steps,))
    scale = float(reference.std()) or 1.0
    worst, count = 0.0, 0
    for sizes in _chunkings(steps, generator):
        logits, state = _run_chunks(module, features, sizes)
        error = float((logits - reference).abs().max()) / scale
        if not error <= CHUNKING_TOLERANCE:
            where = int((logits - reference).abs().amax(dim=(0, 2)).gt(CHUNKING_TOLERANCE * scale).nonzero()[0])
            cut = f"{sizes[:3]}..." if len(sizes) > 3 else f"{sizes}"
            raise ContractError(
                f"steps of {cut} differ from the whole clip by {error:.1e} standard deviations, first at output {where}"
                "; every layer over time needs its past as state, and no padding"
            )
        for name, now, then in zip(module.state_names, state, final, strict=True):
            if not torch.allclose(now, then, rtol=0.0, atol=CHUNKING_TOLERANCE * max(1.0, float(then.abs().max()))):
                raise ContractError(f"state {name!r} depends on how the input is cut; it must hold the newest frames")
        worst, count = max(worst, error), count + 1
    return worst, count


def _check_streams_apart(module: StreamingModule, features: Tensor) -> None:
    together, _ = _run_chunks(module, features, (features.shape[1] // module.step_frames,))
    alone, _ = _run_chunks(module, features[:1], (features.shape[1] // module.step_frames,))
    scale = float(together.std()) or 1.0
    if float((together[:1] - alone).abs().max()) / scale > CHUNKING_TOLERANCE:
        raise ContractError("a stream's logits depend on the other streams of its batch; no statistics over the batch")


def _influence(module: StreamingModule, features: Tensor) -> Tensor:
    """Frames whose change moves the last logit vector: bool ``[T]``."""
    features = features.clone().requires_grad_()
    logits, _ = module(features, module.initial_state(features.shape[0]))
    last = logits[:, -1]
    # Random weights on the labels: their plain sum may cancel.
    weights = torch.linspace(1.0, 2.0, last.shape[1], dtype=last.dtype)
    (gradient,) = torch.autograd.grad((last * weights).sum(), features)
    return gradient.abs().amax(dim=(0, 2)) > 0


def _check_receptive_field(
    module: StreamingModule,
    shape: tuple[int, int, int],
    generator: torch.Generator,
) -> tuple[int, int]:
    seen = torch.zeros(shape[1], dtype=torch.bool)
    field = latency = 0
    for _ in range(DRAWS):
        seen |= _influence(module, torch.randn(shape, generator=generator, dtype=torch.float64))
        frames = seen.nonzero()[:, 0]
        if len(frames):
            field, latency = int(frames[-1] - frames[0]) + 1, shape[1] - 1 - int(frames[-1])
        if field >= module.receptive_field_frames and latency == module.latency_frames:
            break
    if latency != module.latency_frames:
        raise ContractError(f"latency_frames={module.latency_frames} is declared, {latency} was measured; declare that")
    if field < module.receptive_field_frames or (field > module.receptive_field_frames and not module.recurrent):
        more = "at least " if bool(seen[0]) else ""
        declared = f"receptive_field_frames={module.receptive_field_frames}"
        raise ContractError(f"{declared} is declared, {more}{field} was measured; declare that")
    return field, latency
