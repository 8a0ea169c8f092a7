"""``.pt2`` programs and user modules become the step model that an ONNX file becomes; what does not fit is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgeaudio_export.errors import ExportError
from edgeaudio_export.foreign.module import UserModule, load_module
from edgeaudio_export.foreign.quantize import quantize_foreign
from edgeaudio_export.foreign.torch_program import read_program, step_of_program, trace_module
from edgeaudio_export.onnx_runner import OnnxRunner
from edgeaudio_export.quantization_recipe import QuantizationRecipe
from edgeaudio_export.quantize import QuantizedNetwork
from tests.foreign_models import STEP_FRAMES, PlainNet, WindowedNet

N_FEATURES, N_LABELS = 12, 5
ORT_ATOL = 1e-5
"""Two libraries sum a few hundred float32 products in other orders."""


def noise(frames: int) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((frames, N_FEATURES)).astype(np.float32)


@pytest.fixture(scope="module")
def net() -> PlainNet:
    torch.manual_seed(0)
    return PlainNet(N_FEATURES, N_LABELS).eval()


@pytest.fixture(scope="module")
def program(net: PlainNet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pt2") / "plain.pt2"
    torch.export.save(trace_module(net, step_frames=STEP_FRAMES, n_features=N_FEATURES, states=net.states()), path)
    return path


def test_a_program_with_states_streams_as_its_module_does(net: PlainNet, program: Path) -> None:
    step = read_program(program, n_features=N_FEATURES, n_labels=N_LABELS)
    assert (step.step_frames, step.state_shapes) == (STEP_FRAMES, ((1, N_FEATURES, 2),))
    features, (state,) = noise(3 * STEP_FRAMES), net.states()
    wanted = []
    with torch.no_grad():
        for part in torch.from_numpy(features)[None].split(STEP_FRAMES, dim=1):
            logits, state = net(part, state)
            wanted.append(logits[0].numpy())
    found = OnnxRunner(step.model, step).run_stream(features)
    np.testing.assert_allclose(found, np.concatenate(wanted), atol=ORT_ATOL)


@pytest.mark.slow
def test_a_program_within_the_integer_graph_is_quantized_by_pt2e(program: Path) -> None:
    step = read_program(program, n_features=N_FEATURES, n_labels=N_LABELS)
    quantized = quantize_foreign(
        step, [noise(20 * STEP_FRAMES)], recipe=QuantizationRecipe(), backend="pt2e", name="plain"
    )
    assert isinstance(quantized, QuantizedNetwork)
    assert quantized.backend == "pt2e"


class ListedNet(nn.Module):
    """The streaming protocol around a net with one state."""

    step_frames, n_features, n_labels, outputs_per_step = STEP_FRAMES, N_FEATURES, N_LABELS, 1
    latency_frames, state_names = 2, ("cache",)

    def __init__(self) -> None:
        super().__init__()
        self.net = PlainNet(N_FEATURES, N_LABELS)
        self.net.mean = nn.Conv1d(16, 16, STEP_FRAMES, stride=STEP_FRAMES, groups=16, bias=False)

    def initial_state(self, batch: int = 1) -> tuple[Tensor, ...]:
        return (torch.zeros(batch, N_FEATURES, 2),)

    def forward(self, features: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        logits, cache = self.net(features, state[0])
        return logits, (cache,)


@pytest.mark.slow
def test_a_module_of_the_streaming_protocol_is_quantized_as_it_is() -> None:
    module = UserModule(name="ListedNet", module=ListedNet().eval())
    step = module.step_model(n_features=N_FEATURES, n_labels=N_LABELS, step_frames=None)
    assert (step.step_frames, len(step.state_names)) == (STEP_FRAMES, 1)
    quantized = quantize_foreign(
        step, [noise(20 * STEP_FRAMES)], recipe=QuantizationRecipe(), backend="pt2e", name="n", network=module.network
    )
    assert isinstance(quantized, QuantizedNetwork)
    assert [state.name for state in quantized.graph.states] == ["cache"]


def test_a_module_without_the_protocol_is_traced_on_the_facts_that_it_gives() -> None:
    facts: dict[str, Any] = {"step_frames": STEP_FRAMES, "states": {"cache": (1, N_FEATURES, 2)}}
    module = UserModule(name="net", module=PlainNet(N_FEATURES, N_LABELS).eval(), facts=facts)
    step = module.step_model(n_features=N_FEATURES, n_labels=N_LABELS, step_frames=None)
    assert (step.step_frames, step.state_shapes) == (STEP_FRAMES, ((1, N_FEATURES, 2),))
    assert module.network is None


def test_a_module_without_states_looks_at_a_window() -> None:
    module = UserModule(name="net", module=WindowedNet(N_FEATURES, N_LABELS).eval())
    step = module.step_model(n_features=N_FEATURES, n_labels=N_LABELS, step_frames=20)
    assert (step.step_frames, step.outputs_per_step, step.state_names) == (20, 1, ())


class Remembering(nn.Module):
    seen: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, features: Tensor) -> Tensor:
        self.seen.add_(1)
        return features.mean(dim=1) + self.seen


class Losing(nn.Module):
    def forward(self, features: Tensor, state: Tensor) -> Tensor:
        return features.mean(dim=1) + state


class Branching(nn.Module):
    def forward(self, features: Tensor) -> Tensor:
        return features.mean(dim=1) if float(features.sum()) > 0 else features.amax(dim=1)


@pytest.mark.parametrize(
    ("net", "words"),
    [
        (Remembering(), r"net: buffers \['seen'\] change during forward"),
        (Losing(), r"net: the program takes 1 states and returns 0, must be \(features, \*states\) -> "),
        (Branching(), r"net: torch.export cannot trace Branching on features \[1, 4, 12\] and 0 states: "),
        (WindowedNet(7, N_LABELS), "net: torch.export cannot trace WindowedNet"),
        (WindowedNet(N_FEATURES, 3), "net: output 'logits' has 3 values, 5 labels are given; give one label each"),
    ],
)
def test_a_module_that_is_no_step_is_refused(net: nn.Module, words: str) -> None:
    states = {"s": (1, N_FEATURES)} if isinstance(net, Losing) else {}
    module = UserModule(name="net", module=net.eval(), facts={"states": states})
    with pytest.raises(ExportError, match=words) as caught:
        module.step_model(n_features=N_FEATURES, n_labels=N_LABELS, step_frames=4)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_program_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt2"
    torch.save({"w": torch.zeros(1)}, path)
    with pytest.raises(ExportError, match=r"weights.pt2: not a torch.export program of this torch; write one with"):
        read_program(path, n_features=N_FEATURES, n_labels=N_LABELS)


def test_a_program_of_another_front_end_is_refused(program: Path) -> None:
    with pytest.raises(ExportError, match=r"plain.pt2: input 'features' has 12 values in a frame, the front"):
        read_program(program, n_features=40, n_labels=N_LABELS)


def test_a_program_is_held_against_its_onnx_form(monkeypatch: pytest.MonkeyPatch, net: PlainNet) -> None:
    traced = trace_module(net, step_frames=STEP_FRAMES, n_features=N_FEATURES, states=net.states())
    plain = OnnxRunner.step
    monkeypatch.setattr(OnnxRunner, "step", lambda self, *args: [x + 0.01 for x in plain(self, *args)])
    with pytest.raises(ExportError, match=r"its ONNX form differs from the program by 0\.01"):
        step_of_program(traced, n_features=N_FEATURES, n_labels=N_LABELS)


SOURCE = """
from torch import nn

