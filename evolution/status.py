"""The status of a run, derived from its graph: conditions, position, scores. Pure."""

from collections.abc import Iterable, Mapping
from typing import Literal

from evolution.api.run import EvolutionRun
from evolution.api.status import (
    BestRound,
    Condition,
    ConditionType,
    CurrentStage,
    EvolutionRunStatus,
    GpuSeconds,
    RoundQuality,
    RoundRecord,
    RunProgress,
    Scores,
    State,
    transition_time,
)
from evolution.attempt import CLASSES
from evolution.observation import Active, Failure, Observation, Wait
from evolution.plan.graph import Graph, Stage
from evolution.plan.manifest import Manifest
from evolution.plan.stage import Kind
from evolution.quality import Quality, quality

Situation = Literal["Running", "Suspended", "OverBudget", "Failed", "Complete"]
Claim = tuple[ConditionType, bool, str, str]
"""A condition as (type, holds, reason, message)."""
ROUNDS_IN_STATUS = 20
REASONS_IN_STATUS = 8


def build_status(
    run: EvolutionRun,
    graph: Graph,
    *,
    situation: Situation,
    failure: tuple[Stage, Failure] | None,
    active: Mapping[str, Active],
    waits: Mapping[str, Wait],
    seen: Observation,
) -> EvolutionRunStatus:
    """The status of `run` in `situation`.

    `active` says who does a stage, `waits` why a ready stage is not being done; both by stage id.
    """
    best = graph.stage(f"r{graph.verdict.best}-evaluate")
    hindrance = _hindrance(active, waits) if situation == "Running" else None
    state = _state(situation, active, graph, hindrance)
    conditions = _conditions(run, graph, situation, failure, active, hindrance)
    baseline = graph.stage("r0-evaluate")
    records = _rounds(graph, seen.ledger.held_in_round(seen.now))
    return EvolutionRunStatus(
        observed_generation=seen.generation,
        state=state,
        summary=_summary(state, conditions, hindrance),
        conditions=tuple(_timed(conditions, seen)),
        current=tuple(_current(graph, active, waits)),
        progress=_progress(graph, active),
        baseline=Scores(scores=_scores(baseline.manifest)) if baseline and baseline.manifest else None,
        best=_best(run, graph, best) if best and best.manifest else None,
        rounds=tuple(records[-ROUNDS_IN_STATUS:]),
        gpu_seconds=_gpu_seconds(seen),
        gpu_hours=f"{seen.ledger.allocated(seen.now) / 3_600_000:.2f}",
        history_uri=seen.history_uri,
        last_handled_retry_at=seen.retry_requested_at or seen.previous.last_handled_retry_at,
    )


def hindered_status(
    seen: Observation, hindrance: Wait, *, accepted: bool = True, refused: bool = False
) -> EvolutionRunStatus:
    """The previous status of a run about which nothing new can be found out, because of `hindrance`.

    `refused`: its spec is wrong, so that it has failed until the spec is mended.
    """
    blocked = hindrance.kind == "Blocked"
    claims: dict[ConditionType, Claim] = {
        c.type: (c.type, c.status == "True", c.reason, c.message) for c in seen.previous.conditions
    }
    reason, message = hindrance.reason, hindrance.message
    claims["Accepted"] = ("Accepted", accepted, "Valid" if accepted else reason, "" if accepted else message)
    claims["Progressing"] = ("Progressing", not blocked, reason, message)
    claims["Ready"] = ("Ready", False, reason, message)
    claims["Stalled"] = ("Stalled", blocked, reason if blocked else "NotStalled", message if blocked else "")
    claims["Complete"] = ("Complete", False, "NotComplete", "")
    claims["Failed"] = ("Failed", refused, reason if refused else "NoFailure", message if refused else "")
    state: State = "Failed" if refused else "Pending"
    if not blocked and seen.previous.state not in ("Complete", "Failed"):  # those ended, and something is asked anew
        state = seen.previous.state
    return seen.previous.model_copy(
        update={
            "observed_generation": seen.generation,
            "state": state,
            "summary": f"{state}: {reason}",
            "conditions": tuple(_timed(claims.values(), seen)),
            # Only a spec that has to be mended answers a request to try again; otherwise it is still to be done.
            "last_handled_retry_at": seen.retry_requested_at if refused else seen.previous.last_handled_retry_at,
        }
    )


