"""`EvolutionRuntime` and `ClusterEvolutionRuntime`: where and how stages run on a cluster.

The platform team's resources. A run author names one and can set none of this: whoever may create a run gains no image,
no service account and no node by it.
"""

import re
from decimal import Decimal
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from evolution.api.locations import holds_user
from evolution.api.run import Metadata, Resource

Execution = Literal["Stage", "Round", "Run"]
EngineName = Literal["Transformers", "VLLM", "OpenAI"]

QUANTITY_PATTERN = r"^[0-9]{1,15}(\.[0-9]{1,9})?(m|k|M|G|T|Ki|Mi|Gi|Ti)?$"
DURATION_PATTERN = r"^([0-9]{1,5}h)?([0-9]{1,6}m)?([0-9]{1,7}s)?$"
RESOURCE_NAME_PATTERN = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?/[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$"
NODE_PATH_PATTERN = r"^(/[^/].*)?$"
GPU_CLASS_PATTERN = r"^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$"

RESERVED_VARIABLES = (
    "EVOLUTION_ORDER",
    "EVOLUTION_TERMINATION_MESSAGE",
    "EVOLUTION_CACHE",
    "EVOLUTION_CLAIMS",
    "EVOLUTION_GRACE_SECONDS",
    "EVOLUTION_SHARD_INDEX",
    "EVOLUTION_NODE_INDEX",
    "EVOLUTION_LEADER",
    "EVOLUTION_WORKER",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
)
"""Environment variables of workers that the operator sets, and a runtime cannot."""
VARIABLE = r"[A-Za-z_][A-Za-z0-9_]*"
"""Names of environment variables."""


def _whole_number_as_text(value: Any) -> Any:
    """YAML reads `cpu: 4` as a number, and Kubernetes takes it."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


Quantity = Annotated[
    str,
    Field(
        pattern=QUANTITY_PATTERN,
        max_length=28,
        json_schema_extra={"x-kubernetes-int-or-string": True},
    ),
    BeforeValidator(_whole_number_as_text),
]
"""A Kubernetes quantity: 500m, 4, 16Gi."""
Duration = Annotated[str, Field(pattern=DURATION_PATTERN, min_length=2, max_length=21)]
"""Hours, minutes and seconds: 90s, 30m, 1h30m."""
FACTORS = {
    "m": Decimal("0.001"),
    **{unit: Decimal(1000) ** power for power, unit in enumerate("kMGT", 1)},
    **{f"{unit}i": Decimal(1024) ** power for power, unit in enumerate("KMGT", 1)},
}
PATTERN_MEANINGS = {
    QUANTITY_PATTERN: "give a number, perhaps with a unit: 500m, 4 or 16Gi",
    DURATION_PATTERN: "give hours, minutes and seconds in this order: 90s, 30m or 1h30m",
    RESOURCE_NAME_PATTERN: "give the resource name of a GPU on the nodes, as nvidia.com/gpu",
    NODE_PATH_PATTERN: "give the absolute path of a folder on the nodes, as /var/cache/evolution",
    GPU_CLASS_PATTERN: "give a short name of the GPUs, as h100: letters, digits, '-', '_' and '.'",
}
"""What to tell somebody whose text does not match."""

LEAST_CPU = "1m"
LEAST_MEMORY = "1Mi"
"""Of a worker; less is a unit forgotten."""


def amount(quantity: str) -> Decimal:
    """The number that a `Quantity` stands for."""
    number = quantity.rstrip("mkMGTi")
    return Decimal(number) * FACTORS.get(quantity[len(number) :], 1)


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


class Resources(Resource):
    """What one worker gets, as requests and limits."""

    gpus: Annotated[int, Field(ge=0, le=64)] = 0
    """GPUs of one worker."""
    gpu_resource: Annotated[str, Field(pattern=RESOURCE_NAME_PATTERN, max_length=253)] = "nvidia.com/gpu"
    """Resource name of a GPU on the nodes."""
    cpu: Quantity = "1"
    """CPU cores of one worker, as a quantity: 4 or 500m."""
    memory: Quantity = "4Gi"
    """Memory of one worker, as a quantity: 16Gi."""

    @model_validator(mode="after")
    def _enough(self) -> Self:
        if amount(self.cpu) < amount(LEAST_CPU):
            raise ValueError(f"cpu: is {self.cpu!r}, less than {LEAST_CPU}; give cores, such as 500m or 4")
        if amount(self.memory) < amount(LEAST_MEMORY):
            raise ValueError(f"memory: is {self.memory!r}, less than {LEAST_MEMORY}; give a unit, as in 16Gi")
        return self


class TrainResources(Resources):
    """What each worker of a training gets."""

    nodes: Annotated[int, Field(ge=1, le=64)] = 1
    """Workers that train together, each with these resources; more than one are a JobSet, whose controller the cluster
    needs."""


class StageResources(Resource):
    """Resources of single kinds of stage, instead of `resources`."""

    prepare: Resources | None = None
    """Reading and checking the sources; needs no GPU."""
    generate: Resources | None = None
    """Writing questions and answers."""
    score: Resources | None = None
    """Scoring pairs."""
    train: TrainResources | None = None
    """Training the adapter, on one node or on several."""
    evaluate: Resources | None = None
    """Answering the evaluation set."""
    publish: Resources | None = None
    """Copying the finished adapter; needs no GPU."""


class Toleration(Resource):
    """A toleration of the workers' pods (core/v1 Toleration)."""

    key: Annotated[str, Field(max_length=317)] = ""
    """Taint key; empty with operator Exists tolerates every taint."""
    operator: Literal["Exists", "Equal"] = "Equal"
    """How the taint's value is compared."""
    value: Annotated[str, Field(max_length=63)] = ""
    """Taint value."""
    effect: Literal["", "NoSchedule", "PreferNoSchedule", "NoExecute"] = ""
    """Taint effect; empty is every effect."""

    @model_validator(mode="after")
    def _comparable(self) -> Self:
        if self.operator == "Exists" and self.value:
            raise ValueError(f"value: is {self.value!r}, but operator Exists compares no value; leave it out")
        if self.operator == "Equal" and not self.key:
            raise ValueError("key: is empty; name the taint's key, or tolerate all with operator Exists")
        return self


class ModelCache(Resource):
    """Where workers keep downloaded models; without one, every pod downloads into an empty folder of its own."""

    claim_name: Annotated[str, Field(max_length=253)] = ""
    """PersistentVolumeClaim in the run's namespace, shared by its workers."""
    host_path: Annotated[str, Field(pattern=NODE_PATH_PATTERN, max_length=1024)] = ""
    """Folder of the node, shared by all workers on it."""

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if self.claim_name and self.host_path:
            raise ValueError(
                f"hostPath: is {self.host_path!r} beside claimName {self.claim_name!r}; give one of the two"
            )
        if ".." in self.host_path.split("/"):
            raise ValueError(f"hostPath: is {self.host_path!r}; give a path without '..'")
        return self


class EngineSettings(Resource):
    """What generates text, in the stages Generate and Evaluate."""

    name: EngineName = "Transformers"
    """Transformers computes in the worker; VLLM starts vLLM there; OpenAI asks a server that has the model."""
    endpoint: Annotated[str, Field(max_length=2048)] = ""
    """Base URL of the server's API, as https://host/v1; for OpenAI only."""
    secret_name: Annotated[str, Field(max_length=253)] = ""
    """Secret in the run's namespace with the server's key as OPENAI_API_KEY; for OpenAI only, empty sends no key."""

    @model_validator(mode="after")
    def _somewhere(self) -> Self:
        if self.name == "OpenAI" and not self.endpoint.startswith(("http://", "https://")):
            raise ValueError(
                f"endpoint: is {self.endpoint!r}, but engine OpenAI asks a server; give its http(s):// URL"
            )
        if holds_user(self.endpoint):
            raise ValueError(
                "endpoint: holds a user or password, which anybody may read there; leave them out, and give the key as "
                "OPENAI_API_KEY, which secretName can name on a cluster"
            )
        if self.name != "OpenAI" and self.endpoint:
            raise ValueError(f"endpoint: is {self.endpoint!r}, but engine {self.name} asks no server; leave it out")
        if self.name != "OpenAI" and self.secret_name:
            raise ValueError(
                f"secretName: is {self.secret_name!r}, but engine {self.name} asks no server; leave it out"
            )
        return self


class Retries(Resource):
    limit: Annotated[int, Field(ge=0, le=100)] = 3
    """How often a failed stage is tried again before the run fails; preemptions and an unreachable store do not
    count."""


class Deadlines(Resource):
    stage: Duration = "24h"
    """Longest time that one Job may take, with all its attempts."""
    idle: Duration = "1h"
    """A worker without progress for so long is taken to hang, and is replaced."""

    @model_validator(mode="after")
    def _some_time(self) -> Self:
        for name, value in (("stage", self.stage), ("idle", self.idle)):
            if not seconds(value):
                raise ValueError(f"{name}: is {value!r}, no time at all; give a duration such as 1h30m")
        return self


class EvolutionRuntimeSpec(Resource):
    """Where and how the stages of runs are executed on this cluster."""

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
    gpu_class: Annotated[str, Field(pattern=GPU_CLASS_PATTERN, max_length=63)] = ""
    """What the GPUs of the nodes are called, as h100 or l40s: their price is looked up by it."""
    node_selector: dict[str, str] = {}
    """Labels of the nodes that may run workers."""
    tolerations: Annotated[tuple[Toleration, ...], Field(strict=False, max_length=32)] = ()
    """Taints that workers tolerate."""
    priority_class_name: str = ""
    """Priority class of the workers."""
    queue_name: str = ""
    """Kueue LocalQueue for runs that carry no label kueue.x-k8s.io/queue-name themselves."""
    cache: ModelCache = ModelCache()
    """Where workers keep downloaded models."""
    engine: EngineSettings = EngineSettings()
    """What generates text."""
    gradient_checkpointing: bool = False
    """Training computes activations twice instead of keeping them: slower, and needs less memory."""
    checkpoint_interval: Duration = "5m"
    """How often a stage saves what it has done so far; so much is done again at most when its worker is lost."""
    mlflow_uri: Annotated[str, Field(alias="mlflowURI", max_length=2048)] = ""
    """Tracking server for runs whose training.reporters name MLflow."""
    env: Annotated[dict[str, str], Field(max_length=100)] = {}
    """Further environment variables of the workers, such as HTTPS_PROXY."""
    retries: Retries = Retries()
    """How often a stage is tried."""
    deadlines: Deadlines = Deadlines()
    """How long a stage may take."""
    termination_grace_seconds: Annotated[int, Field(ge=1, le=3600)] = 120
    """Time that a worker gets to save its work when it is stopped."""
    finished_job_ttl: Annotated[Duration, Field(alias="finishedJobTTL")] = "24h"
    """How long finished Jobs, with their logs, are kept."""

    @property
    def nodes(self) -> int:
        """Workers that train together."""
        return self.stages.train.nodes if self.stages.train else 1

    @model_validator(mode="after")
    def _without_keys(self) -> Self:
        if holds_user(self.mlflow_uri):
            raise ValueError(
                "mlflowURI: holds a user or password; give them as MLFLOW_TRACKING_USERNAME and "
                "MLFLOW_TRACKING_PASSWORD in env"
            )
        return self

    @model_validator(mode="after")
    def _fits_execution(self) -> Self:
        if self.execution != "Stage":
            if self.shards > 1:
                raise ValueError(
                    f"shards: is {self.shards}, but a pod per {self.execution} writes all pairs itself; "
                    "give execution Stage, or 1"
                )
            for name in StageResources.model_fields:
                if getattr(self.stages, name) is not None:
                    raise ValueError(
                        f"stages.{name}: is given, but with execution {self.execution} one pod runs several stages; "
                        "give execution Stage, or say it in resources"
                    )
        return self

    @model_validator(mode="after")
    def _variables(self) -> Self:
        for name in self.env:
            if not re.fullmatch(VARIABLE, name):
                raise ValueError(f"env: {name!r} is no name of a variable; use letters, digits and '_'")
            if name in RESERVED_VARIABLES:
                raise ValueError(
                    f"env: {name} is set by the operator; leave it out (credentials: name a Secret in storeSecretName)"
                )
        return self


class EvolutionRuntime(Resource):
    """Where and how stages run on a cluster."""

    api_version: Literal["selfevolution.io/v1alpha1"]
    kind: Literal["EvolutionRuntime", "ClusterEvolutionRuntime"]
    metadata: Metadata
    spec: EvolutionRuntimeSpec
