"""Gathering what a report shows, from a run's graph, its manifests and the rows in its store."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import yaml
from pydantic import JsonValue

from evolution.api.run import EvolutionRun
from evolution.api.status import EvolutionRunStatus
from evolution.plan.gate import Verdict, after_round
from evolution.plan.graph import Graph, Stage
from evolution.plan.manifest import Manifest
from evolution.plan.stage import Kind
from evolution.quality import quality
from evolution.report.figures import (
    Document,
    Figures,
    Interval,
    Item,
    Left,
    LossCurve,
    LossPoint,
    Pair,
    Pairs,
    Predictions,
    Read,
    Round,
    Shown,
    StageLine,
)
from evolution.report.gain import price, round_gains, whole_gain
from evolution.report.headline import explanation, headline
from evolution.report.partition import Partition
from evolution.store.artifacts import ArtifactDamaged, Artifacts

ROWS_PER_ROUND = 2000
"""Most pairs, rejects and predictions of one round on the page."""
ROWS = 20_000
"""Most pairs, rejects and predictions on the page; each round gets an equal share."""
DOCUMENT_CHARACTERS = 4000
"""Longer documents are cut on the page."""
LOSS_POINTS = 600
"""Points of all loss curves together."""
FEWEST_LOSS_POINTS = 8
RIGHT: Mapping[str, float] = {"ExactMatch": 1.0}
"""Score from which a prediction counts as right; 0.5 for other metrics."""

Row = dict[str, Any]


def gather(
    run: EvolutionRun,
    graph: Graph,
    artifacts: Artifacts,
    status: EvolutionRunStatus,
    time: Partition | None = None,
    gpu_price: float | None = None,
) -> Figures:
    """The figures of `run`, whatever its state; `gpu_price` is that of a GPU-hour.

    Artifacts that are missing or damaged leave a notice in `Figures.notices`.

    Raises:
        StoreError: the store cannot be read.
    """
    spec = run.spec
    primary = spec.evaluation.primary_metric
    metrics = (primary, *(metric for metric in spec.evaluation.metrics if metric != primary))
    store = _Store(artifacts)
    rounds = tuple(_rounds(run, graph))
    means = {record.round: record.scores[primary].mean for record in rounds if primary in record.scores}
    best = graph.verdict.best if graph.verdict.best_score is not None else None
    prepared = graph.stage("prepare-documents")
    counted = prepared.manifest.metrics if prepared and prepared.manifest else {}
    return Figures(
        name=run.metadata.name,
        namespace=run.metadata.namespace,
        state=status.state,
        headline=headline(primary, means, best, spec.rounds, status.state),
        explanation=explanation(status, graph),
        metrics=metrics,
        best=best,
        rounds_wanted=spec.rounds,
        rounds=rounds,
        losses=_losses(graph, store),
        pairs=_pairs(graph, store),
        predictions=_predictions(graph, store, primary),
        documents={name: value for name, value in counted.items() if isinstance(value, int)},
        document_rejects=_counts(counted.get("rejects")),
        stages=tuple(_line(stage) for stage in graph.stages),
        warnings=tuple((s.id, warning) for s in graph.stages if s.manifest for warning in s.manifest.warnings),
        versions=_versions(graph),
        time=time,
        gains=round_gains(time, means, gpu_price) if time else (),
        gain_per_hour=whole_gain(time, means, best) if time else None,
        gpu_price=gpu_price,
        price=price(time, gpu_price) if time else None,
        settings=yaml.safe_dump(
            run.model_dump(by_alias=True, mode="json"), sort_keys=False, allow_unicode=True, width=100
        ),
        notices={section: tuple(messages) for section, messages in store.notices.items()},
    )


@dataclass
class _Store:
    """Rows of artifacts; what cannot be read is noted under the section that wanted it."""

    artifacts: Artifacts
    notices: dict[str, list[str]] = field(default_factory=dict)

    def rows(self, section: str, stage: Stage | None, output: str) -> Iterator[Row]:
        """The rows of a stage's output, as they are read; none if the stage is not done."""
        if stage is None or stage.manifest is None or output not in stage.manifest.outputs:
            return
        digest = stage.manifest.outputs[output].digest
        try:
            with self.artifacts.fetch(digest).open("rb") as file:
                for line in file:
                    yield json.loads(line)
        except ArtifactDamaged as damage:
            self._note(section, f"{output} of {stage.id}: {damage}. `evolve retry` makes it again.")
        except ValueError as error:
            self._note(section, f"{output} of {stage.id} (blob {digest}) is not JSON Lines: {error}")

    def _note(self, section: str, message: str) -> None:
        self.notices.setdefault(section, []).append(message)


