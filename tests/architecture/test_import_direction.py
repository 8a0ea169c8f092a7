"""The walls of the house bite: each guard is shown a planted violation."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PLANTED = {
    "runtime/edgeaudio_runtime/planted.py": "import edgeaudio_export\n",
    "models/edgeaudio_models/planted.py": "import edgeaudio_export\n",
    "export/edgeaudio_export/planted.py": "import edgeaudio_models\n",
    "runtime/edgeaudio_runtime/planted_torch.py": "def f() -> None:\n    import torch\n    del torch\n",
}


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the sources in which violations can be planted."""
    copy = tmp_path_factory.mktemp("house")
    for part in ("edgeaudio", "models", "export", "runtime", "pyproject.toml"):
        source = ROOT / part
        if source.is_dir():
            shutil.copytree(source, copy / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, copy / part)
    return copy


def lint_imports(house: Path) -> subprocess.CompletedProcess[str]:
    path = ":".join(str(house / part) for part in ("runtime", "models", "export", "."))
    script = Path(sys.executable).with_name("lint-imports")
    return subprocess.run(
        [script, "--no-cache"],
        cwd=house,
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": path, "PATH": "/usr/bin:/bin"},
    )


def test_the_house_as_it_is_keeps_every_contract(house: Path) -> None:
    result = lint_imports(house)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("path", sorted(PLANTED))
def test_a_planted_import_against_the_direction_is_caught(house: Path, path: str) -> None:
    (house / path).write_text(PLANTED[path])
    try:
        result = lint_imports(house)
    finally:
        (house / path).unlink()
    assert result.returncode == 1
    assert Path(path).stem in result.stdout


@pytest.mark.parametrize(
    ("path", "line", "rule"),
    [
        ("runtime/edgeaudio_runtime/planted.py", "import onnxruntime\n", "TID253"),
        ("edgeaudio/planted.py", "import torch\n", "TID253"),
        ("edgeaudio/planted.py", "from runtime import edgeaudio_runtime\n", "TID251"),
        ("runtime/edgeaudio_runtime/planted.py", "print(1)\n", "T201"),
    ],
)
def test_ruff_refuses_a_planted_line(path: str, line: str, rule: str) -> None:
    script = Path(sys.executable).with_name("ruff")
    result = subprocess.run(
        [script, "check", "--no-cache", "--stdin-filename", str(ROOT / path), "-"],
        cwd=ROOT,
        input=line,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1
    assert rule in result.stdout


def test_generic_names_hold_no_package() -> None:
    for name in ("models", "export", "runtime", "tests"):
        assert not (ROOT / name / "__init__.py").exists()
