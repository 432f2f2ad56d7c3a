"""Bars in a terminal: one for all stages, one for what each stage is at. Without a terminal nothing is drawn."""

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from evolution.plan import worker
from evolution.report.table import format_seconds


class Bars:
    def __init__(self, console: Console) -> None:
        self._progress = Progress(
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

    def start(self) -> None:
        self._progress.start()

    def stop(self) -> None:
        self._progress.stop()

    def whole(self, done: int, total: int, seconds_left: float | None, now: str = "") -> None:
        """How far all stages are together; `now` names the part of them that is being done."""
        if self._whole is None:
            self._whole = self._progress.add_task("[bold]all stages", total=None, rate="", eta="", note="")
        eta = f"{format_seconds(seconds_left)} left" if seconds_left else ""
        self._progress.update(self._whole, completed=done, total=total, eta=eta, note=now, refresh=True)

    def happened(self, event: worker.Event) -> None:
        """What the worker says of the stage it is at."""
        if isinstance(event, worker.Started):
            self._add(event.stage, "")  # reading libraries and a model takes a while
        elif isinstance(event, worker.Progress):
            self._advance(event)
        elif isinstance(event, worker.Committed):
            self._remove(event.stage)

    def clear(self) -> None:
        """No stage is being done any more."""
        for id_ in list(self._tasks):
            self._remove(id_)

    def _advance(self, event: worker.Progress) -> None:
        phase, task = self._tasks.get(event.stage, ("", None))
        if task is None or phase != event.phase:
            self._remove(event.stage)
            task = self._add(event.stage, event.phase)
        eta = f"{format_seconds(event.eta_seconds)} left" if event.eta_seconds is not None else ""
        rate = f"{event.rate:.1f}/s" if event.rate else ""
        self._progress.update(
            task, completed=event.done, total=event.total or None, rate=rate, eta=eta, note=event.note, refresh=True
        )

    def _add(self, id_: str, phase: str) -> TaskID:
        task = self._progress.add_task(f"{id_} · {phase or 'starting'}", total=None, rate="", eta="", note="")
        self._tasks[id_] = (phase, task)
        return task

    def _remove(self, id_: str) -> None:
        _, task = self._tasks.pop(id_, ("", None))
        if task is not None:
            self._progress.remove_task(task)
