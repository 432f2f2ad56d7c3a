"""A run of a cluster as a person sees it: where it stands, what is being done, and why something waits."""

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime

from rich import box
from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from evolution.api.status import Condition, CurrentStage, EvolutionRunStatus, RoundRecord
from evolution.cli.spent import spent, spent_in_short
from evolution.cluster.runs import ClusterRun
from evolution.report.partition import Partition
from evolution.report.table import format_seconds

BAR_WIDTH = 28
STATE_WIDTH = 10
"""Of the state in the list of runs, at least: its words do not break, as `Complete: MaxRounds` does after the colon."""
STYLES = {"Complete": "bold green", "Failed": "bold red", "Suspended": "yellow", "Queued": "yellow"}


def standing(run: ClusterRun, time: Partition | None = None) -> Group:
    """All that matters about a run, from its headline to its rounds.

    `time` is what its ledger says; without it, what the status has of that is shown.
    """
    status = run.status
    parts: list[RenderableType] = [_headline(run, status)]
    parts += [Text(f"  {note}", style="yellow") for note in notes(run)]
    parts += [_condition_line(condition) for condition in conditions_that_matter(status)]
    if status.current:
        parts.append(_stages(status.current))
    if status.rounds or status.baseline:
        parts.append(_rounds(status))
    if line := outcome_line(status):
        parts.append(Text(line))
    if time:
        parts.append(spent(time))
    elif line := spent_in_short(status.gpu_seconds):
        parts.append(Text(line))
    return Group(*parts)


def headline(run: ClusterRun) -> str:
    """`manuals (team-a): Running, 43 %, 2h 05m left`."""
    return _headline(run, run.status).plain


def notes(run: ClusterRun) -> Iterator[str]:
    """What the status does not say because no operator has written it yet."""
    if not run.seen:
        yield "no operator has looked at this run yet; is one running, and does it watch this namespace?"
        return
    if run.edit_pending:
        yield "the operator has not acted upon the latest edit yet"
    if run.retry_pending:
        yield "the operator has not acted upon the requested retry yet"


def conditions_that_matter(status: EvolutionRunStatus) -> Iterator[Condition]:
    """Conditions that say why the run is not simply running; of several with the same message, one."""
    told: set[str] = set()
    for type_ in ("Complete", "Failed", "BudgetExceeded", "Suspended", "Accepted", "Stalled"):
        condition = status.condition(type_)
        unusual = "False" if type_ == "Accepted" else "True"
        if condition and condition.status == unusual and condition.message not in told:
            told.add(condition.message)
            yield condition


def condition_text(condition: Condition) -> str:
    name = f"Not{condition.type}" if condition.status == "False" else condition.type
    return f"{name} ({condition.reason}): {condition.message}" if condition.message else f"{name} ({condition.reason})"


def stage_text(current: CurrentStage) -> str:
    """`round 2 Train: 45 %, 12m 10s left`, or why it waits."""
    return f"{_stage_name(current)}: {current.waiting_for or _progress(current)}"


def round_text(record: RoundRecord) -> str:
    """`round 2: 146 pairs, 4 rejects, loss 0.1511, ExactMatch 0.5600`."""
    figures = [
        f"{record.pairs} pairs" if record.pairs is not None else "",
        f"{record.rejects} rejects" if record.rejects is not None else "",
        f"loss {record.loss}" if record.loss is not None else "",
        *(f"{metric} {score}" for metric, score in record.scores.items()),
    ]
    return f"round {record.round}: {', '.join(filter(None, figures))}"


def outcome_line(status: EvolutionRunStatus) -> str:
    """The best round, where its adapter is, and the GPU time so far; empty if there is nothing to say."""
    parts = []
    if status.best:
        score = f" with {status.best.score}" if status.best.score else ""
        parts.append(f"best: round {status.best.round}{score}" if status.best.round else "best: the base model")
        if status.best.adapter_uri:
            parts.append(f"adapter {status.best.adapter_uri}")
    if status.gpu_hours:
        parts.append(f"{status.gpu_hours} GPU-hours")
    return ", ".join(parts)


