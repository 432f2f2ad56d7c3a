"""The stage graph of a run, unfolded as far as its finished stages allow.

Data flows one way: spec → stages. A stage's fingerprint needs the digests of its inputs, hence the manifests of the
stages before it; `unfold` walks from `Prepare` onwards and stops naming fingerprints where a manifest is missing.

External inputs enter through one `Prepare` stage each (model, adapter, documents, evaluation set), so that a change of
one source is seen in the stages that read it and in no other.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from pydantic import JsonValue

from evolution.api.run import STRATEGIES_BY_SCORE, EvolutionRunSpec
from evolution.plan.gate import Verdict, after_round, decides
from evolution.plan.manifest import Manifest
from evolution.plan.stage import SEMANTICS, Kind, canonical_json, fingerprint, sha256

Parameters = Mapping[str, JsonValue]
Manifests = Mapping[str, Manifest | None]
"""What is known of the store, by fingerprint: a manifest, None if there is none; a missing key was not looked up."""

Outcome = Literal["MaxRounds", "Plateau", "Regression", "Budget"]
StageState = Literal["Done", "Ready", "Waiting", "Undecided"]
"""Finished before or now; its inputs are there; it waits for inputs; the gate may still decide against it."""


@dataclass(frozen=True)
class Input:
    """One input of a stage: an output of an earlier stage of the same run, and its digest once that stage is done."""

    stage: str
    output: str
    digest: str | None


@dataclass(frozen=True)
class Stage:
    """A node of the graph."""

    id: str
    """Readable and unique within a run: `prepare-documents`, `r2-train`."""
    kind: Kind
    round: int
    parameters: Parameters
    inputs: Mapping[str, Input]
    fingerprint: str | None
    """None until every input is known."""
    recipe: str
    """SHA-256 of what the stage is to do, all the way back to the sources: known before anything was done."""
    manifest: Manifest | None = None
    looked_up: bool = False
    """Whether the store was asked for the manifest."""
    tentative: bool = False
    """The gate, after an evaluation still to come, may decide against this stage or its inputs."""

    @property
    def done(self) -> bool:
        return self.manifest is not None

    @property
    def state(self) -> StageState:
        if self.done:
            return "Done"
        if self.tentative:
            return "Undecided"
        return "Ready" if self.fingerprint is not None else "Waiting"

    @property
    def ready(self) -> bool:
        """Every input is there, the manifest is not, and no gate is in between."""
        return self.fingerprint is not None and self.looked_up and not self.done and not self.tentative


@dataclass(frozen=True)
class Graph:
    """All stages that a run consists of as things stand, in the order in which one worker would do them."""

    stages: tuple[Stage, ...]
    verdict: Verdict
    """The gate's verdict after the last evaluation that is done, counted without gaps from the baseline."""
    outcome: Outcome | None
    """Why there are no more rounds; None while an evaluation may still decide."""

    def stage(self, id_: str) -> Stage | None:
        return next((stage for stage in self.stages if stage.id == id_), None)

    @property
    def unknown(self) -> tuple[str, ...]:
        """Fingerprints that the store has to be asked about before the graph can be unfolded further."""
        return tuple(s.fingerprint for s in self.stages if s.fingerprint is not None and not s.looked_up)

    @property
    def complete(self) -> bool:
        return self.outcome is not None and all(stage.done for stage in self.stages)


@dataclass
class _Unfolding:
    manifests: Manifests
    stages: dict[str, Stage] = field(default_factory=dict)
    tentative: bool = False

    def add(
        self, id_: str, kind: Kind, round_: int, parameters: Parameters, inputs: Mapping[str, tuple[Stage, str]]
    ) -> Stage:
        resolved = {
            name: Input(source.id, output, _digest(source, output)) for name, (source, output) in inputs.items()
        }
        digests = {name: i.digest for name, i in resolved.items() if i.digest is not None}
        name = fingerprint(kind, parameters, digests) if len(digests) == len(resolved) else None
        made_from = {name: [source.recipe, output] for name, (source, output) in inputs.items()}
        stage = Stage(
            id=id_,
            kind=kind,
            round=round_,
            parameters=parameters,
            inputs=resolved,
            fingerprint=name,
            recipe=sha256(canonical_json([kind.value, SEMANTICS[kind], dict(parameters), made_from])),
            manifest=self.manifests.get(name) if name else None,
            looked_up=name in self.manifests,
            tentative=self.tentative,
        )
        self.stages[id_] = stage
        return stage


