"""The networks as streaming modules: geometry from an independent count, steps against the whole clip."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from edgeaudio_models.architectures import build_module
from edgeaudio_models.layers import ResidualBlock, StreamingConv, WindowAverage
from edgeaudio_models.streaming import State, StreamingModule, run_from_reset
from edgeaudio_models.streaming_contract import ContractError, verify_streaming_contract
from edgeaudio_runtime.errors import SpecError

KEYWORD = {"n_features": 6, "n_labels": 3, "channels": 8, "kernel_sizes": [3, 4], "window_frames": 12}
CTC = {"n_features": 6, "n_labels": 4, "channels": 8, "kernel_sizes": [3, 2]}


def test_the_keyword_network_keeps_the_contract() -> None:
    report = verify_streaming_contract(build_module("ds_tc_resnet", KEYWORD))
    # Stem of 5 frames; at 2 frames each: blocks reach 2 + 3 back, the window of 6 reaches 5 back.
    assert report.receptive_field_frames == 5 + 2 * (2 + 3 + 5)
    assert report.latency_frames == 0
    # Stem 5 - 2 of 6 features; blocks 2 and 3 of 8 channels; the means of 3 - 1 steps of 3 labels.
    assert report.state_values == 3 * 6 + (2 + 3) * 8 + 2 * 3


def test_the_ctc_network_keeps_the_contract_with_several_outputs_a_step() -> None:
    module = build_module("ctc_net", {**CTC, "step_frames": 8})
    report = verify_streaming_contract(module)
    # Stem of 5 frames, subsampling reaches 4 back at 2 frames each, blocks 2 + 1 back at 4 frames each.
    assert report.receptive_field_frames == 5 + 2 * 4 + 4 * (2 + 1)
    assert module.outputs_per_step == 2


@pytest.mark.parametrize(
    "changed", [{"stem_stride": 1, "step_frames": 3}, {"stem_kernel_size": 3}, {"step_frames": 2}, {"n_labels": 1}]
)
def test_other_shapes_of_the_keyword_network_keep_the_contract(changed: dict[str, int]) -> None:
    assert verify_streaming_contract(build_module("ds_tc_resnet", {**KEYWORD, **changed})).chunkings >= 5


def test_the_verified_module_is_left_as_it_was() -> None:
    module = build_module("ds_tc_resnet", KEYWORD).train()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    verify_streaming_contract(module)
    assert module.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())


def test_the_average_is_the_mean_over_the_window() -> None:
    average = WindowAverage(2, window=6, stride=2)
    x = torch.arange(24, dtype=torch.float32).reshape(1, 2, 12)
    means, past = average(x, torch.zeros(1, 2, 2))
    torch.testing.assert_close(means[0, 0, -1], torch.tensor((6 + 7 + 8 + 9 + 10 + 11) / 6))
    torch.testing.assert_close(means[0, 0, 0], torch.tensor((0 + 1) / 6))
    assert past[0, 0].tolist() == [(8 + 9) / 2, (10 + 11) / 2]  # means of the last steps


def test_a_causal_convolution_is_the_padded_one() -> None:
    layer = StreamingConv(3, 5, kernel_size=4, dilation=2).eval()
    x = torch.randn(2, 3, 10)
    expected = layer.batch_norm(functional.conv1d(functional.pad(x, (6, 0)), layer.conv.weight, dilation=2))
    torch.testing.assert_close(layer(x, torch.zeros(2, 3, 6))[0], expected)


def test_a_residual_block_never_hands_on_a_negative_value() -> None:
    block = ResidualBlock(4, kernel_size=3)
    y, past = block(torch.rand(2, 4, 8), torch.zeros(2, 4, 2))
    assert float(y.detach().min()) >= 0.0
    assert past.shape == (2, 4, 2)


def test_features_that_are_no_whole_steps_are_refused() -> None:
    module = build_module("ds_tc_resnet", KEYWORD)
    with pytest.raises(SpecError, match=r"frames=6 must be a positive multiple of step_frames=4; pad with"):
        run_from_reset(module, torch.zeros(1, 6, 6))
    with pytest.raises(SpecError, match=r"features of shape \[1, 4, 5\] must be \[N, T, 6\]"):
        run_from_reset(module, torch.zeros(1, 4, 5))


def test_a_kernel_that_does_not_exceed_its_stride_is_refused() -> None:
    with pytest.raises(SpecError, match="kernel_size=2 must exceed stride=2"):
        StreamingConv(1, 1, kernel_size=2, stride=2)
    with pytest.raises(SpecError, match="window=2 must be a multiple of stride=2 and exceed it"):
        WindowAverage(1, window=2, stride=2)


class Planted(StreamingModule):
    """A correct module of one causal convolution; each test breaks one thing."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(2, 3, 3)
        self.step_frames, self.outputs_per_step, self.n_features, self.n_labels = 1, 1, 2, 3
        self.receptive_field_frames, self.latency_frames = 3, 0
        self.state_names, self.state_shapes = ("past",), ((2, 2),)

    def forward(self, features: Tensor, state: State) -> tuple[Tensor, State]:
        joined = torch.cat([state[0], features.transpose(1, 2)], dim=2)
        return self.conv(joined).transpose(1, 2), (joined[:, :, -2:],)


def test_the_planted_module_is_correct_before_it_is_broken() -> None:
    assert verify_streaming_contract(Planted()).receptive_field_frames == 3


