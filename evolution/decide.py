"""The decision: from what is known of a run to what to do next. Pure: no clock, no store, no cluster of its own.

`decide` is level-triggered: called again with the same observation it gives the same plan, and a plan that was carried
out only in part is simply made again. Laptop and operator share it; they differ in who carries the plan out.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Literal

from evolution.api.run import EvolutionRun
from evolution.api.status import EvolutionRunStatus
from evolution.observation import Active, Failure, Observation, Wait
from evolution.plan.dispatch import joint_recipe
from evolution.plan.graph import Graph, Manifests, Stage, unfold
from evolution.plan.stage import Kind
from evolution.plan.worker import ExitCode
from evolution.status import Situation, build_status

PERMANENT = frozenset({ExitCode.BAD_SPEC, ExitCode.BAD_INPUT, ExitCode.LIMIT})
FIRST_RETRY_SECONDS = 2.0
LONGEST_RETRY_SECONDS = 300.0
SHORTEST_PAUSE_SECONDS = 1.0


@dataclass(frozen=True)
class RunEvent:
    """Something worth telling once, as a Kubernetes Event or a line on the terminal."""

    type: Literal["Normal", "Warning"]
    reason: str
    message: str


@dataclass(frozen=True)
class Plan:
    lookups: tuple[str, ...] = ()
    """Fingerprints to look up in the store before the plan can say more; nothing else is decided meanwhile."""
    start: tuple[Stage, ...] = ()
    """Ready stages that nobody works on, the most urgent first."""
    stop: tuple[str, ...] = ()
    """Keys of active orders that are no longer wanted."""
    again: tuple[str, ...] = ()
    """Fingerprints of failed stages whose failure is to be forgotten, because a person asked for another try."""
    taken: frozenset[str] = frozenset()
    """Ids of the stages that active orders do."""
    graph: Graph | None = None
    status: EvolutionRunStatus = field(default_factory=EvolutionRunStatus)
    events: tuple[RunEvent, ...] = ()
    failure_code: int | None = None
    """Exit code of the worker whose failure ended the run."""
    requeue_after: float | None = None
    """Seconds until the decision should be made again though nothing happened."""


def decide(run: EvolutionRun, seen: Observation) -> Plan:
    """What to look up, start and stop next, and the status that says so."""
    left = _budget_left(run, seen)
    over_budget = left is not None and left <= 0
    graph = _unfold_within_budget(run, seen.manifests, over_budget=over_budget)
    if graph.unknown:
        return Plan(lookups=graph.unknown, graph=graph, status=seen.previous)

    again = _asked_again(graph, seen)
    failures = {name: failure for name, failure in seen.failures.items() if name not in again}
    given_up = _given_up(graph, failures, seen.retry_limit)
    situation = _situation(run, graph, given_up, over_budget=over_budget)
    halted = situation != "Running"
    stopping = halted and situation != "Complete"  # with its last stage done, a worker is about to end by itself
    work = {key: [] if stopping else _stages_of(active, graph) for key, active in seen.active.items()}
    taken = {stage.id for stages in work.values() for stage in stages}
    start: list[Stage] = []
    waits: dict[str, Wait] = {}
    pauses: list[float] = []
    if not halted:
        for stage in _by_urgency(graph):
            name = stage.fingerprint or ""
            if stage.id in taken or name in seen.withheld or name in again:
                continue
            failure = failures.get(name)
            pause = _retry_pause(failure, seen.now)
            if failure and pause > 0:
                waits[stage.id] = Wait("Retrying", failure.reason, f"retry in {pause:.0f} s: {failure.message}")
                pauses.append(pause)
            elif seen.blocked:
                waits[stage.id] = seen.blocked
            else:
                start.append(stage)

        if left is not None and left > 0 and seen.ledger.gpus:
            pauses.append(max(SHORTEST_PAUSE_SECONDS, left / seen.ledger.gpus))

    doing = {key: _at_work(active, work[key]) for key, active in seen.active.items() if work[key]}
    status = build_status(
        run,
        graph,
        situation=situation,
        failure=given_up,
        active={stage.id: doing[key] for key, stages in work.items() for stage in stages if not stage.done},
        waits=waits,
        seen=seen,
    )
    return Plan(
        start=tuple(start),
        stop=tuple(key for key in seen.active if key not in doing),
        again=tuple(again),
        taken=frozenset(taken),
        graph=graph,
        status=status,
        events=_events(seen.previous, status),
        failure_code=given_up[1].code if given_up and situation == "Failed" else None,
        requeue_after=min(pauses, default=None),
    )


def _budget_left(run: EvolutionRun, seen: Observation) -> float | None:
    """GPU-seconds that the run may still use; None without a budget."""
    if run.spec.budget is None:
        return None
    return run.spec.budget.gpu_hours * 3600 - seen.ledger.allocated(seen.now) / 1000


def _stages_of(active: Active, graph: Graph) -> list[Stage]:
    """The stages of an active order that are still to be done, or [] if it is no longer wanted.

    An order of several stages is wanted while all of them are; once they are done it is about to end by itself.
    """
    if not active.recipe:
        return [s for s in graph.stages if s.fingerprint == active.fingerprint and not s.done]
    own = [stage for id_ in active.stages if (stage := graph.stage(id_))]
    if joint_recipe(own) != active.recipe:
        return []
    return [stage for stage in own if not stage.done] or own[-1:]


def _at_work(active: Active, stages: list[Stage]) -> Active:
    """`active`, saying which of its `stages` is being done: the first, since they are done in order."""
    now = stages[0]
    progress = active.progress if active.progress and active.progress.fingerprint == now.fingerprint else None
    return replace(active, stage=now.id, progress=progress)


def _asked_again(graph: Graph, seen: Observation) -> list[str]:
    if seen.retry_requested_at in ("", seen.previous.last_handled_retry_at):
        return []
    return [s.fingerprint for s in graph.stages if s.fingerprint and not s.done and s.fingerprint in seen.failures]


def _unfold_within_budget(run: EvolutionRun, manifests: Manifests, *, over_budget: bool) -> Graph:
    graph = unfold(run.spec, manifests)
    if graph.unknown:
        return graph
    if over_budget and run.spec.budget is not None and run.spec.budget.on_exceeded == "Stop":
        return unfold(run.spec, manifests, last_round=rounds_completed(graph))
    return graph


def rounds_completed(graph: Graph) -> int:
    """Rounds evaluated without a gap."""
    done = {stage.round for stage in graph.stages if stage.kind is Kind.EVALUATE and stage.done}
    return next(r - 1 for r in range(1, len(graph.stages) + 2) if r not in done)


def _given_up(graph: Graph, failures: Mapping[str, Failure], retry_limit: int) -> tuple[Stage, Failure] | None:
    """The first wanted stage that will not be tried again without a change."""
    for stage in graph.stages:
        failure = failures.get(stage.fingerprint or "")
        if failure and not stage.done and (failure.code in PERMANENT or failure.count >= retry_limit):
            return stage, failure
    return None


def _situation(
    run: EvolutionRun, graph: Graph, given_up: tuple[Stage, Failure] | None, *, over_budget: bool
) -> Situation:
    if graph.complete:
        return "Complete"
    if run.spec.suspend:
        return "Suspended"
    if given_up:
        return "Failed"
    if over_budget and run.spec.budget is not None and run.spec.budget.on_exceeded == "Suspend":
        return "OverBudget"
    return "Running"


def _by_urgency(graph: Graph) -> list[Stage]:
    """Ready stages in the order of rounds; what later stages wait for comes before what nobody waits for."""
    order = {Kind.PREPARE: 0, Kind.GENERATE: 1, Kind.TRAIN: 2, Kind.EVALUATE: 3, Kind.SCORE: 4, Kind.PUBLISH: 5}
    return sorted((stage for stage in graph.stages if stage.ready), key=lambda stage: (stage.round, order[stage.kind]))


def _retry_pause(failure: Failure | None, now: datetime) -> float:
    """Seconds until a failed stage may be tried again: 2, 4, 8, … at most 300; at once after a preemption."""
    if failure is None or failure.code == ExitCode.PREEMPTED or failure.count == 0:
        return 0.0
    pause: float = min(FIRST_RETRY_SECONDS * 2.0 ** (failure.count - 1), LONGEST_RETRY_SECONDS)
    return max(0.0, pause - (now - failure.at).total_seconds())


def _events(before: EvolutionRunStatus, after: EvolutionRunStatus) -> tuple[RunEvent, ...]:
    events: list[RunEvent] = []
    known = {record.round for record in before.rounds if record.scores}
    for record in after.rounds:
        if record.scores and record.round not in known:
            scores = ", ".join(f"{metric} {value}" for metric, value in record.scores.items())
            events.append(RunEvent("Normal", "RoundCompleted", f"round {record.round}: {scores}"))
    failed = after.condition("Failed")
    for type_ in ("Complete", "Failed", "Suspended", "BudgetExceeded", "Stalled"):
        was, now = before.condition(type_), after.condition(type_)
        if type_ == "Stalled" and failed and failed.status == "True":
            continue  # told already
        if now and now.status == "True" and (was is None or was.status != "True" or was.reason != now.reason):
            events.append(RunEvent("Warning" if type_ in ("Failed", "Stalled") else "Normal", now.reason, now.message))
    return tuple(events)
