"""A run as it is shown in metrics: some of its stages done, with attempts that held GPUs for them."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from simulated import World, finish, make_run

from evolution.api.status import CurrentStage, EvolutionRunStatus, State
from evolution.attempt import Attempt, Result
from evolution.ledger import Ledger
from evolution.metrics.run_samples import RunFigures
from evolution.plan.graph import Stage
from evolution.plan.stage import Kind
from evolution.plan.tally import Spending, Tally

START = datetime(2026, 11, 1, 12, 0, 0, tzinfo=UTC)
EVERY_STAGE = {
    "rounds": 6,
    "selection": {"strategy": "Hard"},
    "publish": {"uri": "file:///adapters/best"},
    "budget": {"gpuHours": 100},
}
"""A spec whose graph has stages of every kind."""
WITHOUT_GPUS = frozenset({Kind.PREPARE, Kind.PUBLISH})
_GENERATED = {
    "pairs": 900,
    "questions": 1200,
    "rejects": {
        "question": {"Empty": 12, "TooLong": 3},
        "answer": {"Duplicate": 60, "Empty": 80, "NotGrounded": 90},
    },
    "coverage": {"covered": 290, "documents": 300},
    "questionTokens": {"0.1": 9.0, "0.5": 14.0, "0.9": 27.0},
    "answerTokens": {"0.1": 21.0, "0.5": 63.0, "0.9": 142.0},
}
_MORE_METRICS = {
    Kind.GENERATE: _GENERATED,
    Kind.SCORE: {"ifd": {"0.1": 0.41, "0.5": 0.66, "0.9": 0.93}},
    Kind.TRAIN: {"loss": 1.0625},
    Kind.EVALUATE: {"overlap": 2},
}


def ended_attempt(number: int, kind: Kind, round_: int, result: Result = "succeeded", gpus: int = 2) -> Attempt:
    """It waited 5 s, pulled its image for 2 s, and ran for 100 s."""
    since = START + timedelta(minutes=3 * number)
    started = since + timedelta(seconds=7)
    spending = Spending(
        productive=80_125,
        load=6_000,
        checkpoint=1_000,
        io=4_000,
        idle=2_000,
        prompt_tokens=0 if kind is Kind.TRAIN else 41_000,
        generated_tokens=12_345,
        trained_tokens=98_765 if kind is Kind.TRAIN else 0,
        kept=900,
        rejected=300 if kind is Kind.GENERATE else 0,
        bytes=1_234_567,
    )
    if result != "succeeded":
        spending = Spending(wasted=90_000)
    return Attempt(
        worker=f"worker-{number}",
        kind=kind,
        round=round_,
        gpus=gpus,
        queued_at=_text(since),
        allocated_at=_text(since + timedelta(seconds=5)),
        started_at=_text(started),
        ended_at=_text(started + timedelta(seconds=100)),
        result=result,
        tally=Tally(started_at=_text(started + timedelta(seconds=3)), gpus=gpus, spent={kind: spending}),
    )


def shown_run(
    name: str = "contracts-qa",
    namespace: str = "team-legal",
    *,
    rounds_done: int = 3,
    spec: dict[str, object] | None = None,
    state: State = "Running",
    more: Sequence[Attempt] = (),
) -> RunFigures:
    """A run of which so many rounds are done and the next one is begun, one attempt per stage behind it.

    `more` attempts come after those.
    """
    run = make_run({**EVERY_STAGE, **(spec or {})}, name=name)
    run = run.model_copy(update={"metadata": run.metadata.model_copy(update={"namespace": namespace})})
    world = World()
    attempts: list[Attempt] = []
    while stage := next((s for s in world.graph(run).stages if s.ready and s.round <= rounds_done), None):
        gpus = 0 if stage.kind in WITHOUT_GPUS else 2
        attempts.append(ended_attempt(len(attempts), stage.kind, stage.round, gpus=gpus))
        _finish(world, stage)
    graph = world.graph(run)
    scores = {s.round: s.manifest.scores for s in graph.stages if s.kind is Kind.EVALUATE and s.manifest}
    ledger = Ledger().noting([*attempts, *more])
    ledger = ledger.model_copy(update={"evaluated": {f"{round_:016x}": "promoted" for round_ in scores if round_ > 0}})
    current = (CurrentStage(round=rounds_done + 1, stage="Generate"),) if state == "Running" else ()
    return RunFigures(
        run=run,
        graph=graph,
        ledger=ledger,
        status=EvolutionRunStatus(state=state, current=current),
        now=START + timedelta(hours=9),
        progressed_at=START + timedelta(hours=8, minutes=59),
        gpu_class="h100",
        queue="team-legal-gpus",
        idle_seconds=3600,
        without_gpus=WITHOUT_GPUS,
    )


def edited(figures: RunFigures, *attempts: Attempt) -> RunFigures:
    """The same run after these attempts."""
    return replace(figures, ledger=figures.ledger.noting(attempts))


def _finish(world: World, stage: Stage) -> None:
    manifest = finish(stage)
    metrics = {**manifest.metrics, **_MORE_METRICS.get(stage.kind, {})}
    usage = manifest.usage.model_copy(update={"mfu": 0.37} if stage.kind is Kind.TRAIN else {})
    world.manifests[manifest.fingerprint] = manifest.model_copy(update={"metrics": metrics, "usage": usage})


def _text(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
