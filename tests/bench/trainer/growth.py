"""`python -m bench.trainer.growth`: seconds and peak memory of stages as the documents become more."""

import argparse
import json
import tempfile
from pathlib import Path

from many_rows import STAGES, took

COUNTS = (100, 1000, 10_000)


def measure(counts: list[int], stages: list[str]) -> dict[str, list[dict[str, float]]]:
    """By stage: for every count of rows what a worker took, from its start to its end."""
    figures: dict[str, list[dict[str, float]]] = {}
    for name in stages:
        for count in counts:
            with tempfile.TemporaryDirectory() as folder:
                found = took(Path(folder) / "rows", STAGES[name], count)
            row = {
                "rows": count,
                "seconds": round(found.seconds, 2),
                "cpuSeconds": round(found.cpu_seconds, 2),
                "megabytes": round(found.megabytes, 1),
                "cpuMillisecondsPerRow": round(1000 * found.cpu_seconds / count, 3),
            }
            figures.setdefault(name, []).append(row)
            print(json.dumps({"stage": name, **row}), flush=True)  # noqa: T201
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--counts", type=int, nargs="+", default=[*COUNTS])
    parser.add_argument("--stages", nargs="+", default=[*STAGES], choices=[*STAGES])
    options = parser.parse_args()
    measure(options.counts, options.stages)


if __name__ == "__main__":
    main()
