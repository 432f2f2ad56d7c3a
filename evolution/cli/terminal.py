"""A run as a person watches it in a terminal: a bar for what is being done, a row for every round that is finished."""

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.markup import escape

from evolution.cli.bars import Bars
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
        self._bars = Bars(console)
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
        done = sum(stage.done for stage in plan.graph.stages)
        self._bars.whole(done, len(plan.graph.stages), plan.status.progress.eta_seconds)
        for stage in plan.graph.stages:
            if stage.kind is Kind.EVALUATE and stage.manifest and stage.round not in self._shown:
                self._shown.add(stage.round)
                self._row(plan.graph, stage.round, stage.manifest)

    def happened(self, event: worker.Event) -> None:
        self._bars.happened(event)

    def warned(self, message: str) -> None:
        self._bars.clear()
        self._console.print(f"[yellow]warning:[/] {escape(message)}", highlight=False)

    def _header(self, graph: Graph) -> None:
        run = self._local.run
        stages = "stage is" if self._reused == 1 else "stages are"
        reused = f"; {self._reused} finished {stages} reused" if self._reused else ""
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
