"""Faults planted into a good bundle: each is caught by the stage it belongs to, and what differs is named."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from edgeaudio.parity.evidence import evidence, first_failure
from edgeaudio_models.checkpoint import load_checkpoint
from edgeaudio_models.zoo_entries import BUNDLE, entry_folder
from edgeaudio_runtime.errors import EdgeAudioError
from tests.parity.faults.examination import IN_C, Original, applies, first_failed, original, shorten, stages
from tests.parity.faults.network import one_bias_code
from tests.parity.faults.planting import LOADING, Fault, artifact_with, write_json
from tests.parity.faults.registry import FAULTS, NAME, NETWORK, table


@pytest.fixture(scope="module")
def made_from() -> Original:
    pytest.importorskip("torchao", reason="the float network runs in torch: pip install 'edgeaudio[torch]'")
    return original(load_checkpoint(NAME))


@pytest.fixture
def own(tmp_path: Path) -> Path:
    return Path(shutil.copytree(entry_folder(NAME) / BUNDLE, tmp_path / "bundle"))


def quick(made_from: Original) -> Original:
    """Without the stages inside the network, which ``python -m tests.prove faults`` runs for every fault."""
    return replace(made_from, side=replace(made_from.side, step=None))


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_planted_fault_is_caught_first_by_its_stage_and_named(
    fault: Fault, made_from: Original, own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not applies(fault):
        pytest.skip("the C core was not built here")
    shorten(monkeypatch)
    fault.plant(own, monkeypatch)
    if fault.caught == LOADING:
        with pytest.raises(EdgeAudioError) as caught:
            list(stages(own, made_from))
        assert fault.names in str(caught.value)
        assert "\n" not in str(caught.value)
        return
    failed = first_failed(own, made_from if fault.place == NETWORK else quick(made_from))
    assert failed is not None
    assert failed.name == fault.caught, failed
    assert fault.names in ", ".join(failed.culprits)
    found = first_failure([failed.to_dict()])
    assert found is not None
    assert found[1] == fault.part
    assert list(evidence([failed.to_dict()])) == [fault.part]


def test_a_graph_that_two_other_files_contradict_is_named_itself(
    made_from: Original, own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shorten(monkeypatch)
    artifact_with(write_json, one_bias_code)(own, monkeypatch)
    failed = first_failed(own, quick(made_from))
    assert failed is not None
    assert failed.name.startswith("engine ")
    assert failed.culprits == ("model.json",)


def test_the_faults_are_many_and_different() -> None:
    assert len({fault.name for fault in FAULTS}) == len(FAULTS) >= 25
    assert len({fault.caught for fault in FAULTS}) >= 12


def test_the_table_of_the_page_is_that_of_the_registry() -> None:
    page = Path(__file__).parents[2] / "docs" / "parity.md"
    assert f"\n\n{table()}\n\n" in page.read_text("utf-8")


@pytest.mark.parametrize("seed", range(4))
def test_a_good_bundle_has_none_of_them(seed: int, made_from: Original, monkeypatch: pytest.MonkeyPatch) -> None:
    shorten(monkeypatch)
    found = list(stages(entry_folder(NAME) / BUNDLE, made_from, seed=seed))
    assert [stage.name for stage in found if not stage.passed] == []
    assert {fault.caught for fault in FAULTS} - {stage.name for stage in found} <= {LOADING, *IN_C}
