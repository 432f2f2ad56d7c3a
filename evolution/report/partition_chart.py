"""Where the time went, as stacked bars: all of it, then each kind of stage, on one scale."""

from collections.abc import Iterator, Mapping

from markupsafe import Markup

from evolution.attempt import CLASSES
from evolution.report.chart import WIDTH, nice_ticks, text
from evolution.report.partition import CLASS_NAMES, Partition
from evolution.report.table import format_seconds

LEFT, RIGHT, TOP, ROW, BAR = 84.0, 92.0, 8.0, 36.0, 22.0
UNSETTLED = "unsettled"
NAMES: Mapping[str, str] = {**{str(class_): name for class_, name in CLASS_NAMES.items()}, UNSETTLED: UNSETTLED}


def partition_chart(time: Partition | None) -> Markup | None:
    """None while nothing was held."""
    if time is None or not time.held:
        return None
    everything: dict[str, int] = dict(time.by_class.items())
    rows = [("All", everything | {UNSETTLED: time.unsettled})]
    for kind, classes in time.by_kind.items():
        rows.append((kind.value, {class_: classes.get(class_, 0) for class_ in CLASSES}))
    seconds = time.held / 1000
    unit, name = (3600.0, "h") if seconds >= 7200 else (60.0, "min") if seconds >= 120 else (1.0, "s")
    ticks = [tick * unit * 1000 for tick in nice_ticks(seconds / unit) if tick * unit <= seconds]
    scale = (WIDTH - LEFT - RIGHT) / time.held
    bottom = TOP + ROW * len(rows)
    axis = Markup().join(
        Markup('<line class="{0}" x1="{1}" x2="{1}" y1="{2}" y2="{3}"/>{4}').format(
            "axis" if tick == 0 else "grid",
            round(LEFT + tick * scale, 1),
            TOP,
            bottom,
            text(LEFT + tick * scale, bottom + 18, f"{tick / unit / 1000:g} {name}", "tick middle"),
        )
        for tick in ticks
    )
    bars = Markup().join(_bar(label, parts, TOP + ROW * n, scale) for n, (label, parts) in enumerate(rows))
    title = f"{time.unit}-seconds by what they were spent on; the table below has the figures"
    return Markup('<svg viewBox="0 0 {:.0f} {:.0f}" role="img" aria-label="{}">{}{}</svg>').format(
        WIDTH, bottom + 26, title, axis, bars
    )


def _bar(label: str, parts: Mapping[str, int], y: float, scale: float) -> Markup:
    total = sum(parts.values())
    return (
        text(LEFT - 10, y + ROW / 2 + 5, label, "end heading" if label == "All" else "end")
        + Markup().join(_segments(label, parts, y, scale))
        + text(LEFT + total * scale + 8, y + ROW / 2 + 5, format_seconds(total / 1000), "tick")
    )


def _segments(label: str, parts: Mapping[str, int], y: float, scale: float) -> Iterator[Markup]:
    total = sum(parts.values()) or 1
    before = 0
    for part, value in parts.items():
        if value:
            yield Markup(
                '<rect class="bar k-{}" data-stage="{}" data-milliseconds="{}" x="{}" y="{}" width="{}" height="{}">'
                "<title>{}</title></rect>"
            ).format(
                part,
                label,
                value,
                round(LEFT + before * scale, 2),
                y + (ROW - BAR) / 2,
                round(value * scale, 2),
                BAR,
                f"{label}, {NAMES[part]}: {format_seconds(value / 1000)}, {100 * value / total:.0f} %",
            )
        before += value
