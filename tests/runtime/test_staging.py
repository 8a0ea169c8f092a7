"""Outputs are whole or absent."""

import os
from pathlib import Path

import pytest

from edgeaudio_runtime import staging


def test_a_block_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), staging.staged_directory(tmp_path / "out") as directory:
        _ = (directory / "half").write_text("x") / 0
    assert list(tmp_path.iterdir()) == []


def test_an_existing_target_is_refused_and_kept(tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.mkdir()
    (target / "old").write_text("old")
    with pytest.raises(staging.OutputError, match="exists and nothing is overwritten; remove it or pass --force"):
        staging.refuse_overwrite(target, force=False)
    assert (target / "old").read_text() == "old"


def test_force_replaces_the_whole_directory(tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.mkdir()
    (target / "old").write_text("old")
    with staging.staged_directory(target, force=True) as directory:
        (directory / "new").write_text("new")
    assert sorted(p.name for p in target.iterdir()) == ["new"]
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_kill_between_the_two_renames_is_recovered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "out"
    target.mkdir()
    (target / "old").write_text("old")
    rename, calls = os.replace, []

    def die_at_the_second(source: Path, destination: Path) -> None:
        calls.append(source)
        if len(calls) == 2:
            raise KeyboardInterrupt
        rename(source, destination)

    monkeypatch.setattr(staging.os, "replace", die_at_the_second)
    with pytest.raises(KeyboardInterrupt), staging.staged_directory(target, force=True) as directory:
        (directory / "new").write_text("new")
    monkeypatch.undo()
    assert not target.exists()
    staging.recover(target)
    assert (target / "old").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_staged_file_replaces_only_when_whole(tmp_path: Path) -> None:
    target = tmp_path / "report.json"
    target.write_text("old")
    with pytest.raises(ZeroDivisionError), staging.staged_file(target) as path:
        _ = path.write_text("half") / 0
    assert target.read_text() == "old"
    with staging.staged_file(target) as path:
        path.write_text("new")
    assert target.read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["report.json"]
