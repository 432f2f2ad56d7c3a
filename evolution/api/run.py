"""The `EvolutionRun` resource: what a run author writes.

These types hold *effective* values: a run file is merged over its preset (`evolution.api.presets`) before it is
validated here, so every field below has a value once a run is loaded.
"""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.alias_generators import to_camel

from evolution.api.locations import HOLDS_USER, SourceKind, holds_user, mistake

GROUP = "selfevolution.io"
API_VERSION = f"{GROUP}/v1alpha1"

Preset = Literal["Default", "Reference"]
Metric = Literal["ExactMatch", "BLEU", "ROUGEL", "CHRF", "ReferenceBLEU", "ReferenceROUGE"]
Strategy = Literal["None", "Random", "All", "Hard", "Easy", "Even"]
Focus = Literal["Any", "Novel", "Unknown"]
Variant = Literal["LoRA", "RSLoRA", "DoRA", "Full"]
Quantization = Literal["None", "NF4"]
Reporter = Literal["TensorBoard", "MLflow"]

Location = Annotated[str, Field(max_length=2048)]
Template = Annotated[str, Field(max_length=20_000)]

STRATEGIES_BY_SCORE: frozenset[Strategy] = frozenset({"Hard", "Easy", "Even"})


class Resource(BaseModel):
    """Base of every API type: camelCase on the wire, immutable, unknown fields refused, no silent conversions."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        extra="forbid",
        frozen=True,
        strict=True,
        use_attribute_docstrings=True,
    )


def _refuse_mistake(field: str, uri: str, kind: SourceKind) -> None:
    if wrong := mistake(uri, kind):
        raise ValueError(f"{field}: {wrong}")


class RuntimeRef(Resource):
    kind: Literal["ClusterEvolutionRuntime", "EvolutionRuntime"] = "ClusterEvolutionRuntime"
    """Kind of the runtime that the platform team provides."""
    name: Annotated[str, Field(min_length=1)] = "default"
    """Name of that runtime."""


class ModelSource(Resource):
    uri: Annotated[Location, Field(min_length=1)]
    """Folder of a Hugging Face causal language model with tokenizer, chat template and safetensors weights:
    s3://bucket/prefix, hf://org/name@<40-hex commit>; on a cluster pvc://claim/path, on a laptop file:// and paths."""
    adapter_uri: Annotated[Location, Field(alias="adapterURI")] = ""
    """PEFT adapter folder to start from, at the same kinds of places; empty starts from the bare model."""
    revision: str = ""
    """A new value makes the run look at the source again."""

    @model_validator(mode="after")
    def _reachable(self) -> Self:
        _refuse_mistake("uri", self.uri, "model")
        _refuse_mistake("adapterURI", self.adapter_uri, "model")
        return self


class DocumentSource(Resource):
    uri: Annotated[Location, Field(min_length=1)]
    """A folder or file of .txt, .md, .jsonl, .json or .parquet documents: s3://bucket/prefix,
    hf://datasets/org/name@<40-hex commit>/path; on a cluster pvc://claim/path, on a laptop file:// and paths."""
    revision: str = ""
    """A new value makes the run look at the source again."""
    field: str = ""
    """Field of a JSON or Parquet row that holds the document; empty looks for text, content, document, instruction."""
    max_tokens: Annotated[int, Field(ge=16, le=1_000_000)]
    """Longer documents are split at paragraph borders, in tokens of the model."""
    on_invalid: Literal["Fail", "Skip"] = "Fail"
    """What an unreadable document does: fail the run, or be skipped and counted."""

    @model_validator(mode="after")
    def _reachable(self) -> Self:
        _refuse_mistake("uri", self.uri, "dataset")
        return self


class EvaluationSource(Resource):
    uri: Annotated[Location, Field(min_length=1)]
    """A .jsonl, .json or .parquet file of held-out items with `question` and `answer`, at the same kinds of places as
    documents."""
    revision: str = ""
    """A new value makes the run look at the source again."""
    metrics: Annotated[tuple[Metric, ...], Field(min_length=1, max_length=16, strict=False)]
    """Scores to compute for the base model and after every round, each from 0 to 1."""
    primary: Metric | None = None
    """The score that decides which round is best; empty takes the first of `metrics`."""
    max_tokens: Annotated[int, Field(ge=1, le=32_768)]
    """Longest answer, in tokens."""

    @model_validator(mode="after")
    def _reachable(self) -> Self:
        _refuse_mistake("uri", self.uri, "dataset")
        return self

    @property
    def primary_metric(self) -> Metric:
        return self.primary or self.metrics[0]