def runs_table(runs: Sequence[ClusterRun], *, namespaces: bool) -> Table:
    """A row per run."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    if namespaces:
        table.add_column("namespace", no_wrap=True)
    table.add_column("name", no_wrap=True)
    table.add_column("state", overflow="fold", min_width=STATE_WIDTH)
    for title in ("rounds", "done", "left", "best", "GPU-hours", "age"):
        table.add_column(title, justify="right", no_wrap=True)
    for run in sorted(runs, key=lambda run: (run.namespace, run.name)):
        status = run.status
        table.add_row(
            *([run.namespace] if namespaces else []),
            run.name,
            Text(_summary(status), style=STYLES.get(status.state, "")),
            f"{status.progress.rounds_completed}/{run.body.get('spec', {}).get('rounds', '?')}",
            f"{status.progress.percent} %",
            format_seconds(status.progress.eta_seconds) if status.progress.eta_seconds else "",
            status.best.score if status.best else "",
            status.gpu_hours,
            _age(run),
        )
    return table


def _headline(run: ClusterRun, status: EvolutionRunStatus) -> Text:
    left = f", {format_seconds(status.progress.eta_seconds)} left" if status.progress.eta_seconds else ""
    return Text.assemble(
        (run.name, "bold"),
        f" ({run.namespace}): ",
        (_summary(status), STYLES.get(status.state, "cyan")),
        f", {status.progress.percent} %{left}",
    )


def _summary(status: EvolutionRunStatus) -> str:
    return status.summary or status.state


def _condition_line(condition: Condition) -> Text:
    good = condition.type == "Complete"
    halted = condition.type in ("Suspended", "BudgetExceeded")
    return Text(f"  {condition_text(condition)}", style="green" if good else "yellow" if halted else "red")


def _stages(current: Iterable[CurrentStage]) -> Table:
    grid = Table.grid(padding=(0, 1))
    grid.add_column(no_wrap=True)
    grid.add_column(no_wrap=True, width=BAR_WIDTH)
    grid.add_column(overflow="fold")
    for now in current:
        name = Text(f"  {_stage_name(now)}", style="cyan")
        bar = ProgressBar(total=100, completed=now.percent, width=BAR_WIDTH)
        grid.add_row(name, bar, Text(now.waiting_for, style="yellow") if now.waiting_for else Text(_progress(now)))
    return grid


def _stage_name(current: CurrentStage) -> str:
    if current.round:
        return f"round {current.round} {current.stage}"
    return f"base {current.stage}" if current.stage == "Evaluate" else current.stage


def _progress(current: CurrentStage) -> str:
    left = f", {format_seconds(current.eta_seconds)} left" if current.eta_seconds is not None else ""
    return f"{current.percent} %{left}"


def _rounds(status: EvolutionRunStatus) -> Table:
    scores = [status.baseline.scores if status.baseline else {}, *(record.scores for record in status.rounds)]
    metrics = list(dict.fromkeys(metric for found in scores for metric in found))
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title in ("round", "pairs", "rejects", "loss", *metrics, "seconds"):
        table.add_column(title, justify="right", no_wrap=True)
    if status.baseline:
        table.add_row("base", "", "", "", *(status.baseline.scores.get(metric, "") for metric in metrics), "")
    for record in status.rounds:
        table.add_row(
            str(record.round),
            "" if record.pairs is None else str(record.pairs),
            "" if record.rejects is None else str(record.rejects),
            record.loss or "",
            *(record.scores.get(metric, "") for metric in metrics),
            "" if record.seconds is None else str(record.seconds),
            style="bold green" if status.best and record.round == status.best.round else None,
        )
    return table


def _age(run: ClusterRun) -> str:
    created = datetime.fromisoformat(run.body["metadata"]["creationTimestamp"])
    return format_seconds(max(0.0, (datetime.now(UTC) - created).total_seconds()))
