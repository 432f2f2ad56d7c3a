"""What every stage gets and gives: a stage is `run(stage: StageRun) -> Result`, one module per kind."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from pydantic import JsonValue

from evolution.plan.order import Compute
from evolution.plan.stage import canonical_json
from evolution.store.artifacts import Artifacts
from evolution_trainer.checkpoint import Checkpoints, Journal
from evolution_trainer.usage import Meter

if TYPE_CHECKING:
    from evolution_trainer.model import ModelSession
    from evolution_trainer.nodes import Nodes


class ReportProgress(Protocol):
    def __call__(self, phase: str, done: int, total: int, note: str = "") -> None:
        """`done` of `total` (0: unknown) of what `phase` names in the plural."""


@dataclass(frozen=True)
class StageRun:
    """One stage to do."""

    id: str
    round: int
    parameters: Mapping[str, JsonValue]
    inputs: Mapping[str, str]
    """Digest of every input by name."""
    model_uri: str
    artifacts: Artifacts
    scratch: Path
    """Empty folder, removed afterwards."""
    session: "ModelSession"
    """The base model, read at first use and kept by the worker."""
    progress: ReportProgress
    checkpoints: Checkpoints
    compute: Compute = field(default_factory=Compute)
    usage: Meter = field(default_factory=Meter)
    run: str = ""
    """`<name>-<uid8>`: where the run's own things lie in the store."""
    nodes: "Nodes | None" = None
    """Those with which it is done."""

    def input(self, name: str) -> Path:
        """Local, verified file of an input."""
        return self.artifacts.fetch(self.inputs[name])

    @contextmanager
    def rows_out(self, name: str) -> Iterator["RowWriter"]:
        """A JSON Lines file of that name in `scratch`."""
        with (self.scratch / f"{name}.jsonl").open("wb") as file:
            yield RowWriter(file.write)

    def journal(self, name: str) -> AbstractContextManager[Journal]:
        """The same, beginning with the rows that an interrupted worker has left."""
        return self.checkpoints.journal(name, self.scratch / f"{name}.jsonl")


@dataclass
class RowWriter:
    """Writes canonical JSON lines and counts them."""

    _write: "WriteBytes"
    count: int = 0

    def __call__(self, row: Mapping[str, JsonValue]) -> None:
        self._write(canonical_json(row) + b"\n")
        self.count += 1


class WriteBytes(Protocol):
    def __call__(self, data: bytes, /) -> object: ...


@dataclass(frozen=True)
class Output:
    """A file, or a folder that becomes a tree."""

    path: Path
    count: int = 1


@dataclass(frozen=True)
class Result:
    outputs: Mapping[str, Output]
    metrics: Mapping[str, JsonValue]
    warnings: list[str] = field(default_factory=list)
