"""An order: what a worker is told to do. One Job, or one message to a resident worker, carries one order."""

from typing import Literal, Self

from pydantic import Field, JsonValue, model_validator

from evolution.api.run import EvolutionRun, Gate, Metric, Reporter
from evolution.api.runtime import EngineName, EvolutionRuntimeSpec, seconds
from evolution.plan.gate import Verdict
from evolution.plan.graph import Stage
from evolution.plan.manifest import Record
from evolution.plan.stage import Kind


class OrderInput(Record):
    """A digest, or the output of an earlier stage of the same order."""

    digest: str | None = None
    stage: str | None = None
    output: str | None = None

    @model_validator(mode="after")
    def _one_of(self) -> Self:
        if (self.digest is None) == (self.stage is None or self.output is None):
            raise ValueError("give either a digest, or a stage with one of its outputs")
        return self


class OrderStage(Record):
    id: str
    kind: Kind
    round: int
    parameters: dict[str, JsonValue]
    inputs: dict[str, OrderInput]
    attempt: int = 1


class OrderGate(Record):
    """What a worker needs to know to stop where the gate would: for orders that go over several rounds."""

    gate: Gate
    metric: Metric
    verdict: Verdict
    """After the last evaluation before the order."""


class Compute(Record):
    """How a worker computes: speed, memory and what is told to whom. It changes no result, and is in no fingerprint."""

    engine: EngineName = "Transformers"
    endpoint: str = ""
    """Base URL of an OpenAI-compatible API, for the engine of that name."""
    processes: int = Field(default=0, ge=0)
    """Processes of one worker that train together; 0 is one for every GPU that it has."""
    nodes: int = Field(default=1, ge=1)
    """Workers that train together, each on its node; each is told its index and the first one's address by its
    environment."""
    gradient_checkpointing: bool = False
    checkpoint_seconds: float = Field(default=60.0, ge=0)
    """Seconds between two checkpoints."""
    reporters: tuple[Reporter, ...] = ()
    mlflow_uri: str = ""


def compute_for(run: EvolutionRun, runtime: EvolutionRuntimeSpec, kind: Kind) -> Compute:
    """How the workers of `run` compute on a cluster in an order whose first stage is of that kind."""
    return Compute(
        engine=runtime.engine.name,
        endpoint=runtime.engine.endpoint,
        nodes=runtime.nodes if kind is Kind.TRAIN else 1,
        gradient_checkpointing=runtime.gradient_checkpointing,
        checkpoint_seconds=seconds(runtime.checkpoint_interval),
        reporters=run.spec.training.reporters,
        mlflow_uri=runtime.mlflow_uri,
    )


class Order(Record):
    api_version: Literal["selfevolution.io/v1alpha1"] = "selfevolution.io/v1alpha1"
    kind: Literal["Order"] = "Order"
    run: str
    """`<name>-<uid8>`: where progress and checkpoints of the run lie in the store."""
    store: str
    """Location of the namespace's prefix: file:///folder or s3://bucket/prefix/namespace.

    Credentials come from the environment.
    """
    model: str
    """Location of the base model; what it must contain is the `model` input of each stage."""
    stages: tuple[OrderStage, ...]
    shards: int = Field(default=1, ge=1)
    """Workers that share the order's one `Generate` stage; each is told its own index, from 0, by its environment."""
    compute: Compute = Compute()
    gate: OrderGate | None = None
    """Applied after each evaluation of the order; the worker ends early where the gate decides against what follows."""

    @model_validator(mode="after")
    def _shared_stage(self) -> Self:
        if self.shards > 1 and [stage.kind for stage in self.stages] != [Kind.GENERATE]:
            raise ValueError(f"only an order of one Generate stage can be shared by {self.shards} workers")
        return self


def order_stage(stage: Stage, earlier: frozenset[str] = frozenset(), attempt: int = 1) -> OrderStage:
    """`stage` as a worker is told; inputs not known yet must come from stages of the same order (`earlier`)."""
    inputs = {}
    for name, source in stage.inputs.items():
        if source.digest is not None:
            inputs[name] = OrderInput(digest=source.digest)
        elif source.stage in earlier:
            inputs[name] = OrderInput(stage=source.stage, output=source.output)
        else:
            raise ValueError(
                f"{stage.id} needs {source.output} of {source.stage}, which is neither done nor in the order"
            )
    return OrderStage(
        id=stage.id,
        kind=stage.kind,
        round=stage.round,
        parameters=dict(stage.parameters),
        inputs=inputs,
        attempt=attempt,
    )
