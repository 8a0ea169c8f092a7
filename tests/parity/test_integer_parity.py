"""Every network by both quantization paths: every engine computes the same codes, however the audio is cut."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeaudio.parity.ladder import one_torch_thread
from edgeaudio.parity.probe_audio import probe_stream
from edgeaudio_runtime.bundle import Bundle, open_bundle
from edgeaudio_runtime.ctc_decoder import DecoderConfig
from edgeaudio_runtime.detector_config import DetectorConfig
from edgeaudio_runtime.front_end import compute_features
from edgeaudio_runtime.manifest import Quantization
from edgeaudio_runtime.presets import preset
from edgeaudio_runtime.quantization import quantize
from edgeaudio_runtime.stream import LogitStream

pytestmark = pytest.mark.slow

RATE = 16_000
SPEC = preset("log_mel")
N_CODES = 50_000
"""Logit codes compared in one chain of steps, state carried all the way."""
ENGINES = ("numpy", "onnxruntime", "litert")
EXAMPLES = 25
"""Ways to cut a recording, for each network and engine."""

Backend = Literal["pt2e", "onnxruntime"]
BLOCKS: dict[str, Any] = {"channels": 32, "kernel_sizes": [5, 5]}
NETWORKS: dict[str, dict[str, Any]] = {
    "ds_tc_resnet": BLOCKS,
    "ds_tc_committee": {**BLOCKS, "members": 3},
    "tc_resnet": {"channels": [24, 32], "window_frames": 96},
    "gru_net": {"stem_channels": 32, "hidden": 32},
    "ctc_net": {**BLOCKS, "squeeze_channels": 8, "squeeze_window": 4},
    "ds_cnn": {"channels": 16, "n_blocks": 2},
}
N_LABELS = {"keyword": 24, "ctc": 28}
MANY_LABELS = {"ds_cnn": 120}
"""A network over time and frequency takes long for a step: as many codes from fewer of them."""
CASES = [(name, backend) for name in NETWORKS for backend in ("pt2e", "onnxruntime")]


@dataclass(frozen=True, kw_only=True)
class Case:
    """A bundle with a long stream and what the integer graph makes of it in one call."""

    bundle: Bundle
    codes: np.ndarray
    logits: np.ndarray


def tones(seed: int, seconds: float = 1.0) -> np.ndarray:
    """Gliding tones and noise under a slow envelope: int16."""
    rng = np.random.default_rng(seed)
    time = np.arange(int(RATE * seconds)) / RATE
    glide = np.sin(2 * np.pi * (rng.uniform(100, 2000) + rng.uniform(-500, 2000) * time) * time)
    envelope = np.clip(np.sin(2 * np.pi * rng.uniform(1, 5) * time + rng.uniform(0, 6)), 0, 1)
    samples = 8000 * envelope * (glide + rng.uniform(0, 1) * rng.standard_normal(len(time)))
    return np.asarray(np.rint(samples + 30 * rng.standard_normal(len(time))), np.int16)


def network(name: str) -> Any:
    """Random weights, and batch norms that know their inputs."""
    import torch

    from edgeaudio_models.architectures import architecture, build_module

    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(7)
        n_labels = MANY_LABELS.get(name, N_LABELS[architecture(name).task])
        module = build_module(name, {**NETWORKS[name], "n_features": SPEC.n_features, "n_labels": n_labels})
        clips = torch.from_numpy(np.stack([features(tones(seed)) for seed in range(16)]))
        for _ in range(30):
            module.train()(clips, module.initial_state(16))
    return module.eval()


def features(samples: np.ndarray) -> np.ndarray:
    return compute_features(SPEC, samples, multiple_of=4)


@pytest.fixture(scope="session")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Backend], Case]:
    """Cases by network and path, each made once a session, in whatever order tests ask for them."""
    pytest.importorskip("torchao", reason="quantization needs torch and torchao: pip install 'edgeaudio[torch]'")
    return functools.cache(lambda name, backend: make(tmp_path_factory.mktemp("parity"), name, backend))


@pytest.fixture(params=CASES, ids=lambda case: "-".join(case))
def case(request: pytest.FixtureRequest, cases: Callable[[str, Backend], Case]) -> Case:
    """A bundle of one network by one path, a long stream of codes and its logits."""
    return cases(*request.param)


def make(folder: Path, name: str, backend: Backend) -> Case:
    with one_torch_thread():
        bundle = open_bundle(write(folder, name, backend))
    geometry = bundle.manifest.network
    n_steps = -(-N_CODES // (geometry.n_labels * geometry.outputs_per_step))
    n_samples = n_steps * geometry.step_frames * SPEC.hop_length
    audio = probe_stream([tones(seed) for seed in range(100, 110)], n_samples=n_samples, sample_rate=RATE)
    codes = quantize(features(audio), geometry.input_quant)
    return Case(bundle=bundle, codes=codes, logits=bundle.program("numpy").session().run(codes))


def write(folder: Path, name: str, backend: Backend) -> Path:
    from edgeaudio_export.bundle_writer import BundleContents, write_bundle
    from edgeaudio_export.quantize import quantize_network
    from edgeaudio_models.architectures import architecture

    module, task = network(name), architecture(name).task
    quantized = quantize_network(module, [features(tones(seed)) for seed in range(8)], backend=backend, name=name)
    first = ("_silence_", "_unknown_") if task == "keyword" else ("<blank>",)
    contents = BundleContents(
        name=name, task=task, labels=(*first, *(f"word {i}" for i in range(module.n_labels - len(first)))),
        background_labels=first if task == "keyword" else (), features=SPEC, graph=quantized.graph,
        float_onnx=quantized.float_onnx, latency_frames=module.latency_frames,
        receptive_field_frames=module.receptive_field_frames,
        window_frames=module.window_frames if task == "keyword" else None,
        quantization=Quantization(backend=backend, method="static_w8a8", calibration={}, requantization="fp32"),
        decoding=DetectorConfig().to_dict() if task == "keyword" else DecoderConfig().to_dict(),
        provenance={}, golden_samples=tones(1000, 2.0),
    )  # fmt: skip
    write_bundle(folder, contents)
    return folder


def test_the_networks_say_something(case: Case) -> None:
    # Codes that hardly move would make every engine look exact.
    used = np.unique(case.logits)
    assert case.logits.size >= N_CODES
    assert len(used) > 100
    assert case.logits.std(axis=0).min() > 2
    clipped = np.isin(case.logits, (-128, 127)).mean()
    assert clipped < 0.5


@pytest.mark.parametrize("engine", ENGINES)
def test_chained_steps_of_every_engine_are_the_integer_graph_in_one_call(case: Case, engine: str) -> None:
    program = case.bundle.program(engine)
    assert program.numerics == "fp32"
    session, step = program.session(), program.signature.step_frames
    answers = np.concatenate([session.run(case.codes[i : i + step]) for i in range(0, len(case.codes), step)])
    assert answers.dtype == np.int8
    assert int((answers != case.logits).sum()) == 0


@pytest.fixture(scope="session")
def offline() -> Callable[[Bundle, np.ndarray], np.ndarray]:
    """Logit codes of a whole recording: features in one call, then the integer graph in one call."""

    def run(bundle: Bundle, samples: np.ndarray) -> np.ndarray:
        codes = quantize(features(samples), bundle.manifest.network.input_quant)
        return np.asarray(bundle.program("numpy").session().run(codes))

    return run


@pytest.mark.parametrize("engine", ENGINES)
@settings(max_examples=EXAMPLES)
@given(data=st.data())
def test_chunks_of_any_length_are_the_recording_in_one_piece(
    case: Case, engine: str, offline: Callable[[Bundle, np.ndarray], np.ndarray], data: st.DataObject
) -> None:
    samples = tones(data.draw(st.integers(0, 9), label="recording"), 1.2)[: data.draw(st.integers(0, 19_200))]
    cuts = sorted(data.draw(st.lists(st.integers(0, len(samples)), max_size=30), label="cuts"))
    stream = LogitStream(case.bundle.features, case.bundle.program(engine))
    parts = [stream.process(chunk)[0] for chunk in np.split(samples, cuts)]
    answers = np.concatenate([*parts, stream.flush()[0]])
    reference = offline(case.bundle, samples)
    assert answers.shape == reference.shape
    assert int((answers != reference).sum()) == 0


def test_a_stream_is_as_new_after_flush(case: Case) -> None:
    for engine in ENGINES:
        stream = LogitStream(case.bundle.features, case.bundle.program(engine))
        once, again = (np.concatenate([stream.process(tones(3))[0], stream.flush()[0]]) for _ in range(2))
        np.testing.assert_array_equal(once, again)
