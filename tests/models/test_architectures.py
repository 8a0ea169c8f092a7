"""The registry: names and plain values to networks, refusals by name, sizes by hand."""

from itertools import pairwise
from typing import Any

import pytest
import torch

from edgeaudio_models.architectures import (
    ARCHITECTURES,
    architecture_config,
    build_module,
    config_values,
    count_parameters,
)
from edgeaudio_models.gru_net import GruCell
from edgeaudio_models.streaming_contract import verify_streaming_contract
from edgeaudio_runtime.errors import SpecError

DEFAULTS: dict[str, Any] = {"n_features": 40, "n_labels": 12}


def test_the_keyword_network_has_the_parameters_counted_by_hand() -> None:
    c = 96
    norm = 2 * c
    by_hand = (40 * c * 5 + norm) + 5 * (9 * c + norm + c * c + norm) + (c * 12 + 12)
    assert count_parameters(build_module("ds_tc_resnet", DEFAULTS)) == by_hand
    assert 30_000 <= by_hand <= 80_000


def test_a_committee_has_the_parameters_of_its_members() -> None:
    one = count_parameters(build_module("ds_tc_resnet", DEFAULTS))
    assert count_parameters(build_module("ds_tc_committee", {**DEFAULTS, "members": 3})) == 3 * one


def test_a_committee_of_none_is_refused() -> None:
    with pytest.raises(SpecError, match="members=0 must be >= 1"):
        build_module("ds_tc_committee", {**DEFAULTS, "members": 0})


def test_the_shape_of_a_member_is_checked_as_that_of_one_network() -> None:
    with pytest.raises(SpecError, match="step_frames=3 must be a multiple of stem_stride=2"):
        build_module("ds_tc_committee", {**DEFAULTS, "step_frames": 3})


def test_the_ctc_network_has_the_parameters_counted_by_hand() -> None:
    c = 128
    norm = 2 * c
    separable = c * c + 2 * norm
    by_hand = (40 * c * 5 + norm) + (5 * c + separable) + 6 * (7 * c + separable) + (c * 12 + 12)
    assert count_parameters(build_module("ctc_net", DEFAULTS)) == by_hand
    assert 100_000 <= by_hand <= 300_000


def test_squeeze_excitation_adds_two_small_layers_a_block() -> None:
    plain = count_parameters(build_module("ctc_net", DEFAULTS))
    gated = count_parameters(build_module("ctc_net", {**DEFAULTS, "squeeze_channels": 16}))
    assert gated - plain == 6 * (128 * 16 + 16 + 16 * 128 + 128)


def folded_parameters(module: torch.nn.Module) -> int:
    """Weights and one bias an output channel: what an integer graph keeps, batch norms folded."""
    convolutions = [m for m in module.modules() if isinstance(m, torch.nn.Conv1d | torch.nn.Conv2d)]
    return sum(m.weight.numel() + m.out_channels for m in convolutions)


def norm_channels(module: torch.nn.Module) -> int:
    norms = (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d)
    return sum(m.num_features for m in module.modules() if isinstance(m, norms))


@pytest.mark.parametrize(
    ("stem_channels", "channels", "published"),
    [
        (16, (24, 32, 48), 66_000),  # TC-ResNet8
        (24, (36, 48, 72), 145_000),  # TC-ResNet8-1.5
    ],
)
def test_tc_resnet8_has_the_published_parameters(stem_channels: int, channels: tuple[int, ...], published: int) -> None:
    module = build_module("tc_resnet", {**DEFAULTS, "stem_channels": stem_channels, "channels": channels})
    widths, kernel = (stem_channels, *channels), 9
    weights = 3 * 40 * stem_channels + sum(kernel * b * (a + b) + a * b for a, b in pairwise(widths))
    normalized = stem_channels + 3 * sum(channels)
    by_hand = weights + 2 * normalized + channels[-1] * 12 + 12
    assert count_parameters(module) == by_hand
    # Table 1 of the paper counts all four values of a batch norm, two of which are statistics and not learned.
    assert round(by_hand + 2 * normalized, -3) == published


@pytest.mark.parametrize(
    ("shape", "weights", "activations", "published_bytes"),
    [
        ({}, 22_604, 2 * 25 * 5 * 64, 38_600),
        (
            {"channels": 172, "stem_stride": [2, 1], "first_stride": [2, 2]},
            135_032,
            25 * 10 * 172 + 13 * 5 * 172,
            189_200,
        ),
        (
            {"channels": 276, "n_blocks": 5, "stem_stride": [2, 1], "first_stride": [2, 2]},
            410_700,
            25 * 10 * 276 + 13 * 5 * 276,
            497_600,
        ),
    ],
    ids=["small", "medium", "large"],
)
def test_ds_cnn_has_the_parameters_of_hello_edge(
    shape: dict[str, Any], weights: int, activations: int, published_bytes: int
) -> None:
    module = build_module("ds_cnn", {**DEFAULTS, "n_features": 10, **shape})
    assert folded_parameters(module) == weights
    # The memory in the paper's tables is 8-bit weights, norms folded, and the largest two successive activations of a
    # clip of 49 frames; the streaming form keeps a few frames of each layer instead.
    assert abs(weights + activations - published_bytes) < 50


