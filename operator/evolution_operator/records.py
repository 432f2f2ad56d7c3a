"""What the operator remembers of the cluster: a few fields of every object, read from its body. Pure.

Two records are equal when everything that matters is equal; the resource version alone does not matter.
"""

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from evolution.plan.stage import Kind

JobKind = Literal["Job", "JobSet"]
JobState = Literal["Active", "Suspended", "Complete", "Failed"]
PodPhase = Literal["Pending", "Running", "Succeeded", "Failed", "Unknown"]

MANAGED_BY = "app.kubernetes.io/managed-by"
OPERATOR = "evolution-operator"
SELECTOR = f"{MANAGED_BY}={OPERATOR}"
"""Every Job and pod that the operator makes carries this label; watches are filtered by it on the server."""
RUN_LABEL = "selfevolution.io/run"
"""On Jobs and their pods: name of the run."""
ROUND = "selfevolution.io/round"
"""On Jobs and their pods: round of the first stage of the order."""
FINGERPRINT = "selfevolution.io/fingerprint"
"""Annotation of Jobs and pods: fingerprint of the first stage of the order."""
KIND = "selfevolution.io/kind"
"""Annotation of pods: kind of the first stage of the order."""
GPUS = "selfevolution.io/gpus"
"""Annotation of pods: GPUs that the pod asks for."""
RUN_UID = "selfevolution.io/run-uid"
"""Annotation of pods: uid of the run, which their Job alone tells otherwise, and that may be gone."""
STAGES = "selfevolution.io/stages"
"""Annotation of Jobs: ids of the order's stages, separated by commas."""
RECIPE = "selfevolution.io/recipe"
"""Annotation of Jobs whose order has several stages: their joint recipe."""
SHARDS = "selfevolution.io/shards"
"""Annotation of Jobs and pods whose stage is shared: the number of workers."""
RUNTIME_DIGEST = "selfevolution.io/runtime-digest"
"""Annotation of Jobs: what the runtime was when the Job was made."""
RETRY_REQUESTED = "selfevolution.io/retry-requested-at"
"""Annotation of runs: a new value asks for what failed to be tried again."""
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"


class RunKey(NamedTuple):
    namespace: str
    name: str


class ScheduleKey(NamedTuple):
    namespace: str
    name: str
    kind: str = "EvolutionSchedule"
    """Never anything else: a run of the same name has another key."""


class RuntimeKey(NamedTuple):
    kind: str
    namespace: str
    """Empty for a ClusterEvolutionRuntime."""
    name: str


@dataclass(frozen=True, slots=True)
class RunRecord:
    key: RunKey
    uid: str
    resource_version: str = field(compare=False)
    generation: int
    deleting: bool
    runtime: RuntimeKey
    """The runtime that it names, or the default one."""
    intent: int
    """Hash of everything but the status: what the author asks for."""
    body: bytes
    """The object as JSON, without managedFields and resourceVersion: parsed when the run is reconciled."""
    created_at: str
    """RFC 3339."""
    phase: str
    """`status.state`; Pending before the operator has written one."""
    ended_at: str
    """RFC 3339: since when it is complete or has failed; empty while it is neither."""
    schedule: ScheduleKey | None = None
    """The schedule that started it."""
    owner_uid: str = ""
    """Of the controlling owner reference; empty if there is none."""


@dataclass(frozen=True, slots=True)
class ScheduleRecord:
    key: ScheduleKey
    uid: str
    resource_version: str = field(compare=False)
    generation: int
    deleting: bool
    created_at: str
    """RFC 3339."""
    state: str
    """`status.summary` without the reason; Waiting before the operator has written one."""
    body: bytes
    """The object as JSON, without managedFields and resourceVersion."""


@dataclass(frozen=True, slots=True)
class RuntimeRecord:
    key: RuntimeKey
    uid: str
    resource_version: str = field(compare=False)
    body: bytes
    """The object as JSON, without managedFields and resourceVersion."""


@dataclass(frozen=True, slots=True)
class JobRecord:
    run: RunKey
    """From namespace and run label; empty name for a Job of somebody else."""
    name: str
    uid: str
    resource_version: str = field(compare=False)
    kind: JobKind
    """A JobSet is the Job of a stage that several nodes do together."""
    owner_uid: str
    """Of the controlling owner reference; empty if there is none."""
    fingerprint: str
    stages: tuple[str, ...]
    recipe: str
    shards: int
    """Workers that share its stage; 1 for a Job that is not shared."""
    runtime_digest: str
    state: JobState
    deleting: bool
    reason: str
    """Of the condition behind `state`, CamelCase."""
    message: str
    created_at: str
    """RFC 3339."""
    finished_at: str
    """RFC 3339; empty while it is not finished."""


@dataclass(frozen=True, slots=True)
class PodRecord:
    run: RunKey
    name: str
    uid: str
    resource_version: str = field(compare=False)
    job: str
    """Name of its Job, or of the JobSet that this belongs to."""
    phase: PodPhase
    deleting: bool
    created_at: str
    started_at: str
    """RFC 3339, when its container started; empty before."""
    finished_at: str
    """Of its container; of a pod that ended without telling its containers' times, when its conditions last changed."""
    exit_code: int | None
    """Of its container, once that has ended."""
    message: str
    """Termination message of the container: the worker's last event as JSON, or text, or empty."""
    disrupted: bool
    """Evicted or preempted (condition DisruptionTarget)."""
    waiting_reason: str
    """Why it does not run: Unschedulable, ImagePullBackOff, …; empty if nothing is wrong."""
    waiting_message: str
    index: int
    """Completion index of an Indexed Job, else 0."""
    run_uid: str
    """Empty, as the next three are, if the pod does not tell: it is no worker of ours."""
    kind: Kind | None
    """Of the first stage of its order."""
    fingerprint: str
    """Of the first stage of its order."""
    round: int
    gpus: int
    """That it asks for."""
    shards: int
    """Workers that share its stage; 1 if it is not shared."""
    scheduled_at: str
    """RFC 3339, when a node was given to it; empty before."""


Record = RunRecord | ScheduleRecord | RuntimeRecord | JobRecord | PodRecord


def is_newer(version: str, than: str) -> bool:
    """Whether one resource version of a kind comes after another; versions are numbers that grow."""
    if version.isdigit() and than.isdigit():
        return int(version) > int(than)
    return version != than
