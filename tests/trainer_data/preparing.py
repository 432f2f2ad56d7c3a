"""`prepare` as the worker runs it: a real stage with a real model folder, its outputs as rows."""

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evolution.store.artifacts import Artifacts
from evolution.store.folder import FolderStore
from evolution_trainer import prepare
from evolution_trainer.checkpoint import Checkpoints
from evolution_trainer.model import ModelSession
from evolution_trainer.stage import Result, StageRun
from evolution_trainer.timing import Clock

MODEL = Path(__file__).parents[2] / "examples" / "quickstart" / "model"
_runs = itertools.count()


@dataclass(frozen=True)
class Prepared:
    result: Result

    def rows(self, output: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.bytes(output).splitlines()]

    def bytes(self, output: str) -> bytes:
        return self.result.outputs[output].path.read_bytes()


@dataclass(frozen=True)
class Preparation:
    """Stages `Prepare` with their store and scratch space in `folder`, for the model at `model`."""

    folder: Path
    model: Path = MODEL

    def run(self, **parameters: Any) -> Prepared:
        scratch = self.folder / f"scratch-{next(_runs)}"
        scratch.mkdir(parents=True)
        stage = StageRun(
            id="prepare",
            round=0,
            parameters=parameters,
            inputs={},
            model_uri=str(self.model),
            artifacts=Artifacts(FolderStore(self.folder / "store"), self.folder / "cache"),
            scratch=scratch,
            checkpoints=Checkpoints(
                FolderStore(self.folder / "store"), "runs/preparing/checkpoints/", Clock(), interval=3600.0
            ),
            session=ModelSession(str(self.model), self.folder / "cache"),
            progress=lambda *_: None,
        )
        return Prepared(prepare.run(stage))

    def documents(self, source: Path, **parameters: Any) -> Prepared:
        defaults = {"revision": "", "field": "", "maxTokens": 256, "onInvalid": "Fail", "rules": "Default"}
        return self.run(source="Documents", uri=str(source), **defaults | parameters)


def write_files(folder: Path, **texts: str) -> Path:
    """A folder with a .txt file for every text."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (folder / f"{name}.txt").write_text(text, encoding="utf-8")
    return folder


def write_rows(path: Path, rows: Sequence[Any]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path
