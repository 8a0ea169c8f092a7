"""What passes a residual block has the scale of its own sum: no other activation widens it."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torchao", reason="quantization needs torch and torchao: pip install 'edgeaudio[torch]'")

import torch

from edgeaudio_export.quantize import Backend, quantize_network
from edgeaudio_models.ds_tc_resnet import DsTcResNet, DsTcResNetConfig

GAIN = 20.0
"""Factor between what the second block adds and what the first convolution gives."""


@pytest.mark.parametrize("backend", ["pt2e", "onnxruntime"])
def test_a_loud_block_does_not_widen_what_comes_before_it(backend: Backend) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = DsTcResNetConfig(n_features=8, n_labels=3, channels=16, kernel_sizes=(3, 3), window_frames=20)
        network = DsTcResNet(config).eval()
    with torch.no_grad():
        network.blocks[1].pointwise.batch_norm.weight *= GAIN  # type: ignore[union-attr, operator]
    generator = np.random.default_rng(0)
    streams = [generator.standard_normal((40, 8)).astype(np.float32) for _ in range(4)]
    graph = quantize_network(network, streams, backend=backend, name="net").graph
    sums = [op for op in graph.ops if op.kind == "add"]
    scales = [graph.tensors[op.outputs[0]].quant.scale[0] for op in sums]  # type: ignore[union-attr]
    first = next(state for state in graph.states if state.name == "block_0")
    assert scales[1] > 2 * scales[0]
    assert graph.tensors[first.input].quant.scale[0] < scales[1] / 2  # type: ignore[union-attr]
    for op in sums:  # exact in every engine only so
        assert len({graph.tensors[edge].quant for edge in (*op.inputs, *op.outputs)}) == 1
