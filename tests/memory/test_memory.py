"""Peak memory of a worker does not grow with the number of rows."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import pytest
from small_run import QUICKSTART

from evolution.plan.order import Order, OrderInput, OrderStage
from evolution.plan.stage import Kind, canonical_json
from evolution.store.artifacts import Artifacts
from evolution.store.folder import FolderStore

FEW, MANY = 200, 4000
TOLERANCE = 1.05
MODEL = OrderStage(
    id="prepare-model",
    kind=Kind.PREPARE,
    round=0,
    parameters={"source": "Model", "uri": (QUICKSTART / "model").as_uri(), "revision": ""},
    inputs={},
)
FROM_MODEL = OrderInput(stage="prepare-model", output="model")


def peak_megabytes(folder: Path, *stages: OrderStage) -> float:
    """Peak resident memory of a worker that does an order."""
    order = Order(run="memory", store=(folder / "store").as_uri(), model=(QUICKSTART / "model").as_uri(), stages=stages)
    (folder / "order.json").write_bytes(order.to_json())
    command = [sys.executable, "-m", "evolution_trainer", str(folder / "order.json"), "--cache", str(folder / "cache")]
    worker = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert worker.stdout is not None
    said = worker.stdout.read().decode()
    _, status, usage = os.wait4(worker.pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0, said[-2000:]
    return usage.ru_maxrss / 1024


def store(folder: Path) -> Artifacts:
    return Artifacts(FolderStore(folder / "store"), folder / "cache")


def quickstart_documents() -> Iterator[str]:
    return (path.read_text(encoding="utf-8") for path in sorted((QUICKSTART / "documents").iterdir()))


def texts(count: int) -> Iterator[str]:
    """Different documents of equal length."""
    return (f"{text} Sheet {n:06}." for n, text in enumerate(islice(cycle(list(quickstart_documents())), count)))


def rows_file(path: Path, rows: Iterator[dict[str, Any]]) -> Path:
    path.write_bytes(b"".join(canonical_json(row) + b"\n" for row in rows))
    return path


def items() -> list[dict[str, Any]]:
    return [json.loads(line) for line in (QUICKSTART / "questions.jsonl").read_text(encoding="utf-8").splitlines()]


def prepare_peak(folder: Path, count: int) -> float:
    folder.mkdir()
    source = rows_file(folder / "documents.jsonl", ({"text": text} for text in texts(count)))
    parameters = {
        "source": "Documents",
        "uri": source.as_uri(),
        "revision": "",
        "field": "",
        "maxTokens": 256,
        "onInvalid": "Fail",
        "rules": "Default",
    }
    documents = OrderStage(
        id="prepare-documents", kind=Kind.PREPARE, round=0, parameters=parameters, inputs={"model": FROM_MODEL}
    )
    return peak_megabytes(folder, MODEL, documents)


def score_peak(folder: Path, count: int) -> float:
    folder.mkdir()
    asked = islice(cycle(items()), count)
    rows = ({"id": f"{n:016x}-q1", "document": f"{n:016x}", **item} for n, item in enumerate(asked))
    pairs = store(folder).put_file(rows_file(folder / "pairs.jsonl", rows), count)
    parameters = {"rules": "Default", "maxTokens": 128}
    inputs = {"model": FROM_MODEL, "pairs": OrderInput(digest=pairs.digest)}
    return peak_megabytes(
        folder, MODEL, OrderStage(id="r1-score", kind=Kind.SCORE, round=1, parameters=parameters, inputs=inputs)
    )


@pytest.mark.slow
@pytest.mark.parametrize("peak", [prepare_peak, score_peak])
def test_twenty_times_the_rows_take_no_more_memory(peak: Any, tmp_path: Path) -> None:
    few, many = peak(tmp_path / "few", FEW), peak(tmp_path / "many", MANY)
    assert many <= few * TOLERANCE, f"{few:.0f} MB for {FEW} rows, {many:.0f} MB for {MANY}"
