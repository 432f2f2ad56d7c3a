"""A worker that takes no time: it commits stages of an order with invented outputs, as `simulated.finish` does."""

from collections.abc import Callable, Iterable

from simulated import OUTPUTS, PREPARED, rising

from evolution.plan.manifest import Artifact, Manifest, Timings
from evolution.plan.order import Order, OrderInput, OrderStage
from evolution.plan.stage import SEMANTICS, Kind, fingerprint, sha256
from evolution.plan.tally import Spending, Tally, spent_on_committed
from evolution.store.artifacts import Artifacts

Score = Callable[[int], float]


def commit_order(order: Order, artifacts: Artifacts, score: Score = rising) -> list[Manifest]:
    """Commit every stage of `order`, in order; what stands already is adopted."""
    done: dict[str, Manifest] = {}
    for stage in order.stages:
        inputs = {name: _digest(source, done) for name, source in stage.inputs.items()}
        done[stage.id], _ = artifacts.commit(invented_manifest(stage, inputs, score, order.run))
    return list(done.values())


def tally_of(worker: str, started_at: str, manifests: Iterable[Manifest]) -> Tally:
    """What a worker that committed these stages alone says at last."""
    tally = Tally(worker=worker, started_at=started_at)
    for manifest in manifests:
        tally = tally.adding(manifest.kind, spent_on_committed(manifest))
    return tally


def tally_of_unfinished(worker: str, started_at: str, stage: OrderStage, spent: Spending) -> Tally:
    """What a worker tells of itself that is at the first stage of its order."""
    inputs = {name: source.digest or "" for name, source in stage.inputs.items()}
    unfinished = fingerprint(stage.kind, stage.parameters, inputs)
    return Tally(worker=worker, started_at=started_at).adding(stage.kind, spent, unfinished)


def _digest(source: OrderInput, done: dict[str, Manifest]) -> str:
    return source.digest or done[source.stage or ""].outputs[source.output or ""].digest


def invented_manifest(stage: OrderStage, inputs: dict[str, str], score: Score, run: str) -> Manifest:
    """Of a stage of an order, done with inputs of these digests; `score` is of an evaluation, by round."""
    name = fingerprint(stage.kind, stage.parameters, inputs)
    made = PREPARED[str(stage.parameters["source"])] if stage.kind is Kind.PREPARE else OUTPUTS[stage.kind]
    metrics = {}
    if stage.kind is Kind.EVALUATE:
        mean = score(stage.round)
        wanted = stage.parameters["metrics"]
        assert isinstance(wanted, list)
        metrics["scores"] = {str(metric): {"mean": mean, "low": mean, "high": mean, "n": 5} for metric in wanted}
    return Manifest(
        fingerprint=name,
        kind=stage.kind,
        semantics=SEMANTICS[stage.kind],
        round=stage.round,
        parameters=stage.parameters,
        inputs=inputs,
        outputs={output: Artifact(digest=sha256(f"{name}/{output}".encode()), size=10, count=3) for output in made},
        metrics=metrics,
        timings=Timings(total=1.0, work=1.0, gpus=1),
        attempt=stage.attempt,
        run=run,
    )
