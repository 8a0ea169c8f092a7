"""The runtime wheel: small, cheap to import, and able to prove itself in a fresh environment with numpy alone."""

import json
import shutil
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.prove.environments import PYTHONS, ROOT, build_wheel, checked, find_python, install, self_test
from tests.runtime.conftest import write_test_bundle

MAX_WHEEL_BYTES = 250_000
MAX_INSTALLED_BYTES = 1_000_000
"""Of the runtime without numpy; what an embedded device has to keep."""
MAX_ZOO_BYTES = 15_000_000
"""Of the zoo as it lies in the repository, not compressed."""
NATIVE = "edgeaudio_runtime/native_front_end.so"

NUMPY_ALONE = """
import importlib.util, sys
for name in ("torch", "onnx", "onnxruntime", "ai_edge_litert", "tflite_runtime", "librosa", "soxr"):
    assert importlib.util.find_spec(name) is None, name
"""


def install_engine(python: Path, place: Path, *requirements: str | Path) -> Path:
    """As :func:`install`, but an index that cannot be reached is a visible skip."""
    try:
        return install(python, place, *requirements)
    except AssertionError as error:
        if any(words in str(error) for words in ("NewConnectionError", "No matching distribution", "Name or service")):
            pytest.skip(f"the package index does not offer {requirements[1:] or requirements}")
        raise


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runtime's wheel, built without isolation (hatchling is part of the dev extra)."""
    return build_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def pure_wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel that is built where the compiler fails."""
    return build_wheel(tmp_path_factory.mktemp("pure_wheel"), CC="false")


@pytest.fixture(scope="module")
def numpy_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_test_bundle(tmp_path_factory.mktemp("bundle") / "numpy")


@pytest.fixture(scope="module")
def engines_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("onnx", reason="writing the .onnx artifact needs onnx")
    pytest.importorskip("flatbuffers", reason="writing the .tflite artifact needs flatbuffers")
    path = tmp_path_factory.mktemp("bundle") / "engines"
    return write_test_bundle(path, engines=("numpy", "onnxruntime", "litert"))


def test_the_wheel_is_small(wheel: Path) -> None:
    assert wheel.stat().st_size < MAX_WHEEL_BYTES


def test_what_the_wheel_installs_is_less_than_a_megabyte(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        assert sum(info.file_size for info in archive.infolist()) < MAX_INSTALLED_BYTES


def test_the_wheel_holds_the_package_its_types_and_its_licence_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        metadata = archive.read(next(name for name in names if name.endswith("/METADATA"))).decode()
    tops = {name.split("/")[0] for name in names}
    assert tops == {"edgeaudio_runtime", next(top for top in tops if top.endswith(".dist-info"))}
    assert "edgeaudio_runtime/py.typed" in names
    assert any(name.endswith("/LICENSE") for name in names)
    others = {
        name for name in names if not name.endswith((".py", "py.typed")) and name.startswith("edgeaudio_runtime/")
    }
    assert others == (set() if "none-any" in wheel.name else {NATIVE})
    required = [line for line in metadata.splitlines() if line.startswith("Requires-Dist") and "extra" not in line]
    assert required == ["Requires-Dist: numpy>=1.26"]


def front_end_of(scripts: Path, bundle: Path) -> str:
    info = json.loads(checked([scripts / "edgeaudio-run", bundle, "--info", "--json"]))
    return str(info["front_end"])


@pytest.mark.slow
def test_the_wheel_holds_the_native_front_end_and_uses_it(wheel: Path, numpy_bundle: Path, tmp_path: Path) -> None:
    if shutil.which("cc") is None:
        pytest.skip("there is no C compiler")
    assert wheel.stem.startswith("edgeaudio_runtime-0.1.0-py3-none-")
    assert not wheel.stem.endswith("-any")
    scripts = install(Path(sys.executable), tmp_path / "venv", wheel)
    assert front_end_of(scripts, numpy_bundle) == "native"


@pytest.mark.slow
def test_without_a_compiler_the_wheel_is_pure_and_works(pure_wheel: Path, numpy_bundle: Path, tmp_path: Path) -> None:
    assert pure_wheel.name == "edgeaudio_runtime-0.1.0-py3-none-any.whl"
    with zipfile.ZipFile(pure_wheel) as archive:
        assert NATIVE not in archive.namelist()
    scripts = install(Path(sys.executable), tmp_path / "venv", pure_wheel)
    assert front_end_of(scripts, numpy_bundle) == "numpy"
    assert self_test(scripts, numpy_bundle, "auto")["passed"]


@pytest.fixture(params=PYTHONS)
def python(request: pytest.FixtureRequest) -> Iterator[Path]:
    found = find_python(request.param)
    if found is None:
        pytest.skip(f"Python {request.param} is neither on PATH nor under pyenv")
    return found


@pytest.mark.slow
@pytest.mark.other_python
def test_the_wheel_proves_itself_with_numpy_alone(
    python: Path, wheel: Path, numpy_bundle: Path, tmp_path: Path
) -> None:
    scripts = install(python, tmp_path / "venv", wheel)
    checked([scripts / "python", "-c", NUMPY_ALONE])
    for engine in ("numpy", "native"):
        report = self_test(scripts, numpy_bundle, engine)
        assert (report["passed"], report["engine"], report["numerics"]) == (True, engine, "fp32")
        assert all(stage["mismatches"] == 0 for stage in report["stages"])


@pytest.mark.slow
@pytest.mark.parametrize(("extra", "engine"), [("onnxruntime", "onnxruntime"), ("litert", "litert")])
def test_the_wheel_proves_itself_with_each_engine(
    wheel: Path, engines_bundle: Path, tmp_path: Path, extra: str, engine: str
) -> None:
    scripts = install_engine(Path(sys.executable), tmp_path / "venv", f"{wheel}[{extra}]")
    checked([scripts / "python", "-c", "import importlib.util as u; assert u.find_spec('torch') is None"])
    report = self_test(scripts, engines_bundle, engine)
    assert (report["passed"], report["engine"], report["numerics"]) == (True, engine, "fp32")
    assert all(stage["mismatches"] == 0 for stage in report["stages"])


@pytest.mark.slow
@pytest.mark.other_python
def test_the_wheel_runs_on_the_old_tflite_runtime(wheel: Path, engines_bundle: Path, tmp_path: Path) -> None:
    """Its kernels round otherwise: decisions must agree, and no more than the named number of codes may differ."""
    found = find_python("3.10") or find_python("3.11")
    if found is None:
        pytest.skip("tflite-runtime has wheels for Python 3.10 and 3.11; neither was found")
    scripts = install_engine(found, tmp_path / "venv", wheel, "tflite-runtime==2.14.0", "numpy==1.26.4")
    report = self_test(scripts, engines_bundle, "litert")
    stages = {stage["name"]: stage for stage in report["stages"]}
    assert report["passed"]
    assert report["numerics"] == "unspecified"
    assert stages["decisions"]["mismatches"] == 0
    assert stages["random chunks"]["mismatches"] == 0


def loaded_by(statement: str) -> set[str]:
    """Modules that ``statement`` loads after numpy."""
    probe = f"import sys, numpy; before = set(sys.modules); {statement}; print(*sorted(set(sys.modules) - before))"
    return set(checked([sys.executable, "-c", probe]).split())


def test_importing_the_package_loads_the_package_alone() -> None:
    assert loaded_by("import edgeaudio_runtime") == {"edgeaudio_runtime"}


def test_the_public_names_are_loaded_when_they_are_used_and_without_any_engine() -> None:
    loaded = loaded_by("from edgeaudio_runtime import AudioStream, open_bundle")
    assert "edgeaudio_runtime.stream" in loaded
    heavy = {
        "argparse",
        "onnxruntime",
        "ai_edge_litert",
        "tflite_runtime",
        "soxr",
        "sounddevice",
        "torch",
        "scipy",
        "zipfile",
    }
    assert not loaded & (heavy | {"edgeaudio_runtime.cli", "edgeaudio_runtime.selftest"})


def test_every_public_name_can_be_loaded() -> None:
    import edgeaudio_runtime

    for name in edgeaudio_runtime.__all__:
        assert getattr(edgeaudio_runtime, name) is not None
    assert set(edgeaudio_runtime.__all__) <= set(dir(edgeaudio_runtime))
    with pytest.raises(AttributeError, match="module 'edgeaudio_runtime' has no attribute 'AudioSteam'"):
        _ = edgeaudio_runtime.AudioSteam


@pytest.fixture(scope="module")
def build_side(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of the build side: face, models with their zoo, export."""
    place = tmp_path_factory.mktemp("build_side")
    source = place / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    for name in ("edgeaudio", "models", "export"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    checked([sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", place / "dist", source])
    return next((place / "dist").glob("edgeaudio-*.whl"))


def test_the_wheel_of_the_build_side_holds_the_zoo_and_the_recipes(build_side: Path) -> None:
    models = ROOT / "models"
    wanted = {
        path.relative_to(models).as_posix(): path.stat().st_size
        for folder in ("zoo", "recipes")
        for path in (models / "edgeaudio_models" / folder).rglob("*")
        if path.is_file()
    }
    with zipfile.ZipFile(build_side) as archive:
        held = {info.filename: info.file_size for info in archive.infolist()}
    assert wanted
    assert {name: held.get(name) for name in wanted} == wanted
    assert sum(size for name, size in held.items() if name.startswith("edgeaudio_models/zoo/")) < MAX_ZOO_BYTES
    assert {name.split("/")[0] for name in held if ".dist-info" not in name} == {
        "edgeaudio",
        "edgeaudio_models",
        "edgeaudio_export",
    }
