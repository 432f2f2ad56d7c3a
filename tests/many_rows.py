"""Stages of as many rows as one likes, each done by a worker process of its own."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from small_run import QUICKSTART

from evolution.plan.order import Order, OrderInput, OrderStage
from evolution.plan.stage import Kind, canonical_json
from evolution.store.artifacts import Artifacts
from evolution.store.folder import FolderStore

PREPARE: Mapping[str, Any] = {"revision": "", "field": "", "maxTokens": 256, "onInvalid": "Fail", "rules": "Default"}
GENERATE: Mapping[str, Any] = {
    "seed": 7,
    "round": 1,
    "rules": "Default",
    "questionsPerDocument": 1,
    "candidates": 1,
    "focus": "Any",
    "temperature": 1.0,
    "answerTemperature": 0.0,
    "topP": 1.0,
    "maxTokens": 24,
    "questionPrompt": "{document}\n\nAsk one question about this document.",
    "answerPrompt": "{document}\n\nQuestion: {question}\nAnswer from this document.",
}
MODEL = OrderStage(
    id="prepare-model",
    kind=Kind.PREPARE,
    round=0,
    parameters={"source": "Model", "uri": (QUICKSTART / "model").as_uri(), "revision": ""},
    inputs={},
)
FROM_MODEL = OrderInput(stage="prepare-model", output="model")


@dataclass(frozen=True)
class Took:
    """What a worker took from its start to its end."""

    seconds: float
    cpu_seconds: float
    megabytes: float
    """Resident memory at most."""


def prepare(folder: Path, count: int) -> OrderStage:
    source = rows_file(folder / "documents.jsonl", ({"text": text} for text in texts(count)))
    parameters = {"source": "Documents", "uri": source.as_uri(), **PREPARE}
    return stage("prepare-documents", Kind.PREPARE, 0, parameters)


def generate(folder: Path, count: int) -> OrderStage:
    rows = ({"id": f"{n:016x}", "text": text, "language": "en"} for n, text in enumerate(texts(count)))
    return stage("r1-generate", Kind.GENERATE, 1, GENERATE, documents=stored(folder, rows, count))


def score(folder: Path, count: int) -> OrderStage:
    # No answer twice: losses are kept by content.
    asked = ({**item, "answer": f"{item['answer']} {n:06}"} for n, item in enumerate(items(count)))
    rows = ({"id": f"{n:016x}-q1", "document": f"{n:016x}", **item} for n, item in enumerate(asked))
    return stage("r1-score", Kind.SCORE, 1, {"rules": "Default", "maxTokens": 128}, pairs=stored(folder, rows, count))


def evaluate(folder: Path, count: int) -> OrderStage:
    rows = ({"id": f"{n:016x}", **item} for n, item in enumerate(items(count)))
    parameters = {"metrics": ["ExactMatch", "ROUGEL"], "maxTokens": 8}
    return stage("r1-evaluate", Kind.EVALUATE, 1, parameters, items=stored(folder, rows, count))


STAGES: Mapping[str, Callable[[Path, int], OrderStage]] = {
    "prepare": prepare,
    "generate": generate,
    "score": score,
    "evaluate": evaluate,
}
"""By name: the stage with so many rows, whose inputs lie in the store of the folder."""


def took(folder: Path, make: Callable[[Path, int], OrderStage], count: int) -> Took:
    """Have a worker do a stage of `count` rows in the new folder `folder`."""
    folder.mkdir(parents=True)
    model, uri = (QUICKSTART / "model").as_uri(), (folder / "store").as_uri()
    order = Order(run="rows", store=uri, model=model, stages=(MODEL, make(folder, count)))
    (folder / "order.json").write_bytes(order.to_json())
    command = [sys.executable, "-m", "evolution_trainer", str(folder / "order.json"), "--cache", str(folder / "cache")]
    started = time.monotonic()
    worker = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert worker.stdout is not None
    said = worker.stdout.read().decode()
    _, status, usage = os.wait4(worker.pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0, said[-2000:]
    return Took(time.monotonic() - started, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def stage(id_: str, kind: Kind, round_: int, parameters: Mapping[str, Any], **inputs: OrderInput) -> OrderStage:
    given = {"model": FROM_MODEL, **inputs}
    return OrderStage(id=id_, kind=kind, round=round_, parameters=dict(parameters), inputs=given)


def stored(folder: Path, rows: Iterator[dict[str, Any]], count: int) -> OrderInput:
    artifacts = Artifacts(FolderStore(folder / "store"), folder / "cache")
    return OrderInput(digest=artifacts.put_file(rows_file(folder / "rows.jsonl", rows), count).digest)


def rows_file(path: Path, rows: Iterator[dict[str, Any]]) -> Path:
    with path.open("wb") as file:
        for row in rows:
            file.write(canonical_json(row) + b"\n")
    return path


def texts(count: int) -> Iterator[str]:
    """Different documents of equal length."""
    documents = [path.read_text(encoding="utf-8") for path in sorted((QUICKSTART / "documents").iterdir())]
    return (f"{text} Sheet {n:06}." for n, text in enumerate(islice(cycle(documents), count)))


def items(count: int) -> Iterator[dict[str, Any]]:
    lines = (QUICKSTART / "questions.jsonl").read_text(encoding="utf-8").splitlines()
    return islice(cycle([json.loads(line) for line in lines]), count)