model = nn.Linear(2, 2)
FACTS = {"step_frames": 4}

def make():
    return nn.Linear(2, 2).train()

def make_with_facts():
    return make(), FACTS

def number():
    return 3

def misspelt():
    return make(), {"frames": 4}

def listed():
    return make(), [4]

def broken():
    raise OSError("no weights")
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """A module of a name of its own in the current directory."""
    name = f"mine_{abs(hash(request.node.name)):x}"
    (tmp_path / f"{name}.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    return name


def test_a_callable_of_the_current_directory_gives_its_module_for_evaluation(here: str) -> None:
    loaded = load_module(f"{here}:make")
    assert (loaded.name, loaded.module.training, dict(loaded.facts)) == ("make", False, {})
    assert load_module(f"{here}:make_with_facts").facts == {"step_frames": 4}


@pytest.mark.parametrize(
    ("attribute", "words"),
    [
        ("missing", "cannot be imported: AttributeError: module "),
        ("model", "is a Linear, must be a function or class that returns a torch module"),
        ("FACTS", "is a dict, must be a function or class that returns a torch module"),
        ("number", r"returned int, must return a torch module or \(module, facts\)"),
        ("misspelt", r"returned unknown facts \['frames'\]; known are \['front_end', 'labels', "),
        ("listed", "returned facts of type list, must be a dict"),
        ("broken", "cannot be called: OSError: no weights"),
    ],
)
def test_a_callable_that_gives_no_module_is_refused(here: str, attribute: str, words: str) -> None:
    with pytest.raises(ExportError, match=rf"model='{here}:{attribute}' {words}"):
        load_module(f"{here}:{attribute}")


def test_a_module_that_is_not_there_is_refused() -> None:
    with pytest.raises(ExportError, match="model='no_such:make' cannot be imported: ModuleNotFoundError: "):
        load_module("no_such:make")