def _done(graph: Graph, kind: Kind) -> dict[int, tuple[Stage, Manifest]]:
    return {s.round: (s, s.manifest) for s in graph.stages if s.kind is kind and s.manifest is not None}


def _share(rounds: int) -> int:
    return max(1, min(ROWS_PER_ROUND, ROWS // max(1, rounds)))


def _rounds(run: EvolutionRun, graph: Graph) -> Iterator[Round]:
    done: dict[int, dict[Kind, Manifest]] = {}
    seconds: dict[int, dict[Kind, float]] = {}
    for stage in graph.stages:
        if stage.manifest is not None and stage.kind is not Kind.PUBLISH:
            done.setdefault(stage.round, {})[stage.kind] = stage.manifest
            spent = seconds.setdefault(stage.round, {})
            spent[stage.kind] = spent.get(stage.kind, 0.0) + stage.manifest.timings.total
    gate = _gate(run, {round_: stages[Kind.EVALUATE] for round_, stages in done.items() if Kind.EVALUATE in stages})
    for round_, stages in sorted(done.items()):
        train = stages[Kind.TRAIN].metrics if Kind.TRAIN in stages else {}
        yield Round(
            round=round_,
            quality=quality(round_, stages.values()),
            first_loss=_number(train.get("firstLoss")),
            steps=_whole(train.get("steps")),
            history=_whole(train.get("history")),
            scores=_scores(stages.get(Kind.EVALUATE)),
            seconds=seconds[round_],
            gate=gate.get(round_, ""),
        )


def _gate(run: EvolutionRun, evaluations: Mapping[int, Manifest]) -> dict[int, str]:
    """What the gate made of each round, as far as rounds are evaluated without a gap."""
    gate = run.spec.gate
    said: dict[int, str] = {}
    verdict = Verdict()
    for round_ in range(run.spec.rounds + 1):
        score = evaluations[round_].scores.get(run.spec.gate_metric) if round_ in evaluations else None
        if score is None:
            break
        before, verdict = verdict, after_round(gate, verdict, round_, score)
        if verdict.best == round_:
            said[round_] = "best so far" if round_ else "baseline"
            continue
        idle = f" ({verdict.rounds_without_gain} of {gate.patience})" if gate.patience else ""
        better = before.best_score is not None and score > before.best_score
        said[round_] = f"{'gain too small' if better else 'no gain'}{idle}"
        if verdict.stop and round_ < run.spec.rounds:
            said[round_] += f"; {verdict.stop.lower()}, stop"
            break
        if verdict.parent != round_:
            said[round_] += f"; back to round {verdict.parent}"
    return said


def _losses(graph: Graph, store: _Store) -> tuple[LossCurve, ...]:
    done = _done(graph, Kind.TRAIN)
    most = max(FEWEST_LOSS_POINTS, LOSS_POINTS // max(1, len(done)))
    curves = []
    for round_, (stage, manifest) in done.items():
        steps = manifest.outputs["log"].count
        per_point = max(1, -(-steps // most))
        rows = store.rows("losses", stage, "log")
        points = []
        while bucket := list(islice(rows, per_point)):
            step = sum(row["step"] for row in bucket) / len(bucket)
            points.append(LossPoint(step, sum(row["loss"] for row in bucket) / len(bucket)))
        if points:
            curves.append(LossCurve(round_, steps, tuple(points)))
    return tuple(curves)


def _pairs(graph: Graph, store: _Store) -> Pairs:
    done = _done(graph, Kind.GENERATE)
    scorers = _done(graph, Kind.SCORE)
    most = _share(len(done))
    rows: list[Pair] = []
    kept = rejected = 0
    for round_, (stage, _) in done.items():
        pairs = list(islice(store.rows("pairs", stage, "pairs"), most))
        scorer = scorers[round_][0] if round_ in scorers else None
        ids = {pair["id"] for pair in pairs}
        scores = {row["id"]: row for row in store.rows("pairs", scorer, "scores") if row["id"] in ids}
        for pair in pairs:
            score = scores.get(pair["id"], {})
            rows.append(
                Pair(
                    round_,
                    pair["document"],
                    pair["question"],
                    pair["answer"],
                    ifd=score.get("ifd"),
                    ifd_missing=score.get("reason") or "",
                )
            )
        kept += len(pairs)
        for reject in islice(store.rows("pairs", stage, "rejects"), most):
            rejected += 1
            rows.append(Pair(round_, reject["document"], reject["question"], reject["answer"], reject=reject["reason"]))
    wanted = {pair.document for pair in rows}
    documents = {
        row["id"]: Document(row["text"][:DOCUMENT_CHARACTERS], len(row["text"]) > DOCUMENT_CHARACTERS)
        for row in store.rows("pairs", graph.stage("prepare-documents"), "documents")
        if row["id"] in wanted
    }
    totals = {name: sum(m.outputs[name].count for _, m in done.values()) for name in ("pairs", "rejects")}
    return Pairs(tuple(rows), documents, Shown(kept, totals["pairs"]), Shown(rejected, totals["rejects"]))


def _predictions(graph: Graph, store: _Store, primary: str) -> Predictions:
    done = _done(graph, Kind.EVALUATE)
    most = _share(len(done))
    asked: dict[str, tuple[str, str]] = {}
    said: dict[str, dict[int, tuple[str, float]]] = {}
    for round_, (stage, _) in done.items():
        for row in islice(store.rows("predictions", stage, "predictions"), most):
            asked.setdefault(row["id"], (row["question"], row["answer"]))
            said.setdefault(row["id"], {})[round_] = (row["prediction"], float(row["scores"].get(primary, 0.0)))
    rounds = sorted({round_ for predictions in said.values() for round_ in predictions})
    items = tuple(Item(question, answer, said[id_]) for id_, (question, answer) in asked.items())
    total = max((manifest.outputs["predictions"].count for _, manifest in done.values()), default=0)
    return Predictions(tuple(rounds), items, total, RIGHT.get(primary, 0.5))


def _line(stage: Stage) -> StageLine:
    manifest = stage.manifest
    timings = manifest.timings if manifest else None
    return StageLine(
        id=stage.id,
        kind=stage.kind,
        round=stage.round,
        state=stage.state,
        fingerprint=stage.fingerprint,
        reads=tuple(Read(name, i.stage, i.output, i.digest) for name, i in stage.inputs.items()),
        leaves=tuple(Left(name, a.digest, a.size, a.count, a.form) for name, a in manifest.outputs.items())
        if manifest
        else (),
        started_at=timings.started_at if timings else "",
        total=timings.total if timings else 0.0,
        load=timings.load if timings else 0.0,
        work=timings.work if timings else 0.0,
        io=timings.io if timings else 0.0,
        gpus=timings.gpus if timings else 0,
        attempt=manifest.attempt if manifest else 0,
    )


def _versions(graph: Graph) -> dict[str, tuple[str, ...]]:
    found: dict[str, dict[str, None]] = {}
    for stage in graph.stages:
        for name, version in (stage.manifest.versions if stage.manifest else {}).items():
            found.setdefault(name, {})[version] = None
    return {name: tuple(versions) for name, versions in sorted(found.items())}


def _scores(evaluation: Manifest | None) -> dict[str, Interval]:
    scores = evaluation.metrics.get("scores") if evaluation else None
    if not isinstance(scores, dict):
        return {}
    return {metric: found for metric, entry in scores.items() if (found := _interval(entry)) is not None}


def _interval(entry: JsonValue) -> Interval | None:
    if not isinstance(entry, dict):
        return None
    mean, low, high, n = (_number(entry.get(name)) for name in ("mean", "low", "high", "n"))
    if mean is None or low is None or high is None or n is None:
        return None
    return Interval(mean, low, high, int(n))


def _counts(value: JsonValue) -> dict[str, int]:
    return {key: n for key, n in value.items() if isinstance(n, int)} if isinstance(value, dict) else {}


def _number(value: JsonValue) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def _whole(value: JsonValue) -> int | None:
    return value if isinstance(value, int) else None
