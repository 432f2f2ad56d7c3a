"""What one run tells in metrics, from what is known of it. Pure."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from evolution.api.run import EvolutionRun
from evolution.api.status import EvolutionRunStatus
from evolution.attempt import CLASSES, RESULTS
from evolution.ledger import Ledger
from evolution.metrics import families as f
from evolution.metrics.families import Family
from evolution.plan.graph import Graph
from evolution.plan.stage import Kind
from evolution.plan.tally import Spending
from evolution.quality import Quality, quality

DIGEST_DIGITS = 12
SECONDS_PER_HOUR = 3600
_TOLD_ROUNDS = 2
"""What the newest round cannot tell yet, the one before it does."""

_DIRECTIONS: dict[Kind, tuple[str, ...]] = {
    Kind.GENERATE: ("prompt", "generated"),
    Kind.SCORE: ("prompt",),
    Kind.TRAIN: ("trained",),
    Kind.EVALUATE: ("prompt", "generated"),
}
_ROWS: dict[Kind, tuple[str, ...]] = {
    Kind.GENERATE: ("kept", "rejected"),
    Kind.SCORE: ("kept",),
    Kind.TRAIN: ("kept",),
    Kind.EVALUATE: ("kept",),
}


@dataclass(frozen=True)
class RunFigures:
    """A run at one moment. The figures of its ledger are shown as they are: it must have been written to the store."""

    run: EvolutionRun
    graph: Graph
    ledger: Ledger
    status: EvolutionRunStatus
    now: datetime
    progressed_at: datetime | None = None
    """When one of its workers last told of progress, or a stage of it began or ended."""
    gpu_class: str = ""
    queue: str = ""
    idle_seconds: float | None = None
    """Time without progress after which its workers are taken to hang; None where nobody looks."""
    without_gpus: frozenset[Kind] = frozenset()
    """Kinds of stages whose workers are given none: they tell of GPU-seconds only if they held some before."""


class Sample(NamedTuple):
    """One value of a metric of one run."""

    family: Family
    labels: tuple[str, ...]
    """Values of the labels that come after the namespace and the run."""
    value: float


def run_samples(figures: RunFigures) -> Iterator[Sample]:
    """All that a run tells, each metric's samples one after the other."""
    yield from _position(figures)
    yield from _gpu_seconds(figures)
    yield from stage_samples(figures)
    yield from _newest_rounds(figures)


def stage_samples(figures: RunFigures) -> Iterator[Sample]:
    """The counters of what stages took and gave, at 0 from the start for every kind that the run's graph has."""
    ledger = figures.ledger
    spent, results, output = ledger.gpu_milliseconds(), ledger.results(), ledger.output()
    planned = {stage.kind for stage in figures.graph.stages}
    kinds = [kind for kind in Kind if kind in planned or kind in spent or kind in results or kind in output]
    for kind in kinds:
        milliseconds = spent.get(kind, {})
        if kind in figures.without_gpus and not any(milliseconds.values()):
            continue
        for class_ in CLASSES:
            yield Sample(f.STAGE_GPU_SECONDS, (kind.value, class_), milliseconds.get(class_, 0) / 1000)
    for result in RESULTS:
        yield Sample(f.RUN_ATTEMPTS, (result,), sum(counts.get(result, 0) for counts in results.values()))
    for kind in kinds:
        came_out = output.get(kind, Spending())
        tokens = {
            "prompt": came_out.prompt_tokens,
            "generated": came_out.generated_tokens,
            "trained": came_out.trained_tokens,
        }
        for direction in _DIRECTIONS.get(kind, ()):
            yield Sample(f.STAGE_TOKENS, (kind.value, direction), tokens[direction])
    for kind in kinds:
        came_out = output.get(kind, Spending())
        rows = {"kept": came_out.kept, "rejected": came_out.rejected}
        for name in _ROWS.get(kind, ()):
            yield Sample(f.STAGE_SAMPLES, (kind.value, name), rows[name])
    for kind in kinds:
        yield Sample(f.ARTIFACT_BYTES, (kind.value,), output.get(kind, Spending()).bytes)


