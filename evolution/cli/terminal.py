"""A run as a person watches it in a terminal: a bar for what is being done, a row for every round that is finished."""

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from evolution.decide import Plan
from evolution.local.places import StoredRun
from evolution.plan import worker
from evolution.plan.graph import Graph
from evolution.plan.manifest import Manifest
from evolution.plan.stage import Kind
from evolution.report.table import done_by_round, format_count, format_interval, format_loss, format_seconds

WIDTHS = {"round": 6, "pairs": 7, "rejected": 9, "loss": 8, "seconds": 9}
SCORE_WIDTH = 20


class Terminal:
    """An `Audience` that writes to a console; without a terminal behind it, only finished things are written."""

    def __init__(self, local: StoredRun, console: Console) -> None:
        self._local = local
        self._console = console
        self._metrics = local.run.spec.evaluation.metrics
        self._bars = Progress(
            TextColumn("{task.description}", style="cyan"),
            BarColumn(bar_width=28),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}", style="dim"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[eta]}", style="dim"),
            TextColumn("{task.fields[note]}", style="dim"),
            console=console,
            transient=True,
        )
        self._whole: TaskID | None = None
        self._tasks: dict[str, tuple[str, TaskID]] = {}
        self._shown: set[int] = set()
        self._reused: int | None = None

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def planned(self, plan: Plan) -> None:
        if plan.graph is None:
            return
        if self._reused is None:
            self._reused = sum(stage.done for stage in plan.graph.stages)
            self._header(plan.graph)
        self._advance_whole(plan, plan.graph)
        for stage in plan.graph.stages:
            if stage.kind is Kind.EVALUATE and stage.manifest and stage.round not in self._shown:
                self._shown.add(stage.round)
                self._row(plan.graph, stage.round, stage.manifest)

    def happened(self, event: worker.Event) -> None:
        if isinstance(event, worker.Started):
            self._add_bar(event.stage, "")  # reading libraries and a model takes a while
        elif isinstance(event, worker.Progress):
            self._advance(event)
        elif isinstance(event, worker.Committed):
            self._remove_bar(event.stage)

    def warned(self, message: str) -> None:
        for id_ in list(self._tasks):
            self._remove_bar(id_)
        self._console.print(f"[yellow]warning:[/] {escape(message)}", highlight=False)

    def _header(self, graph: Graph) -> None:
        run = self._local.run
        reused = f"; {self._reused} finished stages are reused" if self._reused else ""
        rounds = f"{run.spec.rounds} round" + ("s" if run.spec.rounds > 1 else "")
        self._console.print(
            f"[bold]{run.metadata.name}[/]: {rounds}, {len(graph.stages)} stages{reused}", highlight=False
        )
        titles = "".join(title.rjust(width) for title, width in WIDTHS.items() if title != "seconds")
        scores = "".join(metric.rjust(SCORE_WIDTH) for metric in self._metrics)
        self._console.print(f"[dim]{titles}{scores}{'seconds'.rjust(WIDTHS['seconds'])}[/]", highlight=False)

    def _row(self, graph: Graph, round_: int, evaluation: Manifest) -> None:
        done = done_by_round(graph)[round_]
        seconds = sum(manifest.timings.total for manifest in done.values())
        cells = {
            "round": str(round_) if round_ else "base",
            "pairs": format_count(done, "pairs"),
            "rejected": format_count(done, "rejects"),
            "loss": format_loss(done.get(Kind.TRAIN)),
        }
        best = "bold green" if round_ and graph.verdict.best == round_ else ""
        text = "".join(cell.rjust(WIDTHS[name]) for name, cell in cells.items())
        scores = "".join(format_interval(evaluation, metric).rjust(SCORE_WIDTH) for metric in self._metrics)
        self._console.print(
            f"{text}{scores}{format_seconds(seconds).rjust(WIDTHS['seconds'])}",
            style=best,
            highlight=False,
            markup=False,
        )

    def _advance_whole(self, plan: Plan, graph: Graph) -> None:
        if self._whole is None:
            self._whole = self._bars.add_task("[bold]all stages", total=None, rate="", eta="", note="")
        left = plan.status.progress.eta_seconds
        eta = f"{format_seconds(left)} left" if left else ""
        done = sum(stage.done for stage in graph.stages)
        self._bars.update(self._whole, completed=done, total=len(graph.stages), eta=eta, refresh=True)

    def _advance(self, event: worker.Progress) -> None:
        phase, task = self._tasks.get(event.stage, ("", None))
        if task is None or phase != event.phase:
            self._remove_bar(event.stage)
            task = self._add_bar(event.stage, event.phase)
        eta = f"{format_seconds(event.eta_seconds)} left" if event.eta_seconds is not None else ""
        rate = f"{event.rate:.1f}/s" if event.rate else ""
        self._bars.update(
            task, completed=event.done, total=event.total or None, rate=rate, eta=eta, note=event.note, refresh=True
        )

    def _add_bar(self, id_: str, phase: str) -> TaskID:
        task = self._bars.add_task(f"{id_} · {phase or 'starting'}", total=None, rate="", eta="", note="")
        self._tasks[id_] = (phase, task)
        return task

    def _remove_bar(self, id_: str) -> None:
        _, task = self._tasks.pop(id_, ("", None))
        if task is not None:
            self._bars.remove_task(task)
