"""`EvolutionRuntime` and `ClusterEvolutionRuntime`: where and how stages run on a cluster.

The platform team's resources. A run author names one and can set none of this: whoever may create a run gains no image,
no service account and no node by it.
"""

from typing import Annotated, Literal

from pydantic import Field

from evolution.api.run import Metadata, Resource

Execution = Literal["Stage", "Round", "Run"]
Quantity = Annotated[str, Field(pattern=r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|Ki|Mi|Gi|Ti)?$")]
"""A Kubernetes quantity: 500m, 4, 16Gi."""
Duration = Annotated[str, Field(pattern=r"^([0-9]+h)?([0-9]+m)?([0-9]+s)?$", min_length=2)]
"""Hours, minutes and seconds: 90s, 30m, 1h30m."""


class Resources(Resource):
    """What one worker gets, as requests and limits."""

    gpus: Annotated[int, Field(ge=0, le=64)] = 0
    """GPUs of one worker."""
    gpu_resource: str = "nvidia.com/gpu"
    """Resource name of a GPU on the nodes."""
    cpu: Quantity = "1"
    """CPU cores of one worker."""
    memory: Quantity = "4Gi"
    """Memory of one worker."""


class StageResources(Resource):
    """Resources of single kinds of stage, instead of `resources`."""

    prepare: Resources | None = None
    """Reading and checking the sources; needs no GPU."""
    generate: Resources | None = None
    """Writing questions and answers."""
    score: Resources | None = None
    """Scoring pairs."""
    train: Resources | None = None
    """Training the adapter."""
    evaluate: Resources | None = None
    """Answering the evaluation set."""
    publish: Resources | None = None
    """Copying the finished adapter; needs no GPU."""


class Toleration(Resource):
    """A toleration of the workers' pods (core/v1 Toleration)."""

    key: str = ""
    """Taint key; empty with operator Exists tolerates every taint."""
    operator: Literal["Exists", "Equal"] = "Equal"
    """How the taint's value is compared."""
    value: str = ""
    """Taint value."""
    effect: Literal["", "NoSchedule", "PreferNoSchedule", "NoExecute"] = ""
    """Taint effect; empty is every effect."""


class ModelCache(Resource):
    """Where workers keep downloaded models; without one, every pod downloads into an empty folder of its own."""

    claim_name: str = ""
    """PersistentVolumeClaim in the run's namespace, shared by its workers."""
    host_path: str = ""
    """Folder of the node, shared by all workers on it."""


class Retries(Resource):
    limit: Annotated[int, Field(ge=0, le=100)] = 3
    """Failed attempts at a stage before the run fails. Preemptions and an unreachable store do not count."""


class Deadlines(Resource):
    stage: Duration = "24h"
    """Longest time that one Job may take, with all its attempts."""
    idle: Duration = "1h"
    """A worker without progress for so long is taken to hang, and is replaced."""


class EvolutionRuntimeSpec(Resource):
    image: Annotated[str, Field(min_length=1)]
    """Trainer image."""
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    """When nodes pull the image."""
    image_pull_secrets: Annotated[tuple[str, ...], Field(strict=False)] = ()
    """Names of Secrets, in the run's namespace, with registry credentials."""
    store_secret_name: str = ""
    """Secret in the run's namespace with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY for workers; empty relies on the
    service account (web identity)."""
    service_account_name: str = ""
    """Service account of the workers; their pods get no API token in any case."""
    execution: Execution = "Stage"
    """One pod per stage, per round, or for the whole run: fewer pods load the model less often."""
    shards: Annotated[int, Field(ge=1, le=256)] = 1
    """Pods that share the writing of a round's pairs; only with execution Stage."""
    resources: Resources = Resources()
    """What a worker gets, unless `stages` says otherwise."""
    stages: StageResources = StageResources()
    """Resources of single kinds of stage; only with execution Stage."""
    node_selector: dict[str, str] = {}
    """Labels of the nodes that may run workers."""
    tolerations: Annotated[tuple[Toleration, ...], Field(strict=False)] = ()
    """Taints that workers tolerate."""
    priority_class_name: str = ""
    """Priority class of the workers."""
    queue_name: str = ""
    """Kueue LocalQueue for runs that carry no label kueue.x-k8s.io/queue-name themselves."""
    cache: ModelCache = ModelCache()
    """Where workers keep downloaded models."""
    env: dict[str, str] = {}
    """Further environment variables of the workers, such as HTTPS_PROXY."""
    retries: Retries = Retries()
    """How often a stage is tried."""
    deadlines: Deadlines = Deadlines()
    """How long a stage may take."""
    termination_grace_seconds: Annotated[int, Field(ge=1, le=3600)] = 120
    """Time that a worker gets to save its work when it is stopped."""
    finished_job_ttl: Duration = "24h"
    """How long finished Jobs, with their logs, are kept."""


class EvolutionRuntime(Resource):
    api_version: Literal["selfevolution.io/v1alpha1"]
    kind: Literal["EvolutionRuntime", "ClusterEvolutionRuntime"]
    metadata: Metadata
    spec: EvolutionRuntimeSpec


def seconds(duration: str) -> int:
    """Seconds of a `Duration`."""
    total, number = 0, ""
    for char in duration:
        if char.isdigit():
            number += char
        else:
            total += int(number) * {"h": 3600, "m": 60, "s": 1}[char]
            number = ""
    return total
