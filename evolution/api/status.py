"""The status of an `EvolutionRun`: what `kubectl get` and `evolve status --json` show."""

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from evolution.api.times import rfc3339

State = Literal["Pending", "Queued", "Running", "Suspended", "Complete", "Failed"]
ConditionType = Literal[
    "Accepted", "Progressing", "Ready", "Stalled", "Suspended", "BudgetExceeded", "Complete", "Failed"
]


class StatusPart(BaseModel):
    """Base of the status types. Fields that another version of the operator knows are ignored."""

    model_config = ConfigDict(
        alias_generator=to_camel, populate_by_name=True, frozen=True, extra="ignore", use_attribute_docstrings=True
    )


class Condition(StatusPart):
    """A Kubernetes API condition (metav1.Condition)."""

    type: ConditionType
    """What the condition is about."""
    status: Literal["True", "False", "Unknown"]
    """Whether it holds."""
    reason: str
    """Why, in one CamelCase word."""
    message: str = ""
    """Why, for people."""
    last_transition_time: str
    """RFC 3339, UTC; kept while `status` stays the same."""
    observed_generation: int = 0
    """Generation of the spec that the condition speaks of."""


def transition_time(before: Condition | None, status: str, now: datetime) -> str:
    """When a condition came to have `status`: it keeps its time while it stays the same."""
    return before.last_transition_time if before and before.status == status else rfc3339(now)


class CurrentStage(StatusPart):
    """A stage that is being worked on, or waits to be."""

    round: int
    """Round of the stage; 0 is what comes before the first."""
    stage: str
    """Kind of the stage: Prepare, Generate, Score, Train, Evaluate, Publish."""
    job: str = ""
    """Name of its Job."""
    percent: int = 0
    """How far it is."""
    eta_seconds: int | None = None
    """Seconds that it will probably take still."""
    waiting_for: str = ""
    """Why nothing happens: no free node, no quota, a missing Secret, a pause before the next attempt."""


class RunProgress(StatusPart):
    """How far the whole run is."""

    rounds_completed: int = 0
    """Rounds that are trained and evaluated."""
    percent: int = 0
    """Share of the stages that are done."""
    eta_seconds: int | None = None
    """Seconds that the run will probably take still."""


class Scores(StatusPart):
    """Scores of the base model."""

    scores: dict[str, str] = {}
    """Mean of each metric, 0 to 1."""


class BestRound(StatusPart):
    """The round with the best score so far."""

    round: int
    """Its number; 0 is the base model."""
    score: str = ""
    """The gate's metric."""
    adapter_uri: str = Field(default="", alias="adapterURI")
    """Where its adapter was published."""
    scores: dict[str, str] = {}
    """Mean of each metric, 0 to 1."""


class RoundQuality(StatusPart):
    """What the data of a round are like; what is not known is left out."""

    rejects: dict[str, int] = {}
    """Questions and answers that were not kept, by reason: the eight most frequent ones, and the sum of all Other."""
    duplicates: str | None = None
    """Share of all questions, answered or not, that were rejected as equal to an earlier one."""
    coverage: str | None = None
    """Share of the documents with at least one pair."""
    question_tokens: str | None = None
    """Median length of the pairs' questions."""
    answer_tokens: str | None = None
    """Median length of the pairs' answers."""
    ifd: str | None = None
    """Median difficulty of the pairs (IFD)."""
    overlap: int | None = None
    """Evaluation questions that were also asked in the training pairs."""


class RoundRecord(StatusPart):
    """A round in few figures; the full record is in the store."""

    round: int
    """Number of the round."""
    pairs: int | None = None
    """Question and answer pairs that were kept."""
    rejects: int | None = None
    """Questions and answers that were not."""
    loss: str | None = None
    """Mean training loss."""
    scores: dict[str, str] = {}
    """Mean of each metric, 0 to 1."""
    seconds: int | None = None
    """Sum over its stages."""
    gpu_seconds: int | None = None
    """GPU-seconds that this run's attempts at it held; stages that stood already cost nothing."""
    quality: RoundQuality | None = None
    """What its data are like."""
    stages: dict[str, str] = {}
    """First 8 digits of the fingerprint of each finished stage."""


class GpuSeconds(StatusPart):
    """GPU-seconds of this run's own attempts; without those queued they add up to what was held."""

    productive: int = 0
    """Spent on the work itself."""
    overhead: int = 0
    """Spent on cold starts, moving artifacts, checkpoints, and waiting while GPUs were held."""
    wasted: int = 0
    """Spent on attempts that came to nothing."""
    unsettled: int = 0
    """Held by attempts under way, or for work that a checkpoint has saved: what comes of it is not known yet."""
    queued: int = 0
    """Waited for, and not held."""


class EvolutionRunStatus(StatusPart):
    """What the operator knows of a run."""

    observed_generation: int = 0
    """Generation of the spec that this status speaks of."""
    state: State = "Pending"
    """Derived from the conditions, never read back."""
    summary: str = ""
    """The state with its reason, in short: `Running`, `Queued: Unschedulable`, `Failed: DocumentInvalid`."""
    conditions: tuple[Condition, ...] = ()
    """Accepted, Progressing, Ready, Stalled, Suspended, BudgetExceeded, Complete, Failed."""
    current: tuple[CurrentStage, ...] = ()
    """Stages that are being worked on, or wait to be."""
    progress: RunProgress = RunProgress()
    """How far the whole run is."""
    baseline: Scores | None = None
    """Scores before the first round."""
    best: BestRound | None = None
    """The round with the best score so far."""
    rounds: tuple[RoundRecord, ...] = ()
    """The newest 20."""
    gpu_seconds: GpuSeconds = GpuSeconds()
    """GPU-seconds by what they were spent on."""
    gpu_hours: str = ""
    """GPU-hours of this run's own attempts: what its budget counts."""
    history_uri: str = Field(default="", alias="historyURI")
    """Object with the full history of the run."""
    last_handled_retry_at: str = ""
    """The value of annotation selfevolution.io/retry-requested-at that was acted upon last."""

    def condition(self, type_: ConditionType) -> Condition | None:
        return next((c for c in self.conditions if c.type == type_), None)