def _digest(stage: Stage, output: str) -> str | None:
    if stage.manifest is None:
        return None
    return stage.manifest.outputs[output].digest


def unfold(spec: EvolutionRunSpec, manifests: Manifests, *, last_round: int | None = None) -> Graph:
    """The graph of `spec`, given what is known of the store.

    `last_round` ends the run early (a spent budget): rounds after it are left out.
    """
    graph = _Unfolding(manifests)
    rounds = spec.rounds if last_round is None else min(spec.rounds, last_round)
    model, adapter, documents, items = _prepare(graph, spec)
    base: dict[str, tuple[Stage, str]] = {"model": (model, "model")}
    adapters: dict[int, Stage | None] = {0: adapter}
    evaluation = _evaluate(graph, spec, 0, base | _adapter_input(adapter), items, None)
    verdict, seen_all = Verdict(), True
    if evaluation.manifest is not None:
        verdict = after_round(spec.gate, verdict, 0, evaluation.manifest.scores[spec.gate_metric])
    else:
        seen_all = False
    graph.tentative = not seen_all and decides(spec.gate)

    pairs: list[Stage] = []
    scores: list[Stage] = []
    parent = 0
    outcome: Outcome | None = "MaxRounds" if last_round is None or last_round >= spec.rounds else "Budget"
    for round_ in range(1, rounds + 1):
        start = adapters[parent]
        writer = start if spec.generation.writer == "Adapter" else None
        generate = graph.add(
            f"r{round_}-generate",
            Kind.GENERATE,
            round_,
            _generate_parameters(spec, round_),
            base | {"documents": (documents, "documents")} | _adapter_input(writer) | _known_inputs(spec, start, pairs),
        )
        train = graph.add(
            f"r{round_}-train",
            Kind.TRAIN,
            round_,
            _train_parameters(spec, round_, has_history=bool(pairs) and spec.selection.strategy != "None"),
            base
            | {"pairs": (generate, "pairs")}
            | _history_inputs(spec, pairs, scores)
            | _adapter_input(start if spec.training.init_from == "Previous" else adapter),
        )
        adapters[round_] = train
        evaluation = _evaluate(graph, spec, round_, base | _adapter_input(train), items, generate)
        pairs.append(generate)
        if spec.selection.strategy in STRATEGIES_BY_SCORE and round_ < rounds:
            score = graph.add(
                f"r{round_}-score", Kind.SCORE, round_, _score_parameters(spec), base | {"pairs": (generate, "pairs")}
            )
            scores.append(score)

        parent = round_
        if seen_all and evaluation.manifest is not None:
            verdict = after_round(spec.gate, verdict, round_, evaluation.manifest.scores[spec.gate_metric])
            parent = verdict.parent
            if verdict.stop and round_ < rounds:
                outcome = verdict.stop
                break
        else:
            seen_all = False
            graph.tentative = decides(spec.gate)

    if not seen_all:
        outcome = outcome if not decides(spec.gate) else None
    elif spec.publish:
        chosen = adapters[verdict.best if spec.publish.select == "Best" else len(adapters) - 1]
        if chosen is not None:
            parameters = {"uri": spec.publish.uri, "model": spec.model.uri}
            graph.add("publish", Kind.PUBLISH, len(adapters) - 1, parameters, _adapter_input(chosen))
    return Graph(tuple(_without_unused_scores(graph.stages).values()), verdict, outcome)


def _without_unused_scores(stages: dict[str, Stage]) -> dict[str, Stage]:
    """Stages whose output nobody needs are not run: scores of a round after which the gate stopped."""
    used = {i.stage for stage in stages.values() for i in stage.inputs.values()}
    return {id_: s for id_, s in stages.items() if s.kind is not Kind.SCORE or id_ in used}


def _prepare(graph: _Unfolding, spec: EvolutionRunSpec) -> tuple[Stage, Stage | None, Stage, Stage]:
    model = graph.add(
        "prepare-model",
        Kind.PREPARE,
        0,
        {"source": "Model", "uri": spec.model.uri, "revision": spec.model.revision},
        {},
    )
    adapter = None
    if spec.model.adapter_uri:
        parameters: Parameters = {"source": "Adapter", "uri": spec.model.adapter_uri, "revision": spec.model.revision}
        adapter = graph.add("prepare-adapter", Kind.PREPARE, 0, parameters, {"model": (model, "model")})
    documents = graph.add(
        "prepare-documents",
        Kind.PREPARE,
        0,
        {
            "source": "Documents",
            "uri": spec.documents.uri,
            "revision": spec.documents.revision,
            "field": spec.documents.field,
            "maxTokens": spec.documents.max_tokens,
            "onInvalid": spec.documents.on_invalid,
            "rules": spec.preset,
        },
        {"model": (model, "model")},
    )
    items = graph.add(
        "prepare-evaluation",
        Kind.PREPARE,
        0,
        {"source": "Evaluation", "uri": spec.evaluation.uri, "revision": spec.evaluation.revision},
        {},
    )
    return model, adapter, documents, items