class Prompts(Resource):
    question: Template = ""
    """Template with {document} that asks for one question; empty uses a built-in one in the document's language."""
    answer: Template = ""
    """Template with {document} and {question} that asks for the answer; empty uses the built-in prompt."""

    @model_validator(mode="after")
    def _placeholders(self) -> Self:
        if self.question and "{document}" not in self.question:
            raise ValueError("question: the template has no {document}; the model would not see the document")
        for name in ("{document}", "{question}"):
            if self.answer and name not in self.answer:
                raise ValueError(f"answer: the template has no {name}")
        return self


class Generation(Resource):
    writer: Literal["Adapter", "Base"]
    """Who writes the pairs: the adapter of the round before, or the bare base model."""
    questions_per_document: Annotated[int, Field(ge=1, le=64)]
    """Pairs to keep about each document in each round, at most."""
    candidates: Annotated[int, Field(ge=1, le=256)] = 1
    """Questions sampled for each pair to keep. With more than one, a pair is kept only if the names and numbers of its
    question and answer occur in the document."""
    focus: Focus = "Any"
    """Which candidates are kept: any; those whose answer no earlier pair of the document has; or those that the model
    does not yet answer so without the document."""
    similarity: Annotated[float, Field(gt=0, le=1)] = 0.8
    """Two answers count as the same from this ROUGE-L on; for focus Novel and Unknown."""
    temperature: Annotated[float, Field(ge=0, le=5)]
    """Sampling temperature of the questions; 0 is greedy."""
    answer_temperature: Annotated[float, Field(ge=0, le=5)]
    """Sampling temperature of the answers; 0 is greedy."""
    top_p: Annotated[float, Field(gt=0, le=1)]
    """Nucleus sampling: the smallest set of tokens whose probability reaches this."""
    max_tokens: Annotated[int, Field(ge=1, le=32_768)]
    """Longest question or answer, in tokens; what is cut there is rejected."""
    prompts: Prompts = Prompts()
    """Prompt templates of your own."""


class Selection(Resource):
    strategy: Strategy
    """Which pairs of earlier rounds are trained again: none, a random sample, all, or by difficulty (IFD)."""
    size: Annotated[int, Field(ge=0, le=10_000_000)]
    """How many pairs of earlier rounds at most."""
    max_ifd: Annotated[float | None, Field(gt=0, alias="maxIFD")]
    """Pairs with a higher IFD are left out (the question misleads the model); null is no limit."""


class Training(Resource):
    variant: Variant = "LoRA"
    """What is trained: a LoRA adapter, one with rank-stabilised scaling, one with decomposed weights (DoRA), or all
    weights (Full), for which rank, alpha, dropout, targetModules and layers mean nothing."""
    quantization: Quantization = "None"
    """Precision of the frozen base model during training: its own, or 4-bit NF4 (QLoRA), which needs less memory."""
    rank: Annotated[int, Field(ge=1, le=1024)]
    """LoRA rank."""
    alpha: Annotated[float, Field(gt=0, le=4096)]
    """LoRA alpha; updates are scaled by alpha / rank, with variant RSLoRA by alpha / √rank."""
    dropout: Annotated[float, Field(ge=0, lt=1)]
    """LoRA dropout."""
    target_modules: Annotated[tuple[str, ...], Field(strict=False)]
    """Module names that get LoRA; empty is every linear layer except the output head."""
    layers: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(strict=False)]
    """Indices of decoder layers that get LoRA; empty is all."""
    learning_rate: Annotated[float, Field(gt=0, le=1)]
    """Peak learning rate of AdamW; falls along a cosine. Variant Full wants a tenth of what an adapter does."""
    warmup_ratio: Annotated[float, Field(ge=0, lt=1)]
    """Share of the steps over which the learning rate rises."""
    epochs: Annotated[float, Field(gt=0, le=1000)]
    """Passes over the round's training rows; ignored where maxSteps is set."""
    max_steps: Annotated[int, Field(ge=0, le=10_000_000)]
    """Optimizer steps per round; 0 leaves it to `epochs`."""
    batch_size: Annotated[int, Field(ge=1, le=65_536)]
    """Rows per optimizer step."""
    max_tokens: Annotated[int, Field(ge=8, le=1_000_000)]
    """Longest training row (question and answer), in tokens."""
    init_from: Literal["Previous", "Base"]
    """Continue the adapter of the round before, or start a fresh one each round."""
    reporters: Annotated[tuple[Reporter, ...], Field(strict=False, max_length=4)] = ()
    """Where loss and learning rate are also sent: event files for TensorBoard in the store, or an MLflow server."""

    @model_validator(mode="after")
    def _trainable(self) -> Self:
        if self.variant == "Full" and self.quantization != "None":
            raise ValueError(
                f"quantization: is {self.quantization}, but variant Full trains the weights themselves, which must be "
                "whole; set quantization to None, or train an adapter"
            )
        return self


