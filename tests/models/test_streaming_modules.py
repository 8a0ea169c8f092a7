"""The networks as streaming modules: geometry from an independent count, steps against the whole clip."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from edgeaudio_models.architectures import build_module
from edgeaudio_models.channels_last import ChannelsLast
from edgeaudio_models.layers import ResidualBlock, SqueezeExcitation, StreamingConv, WindowAverage
from edgeaudio_models.layers_2d import FrequencyMean, StreamingConv2d, SubSpectralConv, frequencies_after
from edgeaudio_models.streaming import State, StreamingModule, run_from_reset
from edgeaudio_models.streaming_contract import ContractError, verify_streaming_contract
from edgeaudio_runtime.errors import SpecError

KEYWORD = {"n_features": 6, "n_labels": 3, "channels": 8, "kernel_sizes": [3, 4], "window_frames": 12}
CTC = {"n_features": 6, "n_labels": 4, "channels": 8, "kernel_sizes": [3, 2]}
DS_CNN: dict[str, Any] = {
    "n_features": 6,
    "n_labels": 3,
    "channels": 4,
    "n_blocks": 2,
    "stem_kernel_size": [4, 4],
    "window_frames": 12,
}
BC_RESNET: dict[str, Any] = {
    "n_features": 16,
    "n_labels": 3,
    "scale": 0.25,
    "bands": 2,
    "window_frames": 16,
    "step_frames": 8,
}
EXACT_TO_ROUNDING = 1e-12
"""Of float64 sums of a few dozen terms, relative and absolute."""


@pytest.fixture(autouse=True)
def same_weights() -> None:
    """Seed the weights: in these tiny networks some draws have relus that hide a frame from every output."""
    torch.manual_seed(0)


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


def test_the_gated_ctc_network_keeps_the_contract_with_several_outputs_a_step() -> None:
    gates = {"squeeze_channels": 8, "squeeze_window": 4}
    report = verify_streaming_contract(build_module("ctc_net", {**CTC, **gates, "step_frames": 8}))
    # As without gates, and each of two gates reaches 3 back at 4 frames each.
    assert report.receptive_field_frames == 5 + 2 * 4 + 4 * (2 + 1) + 4 * (3 + 3)
    assert report.state_values == 3 * 6 + 3 * 8 + (2 + 1) * 8 + 2 * 3 * 8


def test_a_ctc_network_without_gates_is_what_it_was() -> None:
    plain = build_module("ctc_net", CTC)
    assert plain.state_names == ("stem", "subsample", "block_0", "block_1")
    assert not any("gate" in name for name in plain.state_dict())


def test_ds_cnn_keeps_the_contract() -> None:
    report = verify_streaming_contract(build_module("ds_cnn", DS_CNN))
    # Stem of 4 frames; at 2 frames each: two blocks reach 2 back, the window of 6 reaches 5 back.
    assert report.receptive_field_frames == 4 + 2 * (2 + 2 + 5)
    # Stem 4 - 2 frames of 6 features; blocks 2 frames of 4 channels at 3 frequencies; 3 - 1 means of 3 labels.
    assert report.state_values == 2 * 6 + 2 * (2 * 4 * 3) + 2 * 3


@pytest.mark.parametrize(
    "changed",
    [
        {"first_stride": [2, 2]},
        {"stem_stride": [1, 1], "step_frames": 3},
        {"stem_stride": [2, 1], "first_stride": [2, 2], "n_features": 9},
        {"step_frames": 2, "n_labels": 1},
    ],
)
def test_other_shapes_of_ds_cnn_keep_the_contract(changed: dict[str, Any]) -> None:
    assert verify_streaming_contract(build_module("ds_cnn", {**DS_CNN, **changed})).chunkings >= 5


def test_bc_resnet_keeps_the_contract() -> None:
    module = build_module("bc_resnet", BC_RESNET)
    report = verify_streaming_contract(module)
    # First and last convolution of 5 frames; 2 blocks at dilation 1, 2 at 2, 4 at 4, 4 at 8, each with 3 taps.
    assert report.receptive_field_frames == 4 + 2 * (2 * 1 + 2 * 2 + 4 * 4 + 4 * 8) + 4 + 16
    # 16 features are 8 frequencies after the first convolution, 4 and 2 after the strided stages.
    blocks = 2 * 2 * 2 + 3 * 2 * 4 + 4 * 4 * 8 + 5 * 4 * 16
    assert report.state_values == 4 * 16 + blocks + 5 * 4 * 2 + 3


@pytest.mark.parametrize(
    ("n_frequencies", "bands", "stride"),
    [(20, 5, 1), (40, 5, 2), (10, 2, 1), (10, 5, 2), (9, 5, 2), (12, 3, 2), (4, 4, 1), (7, 1, 1), (3, 3, 1)],
)
def test_bands_convolved_one_by_one_are_those_of_the_whole_spectrum(
    n_frequencies: int, bands: int, stride: int
) -> None:
    layer = SubSpectralConv(3, n_frequencies=n_frequencies, bands=bands, stride=stride).double().eval()
    x = torch.randn(2, 3, 4, n_frequencies, dtype=torch.float64)
    for norm in layer.batch_norms:
        assert isinstance(norm, nn.BatchNorm2d)
        assert norm.running_mean is not None
        norm.running_mean.normal_()
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    whole = functional.conv2d(x, layer.conv.weight, stride=(1, stride), padding=(0, 1), groups=3)
    expected = torch.cat([norm(band) for norm, band in zip(layer.batch_norms, whole.chunk(bands, 3), strict=True)], 3)
    torch.testing.assert_close(layer(x), expected, rtol=EXACT_TO_ROUNDING, atol=EXACT_TO_ROUNDING)


def test_every_band_learns_statistics_of_its_own() -> None:
    layer = SubSpectralConv(2, n_frequencies=6, bands=3).train()
    layer(torch.randn(4, 2, 5, 6) * torch.tensor([1.0, 1.0, 10.0, 10.0, 100.0, 100.0]))
    statistics = {name: value for name, value in layer.named_buffers() if name.endswith("running_var")}
    spreads = [float(value.mean()) for value in statistics.values()]
    assert spreads == sorted(spreads)
    assert spreads[2] > 10 * spreads[0]


def test_the_mean_over_frequency_is_the_mean() -> None:
    x = torch.arange(24, dtype=torch.float32).reshape(1, 2, 3, 4)
    mean = FrequencyMean(2, n_frequencies=4)(x)
    torch.testing.assert_close(mean, x.mean(dim=3, keepdim=True))
    assert mean[0, 1, 0].tolist() == [(12 + 13 + 14 + 15) / 4]


def test_a_gate_is_made_of_the_mean_of_the_last_frames() -> None:
    layer = SqueezeExcitation(3, bottleneck=2, window=4)
    x = torch.randn(1, 3, 6)
    gated, past = layer(x, torch.zeros(1, 3, 3))
    assert layer.squeeze.bias is not None
    assert layer.excite.bias is not None
    mean = x[:, :, 2:6].mean(dim=2)
    bottleneck = torch.relu(mean @ layer.squeeze.weight[:, :, 0].T + layer.squeeze.bias)
    gate = torch.sigmoid(bottleneck @ layer.excite.weight[:, :, 0].T + layer.excite.bias)
    torch.testing.assert_close(gated[:, :, -1], x[:, :, -1] * gate)
    assert torch.equal(past, x[:, :, 3:])


def test_a_causal_convolution_over_both_axes_is_the_padded_one() -> None:
    layer = StreamingConv2d(3, 5, n_frequencies=7, kernel_size=(3, 3), stride=(1, 2), dilation=2).eval()
    x = torch.randn(2, 3, 8, 7)
    padded = functional.pad(x, (1, 1, 4, 0))
    expected = layer.batch_norm(functional.conv2d(padded, layer.conv.weight, stride=(1, 2), dilation=(2, 1)))
    y, past = layer(x, torch.zeros(2, 3, 4, 7))
    torch.testing.assert_close(y, expected)
    assert y.shape[3] == layer.n_frequencies == 4
    assert torch.equal(past, x[:, :, 4:])


@pytest.mark.parametrize("name", ["ds_cnn", "bc_resnet"])
def test_training_channels_last_learns_the_same(name: str) -> None:
    module = build_module(name, {"ds_cnn": DS_CNN, "bc_resnet": BC_RESNET}[name]).double().train()
    features = torch.randn(3, 24, module.n_features, dtype=torch.float64)

    def gradients() -> list[Tensor]:
        loss = run_from_reset(module, features)[:, -1].square().sum()
        return list(torch.autograd.grad(loss, list(module.parameters())))

    expected = gradients()
    with ChannelsLast():
        found = gradients()
    assert len(found) == len(expected) > 10
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-9)  # sums in another order, through many norms


def test_frequencies_that_no_kernel_fits_are_refused() -> None:
    assert frequencies_after(10, kernel_size=4, stride=2) == 5
    with pytest.raises(
        SpecError, match="n_frequencies=1, a kernel of 4 frequencies does not fit in; use more features"
    ):
        frequencies_after(1, kernel_size=4, stride=1)
    with pytest.raises(
        SpecError, match=r"kernel_size=\(2, 1\) must exceed stride=\(2, 1\) in time, or there is no past"
    ):
        StreamingConv2d(1, 1, n_frequencies=4, kernel_size=(2, 1), stride=(2, 1))


@pytest.mark.parametrize(
    "changed", [{"stem_stride": 1, "step_frames": 3}, {"stem_kernel_size": 3}, {"step_frames": 2}, {"n_labels": 1}]
)
def test_other_shapes_of_the_keyword_network_keep_the_contract(changed: dict[str, int]) -> None:
    assert verify_streaming_contract(build_module("ds_tc_resnet", {**KEYWORD, **changed})).chunkings >= 5


def test_a_committee_keeps_the_contract_and_is_the_mean_of_its_members() -> None:
    module = build_module("ds_tc_committee", {**KEYWORD, "members": 3}).double().eval()
    assert verify_streaming_contract(module).chunkings >= 5
    features = torch.randn(2, 12 * module.step_frames, module.n_features, dtype=torch.float64)
    mean = torch.stack([run_from_reset(member, features) for member in module.learners]).mean(dim=0)
    torch.testing.assert_close(run_from_reset(module, features), mean)
    first, second, third = (next(member.parameters()) for member in module.learners)
    assert not torch.equal(first, second)
    assert not torch.equal(second, third)


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
    report = verify_streaming_contract(Planted2d())
    assert (report.receptive_field_frames, report.state_values) == (3, 2 * 4)


class NonCausal(Planted):
    def forward(self, features: Tensor, state: State) -> tuple[Tensor, State]:
        padded = functional.pad(features.transpose(1, 2), (1, 1))
        return self.conv(padded).transpose(1, 2), state


class Planted2d(Planted):
    """The same over time and frequency: a state of three numbers beside the stream."""

    padding = (0, 1)

    def __init__(self) -> None:
        super().__init__()
        self.conv2d = nn.Conv2d(1, 2, (3, 3), padding=self.padding)
        self.mean = FrequencyMean(2, n_frequencies=4)
        self.last = nn.Conv1d(2, 3, 1)
        self.n_features, self.state_shapes = 4, ((1, 2, 4),)

    def forward(self, features: Tensor, state: State) -> tuple[Tensor, State]:
        joined = torch.cat([state[0], features.unsqueeze(1)], dim=2)
        y = self.mean(self.conv2d(joined))[:, :, : features.shape[1]].squeeze(3)
        return self.last(y).transpose(1, 2), (joined[:, :, -2:],)


class PaddedInTime(Planted2d):
    padding = (1, 1)


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
        (
            PaddedInTime,
            r"differ from the whole clip by .* every layer over time needs its past as state, and no padding",
        ),
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
