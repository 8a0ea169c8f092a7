"""The long proofs: ``python -m tests.prove hostile|properties|soak|...``; figures go to stdout, progress to stderr."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tests.prove import hostile

PLACE = Path("build") / "prove"


def main(argv: list[str] | None = None) -> int:
    """Run one proof; return 1 if it did not hold."""
    parser = argparse.ArgumentParser(prog="python -m tests.prove", description=__doc__)
    proofs = parser.add_subparsers(required=True, metavar="PROOF")
    _add_hostile(proofs)
    arguments = parser.parse_args(argv)
    PLACE.mkdir(parents=True, exist_ok=True)
    code: int = arguments.run(arguments)
    return code


def _add_hostile(proofs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
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
    failed = 0
    for kind in kinds:
        n_cases = hostile.SHARES[kind] * arguments.cases // 100_000
        tally = hostile.run_kind(kind, n_cases, place, progress=_progress)
        sys.stdout.write(hostile.describe(kind, tally) + "\n")
        sys.stdout.flush()
        failed += kind not in hostile.FOREIGN and bool(tally.findings)
    return int(failed > 0)


def _progress(kind: str, tally: hostile.Tally) -> None:
    sys.stderr.write(f"{kind}: {tally.next_seed} mutants, {len(tally.findings)} findings\n")


if __name__ == "__main__":
    sys.exit(main())
