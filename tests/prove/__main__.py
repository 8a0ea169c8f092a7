"""The long proofs: ``python -m tests.prove PROOF``; figures go to stdout, progress to stderr.

They hold what ``docs/robustness.md`` states. A bounded share of each runs with the tests.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

from edgeaudio_runtime.bundle import open_bundle
from tests.prove import arm, hostile, matrix, properties, soak
from tests.runtime.conftest import write_test_bundle

PLACE = Path("build") / "prove"
ENGINES = ("native", "litert", "onnxruntime")


def main(argv: list[str] | None = None) -> int:
    """Run one proof; return 1 if it did not hold."""
    parser = argparse.ArgumentParser(prog="python -m tests.prove", description=__doc__)
    proofs = parser.add_subparsers(required=True, metavar="PROOF")
    _add_hostile(proofs)
    _add_properties(proofs)
    _add_soak(proofs)
    _add_faults(proofs)
    proofs.add_parser("arm", help="the runtime on emulated aarch64").set_defaults(run=_arm)
    proofs.add_parser("matrix", help="every Python, numpy and engine").set_defaults(run=_matrix)
    arguments = parser.parse_args(argv)
    PLACE.mkdir(parents=True, exist_ok=True)
    code: int = arguments.run(arguments)
    return code


Parsers = "argparse._SubParsersAction[argparse.ArgumentParser]"


def _add_hostile(proofs: Parsers) -> None:
    parser = proofs.add_parser("hostile", help="mutated bundles and WAV files; goes on where it stopped")
    parser.add_argument("--cases", type=int, default=100_000, help="mutants of all kinds together")
    parser.add_argument("--kind", choices=sorted(hostile.SHARES), help="of one kind alone")
    parser.add_argument("--seed", type=int, help="this one mutant of --kind, without limits, to see its traceback")
    parser.set_defaults(run=_hostile)


def _hostile(arguments: argparse.Namespace) -> int:
    place = PLACE / "hostile"
    if arguments.seed is not None:
        return hostile.run_again(arguments.kind, arguments.seed, place)
    kinds = [arguments.kind] if arguments.kind else list(hostile.SHARES)
    total, failed = 0, 0
    for kind in kinds:
        n_cases = hostile.SHARES[kind] * arguments.cases // 100_000
        tally = hostile.run_kind(kind, n_cases, place, progress=_progress)
        _print(hostile.describe(kind, tally))
        total += tally.next_seed
        failed += kind not in hostile.FOREIGN and bool(tally.findings)
    _print(f"hostile: {total} mutants, {failed} kinds with findings")
    return int(failed > 0)


def _progress(kind: str, tally: hostile.Tally) -> None:
    _say(f"{kind}: {tally.next_seed} mutants, {len(tally.findings)} findings")


def _add_properties(proofs: Parsers) -> None:
    parser = proofs.add_parser("properties", help="chunking, resets, neighbours and threads of streams")
    parser.add_argument("--cases", type=int, default=10_000, help="of each property")
    parser.add_argument("--property", choices=sorted(properties.PROPERTIES), help="one alone")
    parser.set_defaults(run=_properties)


def _properties(arguments: argparse.Namespace) -> int:
    subjects = properties.Subjects(PLACE / "bundles")
    names = [arguments.property] if arguments.property else list(properties.PROPERTIES)
    for name in names:
        done = properties.run_property(name, subjects, arguments.cases, progress=_say)
        _print(f"{name}: {done} cases hold on {len(properties.SETTINGS)} settings")
    return 0


def _add_soak(proofs: Parsers) -> None:
    parser = proofs.add_parser("soak", help="a day of audio to one stream")
    parser.add_argument("--hours", type=int, default=24, help="rounds of an hour")
    parser.add_argument(
        "--engine", choices=properties.ENGINES, action="append", help="all but numpy, the slowest, by default"
    )
    parser.add_argument("--chunk-steps", type=int, default=1, help="network steps in a chunk")
    parser.add_argument("--bundle", type=Path, help="a bundle that has something to hear; the tests' own by default")
    parser.set_defaults(run=_soak)


def _soak(arguments: argparse.Namespace) -> int:
    faults = []
    with tempfile.TemporaryDirectory() as folder:
        bundle = open_bundle(
            arguments.bundle or write_test_bundle(Path(folder) / "bundle", engines=properties.ARTIFACTS)
        )
        for engine in arguments.engine or ENGINES:
            settings = {"n_rounds": arguments.hours, "chunk_steps": arguments.chunk_steps}
            rounds = soak.soak(bundle, engine=engine, seconds=3600, progress=_say, **settings)
            faults += soak.faults(rounds)
            _print(soak.describe(engine, rounds, 3600))
    for fault in faults:
        _print(f"soak: {fault}")
    return int(bool(faults))


def _add_faults(proofs: Parsers) -> None:
    parser = proofs.add_parser("faults", help="planted faults, each caught and named; none found in a good bundle")
    parser.add_argument("--runs", type=int, default=100, help="on the good bundle")
    parser.add_argument("--clips", type=int, default=10, help="of each label for blame, where EDGEAUDIO_DATA is set")
    parser.set_defaults(run=_faults)


def _faults(arguments: argparse.Namespace) -> int:
    from tests.prove import faults

    made_from, data = faults.load_original(), os.environ.get("EDGEAUDIO_DATA")
    clips = faults.some_clips(made_from.checkpoint, Path(data), of_each=arguments.clips) if data else None
    outcomes = []
    for outcome in faults.plant_all(made_from, clips, progress=_say):
        outcomes.append(outcome)
        _print(faults.describe(outcome))
    alarms = faults.false_alarms(made_from, arguments.runs, progress=_say)
    for alarm in alarms:
        _print(f"false alarm: {alarm}")
    caught = sum(outcome.holds for outcome in outcomes)
    heard = "none to ask blame with" if clips is None else str(len(clips.labels))
    _print(f"faults: {caught} of {len(outcomes)} caught and named, clips: {heard}")
    _print(f"good bundle: {len(alarms)} alarms in {arguments.runs} runs")
    return int(bool(alarms) or caught < len(outcomes))


def _arm(arguments: argparse.Namespace) -> int:
    missing = arm.missing_tools()
    if missing:
        _print(f"arm: skipped, there is no {', no '.join(missing)}")
        return 0
    place = Path("build") / "arm"
    arm.prepare(place, _say)
    faults = arm.prove(place, _print)
    code, summary = arm.run_tests(place, _say)
    _print(f"arm: tests of the runtime: {summary}")
    for fault in faults:
        _print(f"arm: {fault}")
    return int(bool(faults) or code != 0)


def _matrix(arguments: argparse.Namespace) -> int:
    cells = matrix.run_matrix(Path("build"), progress=_say)
    _print(matrix.table(cells))
    return int(any(cell.status == matrix.FAILED for cell in cells))


def _print(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