def test_ds_cnn_has_the_parameters_of_mlperf_tiny() -> None:
    module = build_module("ds_cnn", {**DEFAULTS, "n_features": 10})
    # Its Keras model has a bias in each of 9 convolutions of 64 channels beside the norm, which adds nothing.
    trainable = count_parameters(module) + 9 * 64
    assert trainable == 23_756
    assert trainable + 2 * norm_channels(module) == 24_908  # with the statistics of the norms


@pytest.mark.parametrize(("scale", "published"), [(1, 9_200), (2, 27_300), (3, 54_200), (6, 188_000), (8, 321_000)])
def test_bc_resnet_has_the_published_parameters(scale: int, published: int) -> None:
    counted = count_parameters(build_module("bc_resnet", {**DEFAULTS, "scale": scale}))
    assert abs(counted - published) <= (50 if published < 100_000 else 500)  # half of the last published digit
    if scale == 1:
        first, last = 25 * 16 + 2 * 16, 25 * 20 + 20 * 32 + 2 * 32 + 32 * 12 + 12
        repeated = {8: 2, 12: 2, 16: 4, 20: 4}
        # A block: 3 taps over frequency, 5 bands of norm; 3 taps over time, norm, 1x1; a widening 1x1 at each stage.
        blocks = sum(n * (3 * c + 5 * 2 * c + 3 * c + 2 * c + c * c) for c, n in repeated.items())
        wider = sum(a * b + 2 * b for a, b in pairwise((16, *repeated)))
        assert counted == first + blocks + wider + last


@pytest.mark.parametrize(
    ("hidden", "frames", "published_bytes"), [(154, 25, 78_800), (250, 49, 200_000), (400, 49, 499_700)]
)
def test_the_gated_cell_has_the_parameters_of_hello_edge(hidden: int, frames: int, published_bytes: int) -> None:
    classifier = hidden * 12 + 12
    # One bias a gate there; the form of torch has a second one for the new gate's hidden product.
    weights = count_parameters_of(GruCell(10, hidden)) - hidden + classifier
    assert weights == 3 * (hidden * (10 + hidden) + hidden) + classifier
    # The paper's memory: 8-bit weights, the frames of a clip and one value a gate.
    assert abs(weights + frames * 10 + 3 * hidden - published_bytes) < 50


