"""Stages done in this process, with artifacts in a real folder store."""

import json
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from evolution.plan.stage import canonical_json
from evolution.store.artifacts import Artifacts
from evolution.store.folder import FolderStore
from evolution_trainer.checkpoint import Checkpoints
from evolution_trainer.model import ModelSession
from evolution_trainer.stage import Result, StageRun
from evolution_trainer.timing import Clock

GENERATE: Mapping[str, Any] = {
    "seed": 7,
    "round": 1,
    "rules": "Default",
    "questionsPerDocument": 2,
    "temperature": 1.0,
    "answerTemperature": 0.0,
    "topP": 1.0,
    "maxTokens": 24,
    "questionPrompt": "{document}\n\nAsk one question about this document.",
    "answerPrompt": "{document}\n\nQuestion: {question}\nAnswer from this document.",
}
TRAIN: Mapping[str, Any] = {
    "seed": 7,
    "round": 1,
    "rules": "Default",
    "rank": 4,
    "alpha": 8,
    "dropout": 0.0,
    "targetModules": [],
    "layers": [],
    "learningRate": 1e-3,
    "warmupRatio": 0.1,
    "batchSize": 4,
    "maxTokens": 128,
    "length": {"steps": 3},
}
SCORE: Mapping[str, Any] = {"rules": "Default", "maxTokens": 128}
EVALUATE: Mapping[str, Any] = {"metrics": ["ExactMatch", "ROUGEL"], "maxTokens": 8}


@dataclass
class Bench:
    """Puts artifacts, does stages, reads what came out."""

    folder: Path
    session: ModelSession
    progress: list[tuple[str, int, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.artifacts = Artifacts(FolderStore(self.folder / "store"), self.folder / "cache")

    def put(self, rows: Iterable[Mapping[str, Any]]) -> str:
        """Digest of an artifact with these rows."""
        path = self.folder / "rows.jsonl"
        path.write_bytes(b"".join(canonical_json(row) + b"\n" for row in rows))
        return self.artifacts.put_file(path).digest

    def do(self, stage: ModuleType, parameters: Mapping[str, Any], **inputs: str) -> "Done":
        """Run the stage of that module; a '_' in an input's name stands for '.'."""
        return Done(stage.run(self.stage(parameters, **inputs)), self.artifacts)

    def stage(self, parameters: Mapping[str, Any], **inputs: str) -> StageRun:
        """What a stage is given, with a scratch folder of its own."""
        return StageRun(
            id="the-stage",
            round=1,
            parameters=parameters,
            inputs={name.replace("_", "."): digest for name, digest in inputs.items()},
            model_uri=self.session.uri,
            artifacts=self.artifacts,
            scratch=Path(tempfile.mkdtemp(dir=self.folder)),
            checkpoints=Checkpoints(self.artifacts.store, "runs/bench/checkpoints/", Clock(), interval=3600.0),
            session=self.session,
            progress=lambda phase, done, total, note="": self.progress.append((phase, done, total)),  # noqa: ARG005
        )


@dataclass(frozen=True)
class Done:
    """What a stage has left."""

    result: Result
    artifacts: Artifacts

    @property
    def metrics(self) -> Mapping[str, Any]:
        return self.result.metrics

    def rows(self, name: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.result.outputs[name].path.read_bytes().splitlines()]

    def digest(self, name: str) -> str:
        """Digest of an output, stored."""
        path = self.result.outputs[name].path
        return (self.artifacts.put_tree(path) if path.is_dir() else self.artifacts.put_file(path)).digest


def pair(number: int, question: str = "", answer: str = "") -> dict[str, Any]:
    """A row of pairs."""
    return {
        "id": f"d{number}-q1",
        "document": f"d{number}",
        "question": question or f"What is the number of machine {number}?",
        "answer": answer or f"{number * 37}",
    }
