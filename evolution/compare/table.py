"""A comparison for the terminal, and for scripts."""

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from evolution.compare.bootstrap import LEVEL, RESAMPLES
from evolution.compare.outcome import ArmOutcome, Comparison, Difference, Standing
from evolution.compare.stages import Amount
from evolution.report.headline import metric_name
from evolution.report.table import format_seconds

NEWEST_ROUNDS = 5


def rounds_table(comparison: Comparison) -> Table:
    """A row per arm, a column per round: its mean, and below it the interval of its difference to the baseline arm.

    Six columns of rounds fit into 80 characters.
    """
    rounds = sorted({round_ for arm in comparison.arms for round_ in arm.rounds})
    trained = [round_ for round_ in rounds if round_]
    shown = [*(r for r in rounds if r == 0), *trained[-NEWEST_ROUNDS:]]
    table = _table()
    if len(trained) > NEWEST_ROUNDS:
        table.caption = f"{len(trained) - NEWEST_ROUNDS} earlier rounds are left out"
    table.title = (
        f"{metric_name(comparison.metric)} after each round; below, {LEVEL:.0%} interval against {comparison.baseline}"
    )
    table.add_column("arm", no_wrap=True)
    for round_ in shown:
        table.add_column(f"round {round_}" if round_ else "base", justify="right", no_wrap=True)
    for arm in comparison.arms:
        table.add_row(arm.name, *(_cell(arm.rounds.get(round_)) for round_ in shown))
    return table


def outcome_table(comparison: Comparison, round_: int) -> Table:
    """A row per arm as it stands after `round_`."""
    table = _table()
    table.title = f"After round {round_}, against {comparison.baseline}" if round_ else "Before any training"
    table.add_column("arm", no_wrap=True)
    for title in (metric_name(comparison.metric), "difference", "better on", "time alone"):
        table.add_column(title, justify="right", no_wrap=True)
    for arm in comparison.arms:
        standing = arm.rounds.get(round_)
        difference = standing.difference if standing else None
        table.add_row(
            arm.name,
            f"{standing.mean:.3f}" if standing else "",
            _difference(difference) if difference else Text("baseline" if arm.name == comparison.baseline else ""),
            f"{difference.better} of {difference.seeds} seed{'s' if difference.seeds > 1 else ''}"
            if difference
            else "",
            format_seconds(arm.cost.seconds),
        )
    return table


def cost_line(comparison: Comparison) -> str:
    """What all arms took together, and what they would have taken one by one."""
    alone = sum(arm.cost.seconds for arm in comparison.arms)
    gpu_hours = comparison.cost.gpu_seconds / 3600
    gpus = f", {gpu_hours:.2f} GPU-hours" if gpu_hours else ""
    return f"computing took {format_seconds(comparison.cost.seconds)}{gpus}; each alone, {format_seconds(alone)} in all"


def amount_line(amount: Amount, arms: int, seeds: int) -> str:
    """`3 arms × 2 seeds: 72 stages, 42 without those that they share; 12 of these are done`."""
    runs = f"{arms} arms × {seeds} seed{'s' if seeds > 1 else ''}: {amount.total} stages"
    return f"{runs}, {amount.distinct} without those that they share; {amount.done} of these are done"


def as_json(comparison: Comparison, failures: Mapping[str, str]) -> dict[str, Any]:
    """The comparison as JSON values; `failures` by run."""
    return {
        "metric": comparison.metric,
        "baseline": comparison.baseline,
        "seeds": list(comparison.seeds),
        "round": comparison.last_round,
        "interval": {"level": LEVEL, "resamples": RESAMPLES},
        "arms": [_arm(arm) for arm in comparison.arms],
        "seconds": round(comparison.cost.seconds, 3),
        "gpuSeconds": round(comparison.cost.gpu_seconds, 3),
        "failures": dict(failures),
    }


def _arm(arm: ArmOutcome) -> dict[str, Any]:
    return {
        "name": arm.name,
        "rounds": [_standing(round_, standing) for round_, standing in arm.rounds.items()],
        "seconds": round(arm.cost.seconds, 3),
        "gpuSeconds": round(arm.cost.gpu_seconds, 3),
    }


def _standing(round_: int, standing: Standing) -> dict[str, Any]:
    difference = standing.difference
    return {
        "round": round_,
        "mean": round(standing.mean, 6),
        "bySeed": {str(seed): round(mean, 6) for seed, mean in standing.by_seed.items()},
        "difference": {
            "mean": round(difference.mean, 6),
            "low": round(difference.low, 6),
            "high": round(difference.high, 6),
            "better": difference.better,
            "seeds": difference.seeds,
        }
        if difference
        else None,
    }


def _table() -> Table:
    return Table(
        box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), title_justify="left", caption_justify="left"
    )


def _cell(standing: Standing | None) -> Text:
    if standing is None:
        return Text()
    difference = standing.difference
    if difference is None or not (difference.low or difference.high):
        return Text(f"{standing.mean:.3f}")
    short = f"{difference.low:+.2f}…{difference.high:+.2f}".replace("0.", ".")
    return Text.assemble(f"{standing.mean:.3f}\n", (short, _style(difference)))


def _difference(difference: Difference) -> Text:
    return Text(f"{difference.mean:+.3f} [{difference.low:+.2f}, {difference.high:+.2f}]", style=_style(difference))


def _style(difference: Difference) -> str:
    if not difference.sure:
        return ""
    return "green" if difference.mean > 0 else "red"