def count_parameters_of(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_the_gated_cell_is_that_of_torch() -> None:
    cell = GruCell(5, 7).double()
    torch_cell = torch.nn.GRUCell(5, 7).double()
    inputs = (cell.input_reset, cell.input_update, cell.input_new)
    hiddens = (cell.hidden_reset, cell.hidden_update, cell.hidden_new)
    with torch.no_grad():
        torch_cell.weight_ih.copy_(torch.cat([conv.weight[:, :, 0] for conv in inputs]))
        torch_cell.weight_hh.copy_(torch.cat([conv.weight[:, :, 0] for conv in hiddens]))
        torch_cell.bias_ih.copy_(torch.cat([conv.bias for conv in inputs if conv.bias is not None]))
        assert cell.hidden_new.bias is not None
        torch_cell.bias_hh.copy_(torch.cat([torch.zeros(14), cell.hidden_new.bias]))
    x, h = torch.randn(3, 5, dtype=torch.float64), torch.randn(3, 7, dtype=torch.float64)
    torch.testing.assert_close(cell(x[:, :, None], h[:, :, None])[:, :, 0], torch_cell(x, h), rtol=0, atol=1e-14)


SMALLER: dict[str, dict[str, Any]] = {
    # Its 37 norms and 12 dilated blocks take long one step at a time; a shorter window and larger steps do not.
    "bc_resnet": {"n_features": 16, "bands": 2, "step_frames": 8, "window_frames": 16},
    "ds_cnn": {"n_features": 10},
}


@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_every_architecture_keeps_the_streaming_contract_at_its_default_depth(name: str) -> None:
    torch.manual_seed(0)  # some draws have relus that hide the oldest frame
    module = build_module(name, {**DEFAULTS, **SMALLER.get(name, {})})
    field = verify_streaming_contract(module).receptive_field_frames
    assert field == module.receptive_field_frames or (module.recurrent and field > module.receptive_field_frames)
    assert module.step_frames == {"tc_resnet": 8, "bc_resnet": 8}.get(name, 4)


@pytest.mark.parametrize("name", ["ctc_net", "ds_tc_resnet"])
def test_plain_values_come_back_from_a_configuration(name: str) -> None:
    config = architecture_config(name, {**DEFAULTS, "kernel_sizes": [3, 5]})
    assert config.kernel_sizes == (3, 5)
    assert architecture_config(name, config_values(config)) == config


@pytest.mark.parametrize(
    ("name", "values", "words"),
    [
        (
            "resnet50",
            DEFAULTS,
            r"architecture='resnet50' is unknown; this version has \['bc_resnet', 'ctc_net', 'ds_cnn', 'ds_tc",
        ),
        ("ds_tc_resnet", {**DEFAULTS, "chanels": 8}, r"unknown parameters \['chanels'\]; it has \['channels'"),
        ("ctc_net", {"n_features": 40}, r"parameters \['n_labels'\] are missing"),
        (
            "ds_tc_resnet",
            {**DEFAULTS, "kernel_sizes": 9},
            "'ds_tc_resnet': kernel_sizes=9 must be a list of whole numb",
        ),
        ("gru_net", {**DEFAULTS, "hidden": "64"}, "architecture 'gru_net': hidden='64' must be a whole number"),
        ("bc_resnet", {**DEFAULTS, "scale": None}, "architecture 'bc_resnet': scale=None must be a number"),
        ("ds_tc_resnet", {**DEFAULTS, "step_frames": 3}, "step_frames=3 must be a multiple of stem_stride=2"),
        ("ds_tc_resnet", {**DEFAULTS, "window_frames": 30}, "window_frames=30 must be a multiple of step_frames=4"),
        ("ds_tc_resnet", {**DEFAULTS, "window_frames": 4}, "window_frames=4 must be .* and exceed it"),
        ("ds_tc_resnet", {**DEFAULTS, "kernel_sizes": []}, r"kernel_sizes=\[\] must name a kernel >= 2"),
        ("ds_tc_resnet", {**DEFAULTS, "channels": 0}, "channels=0 must be >= 1"),
        ("ctc_net", {**DEFAULTS, "n_labels": 1}, "n_labels=1 must be >= 2: the blank"),
        ("ctc_net", {**DEFAULTS, "step_frames": 6}, "step_frames=6 must be a multiple of the subsampling 4"),
        ("ctc_net", {**DEFAULTS, "kernel_sizes": [1]}, r"kernel_sizes=\[1\] must name a kernel >= 2"),
        ("tc_resnet", {**DEFAULTS, "channels": []}, r"channels=\[\] must be >= 1, for at least one block"),
        ("tc_resnet", {**DEFAULTS, "kernel_size": 2}, "kernel_size=2 must exceed the stride 2"),
        ("tc_resnet", {**DEFAULTS, "window_frames": 100}, "window_frames=100 must be a multiple of the step of 8 "),
        ("gru_net", {**DEFAULTS, "hidden": 0}, "hidden=0 and step_frames=4 must be >= 1"),
        ("gru_net", {**DEFAULTS, "window_frames": 4}, "window_frames=4 must be a multiple of step_frames=4 and exceed"),
        ("ctc_net", {**DEFAULTS, "channels": 0}, "n_features=40 and channels=0 must be >= 1"),
        ("ctc_net", {**DEFAULTS, "squeeze_channels": -1}, "squeeze_channels=-1 must be >= 0 and squeeze_window=25"),
        ("ctc_net", {**DEFAULTS, "squeeze_window": 1}, "squeeze_window=1 must be >= 2"),
        ("ds_cnn", {**DEFAULTS, "n_blocks": 0}, "channels=64 and n_blocks=0 must be >= 1"),
        (
            "ds_cnn",
            {**DEFAULTS, "stem_stride": [2]},
            r"stem_stride=\[2\] must be two numbers >= 1, of time and of freq",
        ),
        ("ds_cnn", {**DEFAULTS, "first_stride": [4, 2]}, "step_frames=4 must be a multiple of the subsampling 8"),
        ("ds_cnn", {**DEFAULTS, "window_frames": 30}, "window_frames=30 must be a multiple of step_frames=4"),
        ("ds_cnn", {**DEFAULTS, "n_features": 1}, "n_frequencies=1, a kernel of 4 frequencies does not fit in"),
        ("bc_resnet", {**DEFAULTS, "bands": 0}, "bands=0 and step_frames=4 must be >= 1"),
        ("bc_resnet", {**DEFAULTS, "bands": 3}, "bands=3 must divide the 20 frequencies that are normalized"),
        ("bc_resnet", {**DEFAULTS, "scale": 0}, "scale=0 must be from 0.125 to 64; 1 is BC-ResNet-1"),
        ("bc_resnet", {**DEFAULTS, "window_frames": 4}, "window_frames=4 must be a multiple of step_frames=4 and"),
    ],
)
def test_bad_values_are_refused_by_name(name: str, values: dict[str, Any], words: str) -> None:
    with pytest.raises(SpecError, match=words):
        build_module(name, values)