class Gate(Resource):
    metric: Metric | None = None
    """Score that the gate looks at; empty takes evaluation.primary."""
    min_delta: Annotated[float, Field(ge=0, le=1)]
    """A round counts as better when its score is this much above the best so far."""
    patience: Annotated[int, Field(ge=0)]
    """Stop after so many rounds in a row without a better score; 0 never stops."""
    on_regression: Literal["Continue", "Rollback", "Stop"]
    """When a round scores below the best: go on from it, go on from the best round's adapter, or stop."""


class Budget(Resource):
    gpu_hours: Annotated[float, Field(gt=0)]
    """GPU-hours that the run may use."""
    on_exceeded: Literal["Suspend", "Stop"] = "Suspend"
    """Wait for a larger budget, or finish with the best round so far."""


class Publish(Resource):
    uri: Annotated[Location, Field(min_length=1)]
    """Folder that receives the adapter as plain PEFT files."""
    select: Literal["Best", "Last"] = "Best"
    """Which round's adapter to publish."""

    @model_validator(mode="after")
    def _without_keys(self) -> Self:
        if holds_user(self.uri):
            raise ValueError(f"uri: {HOLDS_USER}")
        return self


class EvolutionRunSpec(Resource):
    """What the run's author asks for."""

    runtime_ref: RuntimeRef = RuntimeRef()
    """Where and how the stages run on a cluster; ignored on a laptop."""
    preset: Preset = "Default"
    """Values for what this file leaves out: Default, or Reference for the published Self-Evolution settings."""
    suspend: bool = False
    """True stops all work and keeps what is finished."""
    seed: Annotated[int, Field(ge=0, le=2**31 - 1)] = 0
    """Seed of sampling, selection and training."""
    rounds: Annotated[int, Field(ge=1, le=1000)]
    """Rounds of asking, answering, training and evaluating."""
    model: ModelSource
    """The language model that evolves."""
    documents: DocumentSource
    """What it learns from."""
    evaluation: EvaluationSource
    """Held-out questions that measure it."""
    generation: Generation
    """How questions and answers are written."""
    selection: Selection
    """Which pairs of earlier rounds are trained again."""
    training: Training
    """How the adapter is trained."""
    gate: Gate
    """When to stop or step back."""
    budget: Budget | None = None
    """Limit on GPU time."""
    publish: Publish | None = None
    """Where the finished adapter goes."""

    @property
    def gate_metric(self) -> Metric:
        return self.gate.metric or self.evaluation.primary_metric

    @model_validator(mode="after")
    def _metrics_exist(self) -> Self:
        wanted = {"evaluation.primary": self.evaluation.primary, "gate.metric": self.gate.metric}
        for path, metric in wanted.items():
            if metric is not None and metric not in self.evaluation.metrics:
                known = ", ".join(self.evaluation.metrics)
                raise ValueError(
                    f"{path}: {metric} is not among evaluation.metrics ({known}); add it there or choose one of those"
                )
        return self


class Metadata(Resource):
    """The part of Kubernetes object metadata that a run file may carry."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]{0,38}[a-z0-9])?$")]
    """At most 40 lower-case letters, digits and '-': Job names are built from it."""
    namespace: Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$")] = "default"
    """Kubernetes namespace; also the prefix of the run's objects in the store."""
    labels: dict[str, str] = {}
    """Kubernetes labels."""
    annotations: dict[str, str] = {}
    """Kubernetes annotations."""


class EvolutionRun(Resource):
    """A language model that trains itself on documents, round after round."""

    api_version: Literal["selfevolution.io/v1alpha1"]
    kind: Literal["EvolutionRun"]
    metadata: Metadata
    spec: EvolutionRunSpec