def _position(figures: RunFigures) -> Iterator[Sample]:
    run, graph = figures.run, figures.graph
    items = graph.stage("prepare-evaluation")
    digest = items.manifest.outputs["items"].digest if items and items.manifest else ""
    info = (run.spec.model.uri, figures.gpu_class, figures.queue, digest[:DIGEST_DIGITS])
    yield Sample(f.RUN_INFO, info, 1)
    for phase in f.PHASES:
        yield Sample(f.RUN_PHASE, (phase,), int(figures.status.state == phase))
    begun = (stage.round for stage in graph.stages if stage.done and stage.kind is not Kind.PUBLISH)
    yield Sample(f.RUN_ROUND, (), max((0, *begun, *(stage.round for stage in figures.status.current))))
    yield Sample(f.RUN_ROUNDS_PLANNED, (), run.spec.rounds)
    evaluated: list[str] = list(figures.ledger.evaluated.values())
    for outcome in f.OUTCOMES:
        yield Sample(f.RUN_ROUNDS, (outcome,), evaluated.count(outcome))
    yield Sample(f.RUN_ROUNDS_SINCE_PROMOTION, (), graph.verdict.rounds_without_gain)
    for kind, score in _scores(figures):
        yield Sample(f.RUN_SCORE, (kind,), score)
    if figures.progressed_at is not None:
        yield Sample(f.RUN_LAST_PROGRESS, (), round(figures.progressed_at.timestamp(), 3))
    if figures.idle_seconds is not None:
        yield Sample(f.RUN_STALL_THRESHOLD, (), figures.idle_seconds)


def _scores(figures: RunFigures) -> Iterator[tuple[str, float]]:
    metric, verdict = figures.run.spec.gate_metric, figures.graph.verdict
    scores = {
        stage.round: stage.manifest.scores[metric]
        for stage in figures.graph.stages
        if stage.kind is Kind.EVALUATE and stage.manifest is not None
    }
    if 0 in scores:
        yield "baseline", scores[0]
    if scores:
        yield "last", scores[max(scores)]
    if verdict.best_score is not None:
        yield "best", verdict.best_score


def _gpu_seconds(figures: RunFigures) -> Iterator[Sample]:
    ledger, budget = figures.ledger, figures.run.spec.budget
    if budget is not None:
        yield Sample(f.RUN_BUDGET, (), budget.gpu_hours * SECONDS_PER_HOUR)
    yield Sample(f.RUN_ALLOCATED, (), ledger.allocated(figures.now) / 1000)
    yield Sample(f.RUN_UNSETTLED, (), ledger.unsettled(figures.now) / 1000)
    yield Sample(f.RUN_QUEUED, (), ledger.queued(figures.now) / 1000)


def _newest_rounds(figures: RunFigures) -> Iterator[Sample]:
    """What the data of the newest round are like; of the round before it what the newest cannot tell yet."""
    graph = figures.graph
    done = [
        (s.round, s.kind, s.manifest) for s in graph.stages if s.manifest is not None and s.kind is not Kind.PUBLISH
    ]
    utilisation = [m.usage.mfu for _, kind, m in done if kind is Kind.TRAIN and m.usage.mfu is not None]
    if utilisation:
        yield Sample(f.TRAIN_MFU, (), utilisation[-1])
    newest = sorted({round_ for round_, _, _ in done if round_ > 0}, reverse=True)[:_TOLD_ROUNDS]
    told = [quality(round_, [manifest for number, _, manifest in done if number == round_]) for round_ in newest]
    yield from _quality(told)


def _quality(told: Iterable[Quality]) -> Iterator[Sample]:
    """Each figure of the first round in `told` that has it."""
    rounds = list(told)
    rejects = next((q.rejects for q in rounds if q.rejects), {})
    for reason, count in sorted(rejects.items()):
        yield Sample(f.ROUND_REJECTS, (reason,), count)
    single = (
        (f.ROUND_DUPLICATES, [q.duplicates for q in rounds]),
        (f.ROUND_COVERAGE, [q.coverage for q in rounds]),
        (f.ROUND_OVERLAP, [q.overlap for q in rounds]),
        (f.ROUND_TRAIN_LOSS, [q.loss for q in rounds]),
    )
    for family, values in single:
        value = next((value for value in values if value is not None), None)
        if value is not None:
            yield Sample(family, (), value)
    by_quantile = (
        (f.ROUND_QUESTION_TOKENS, [q.question_tokens for q in rounds]),
        (f.ROUND_ANSWER_TOKENS, [q.answer_tokens for q in rounds]),
        (f.ROUND_IFD, [q.ifd for q in rounds]),
    )
    for family, quantiles in by_quantile:
        for quantile, value in next(filter(None, quantiles), {}).items():
            yield Sample(family, (quantile,), value)
