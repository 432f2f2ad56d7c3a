"""A store and workers in memory: stages "run" by inventing outputs whose digests follow from the fingerprint.

Deterministic stages are what the product rests on, so equal fingerprints give equal outputs here as they do for real.
"""

from collections.abc import Callable, Mapping
from typing import Any

from evolution.api.load import parse_run
from evolution.api.run import EvolutionRun
from evolution.plan.graph import Graph, Stage, unfold
from evolution.plan.manifest import Artifact, Manifest, Timings
from evolution.plan.stage import SEMANTICS, Kind, canonical_json, sha256

OUTPUTS: Mapping[Kind, tuple[str, ...]] = {
    Kind.GENERATE: ("pairs", "rejects", "rests"),
    Kind.SCORE: ("scores",),
    Kind.TRAIN: ("adapter", "log", "selection", "card"),
    Kind.EVALUATE: ("predictions",),
    Kind.PUBLISH: ("published",),
}
PREPARED = {
    "Model": ("model",),
    "Adapter": ("adapter",),
    "Documents": ("documents", "sources"),
    "Evaluation": ("items",),
}

MINIMAL: dict[str, Any] = {
    "rounds": 3,
    "model": {"uri": "s3://models/base"},
    "documents": {"uri": "s3://corpora/manuals"},
    "evaluation": {"uri": "s3://corpora/held-out.jsonl"},
}

Score = Callable[[int], float]


def make_run(spec: Mapping[str, Any] | None = None, *, name: str = "demo") -> EvolutionRun:
    """A valid run: the minimal spec with `spec` over it, field by field."""
    document = {
        "apiVersion": "selfevolution.io/v1alpha1",
        "kind": "EvolutionRun",
        "metadata": {"name": name},
        "spec": merged(MINIMAL, spec or {}),
    }
    return parse_run(canonical_json(document).decode())


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(below)
    for key, value in above.items():
        both = isinstance(value, Mapping) and isinstance(result.get(key), Mapping)
        result[key] = merged(result[key], value) if both else value
    return result


def rising(round_: int) -> float:
    return 0.1 * round_


def finish(stage: Stage, score: Score = rising) -> Manifest:
    """The manifest that a worker would commit for `stage`."""
    assert stage.fingerprint is not None
    source = stage.parameters.get("source")
    names = PREPARED[str(source)] if stage.kind is Kind.PREPARE else OUTPUTS[stage.kind]
    outputs = {
        name: Artifact(digest=sha256(f"{stage.fingerprint}/{name}".encode()), size=10, count=3) for name in names
    }
    metrics: dict[str, Any] = {}
    if stage.kind is Kind.EVALUATE:
        mean = score(stage.round)
        wanted = stage.parameters["metrics"]
        assert isinstance(wanted, list)
        metrics["scores"] = {metric: {"mean": mean, "low": mean, "high": mean, "n": 5} for metric in wanted}
    elif stage.kind is Kind.TRAIN:
        metrics["loss"] = 1.0 / (1 + stage.round)
    return Manifest(
        fingerprint=stage.fingerprint,
        kind=stage.kind,
        semantics=SEMANTICS[stage.kind],
        round=stage.round,
        parameters=dict(stage.parameters),
        inputs={name: i.digest or "" for name, i in stage.inputs.items()},
        outputs=outputs,
        metrics=metrics,
        timings=Timings(total=10.0, work=8.0, load=1.0, io=1.0, gpus=1),
    )


class World:
    """Manifests that exist, and how often each stage was run."""

    def __init__(self, score: Score = rising) -> None:
        self.manifests: dict[str, Manifest] = {}
        self.score = score

    def known(self, run: EvolutionRun) -> dict[str, Manifest | None]:
        """What looking up every fingerprint of the run's graph gives."""
        known: dict[str, Manifest | None] = {}
        while unknown := unfold(run.spec, known).unknown:
            known |= {fingerprint: self.manifests.get(fingerprint) for fingerprint in unknown}
        return known

    def graph(self, run: EvolutionRun) -> Graph:
        return unfold(run.spec, self.known(run))

    def run_to_the_end(self, run: EvolutionRun) -> list[Stage]:
        """Do every stage that the run asks for; the stages that had to be done, in order."""
        done: list[Stage] = []
        while ready := [stage for stage in self.graph(run).stages if stage.ready]:
            for stage in ready:
                assert stage.fingerprint is not None
                assert stage.fingerprint not in self.manifests
                self.manifests[stage.fingerprint] = finish(stage, self.score)
                done.append(stage)
        return done