class NonCausal(Planted):
    def forward(self, features: Tensor, state: State) -> tuple[Tensor, State]:
        padded = functional.pad(features.transpose(1, 2), (1, 1))
        return self.conv(padded).transpose(1, 2), state


class LateState(Planted):
    def forward(self, features: Tensor, state: State) -> tuple[Tensor, State]:
        joined = torch.cat([state[0], features.transpose(1, 2)], dim=2)
        return self.conv(joined).transpose(1, 2), (joined[:, :, -3:-1],)


class Forgetful(Planted):
    """Right logits for the first step of every call only because the state is dropped."""

    def forward(self, features: Tensor, state: State) -> tuple[Tensor, State]:
        logits, _ = super().forward(features, state)
        return logits, (torch.zeros_like(state[0]),)


class HiddenBuffer(Planted):
    def __init__(self) -> None:
        super().__init__()
        self.calls: Tensor
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, features: Tensor, state: State) -> tuple[Tensor, State]:
        self.calls += 1
        return super().forward(features, state)


class HiddenAttribute(Planted):
    seen = 0

    def forward(self, features: Tensor, state: State) -> tuple[Tensor, State]:
        self.seen += 1
        logits, after = super().forward(features, state)
        return logits + float(self.seen), after


class WritesItsState(Planted):
    def forward(self, features: Tensor, state: State) -> tuple[Tensor, State]:
        logits, after = super().forward(features, state)
        state[0].copy_(after[0])
        return logits, after


class MixesStreams(Planted):
    def forward(self, features: Tensor, state: State) -> tuple[Tensor, State]:
        logits, after = super().forward(features, state)
        return logits - logits.mean(dim=0, keepdim=True), after


class Delayed(Planted):
    """Reads the frame before the newest: a latency of one frame that it does not declare."""

    def forward(self, features: Tensor, state: State) -> tuple[Tensor, State]:
        joined = torch.cat([state[0], features.transpose(1, 2)], dim=2)
        weight = self.conv.weight * torch.tensor([1.0, 1.0, 0.0], dtype=joined.dtype)
        return functional.conv1d(joined, weight).transpose(1, 2), (joined[:, :, -2:],)


@pytest.mark.parametrize(
    ("planted", "words"),
    [
        (NonCausal, r"differ from the whole clip by .* every layer over time needs its past as state, and no padding"),
        (LateState, r"steps of .* differ from the whole clip"),
        (Forgetful, r"steps of \(1, 1, 1\)\.\.\. differ from the whole clip by .*, first at output 1;"),
        (HiddenBuffer, r"buffers \['calls'\] changed during a call; exporters drop such state"),
        (HiddenAttribute, r"two calls from the initial state differ; something is remembered outside the state"),
        (WritesItsState, r"a call wrote into its features or state; return new tensors"),
        (MixesStreams, r"depend on the other streams of its batch"),
        (Delayed, r"latency_frames=0 is declared, 1 was measured; declare that"),
    ],
)
def test_a_broken_module_is_refused_with_the_reason(planted: type[Planted], words: str) -> None:
    with pytest.raises(ContractError, match=words):
        verify_streaming_contract(planted())


@pytest.mark.parametrize(("declared", "words"), [(2, "3 was measured"), (4, "3 was measured")])
def test_a_wrong_declared_receptive_field_is_refused(declared: int, words: str) -> None:
    module = Planted()
    module.receptive_field_frames = declared
    with pytest.raises(ContractError, match=f"receptive_field_frames={declared} is declared, {words}; declare that"):
        verify_streaming_contract(module)


def test_a_receptive_field_far_longer_than_declared_is_named_as_a_lower_bound() -> None:
    module = build_module("ds_tc_resnet", {**KEYWORD, "window_frames": 200})
    module.receptive_field_frames = 10
    with pytest.raises(ContractError, match=r"receptive_field_frames=10 is declared, at least \d+ was measured"):
        verify_streaming_contract(module)


def test_wrong_state_declarations_are_refused() -> None:
    module = Planted()
    module.state_shapes = ((2, 3),)
    with pytest.raises(ContractError, match=r"state 'past': the new state has shape \[2, 2, 2\], declared is"):
        verify_streaming_contract(module)
    module.state_names = ("past", "past")
    with pytest.raises(ContractError, match="one distinct name and one shape is needed for each state"):
        verify_streaming_contract(module)


def test_an_initial_state_other_than_zero_is_refused() -> None:
    class Biased(Planted):
        def initial_state(self, batch: int = 1) -> State:
            return tuple(state + 1 for state in super().initial_state(batch))

    with pytest.raises(ContractError, match="the initial state must be 0 everywhere, which is the zero point in int8"):
        verify_streaming_contract(Biased())


def test_a_lost_state_is_refused() -> None:
    class Loses(Planted):
        def forward(self, features: Tensor, state: State) -> tuple[Tensor, State]:
            return super().forward(features, state)[0], ()

    with pytest.raises(ContractError, match="forward returned 0 states, it was given 1"):
        verify_streaming_contract(Loses())


def test_a_wrong_number_of_outputs_is_refused() -> None:
    module = Planted()
    module.outputs_per_step = 2
    with pytest.raises(ContractError, match=r"logits of shape \[2, 8, 3\] must be \[2, 16, 3\]"):
        verify_streaming_contract(module)
