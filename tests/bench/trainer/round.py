"""`python -m bench.trainer.round`: one whole round in one worker, with the CPU seconds of every stage.

The published code needs 48 CPU seconds, 53 s of wall time and seven processes, each of which loads the model, for such
a round: ten documents, greedy, one thread, its own settings.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from evolution.api.load import run_from_object
from evolution.api.run import EvolutionRun
from evolution.plan.dispatch import batches, make_order
from evolution.plan.graph import unfold
from evolution.plan.order import Order
from evolution.plan.worker import Committed, ModelLoaded, parse_event

SHARED = Path(__file__).parents[4] / "shared"
DATA = Path(os.environ.get("EVOLUTION_DATA_DIR", SHARED / "data")) / "aiops"
MODEL = Path(os.environ.get("EVOLUTION_PARITY_DIR", SHARED / "parity")) / "model"
PUBLISHED = {"cpuSeconds": 48.0, "wallSeconds": 53.0, "modelLoads": 7}


@dataclass(frozen=True)
class Round:
    """What one round took; seconds of CPU over all threads and processes, start of the interpreter included."""

    cpu_seconds: float
    wall_seconds: float
    model_loads: int
    stages: dict[str, dict[str, float]]
    """Wall seconds by stage: total, load, work, checkpoint, io."""


def measure(folder: Path) -> Round:
    """A round of the Reference preset on the toy documents, from the sources on, in `folder`."""
    order = _order(folder)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    stages: dict[str, dict[str, float]] = {}
    loads, started = 0, time.monotonic()
    for event in _worked(order, folder):
        loads += isinstance(event, ModelLoaded)
        if isinstance(event, Committed):
            times = event.manifest.timings
            stages[event.stage] = times.model_dump(include={"total", "load", "work", "checkpoint", "io"})
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Round(round(cpu, 2), round(time.monotonic() - started, 2), loads, stages)


def _worked(order: Order, folder: Path) -> Iterator[Any]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "EVOLUTION_CACHE": str(folder / "cache")}
    command = [sys.executable, "-m", "evolution_trainer", "-"]
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, env=environment)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(order.to_json())
    process.stdin.close()
    for line in process.stdout:
        yield parse_event(line)
    if code := process.wait():
        raise RuntimeError(f"the worker ended with {code}: {(folder / 'log').read_text(encoding='utf-8')[-2000:]}")


def _order(folder: Path) -> Order:
    """Everything of round 1, scoring included, which a run of one round would leave out; the published code does not
    evaluate the base model.
    """
    run = _run()
    first = [stage.fingerprint for stage in unfold(run.spec, {}).stages if stage.fingerprint is not None]
    graph = unfold(run.spec, dict.fromkeys(first))
    [batch, *_] = batches(graph, [stage for stage in graph.stages if stage.ready], "Run", ())
    order = make_order(run, "bench-00000000", (folder / "store").as_uri(), graph, batch)
    wanted = [stage for stage in order.stages if stage.round <= 1 and stage.id != "r0-evaluate"]
    return order.model_copy(update={"stages": tuple(wanted), "gate": None})


def _run() -> EvolutionRun:
    return run_from_object(
        {
            "apiVersion": "selfevolution.io/v1alpha1",
            "kind": "EvolutionRun",
            "metadata": {"name": "bench"},
            "spec": {
                "preset": "Reference",
                "rounds": 2,
                "model": {"uri": str(MODEL)},
                "documents": {"uri": str(DATA / "toy_data.json")},
                "evaluation": {"uri": str(DATA / "toy_eval_data.json")},
                "generation": {"temperature": 0.0, "answerTemperature": 0.0, "maxTokens": 1024},
            },
        }
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=3, help="the best of so many is reported")
    options = parser.parse_args()
    rounds = []
    for _ in range(options.repeat):
        with tempfile.TemporaryDirectory() as folder:
            rounds.append(measure(Path(folder)))
    best = min(rounds, key=lambda measured: measured.cpu_seconds)
    print(json.dumps({"published": PUBLISHED, "ours": asdict(best)}, indent=1))  # noqa: T201


if __name__ == "__main__":
    main()
