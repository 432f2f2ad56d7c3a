"""`python -m bench.controlplane`: measure, print figures as JSON, and keep them in docs/benchmarks/."""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from minio_server import minio_server
from tools.build import Unavailable, binary

from bench.controlplane.chains import ChainFigures, measure_chains, measure_recovery
from bench.controlplane.report import record, write_tables
from bench.controlplane.scale import Size, measure_scale
from bench.controlplane.systems import Argo, Evolution, Floor, System

DOCUMENT = Path(__file__).parents[3] / "docs" / "benchmarks" / "controlplane.md"
RUNS, POD_SECONDS = 100, 1.0
MORE_JOB_SYNCS = 50
QUICK_RUNS, QUICK_POD_SECONDS = 4, 0.1
QUICK_SIZE = Size(active=20, finished=40, idle_seconds=3.0)

Figures = dict[str, Any]


def measure_all_chains(folder: Path, *, quick: bool) -> Figures:
    """The operator; beside it, in the same call, Argo Workflows and the floors."""
    evolution = Evolution((folder / "store").as_uri())
    if quick:
        return {"systems": [_chains(evolution, folder / "chains", quick=True)]}
    systems: list[tuple[System, int | None]] = [
        (evolution, None),
        (Argo(), None),
        (Argo(requeue_seconds=1), None),
        (Floor("Pods"), None),
        (Floor("Jobs"), None),
        # Makers of Jobs once more, where the Job controller is not what they wait for.
        (Evolution((folder / "another-store").as_uri()), MORE_JOB_SYNCS),
        (Floor("Jobs"), MORE_JOB_SYNCS),
    ]
    figures = [_chains(system, folder / str(n), job_syncs=syncs) for n, (system, syncs) in enumerate(systems)]
    return {"systems": figures}


def measure_minio(folder: Path, *, quick: bool) -> Figures:
    """The operator with MinIO as its store."""
    folder.mkdir(parents=True, exist_ok=True)
    with minio_server(binary("minio"), folder) as server:
        # The simulated pods run in this process.
        os.environ.update(server.environment)
        system = Evolution(f"s3://{server.new_bucket()}", name="Evolution, store in MinIO")
        return {"systems": [_chains(system, folder / "chains", quick=quick)]}


def measure_kill(folder: Path, *, quick: bool) -> Figures:
    """The operator is killed while many runs are under way."""
    runs, seconds = _workload(quick)
    return asdict(measure_recovery(Evolution((folder / "store").as_uri()), folder / "chains", runs, seconds))


def measure_size(folder: Path, *, quick: bool) -> Figures:
    """A thousand active runs, ten thousand finished Jobs, then four thousand finished runs more."""
    return asdict(measure_scale(folder, QUICK_SIZE if quick else Size()))


PARTS: Mapping[str, Callable[..., Figures]] = {
    "chains": measure_all_chains,
    "minio": measure_minio,
    "recovery": measure_kill,
    "scale": measure_size,
}


def _workload(quick: bool) -> tuple[int, float]:
    return (QUICK_RUNS, QUICK_POD_SECONDS) if quick else (RUNS, POD_SECONDS)


def _chains(system: System, folder: Path, *, quick: bool = False, job_syncs: int | None = None) -> Figures:
    runs, seconds = _workload(quick)
    figures: ChainFigures = measure_chains(system, folder, runs, seconds, job_syncs)
    told = {name: asdict(figures)[name] for name in ("gap", "reaction", "controller_cpu_per_stage_ms", "job_syncs")}
    sys.stderr.write(f"{figures.system}: {json.dumps(told)}\n")
    return asdict(figures)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.controlplane", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"one of {', '.join(PARTS)}; none: all of them")
    parser.add_argument("--quick", action="store_true", help="small, to see that it works; figures are not kept")
    parser.add_argument("--output", type=Path, default=DOCUMENT.with_suffix(".json"), help="where figures are kept")
    given = parser.parse_args()
    if wrong := [part for part in given.parts if part not in PARTS]:
        parser.error(f"{wrong[0]!r} is not a part: give {', '.join(PARTS)}")
    for part in given.parts or PARTS:
        try:
            with tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as folder:
                figures = PARTS[part](Path(folder), quick=given.quick)
        except Unavailable as error:
            sys.stderr.write(f"{part}: {error}\n")
            return 1
        if given.quick:
            sys.stdout.write(json.dumps({part: figures}) + "\n")
        else:
            kept = record(given.output, part, figures)
            if given.output == DOCUMENT.with_suffix(".json"):
                write_tables(DOCUMENT, kept)
    return 0


if __name__ == "__main__":
    sys.exit(main())
