"""A share of the hostile input that `make prove` runs 100,000 of, and proof that the watch over it is awake."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.prove import hostile
from tests.prove.attack import Attack, outcome

SHARE = {"wav": 150, "manifest": 80, "graph": 80, "zip": 60, "settings": 40, "golden": 40, "folder": 60}
"""Mutants of each kind; other seeds than those of the long run would be as good, these can be looked up in it."""


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return hostile.write_bases(tmp_path_factory.mktemp("bases"))


@pytest.mark.parametrize("kind", sorted(SHARE))
def test_a_mutant_is_refused_in_one_line_or_runs_right(kind: str, bases: Path, tmp_path: Path) -> None:
    attack = Attack(kind, bases, tmp_path.resolve())
    names = set()
    for seed in range(SHARE[kind]):
        name, fault = outcome(attack.mutant(seed))
        assert fault is None, f"python -m tests.prove hostile --kind {kind} --seed {seed}: {fault}"
        names.add(name)
    assert attack.strays() == []
    assert names & {"BundleError", "AudioError"}, "some are refused"
    assert "runs" in names, "and some are not"


def test_the_watch_names_the_seed_of_whatever_goes_wrong(tmp_path: Path) -> None:
    """Kind "watch" behaves, crashes, hangs, takes memory, reads a file outside, raises what is none of our errors."""
    tally = hostile.run_kind("watch", 7, tmp_path, cpu_s=0.3)
    faults = {finding["seed"]: finding["fault"] for finding in tally.findings}
    assert faults[1] == "SIGSEGV"
    assert faults[2] == "hang"
    assert faults[3].startswith("more than 1073741824 bytes of memory")
    assert "open /etc/hostname" in faults[4]
    assert faults[5].startswith("ValueError: no error of ours")
    assert sorted(faults) == [1, 2, 3, 4, 5]
    assert tally.next_seed == 7
    assert tally.deaths == 2
    again = {finding["seed"]: finding.get("again") for finding in tally.findings}
    assert again[1] == "python -m tests.prove hostile --kind watch --seed 1"
    assert sum(tally.counts.values()) == 7


def test_a_run_goes_on_where_it_stopped(tmp_path: Path) -> None:
    hostile.run_kind("wav", 30, tmp_path)
    tally = hostile.run_kind("wav", 50, tmp_path)
    assert tally.next_seed == 50
    assert sum(tally.counts.values()) == 50
