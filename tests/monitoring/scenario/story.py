"""The life of a run as a reader can check it: who held how many GPUs from when to when, and what for, in minutes."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any

from simulated import World, finish, make_run

from evolution.api.run import EvolutionRun
from evolution.api.status import EvolutionRunStatus, State
from evolution.attempt import Attempt, Result
from evolution.ledger import Ledger
from evolution.metrics.run_samples import RunFigures
from evolution.plan.graph import Graph
from evolution.plan.stage import Kind
from evolution.plan.tally import Spending, Tally

MIDNIGHT = datetime(2026, 11, 20, tzinfo=UTC)
"""The day begins; moments of the scenario are hours and minutes since then, as in "25:10"."""


def moment(clock: str) -> datetime:
    hours, minutes = clock.split(":")
    return MIDNIGHT + timedelta(hours=int(hours), minutes=float(minutes))


def minutes(**fields: float) -> Spending:
    """What a worker tells: times in minutes, all else as it is."""
    times = ("productive", "load", "checkpoint", "io", "idle", "saved", "wasted")
    return Spending(**{name: round(value * 60_000) if name in times else value for name, value in fields.items()})


@dataclass(frozen=True)
class Hold:
    """A worker's hold of its GPUs. Clocks are hours and minutes; empty where that has not come about."""

    queued: str
    node: str = ""
    start: str = ""
    end: str = ""
    gpus: int = 0
    result: Result | None = "succeeded"
    round: int = 0
    spent: Mapping[Kind, Spending] = field(default_factory=dict)
    """What it told in the end; of the first kind is its order."""
    commits: tuple[str, ...] = ()
    """Stages that it committed, all at its end."""
    saves: str = ""
    """The stage whose work it saved without an end."""


@dataclass(frozen=True)
class Story:
    """One run under one uid, from its creation to its deletion."""

    namespace: str
    name: str
    gpu_class: str
    queue: str
    created: str
    states: Mapping[str, State]
    """From which moment on it was in which phase."""
    spec: Mapping[str, Any]
    scores: tuple[float, ...]
    """By round."""
    holds: tuple[Hold, ...]
    progressed: tuple[str, ...] = ()
    """When a worker told of progress; a hold's begin and end are progress, too."""
    deleted: str = ""
    metrics: Mapping[Kind, Mapping[str, Any]] = field(default_factory=dict)
    """What its stages' manifests tell of their data, over what invented ones do."""
    mfu: float | None = None

    @cached_property
    def run(self) -> EvolutionRun:
        run = make_run(self.spec, name=self.name)
        return run.model_copy(update={"metadata": run.metadata.model_copy(update={"namespace": self.namespace})})

    def exists(self, now: datetime) -> bool:
        return moment(self.created) <= now and not (self.deleted and moment(self.deleted) <= now)

    def state(self, now: datetime) -> State:
        return [state for since, state in self.states.items() if moment(since) <= now][-1]

    def pod(self, number: int) -> str:
        """Name of the pod of a hold, by its place in `holds`."""
        return f"{self.name}-{self.created.replace(':', '')}-{number}"

    def attempts(self, now: datetime) -> list[Attempt]:
        """What was known of them."""
        return [self._attempt(n, hold, now) for n, hold in enumerate(self.holds) if moment(hold.queued) <= now]

    def graph(self, now: datetime) -> Graph:
        return self._graph(sum(1 for hold in self.holds if hold.end and moment(hold.end) <= now))

    def figures(self, now: datetime) -> RunFigures:
        """As the operator has them once the history is written."""
        run, graph = self.run, self.graph(now)
        told = [clock for hold in self.holds for clock in (hold.queued, hold.node, hold.start, hold.end) if clock]
        progress = [moment(clock) for clock in (*told, *self.progressed) if moment(clock) <= now]
        return RunFigures(
            run=run,
            graph=graph,
            ledger=Ledger().noting(self.attempts(now)).judging(run.spec, graph),
            status=EvolutionRunStatus(state=self.state(now)),
            now=now,
            progressed_at=max(progress, default=None),
            gpu_class=self.gpu_class,
            queue=self.queue,
            idle_seconds=3600,
        )

    @cached_property
    def _graphs(self) -> dict[int, Graph]:
        return {}

    def _graph(self, ended: int) -> Graph:
        """After so many of its holds."""
        if ended not in self._graphs:
            world = World(lambda round_: self.scores[round_])
            for name in (name for hold in self.holds[:ended] for name in hold.commits):
                stage = world.graph(self.run).stage(name)
                assert stage is not None, f"{self.name} has no stage {name}"
                assert stage.ready, f"{name} of {self.name} is committed before its inputs"
                manifest = finish(stage, world.score)
                metrics = {**manifest.metrics, **self.metrics.get(stage.kind, {})}
                usage = manifest.usage.model_copy(update={"mfu": self.mfu if stage.kind is Kind.TRAIN else None})
                world.manifests[manifest.fingerprint] = manifest.model_copy(update={"metrics": metrics, "usage": usage})
            self._graphs[ended] = world.graph(self.run)
        return self._graphs[ended]

    def _attempt(self, number: int, hold: Hold, now: datetime) -> Attempt:
        ended = bool(hold.end) and moment(hold.end) <= now
        kind = next(iter(hold.spent)) if hold.spent else Kind.GENERATE
        unfinished = ""
        if hold.saves:
            stage = self._graph(number).stage(hold.saves)
            assert stage is not None
            assert stage.fingerprint
            unfinished = stage.fingerprint

        def by_now(clock: str) -> str:
            return (clock and moment(clock) <= now and moment(clock).isoformat().replace("+00:00", "Z")) or ""

        told = ended and hold.result != "lost"
        return Attempt(
            worker=self.pod(number),
            job=f"{self.pod(number)}-job",
            kind=kind,
            round=hold.round,
            gpus=hold.gpus,
            queued_at=by_now(hold.queued),
            allocated_at=by_now(hold.node),
            started_at=by_now(hold.start),
            ended_at=by_now(hold.end),
            result=hold.result if ended else None,
            tally=Tally(gpus=hold.gpus, unfinished=unfinished, spent=dict(hold.spent)) if told else None,
        )