def _hindrance(active: Mapping[str, Active], waits: Mapping[str, Wait]) -> Wait | None:
    """Why nothing goes on, if nothing does; what somebody has to mend comes before what mends itself."""
    if any(order.wait is None for order in active.values()):
        return None
    found = [*(order.wait for order in active.values() if order.wait), *waits.values()]
    order = {"Blocked": 0, "Retrying": 1, "Queued": 2}
    return min(found, key=lambda wait: order[wait.kind], default=None)


def _state(situation: Situation, active: Mapping[str, Active], graph: Graph, hindrance: Wait | None) -> State:
    match situation:
        case "Suspended" | "OverBudget":
            return "Suspended"
        case "Failed" | "Complete":
            return situation
        case "Running":
            if hindrance and hindrance.kind != "Retrying":
                return "Queued" if hindrance.kind == "Queued" else "Pending"
            return "Running" if active or any(stage.done for stage in graph.stages) else "Pending"


def _summary(state: State, conditions: Iterable[Claim], hindrance: Wait | None) -> str:
    if hindrance:
        return f"{state}: {hindrance.reason}"
    told = next(
        (reason for type_, holds, reason, _ in conditions if holds and type_ in ("Complete", "Failed", "Suspended")), ""
    )
    return f"{state}: {told}" if told else state


