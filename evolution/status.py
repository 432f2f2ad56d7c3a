"""The status of a run, derived from its graph: conditions, position, scores. Pure."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Literal

from evolution.api.run import EvolutionRun
from evolution.api.status import (
    BestRound,
    Condition,
    ConditionType,
    CurrentStage,
    EvolutionRunStatus,
    GpuSeconds,
    RoundRecord,
    RunProgress,
    Scores,
    State,
)
from evolution.observation import Active, Failure
from evolution.plan.graph import Graph, Stage
from evolution.plan.manifest import Manifest
from evolution.plan.stage import Kind

Situation = Literal["Running", "Suspended", "OverBudget", "Failed", "Complete"]
ROUNDS_IN_STATUS = 20


def build_status(
    run: EvolutionRun,
    graph: Graph,
    *,
    situation: Situation,
    failure: tuple[Stage, Failure] | None,
    active: Mapping[str, Active],
    waits: Mapping[str, str],
    previous: EvolutionRunStatus,
    generation: int,
    now: datetime,
    history_uri: str,
) -> EvolutionRunStatus:
    """The status of `run` in `situation`. `waits` says why a ready stage is not being worked on, by stage id."""
    verdict = graph.verdict
    best = graph.stage(f"r{verdict.best}-evaluate")
    conditions = _conditions(run, graph, situation, failure, active)
    baseline = graph.stage("r0-evaluate")
    records = _rounds(graph)
    return EvolutionRunStatus(
        observed_generation=generation,
        state=_state(situation, active, graph),
        conditions=tuple(_timed(conditions, previous, generation, now)),
        current=tuple(_current(graph, active, waits)),
        progress=_progress(graph, active),
        baseline=Scores(scores=_scores(baseline.manifest)) if baseline and baseline.manifest else None,
        best=_best(run, graph, best) if best and best.manifest else None,
        rounds=tuple(records[-ROUNDS_IN_STATUS:]),
        gpu_seconds=_gpu_seconds(graph),
        history_uri=history_uri,
    )


def _state(situation: Situation, active: Mapping[str, Active], graph: Graph) -> State:
    if situation in ("Suspended", "OverBudget"):
        return "Suspended"
    if situation == "Failed":
        return "Failed"
    if situation == "Complete":
        return "Complete"
    return "Running" if active or any(stage.done for stage in graph.stages) else "Pending"


def _conditions(
    run: EvolutionRun,
    graph: Graph,
    situation: Situation,
    failure: tuple[Stage, Failure] | None,
    active: Mapping[str, Active],
) -> list[tuple[ConditionType, bool, str, str]]:
    """(type, holds, reason, message) of every condition, in a fixed order."""
    failed = failure if situation == "Failed" else None
    failed_reason = failed[1].reason if failed else "NoFailure"
    failed_message = f"{failed[0].id}: {failed[1].message}" if failed else ""
    working = situation == "Running"
    stages = ", ".join(sorted(a.stage for a in active.values()))
    outcome = graph.outcome or "MaxRounds"
    budget = f"the budget of {run.spec.budget.gpu_hours:g} GPU-hours is used up" if run.spec.budget else ""
    halted = {"Suspended": ("UserRequested", "spec.suspend is true"), "OverBudget": ("BudgetExceeded", budget)}
    halt_reason, halt_message = halted.get(situation, ("NotSuspended", ""))
    complete = situation == "Complete"
    return [
        ("Accepted", True, "Valid", ""),
        ("Progressing", working, "StagesRunning" if active else "StagesReady" if working else situation, stages),
        ("Ready", complete, outcome if complete else situation, _outcome_message(graph) if complete else ""),
        ("Stalled", failed is not None, failed_reason, failed_message),
        ("Suspended", situation in halted, halt_reason, halt_message),
        (
            "BudgetExceeded",
            situation == "OverBudget" or graph.outcome == "Budget",
            "BudgetExceeded" if budget else "NoBudget",
            budget,
        ),
        ("Complete", complete, outcome if complete else "NotComplete", _outcome_message(graph) if complete else ""),
        ("Failed", failed is not None, failed_reason, failed_message),
    ]


def _outcome_message(graph: Graph) -> str:
    rounds = max((stage.round for stage in graph.stages if stage.kind is Kind.EVALUATE), default=0)
    best = f"best is round {graph.verdict.best}" if graph.verdict.best else "no round beat the baseline"
    why = {
        "MaxRounds": f"all {rounds} rounds are done",
        "Plateau": f"stopped after round {rounds}: {graph.verdict.rounds_without_gain} rounds without a better score",
        "Regression": f"stopped after round {rounds}: its score fell below the best",
        "Budget": f"stopped after round {rounds}: the budget is used up",
    }[graph.outcome or "MaxRounds"]
    return f"{why}; {best}"


def _timed(
    conditions: Iterable[tuple[ConditionType, bool, str, str]],
    previous: EvolutionRunStatus,
    generation: int,
    now: datetime,
) -> Iterable[Condition]:
    for type_, holds, reason, message in conditions:
        status: Literal["True", "False"] = "True" if holds else "False"
        before = previous.condition(type_)
        since = (
            before.last_transition_time if before and before.status == status else now.strftime("%Y-%m-%dT%H:%M:%SZ")
        )
        yield Condition(
            type=type_,
            status=status,
            reason=reason,
            message=message,
            last_transition_time=since,
            observed_generation=generation,
        )


def _current(graph: Graph, active: Mapping[str, Active], waits: Mapping[str, str]) -> Iterable[CurrentStage]:
    for stage in graph.stages:
        doing = active.get(stage.fingerprint or "")
        if doing and not stage.done:
            progress = doing.progress
            yield CurrentStage(
                round=stage.round,
                stage=stage.kind.value,
                job=doing.job,
                percent=int(100 * progress.done / progress.total) if progress and progress.total else 0,
                eta_seconds=int(progress.eta_seconds) if progress and progress.eta_seconds is not None else None,
            )
        elif stage.id in waits:
            yield CurrentStage(round=stage.round, stage=stage.kind.value, waiting_for=waits[stage.id])


def _progress(graph: Graph, active: Mapping[str, Active]) -> RunProgress:
    """Percent counts stages; the ETA takes every missing stage to last as long as its kind did so far."""
    completed = sum(1 for s in graph.stages if s.kind is Kind.EVALUATE and s.round > 0 and s.done)
    if graph.complete:
        return RunProgress(rounds_completed=completed, percent=100, eta_seconds=0)
    seconds = _mean_seconds_by_kind(graph)
    done, eta = 0.0, 0.0
    known = {Kind.PUBLISH, *seconds}
    for stage in graph.stages:
        doing = active.get(stage.fingerprint or "")
        progress = doing.progress if doing and not stage.done else None
        share = progress.done / progress.total if progress and progress.total else 0.0
        done += 1 if stage.done else share
        eta += 0 if stage.done else seconds.get(stage.kind, 0.0) * (1 - share)
    predictable = all(stage.done or stage.kind in known for stage in graph.stages)
    percent = min(99, int(100 * done / len(graph.stages)))
    return RunProgress(rounds_completed=completed, percent=percent, eta_seconds=int(eta) if predictable else None)


def _mean_seconds_by_kind(graph: Graph) -> dict[Kind, float]:
    by_kind: dict[Kind, list[float]] = {}
    for stage in graph.stages:
        if stage.manifest is not None:
            by_kind.setdefault(stage.kind, []).append(stage.manifest.timings.total)
    return {kind: sum(values) / len(values) for kind, values in by_kind.items()}


def _scores(manifest: Manifest | None) -> dict[str, str]:
    return {metric: f"{mean:.4f}" for metric, mean in sorted(manifest.scores.items())} if manifest else {}


def _best(run: EvolutionRun, graph: Graph, evaluation: Stage) -> BestRound:
    publish = graph.stage("publish")
    published = run.spec.publish.uri if run.spec.publish and publish and publish.done else ""
    return BestRound(round=graph.verdict.best, adapter_uri=published, scores=_scores(evaluation.manifest))


def _rounds(graph: Graph) -> list[RoundRecord]:
    rounds = sorted(
        {stage.round for stage in graph.stages if stage.round > 0 and stage.done and stage.kind is not Kind.PUBLISH}
    )
    return [_round(graph, round_) for round_ in rounds]


def _round(graph: Graph, round_: int) -> RoundRecord:
    done = {
        s.kind: s.manifest
        for s in graph.stages
        if s.round == round_ and s.manifest is not None and s.kind is not Kind.PUBLISH
    }
    generate, train = done.get(Kind.GENERATE), done.get(Kind.TRAIN)
    loss = train.metrics.get("loss") if train else None
    return RoundRecord(
        round=round_,
        pairs=generate.outputs["pairs"].count if generate else None,
        rejects=generate.outputs["rejects"].count if generate else None,
        loss=f"{loss:.4f}" if isinstance(loss, int | float) else None,
        scores=_scores(done.get(Kind.EVALUATE)),
        seconds=round(sum(manifest.timings.total for manifest in done.values())),
        stages={kind.value: manifest.fingerprint[:8] for kind, manifest in done.items()},
    )


def _gpu_seconds(graph: Graph) -> GpuSeconds:
    timings = [stage.manifest.timings for stage in graph.stages if stage.manifest is not None]
    productive = sum(t.work * t.gpus for t in timings)
    return GpuSeconds(productive=round(productive), overhead=round(sum(t.total * t.gpus for t in timings) - productive))
