"""Derives from the code which stages run again when a field of the spec is edited; prints the table of the docs.

python tests/invalidation.py
"""

from collections.abc import Iterator, Mapping
from typing import Any, get_args

from pydantic import BaseModel
from simulated import World, make_run, merged

from evolution.api.run import EvolutionRunSpec
from evolution.plan.graph import Graph, Stage
from evolution.plan.stage import Kind

ROUNDS = 3
BEFORE: Mapping[str, Any] = {
    "rounds": ROUNDS,
    "model": {"adapterURI": "s3://adapters/start"},
    "evaluation": {"metrics": ["ROUGEL", "BLEU"]},
    "generation": {"focus": "Novel"},
    "selection": {"strategy": "Hard"},
    "gate": {"patience": 0},
    "budget": {"gpuHours": 40},
    "publish": {"uri": "s3://adapters/out"},
}
"""A run that uses every stage, so that every field can matter."""

EDITS: Mapping[str, Any] = {
    "runtimeRef.kind": "EvolutionRuntime",
    "runtimeRef.name": "large",
    "preset": "Reference",
    "suspend": True,
    "seed": 8,
    "rounds": ROUNDS + 1,
    "model.uri": "s3://models/other",
    "model.adapterURI": "s3://adapters/other",
    "model.revision": "2",
    "documents.uri": "s3://corpora/other",
    "documents.revision": "2",
    "documents.field": "body",
    "documents.maxTokens": 512,
    "documents.onInvalid": "Skip",
    "evaluation.uri": "s3://corpora/other.jsonl",
    "evaluation.revision": "2",
    "evaluation.metrics": ["ROUGEL", "BLEU", "ExactMatch"],
    "evaluation.primary": "BLEU",
    "evaluation.maxTokens": 64,
    "generation.writer": "Base",
    "generation.questionsPerDocument": 2,
    "generation.candidates": 4,
    "generation.focus": "Any",
    "generation.similarity": 0.6,
    "generation.temperature": 1.0,
    "generation.answerTemperature": 0.2,
    "generation.topP": 0.9,
    "generation.maxTokens": 256,
    "generation.prompts.question": "{document}\nAsk.",
    "generation.prompts.answer": "{document}\n{question}\nAnswer.",
    "selection.strategy": "All",
    "selection.size": 100,
    "selection.maxIFD": 0.9,
    "training.variant": "RSLoRA",
    "training.quantization": "NF4",
    "training.rank": 32,
    "training.alpha": 64,
    "training.dropout": 0.1,
    "training.targetModules": ["q_proj"],
    "training.layers": [1],
    "training.learningRate": 2e-4,
    "training.warmupRatio": 0.2,
    "training.epochs": 2,
    "training.maxSteps": 50,
    "training.batchSize": 8,
    "training.maxTokens": 512,
    "training.initFrom": "Base",
    "training.reporters": ["TensorBoard"],
    "gate.metric": "BLEU",
    "gate.minDelta": 0.01,
    "gate.patience": 5,
    "gate.onRegression": "Rollback",
    "budget.gpuHours": 80,
    "budget.onExceeded": "Stop",
    "publish.uri": "s3://adapters/elsewhere",
    "publish.select": "Last",
}
"""Another valid value for every field. The scores of the simulated run rise: no edit of the gate changes its course."""


def fields(model: type[BaseModel] = EvolutionRunSpec, below: str = "") -> Iterator[str]:
    """Path of every field of the spec that holds a value."""
    for name, info in model.model_fields.items():
        path = f"{below}{info.alias or name}"
        inner = inner_model(info.annotation)
        if inner is None:
            yield path
        else:
            yield from fields(inner, f"{path}.")


def inner_model(annotation: Any) -> type[BaseModel] | None:
    """The model that a field holds, also optionally; None for plain values."""
    candidates = (annotation, *get_args(annotation))
    return next((t for t in candidates if isinstance(t, type) and issubclass(t, BaseModel)), None)


def edited(path: str) -> dict[str, Any]:
    """`BEFORE` with the edit of the field at `path`."""
    edit: Any = EDITS[path]
    for part in reversed(path.split(".")):
        edit = {part: edit}
    return merged(BEFORE, edit)


def rerun_by(path: str) -> str:
    """What runs again when the field is edited in a finished run, for people."""
    world = World()
    world.run_to_the_end(make_run(BEFORE))
    after = make_run(edited(path))
    again = world.run_to_the_end(after)
    return describe(again, world.graph(after))


def describe(stages: list[Stage], graph: Graph) -> str:
    parts = []
    prepared = [str(s.parameters["source"]).lower() for s in stages if s.kind is Kind.PREPARE]
    if prepared:
        parts.append(f"Prepare ({', '.join(prepared)})")
    for kind in (Kind.GENERATE, Kind.SCORE, Kind.TRAIN, Kind.EVALUATE, Kind.PUBLISH):
        again = {s.round for s in stages if s.kind is kind}
        possible = {s.round for s in graph.stages if s.kind is kind}
        if not again:
            continue
        if again == possible:
            parts.append(kind.value)
        elif again == set(range(min(again), max(possible) + 1)):
            parts.append(f"{kind.value} from round {min(again)}")
        else:
            parts.append(f"{kind.value} of round {', '.join(map(str, sorted(again)))}")
    return ", ".join(parts) or "nothing"


def table() -> str:
    """The table of the docs, in Markdown; a run of three rounds stands for all."""
    rows = [f"| `{path}` | {rerun_by(path)} |" for path in fields()]
    return "\n".join(["| field of `spec` | runs again |", "|---|---|", *rows])


if __name__ == "__main__":
    print(table())  # noqa: T201