def _conditions(
    run: EvolutionRun,
    graph: Graph,
    situation: Situation,
    failure: tuple[Stage, Failure] | None,
    active: Mapping[str, Active],
    hindrance: Wait | None,
) -> list[Claim]:
    """Every condition, in a fixed order."""
    failed = failure if situation == "Failed" else None
    failed_reason = failed[1].reason if failed else "NoFailure"
    failed_message = f"{failed[0].id}: {failed[1].message}" if failed else ""
    blocked = hindrance if hindrance and hindrance.kind == "Blocked" else None
    working = situation == "Running" and blocked is None
    stages = ", ".join(sorted({order.stage for order in active.values()}))
    doing = ("StagesRunning" if active else "StagesReady" if working else situation, stages)
    outcome = graph.outcome or "MaxRounds"
    budget = f"the budget of {run.spec.budget.gpu_hours:g} GPU-hours is used up" if run.spec.budget else ""
    halted = {"Suspended": ("UserRequested", "spec.suspend is true"), "OverBudget": ("BudgetExceeded", budget)}
    halt = halted.get(situation, ("NotSuspended", ""))
    complete = situation == "Complete"
    not_complete = (hindrance.reason, hindrance.message) if hindrance else (failed_reason if failed else situation, "")
    stalled = (blocked.reason, blocked.message) if blocked else (failed_reason, failed_message)
    done = (outcome, _outcome_message(graph))
    return [
        ("Accepted", True, "Valid", ""),
        ("Progressing", working, *((hindrance.reason, hindrance.message) if hindrance else doing)),
        ("Ready", complete, *(done if complete else not_complete)),
        ("Stalled", failed is not None or blocked is not None, *stalled),
        ("Suspended", situation in halted, *halt),
        (
            "BudgetExceeded",
            situation == "OverBudget" or graph.outcome == "Budget",
            "BudgetExceeded" if budget else "NoBudget",
            budget,
        ),
        ("Complete", complete, *(done if complete else ("NotComplete", ""))),
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


def _timed(claims: Iterable[Claim], seen: Observation) -> Iterable[Condition]:
    for type_, holds, reason, message in claims:
        status: Literal["True", "False"] = "True" if holds else "False"
        yield Condition(
            type=type_,
            status=status,
            reason=reason,
            message=message,
            last_transition_time=transition_time(seen.previous.condition(type_), status, seen.now),
            observed_generation=seen.generation,
        )


def _current(graph: Graph, active: Mapping[str, Active], waits: Mapping[str, Wait]) -> Iterable[CurrentStage]:
    for stage in graph.stages:
        order = active.get(stage.id)
        if order and order.stage == stage.id:
            progress = order.progress
            yield CurrentStage(
                round=stage.round,
                stage=stage.kind.value,
                job=order.job,
                percent=int(100 * progress.done / progress.total) if progress and progress.total else 0,
                eta_seconds=int(progress.eta_seconds) if progress and progress.eta_seconds is not None else None,
                waiting_for=order.wait.message if order.wait else "",
            )
        elif stage.id in waits:
            yield CurrentStage(round=stage.round, stage=stage.kind.value, waiting_for=waits[stage.id].message)


def _progress(graph: Graph, active: Mapping[str, Active]) -> RunProgress:
    """Percent counts stages; the ETA takes every missing stage to last as long as its kind did so far."""
    completed = sum(1 for s in graph.stages if s.kind is Kind.EVALUATE and s.round > 0 and s.done)
    if graph.complete:
        return RunProgress(rounds_completed=completed, percent=100, eta_seconds=0)
    seconds = _mean_seconds_by_kind(graph)
    done, eta = 0.0, 0.0
    known = {Kind.PUBLISH, *seconds}
    for stage in graph.stages:
        doing = active.get(stage.id)
        progress = doing.progress if doing and doing.stage == stage.id and not stage.done else None
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
    scores = _scores(evaluation.manifest)
    return BestRound(round=graph.verdict.best, score=scores[run.spec.gate_metric], adapter_uri=published, scores=scores)


def _rounds(graph: Graph, held: Mapping[int, int]) -> list[RoundRecord]:
    rounds = sorted(
        {stage.round for stage in graph.stages if stage.round > 0 and stage.done and stage.kind is not Kind.PUBLISH}
    )
    return [_round(graph, round_, held.get(round_, 0)) for round_ in rounds]


def _round(graph: Graph, round_: int, held: int) -> RoundRecord:
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
        gpu_seconds=_seconds(held),
        quality=_quality(quality(round_, done.values())),
        stages={kind.value: manifest.fingerprint[:8] for kind, manifest in done.items()},
    )


def _quality(found: Quality) -> RoundQuality | None:
    frequent = sorted(found.rejects.items(), key=lambda item: (-item[1], item[0]))
    rejects = dict(frequent[:REASONS_IN_STATUS])
    if others := sum(count for _, count in frequent[REASONS_IN_STATUS:]):
        rejects["Other"] = rejects.get("Other", 0) + others
    told = RoundQuality(
        rejects=rejects,
        duplicates=_decimal(found.duplicates),
        coverage=_decimal(found.coverage),
        question_tokens=_decimal(found.question_tokens.get("0.5")),
        answer_tokens=_decimal(found.answer_tokens.get("0.5")),
        ifd=_decimal(found.ifd.get("0.5")),
        overlap=found.overlap,
    )
    return told if told != RoundQuality() else None


def _decimal(value: float | None) -> str | None:
    """As the conventions of the Kubernetes API want fractions."""
    return None if value is None else f"{value:.4f}".rstrip("0").rstrip(".")


def _gpu_seconds(seen: Observation) -> GpuSeconds:
    held = seen.ledger.by_class()
    overhead = sum(held[class_] for class_ in CLASSES if class_ not in ("productive", "wasted"))
    return GpuSeconds(
        productive=_seconds(held["productive"]),
        overhead=_seconds(overhead),
        wasted=_seconds(held["wasted"]),
        unsettled=_seconds(seen.ledger.unsettled(seen.now)),
        queued=_seconds(seen.ledger.queued(seen.now)),
    )


def _seconds(milliseconds: int) -> int:
    return round(milliseconds / 1000)
