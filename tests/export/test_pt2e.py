"""What the PT2E path promises beside its codes: no leaked state, an untouched network, silence, progress, facts."""

from __future__ import annotations

import json
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torchao", reason="quantization needs torch and torchao: pip install 'edgeaudio[torch]'")

import torch

from edgeaudio_export.calibration import CalibrationSpec
from edgeaudio_export.quantize import quantize_network


def test_the_simulation_starts_from_reset_every_time(quantized: Callable[..., Any], unseen: np.ndarray) -> None:
    simulate = quantized("Keyword", "pt2e").simulate
    first = simulate(unseen[:80])
    simulate(unseen[80:160])
    np.testing.assert_array_equal(simulate(unseen[:80]), first)
    assert simulate(unseen[:0]).shape == (0, 5)


def test_weights_of_the_simulation_are_those_of_the_graph(quantized: Callable[..., Any], unseen: np.ndarray) -> None:
    result = quantized("Keyword", "pt2e")
    codes = result.simulate(unseen[:80]) / np.float32(result.graph.output_tensor.quant.scale[0])
    np.testing.assert_allclose(codes, np.rint(codes), atol=1e-3)


def test_quantizing_leaves_the_network_alone_and_stdout_empty(
    networks: ModuleType, capfd: pytest.CaptureFixture[str]
) -> None:
    network = networks.settled(networks.Keyword(n_blocks=1)).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    calls: list[tuple[int, int]] = []
    result = quantize_network(
        network,
        [networks.speechlike(24, i) for i in range(3)],
        calibration=CalibrationSpec(method="minmax", batch=2),
        name="one block",
        progress=lambda done, total: calls.append((done, total)),
    )
    assert network.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert calls == [(2, 3), (3, 3)]
    assert capfd.readouterr() == ("", "")
    assert result.graph.name == "one block"


@pytest.mark.parametrize("backend", ["pt2e", "onnxruntime"])
def test_calibration_facts_are_json(backend: str, quantized: Callable[..., Any], streams: list[np.ndarray]) -> None:
    facts = json.loads(json.dumps(quantized("Ctc", backend).calibration.facts().to_dict()))
    assert (facts["method"], facts["parameters"], facts["n_bins"], facts["clips"]) == ("mse", {}, 4096, 12)
    assert facts["frames"] == sum(len(s) for s in streams)
    found = facts["ranges"]["features"]
    assert found["minimum"] == min(float(s.min()) for s in streams)
    assert found["maximum"] == max(float(s.max()) for s in streams)
    assert found["minimum"] <= found["low"] <= 0 <= found["high"] <= found["maximum"]
