"""Tables for the terminal, at most 100 columns wide."""

import re
from collections.abc import Mapping, Sequence

from rich import box
from rich.table import Table
from rich.text import Text

from evolution.api.status import EvolutionRunStatus
from evolution.plan.graph import Graph, Stage
from evolution.plan.manifest import Manifest
from evolution.plan.stage import Kind

NEWEST_ROUNDS = 20
"""Rounds in `rounds_table`, as in the status; the baseline and the best round are always there."""
METRICS_ON_ONE_LINE = 2
"""With more metrics, the interval goes below the score so that the table stays narrow."""


_ending_of_words = re.compile(r"(?<=[a-z])(?=[A-Z])")


def rounds_table(status: EvolutionRunStatus, graph: Graph) -> Table:
    """A row per round of which something is done, the baseline first; the best round stands out."""
    done = done_by_round(graph)
    rounds = sorted(r for r in done if r > 0)
    best = status.best.round if status.best else 0
    shown = [r for r in rounds if r == best or r in rounds[-NEWEST_ROUNDS:]]
    metrics = _metrics(done)
    stacked = len(metrics) > METRICS_ON_ONE_LINE
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 0 if stacked else 1, 0, 0))
    if len(shown) < len(rounds):
        table.caption = f"{len(rounds) - len(shown)} earlier rounds are left out"
    titles = [_ending_of_words.sub("\n", metric, count=1) if stacked else metric for metric in metrics]
    for title in ("round", "pairs", "rejects", "loss", *titles, "seconds"):
        table.add_column(title, justify="right", no_wrap=True)
    for round_ in [0, *shown] if Kind.EVALUATE in done.get(0, {}) else shown:
        stages = done[round_]
        seconds = sum(manifest.timings.total for manifest in stages.values())
        decimals = 2 if stacked else 3
        scores = [format_interval(stages.get(Kind.EVALUATE), metric, decimals) for metric in metrics]
        if stacked:
            scores = [score.replace(" [", "\n").replace(", ", "–").rstrip("]") for score in scores]
        table.add_row(
            str(round_) if round_ else "base",
            format_count(stages, "pairs"),
            format_count(stages, "rejects"),
            format_loss(stages.get(Kind.TRAIN)),
            *scores,
            f"{seconds:.0f}" if seconds >= 10 else f"{seconds:.1f}",
            style="bold green" if round_ and round_ == best else None,
        )
    return table


def stages_table(graph: Graph) -> Table:
    """A row per stage: what is done, what would run, and what it waits for."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("stage", no_wrap=True)
    table.add_column("state", ratio=1, overflow="fold")
    table.add_column("fingerprint", no_wrap=True)
    table.add_column("seconds", justify="right", no_wrap=True)
    for stage in graph.stages:
        seconds = f"{stage.manifest.timings.total:.1f}" if stage.manifest else ""
        table.add_row(stage.id, _state(stage), (stage.fingerprint or "")[:8], seconds)
    return table


def format_interval(evaluation: Manifest | None, metric: str, decimals: int = 3) -> str:
    """`0.713 [0.64, 0.78]`: the mean of a metric with its bootstrap interval; empty where there is none."""
    scores = evaluation.metrics.get("scores") if evaluation else None
    entry = scores.get(metric) if isinstance(scores, dict) else None
    if not isinstance(entry, dict):
        return ""
    mean, low, high = (entry.get(name) for name in ("mean", "low", "high"))
    if not isinstance(mean, int | float):
        return ""
    if not isinstance(low, int | float) or not isinstance(high, int | float):
        return f"{mean:.{decimals}f}"
    return f"{mean:.{decimals}f} [{low:.2f}, {high:.2f}]"


def format_loss(train: Manifest | None) -> str:
    """Mean training loss of a round; empty where there is none."""
    loss = train.metrics.get("loss") if train else None
    return f"{loss:.4f}" if isinstance(loss, int | float) else ""


def format_seconds(seconds: float) -> str:
    """A duration in at most nine characters: `0.4 s`, `42 s`, `3m 05s`, `2h 14m`, `3d 4h`."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02}s"
    minutes = round(seconds / 60)
    if minutes < 24 * 60:
        return f"{minutes // 60}h {minutes % 60:02}m"
    return f"{minutes // 1440}d {minutes % 1440 // 60}h"


def _state(stage: Stage) -> Text:
    if stage.state == "Done":
        return Text("done", style="green")
    if stage.state == "Undecided":
        return Text("undecided (gate)", style="dim")
    if stage.state == "Ready":
        return Text("would run", style="cyan")
    missing = list(dict.fromkeys(source.stage for source in stage.inputs.values() if source.digest is None))
    more = f" and {len(missing) - 2} more" if len(missing) > 2 else ""
    return Text(f"waits for {', '.join(missing[:2])}{more}", style="yellow")


def done_by_round(graph: Graph) -> dict[int, dict[Kind, Manifest]]:
    """Manifests of what is done in each round, 0 for the baseline, by kind."""
    done: dict[int, dict[Kind, Manifest]] = {}
    for stage in graph.stages:
        if stage.manifest is not None and stage.kind not in (Kind.PREPARE, Kind.PUBLISH):
            done.setdefault(stage.round, {})[stage.kind] = stage.manifest
    return done


def _metrics(done: Mapping[int, Mapping[Kind, Manifest]]) -> Sequence[str]:
    found = (stages[Kind.EVALUATE].scores for stages in done.values() if Kind.EVALUATE in stages)
    return list(dict.fromkeys(metric for scores in found for metric in sorted(scores)))


def format_count(stages: Mapping[Kind, Manifest], output: str) -> str:
    """Rows of an output of a round's `Generate`; empty where it is not done."""
    generate = stages.get(Kind.GENERATE)
    return str(generate.outputs[output].count) if generate else ""
