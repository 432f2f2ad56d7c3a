"""A run as it was when its reconciliation began."""

from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from evolution.api.run import EvolutionRun
from evolution.api.status import EvolutionRunStatus
from evolution.observation import Wait
from evolution_operator.jobs import run_id
from evolution_operator.knowledge import Memory
from evolution_operator.records import RETRY_REQUESTED, RunKey, RunRecord


class Hindered(Exception):
    """Nothing can be done for a run, and why."""

    def __init__(self, wait: Wait, seconds: float) -> None:
        super().__init__(wait.message)
        self.wait = wait
        self.seconds = seconds
        """Pause before the next attempt."""


@dataclass(frozen=True)
class Subject:
    record: RunRecord
    body: dict[str, Any]
    run: EvolutionRun
    memory: Memory

    @property
    def key(self) -> RunKey:
        return self.record.key

    @property
    def id(self) -> str:
        return run_id(self.record.key.name, self.record.uid)


def status_of(body: dict[str, Any]) -> EvolutionRunStatus:
    try:
        return EvolutionRunStatus.model_validate(body.get("status") or {})
    except ValidationError:
        return EvolutionRunStatus()  # written by somebody else; it is derived anew


def retry_requested(body: dict[str, Any]) -> str:
    """When somebody asked for another try, as they wrote it; empty if nobody did."""
    annotations = body["metadata"].get("annotations") or {}
    return str(annotations.get(RETRY_REQUESTED, ""))
