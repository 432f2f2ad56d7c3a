"""What a decision rests on: the store, the workers and the clock as last seen."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from evolution.api.status import EvolutionRunStatus
from evolution.plan.graph import Manifests
from evolution.plan.manifest import Record
from evolution.plan.worker import Progress


@dataclass(frozen=True)
class Active:
    """A stage that some worker is doing."""

    fingerprint: str
    stage: str
    job: str = ""
    progress: Progress | None = None


class Failure(Record):
    """The failed attempts at a stage, newest outcome first in mind."""

    count: int
    """Attempts that count towards the retry limit; preempted ones do not."""
    code: int
    reason: str
    message: str
    at: datetime


@dataclass(frozen=True)
class Observation:
    """Everything a decision rests on, besides the run itself."""

    manifests: Manifests
    now: datetime
    active: Mapping[str, Active] = field(default_factory=dict)
    """By fingerprint."""
    failures: Mapping[str, Failure] = field(default_factory=dict)
    """By fingerprint, of stages that are not done."""
    gpu_seconds_used: float = 0.0
    retry_limit: int = 3
    """Counted failures after which a stage is given up."""
    previous: EvolutionRunStatus = field(default_factory=EvolutionRunStatus)
    generation: int = 0
    history_uri: str = ""