def _evaluate(
    graph: _Unfolding,
    spec: EvolutionRunSpec,
    round_: int,
    inputs: Mapping[str, tuple[Stage, str]],
    items: Stage,
    pairs: Stage | None,
) -> Stage:
    """Pairs are an input so that questions leaked into training are counted; the adapter depends on them anyway."""
    parameters: Parameters = {"metrics": [*sorted(spec.evaluation.metrics)], "maxTokens": spec.evaluation.max_tokens}
    leaked: Mapping[str, tuple[Stage, str]] = {"pairs": (pairs, "pairs")} if pairs else {}
    return graph.add(
        f"r{round_}-evaluate", Kind.EVALUATE, round_, parameters, {**inputs, "items": (items, "items"), **leaked}
    )


def _adapter_input(stage: Stage | None, name: str = "adapter") -> dict[str, tuple[Stage, str]]:
    return {name: (stage, "adapter")} if stage else {}


def _known_inputs(spec: EvolutionRunSpec, learner: Stage | None, pairs: list[Stage]) -> dict[str, tuple[Stage, str]]:
    """What the choice among candidates needs: which documents gave nothing new; to find what is novel, earlier pairs;
    to find what is unknown, who is asked without the document.
    """
    if spec.generation.focus == "Any":
        return {}
    inputs = {"rests": (pairs[-1], "rests")} if pairs else {}
    if spec.generation.focus == "Novel":
        return inputs | {f"pairs.{stage.round}": (stage, "pairs") for stage in pairs}
    return inputs | _adapter_input(learner, "learner")


def _history_inputs(spec: EvolutionRunSpec, pairs: list[Stage], scores: list[Stage]) -> dict[str, tuple[Stage, str]]:
    if spec.selection.strategy == "None":
        return {}
    history = {f"pairs.{stage.round}": (stage, "pairs") for stage in pairs}
    return history | {f"scores.{stage.round}": (stage, "scores") for stage in scores}


def _generate_parameters(spec: EvolutionRunSpec, round_: int) -> Parameters:
    generation = spec.generation
    return {
        "seed": spec.seed,
        "round": round_,
        "rules": spec.preset,
        "questionsPerDocument": generation.questions_per_document,
        "candidates": generation.candidates,
        "focus": generation.focus,
        **({"similarity": generation.similarity} if generation.focus != "Any" else {}),
        "temperature": generation.temperature,
        "answerTemperature": generation.answer_temperature,
        "topP": generation.top_p,
        "maxTokens": generation.max_tokens,
        "questionPrompt": generation.prompts.question,
        "answerPrompt": generation.prompts.answer,
    }


def _score_parameters(spec: EvolutionRunSpec) -> Parameters:
    return {"rules": spec.preset, "maxTokens": spec.training.max_tokens}


def _train_parameters(spec: EvolutionRunSpec, round_: int, *, has_history: bool) -> Parameters:
    training, selection = spec.training, spec.selection
    parameters: dict[str, JsonValue] = {
        "seed": spec.seed,
        "round": round_,
        "rules": spec.preset,
        "variant": training.variant,
        "quantization": training.quantization,
        "rank": training.rank,
        "alpha": training.alpha,
        "dropout": training.dropout,
        "targetModules": [*sorted(training.target_modules)],
        "layers": [*sorted(training.layers)],
        "learningRate": training.learning_rate,
        "warmupRatio": training.warmup_ratio,
        "batchSize": training.batch_size,
        "maxTokens": training.max_tokens,
        "length": {"steps": training.max_steps} if training.max_steps else {"epochs": training.epochs},
    }
    if has_history:
        by_score: Parameters = {"maxIFD": selection.max_ifd} if selection.strategy in STRATEGIES_BY_SCORE else {}
        parameters["selection"] = {"strategy": selection.strategy, "size": selection.size, **by_score}
    return parameters
