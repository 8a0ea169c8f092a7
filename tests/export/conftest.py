"""Networks, streams and quantized networks that several export tests share; quantizing takes seconds, so each is made
once."""

from __future__ import annotations

import functools
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest


def _load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"export_{name}", Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def networks() -> ModuleType:
    """The module ``networks.py`` beside this file."""
    pytest.importorskip("torchao", reason="quantization needs torch and torchao: pip install 'edgeaudio[torch]'")
    return _load("networks")


@pytest.fixture(scope="session")
def streams(networks: ModuleType) -> list[Any]:
    """Twelve calibration streams of different lengths, each a multiple of 4 frames."""
    return [networks.speechlike(4 * (10 + 3 * (i % 4)), i) for i in range(12)]


@pytest.fixture(scope="session")
def unseen(networks: ModuleType) -> Any:
    """A stream of 800 frames that calibration did not see."""
    return networks.speechlike(800, 999)


@pytest.fixture(scope="session")
def float_network(networks: ModuleType) -> Callable[[str], Any]:
    """A settled network by its class name, made once."""
    import torch

    @functools.cache
    def make(name: str) -> Any:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)  # one network in every run: what tests measure on it shall not change from run to run
            return networks.settled(getattr(networks, name)())

    return make


@pytest.fixture(scope="session")
def quantized(float_network: Callable[[str], Any], streams: list[Any]) -> Callable[[str, str], Any]:
    """A quantized network by class name and backend, made at most once."""
    from edgeaudio_export.quantize import quantize_network

    made: dict[tuple[str, str], Any] = {}

    def make(name: str, backend: str) -> Any:
        if (name, backend) not in made:
            network: Any = float_network(name)
            made[name, backend] = quantize_network(network, streams, backend=backend, name="net")  # type: ignore[arg-type]
        return made[name, backend]

    return make
