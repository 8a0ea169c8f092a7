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


def test_the_ctc_network_has_the_parameters_counted_by_hand() -> None:
    c = 128
    norm = 2 * c
    separable = c * c + 2 * norm
    by_hand = (40 * c * 5 + norm) + (5 * c + separable) + 6 * (7 * c + separable) + (c * 12 + 12)
    assert count_parameters(build_module("ctc_net", DEFAULTS)) == by_hand
    assert 100_000 <= by_hand <= 300_000


def test_tc_resnet8_has_the_published_parameters() -> None:
    widths, kernel = (16, 24, 32, 48), 9
    norms = 2 * (16 + 3 * (24 + 32 + 48))
    blocks = sum(kernel * b * (a + b) + a * b for a, b in pairwise(widths))
    by_hand = 3 * 40 * 16 + blocks + norms + 48 * 12 + 12
    assert count_parameters(build_module("tc_resnet", DEFAULTS)) == by_hand
    assert round(by_hand, -3) in (65_000, 66_000)  # table 1 of the paper says 66 k, without saying what it counts


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


@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_every_architecture_keeps_the_streaming_contract_at_its_default_size(name: str) -> None:
    module = build_module(name, DEFAULTS)
    field = verify_streaming_contract(module).receptive_field_frames
    assert field == module.receptive_field_frames or (module.recurrent and field > module.receptive_field_frames)
    assert module.step_frames == {"tc_resnet": 8}.get(name, 4)


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
            r"architecture='resnet50' is unknown; this version has \['ctc_net', 'ds_tc_resnet', 'gru_net'",
        ),
        ("ds_tc_resnet", {**DEFAULTS, "chanels": 8}, r"unknown parameters \['chanels'\]; it has \['channels'"),
        ("ctc_net", {"n_features": 40}, r"parameters \['n_labels'\] are missing"),
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
    ],
)
def test_bad_values_are_refused_by_name(name: str, values: dict[str, Any], words: str) -> None:
    with pytest.raises(SpecError, match=words):
        build_module(name, values)
