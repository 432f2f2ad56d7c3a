"""What a decision rests on: the store, the workers and the clock as last seen."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from evolution.api.status import EvolutionRunStatus
from evolution.ledger import Ledger
from evolution.plan.graph import Manifests
from evolution.plan.manifest import Record
from evolution.plan.worker import Progress


@dataclass(frozen=True)
class Wait:
    """Why work that is wanted is not being done."""

    kind: Literal["Queued", "Retrying", "Blocked"]
    """It waits its turn; it failed and is tried again; somebody has to mend something first."""
    reason: str
    """CamelCase, for machines."""
    message: str


@dataclass(frozen=True)
class Active:
    """An order that some worker has: one stage, or several one after the other."""

    fingerprint: str
    """Of the order's first stage."""
    stage: str
    """Id of the stage that is being done."""
    job: str = ""
    stages: tuple[str, ...] = ()
    """Ids of all stages of an order with several; empty otherwise."""
    recipe: str = ""
    """Joint recipe of an order with several stages; empty otherwise."""
    progress: Progress | None = None
    wait: Wait | None = None
    """Why nothing happens at the moment."""


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
    """By name of the Job, or by fingerprint where there are no Jobs."""
    failures: Mapping[str, Failure] = field(default_factory=dict)
    """By fingerprint, of stages that are not done."""
    withheld: frozenset[str] = frozenset()
    """Fingerprints of stages that cannot be started yet: an earlier Job of theirs is still being removed."""
    blocked: Wait | None = None
    """Why nothing at all can be started."""
    ledger: Ledger = field(default_factory=Ledger)
    """What the run's attempts have held so far: what its budget counts."""
    retry_limit: int = 3
    """Counted failures after which a stage is given up."""
    previous: EvolutionRunStatus = field(default_factory=EvolutionRunStatus)
    generation: int = 0
    history_uri: str = ""
    retry_requested_at: str = ""
    """When a person last asked for failed stages to be tried again; RFC 3339, as they wrote it."""
