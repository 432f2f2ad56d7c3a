"""The status of an `EvolutionRun`: what `kubectl get` and `evolve status --json` show."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

State = Literal["Pending", "Queued", "Running", "Suspended", "Complete", "Failed"]
ConditionType = Literal[
    "Accepted", "Progressing", "Ready", "Stalled", "Suspended", "BudgetExceeded", "Complete", "Failed"
]


class StatusPart(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, frozen=True, extra="forbid")


class Condition(StatusPart):
    """A Kubernetes API condition (metav1.Condition)."""

    type: ConditionType
    status: Literal["True", "False", "Unknown"]
    reason: str
    message: str = ""
    last_transition_time: str
    """RFC 3339, UTC; kept while `status` stays the same."""
    observed_generation: int = 0


class CurrentStage(StatusPart):
    round: int
    stage: str
    job: str = ""
    percent: int = 0
    eta_seconds: int | None = None
    waiting_for: str = ""


class RunProgress(StatusPart):
    rounds_completed: int = 0
    percent: int = 0
    eta_seconds: int | None = None


class Scores(StatusPart):
    scores: dict[str, str] = {}


class BestRound(StatusPart):
    round: int
    adapter_uri: str = Field(default="", alias="adapterURI")
    scores: dict[str, str] = {}


class RoundRecord(StatusPart):
    """A round in few figures; the full record is in the store."""

    round: int
    pairs: int | None = None
    rejects: int | None = None
    loss: str | None = None
    scores: dict[str, str] = {}
    seconds: int | None = None
    stages: dict[str, str] = {}
    """First 8 digits of the fingerprint of each finished stage."""


class GpuSeconds(StatusPart):
    productive: int = 0
    overhead: int = 0
    wasted: int = 0
    queued: int = 0


class EvolutionRunStatus(StatusPart):
    observed_generation: int = 0
    state: State = "Pending"
    """Derived from the conditions, never read back."""
    conditions: tuple[Condition, ...] = ()
    current: tuple[CurrentStage, ...] = ()
    progress: RunProgress = RunProgress()
    baseline: Scores | None = None
    best: BestRound | None = None
    rounds: tuple[RoundRecord, ...] = ()
    """The newest 20."""
    gpu_seconds: GpuSeconds = GpuSeconds()
    history_uri: str = Field(default="", alias="historyURI")

    def condition(self, type_: ConditionType) -> Condition | None:
        return next((c for c in self.conditions if c.type == type_), None)
