"""What all tests share: where real speech lies, and the rule that nothing may skip in silence."""

import os
from collections.abc import Generator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile(
    "edgeaudio", deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
settings.load_profile("edgeaudio")

# Two workers share two cores; more threads a worker only fight.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

MAY_SKIP = ("real_speech", "other_python", "exact_int8")
"""Markers of tests whose need no package registry can meet: recordings, interpreters of other versions, a CPU."""

LONGEST_FIRST = (
    "test_demo.py",
    "test_integer_parity.py",
    "test_kills.py",
    "test_diagnose_command.py",
    "test_methods.py",
)
"""Files of minutes: begun last, one would keep a worker busy alone at the end."""


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first; the others keep their random order."""
    ranks = {name: rank for rank, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: ranks.get(item.path.name, len(ranks)))


def saturates_int8() -> bool:
    """Whether this CPU is an x86 without VNNI: ONNX Runtime adds pairs of int8 products there in 16 bits."""
    try:
        flags = set(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        return False
    return "avx2" in flags and not flags & {"avx512_vnni", "avx_vnni"}


def pytest_runtest_setup(item: pytest.Item) -> None:
    """A visible skip where the CPU would give other sums; see ``edgeaudio_export.diagnosis.saturation``."""
    if item.get_closest_marker("exact_int8") and saturates_int8():
        pytest.skip("this CPU has no VNNI: sums of int8 products saturate in ONNX Runtime")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of real recordings, or a visible skip."""
    folder = os.environ.get("EDGEAUDIO_DATA")
    if not folder:
        pytest.skip("EDGEAUDIO_DATA is not set; real-speech tests need the recordings")
    return Path(folder)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """With EDGEAUDIO_FORBID_SKIPS=1 a skip is a failure, save for the markers in MAY_SKIP."""
    report = yield
    forbidden = os.environ.get("EDGEAUDIO_FORBID_SKIPS") == "1" and not any(
        item.get_closest_marker(name) for name in MAY_SKIP
    )
    if forbidden and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped where nothing may skip: {report.longrepr}"
    return report
