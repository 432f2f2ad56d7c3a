"""The time that a run held its GPUs for, as lines of a terminal."""

from collections.abc import Iterator
from datetime import datetime

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from evolution.api.status import GpuSeconds
from evolution.attempt import RESULTS
from evolution.report.partition import CLASS_NAMES, RESULT_MEANINGS, Partition, Unsuccessful
from evolution.report.table import format_seconds

ATTEMPTS_SHOWN = 5
"""Of those that did not succeed, the newest are told one by one."""


def spent(shown: Partition) -> Group:
    """The whole partition: what every class has, what is still open, and attempts that did not succeed."""
    lines: list[RenderableType] = [Text(_title(shown))]
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True)
    grid.add_column(justify="right", no_wrap=True)
    grid.add_column(justify="right", no_wrap=True)
    for class_, value in shown.by_class.items():
        if value:
            share = f"{100 * shown.share(value):.0f} %"
            style = "red" if class_ == "wasted" else "green" if class_ == "productive" else ""
            grid.add_row(f"  {CLASS_NAMES[class_]}", format_seconds(value / 1000), share, style=style)
    if shown.unsettled:
        grid.add_row("  unsettled", format_seconds(shown.unsettled / 1000), "", style="dim")
    lines.append(grid)
    if shown.queued:
        lines.append(Text(f"  queued before that, not held: {format_seconds(shown.queued / 1000)}", style="dim"))
    lines += [Text(f"  {line}", style="yellow") for line in _attempts(shown)]
    return Group(*lines)


def spent_in_short(seconds: GpuSeconds) -> str:
    """The four sums that a status has; empty while there is nothing to tell."""
    parts = {name: getattr(seconds, name) for name in ("productive", "overhead", "wasted", "unsettled")}
    held = sum(parts.values())
    told = [f"{name} {format_seconds(value)} ({100 * value / held:.0f} %)" for name, value in parts.items() if value]
    if seconds.queued:
        told.append(f"queued before that {format_seconds(seconds.queued)}")
    return f"GPU time: {', '.join(told)}" if told else ""


def _title(shown: Partition) -> str:
    what = "GPU-seconds" if shown.unit == "GPU" else "worker-seconds (no GPU here)"
    return f"where the time went, in {what}, {format_seconds(shown.held / 1000)} held:"


def _attempts(shown: Partition) -> Iterator[str]:
    counts = shown.counts
    if not any(count for result, count in counts.items() if result != "succeeded"):
        return
    yield "attempts: " + ", ".join(f"{counts[result]} {result}" for result in RESULTS if counts[result])
    for attempt in shown.unsuccessful[-ATTEMPTS_SHOWN:]:
        yield _attempt(attempt)


def _attempt(attempt: Unsuccessful) -> str:
    where = f"round {attempt.round} {attempt.kind.value}" if attempt.round else attempt.kind.value
    lost = f", {format_seconds(attempt.wasted / 1000)} wasted" if attempt.wasted else ""
    at = datetime.fromisoformat(attempt.ended_at).strftime("%Y-%m-%d %H:%M:%S")
    return f"  {at} {where} {RESULT_MEANINGS[attempt.result]} ({attempt.result}){lost}"
