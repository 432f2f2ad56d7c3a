"""Charts as inline SVG; the style sheet of the page colours them, so that light, dark and print fit."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from evolution.plan.stage import Kind
from evolution.report.figures import Figures, LossCurve, LossPoint, Round
from evolution.report.headline import metric_name
from evolution.report.table import format_seconds

WIDTH, HEIGHT = 1000.0, 330.0
LEFT, RIGHT, TOP, BOTTOM = 52.0, 150.0, 18.0, 40.0
STAGE_KINDS = (Kind.PREPARE, Kind.GENERATE, Kind.SCORE, Kind.TRAIN, Kind.EVALUATE)
ROUNDS_AHEAD = 20
"""Rounds still to come have a place on the axis in runs up to this long."""
ROUNDS_WITH_POINTS = 40
LABEL_DISTANCE = 17.0
FEWEST_POINTS_TO_SMOOTH = 40


@dataclass(frozen=True)
class Frame:
    """A plot area with a linear scale either way."""

    x0: float
    x1: float
    y1: float
    """The value at the top; the bottom is 0."""
    right: float = RIGHT
    height: float = HEIGHT

    def x(self, value: float) -> float:
        share = (value - self.x0) / (self.x1 - self.x0) if self.x1 > self.x0 else 0.5
        return round(LEFT + share * (WIDTH - LEFT - self.right), 1)

    def y(self, value: float) -> float:
        return round(self.bottom - value / self.y1 * (self.bottom - TOP), 1)

    @property
    def bottom(self) -> float:
        return self.height - BOTTOM

    def svg(self, title: str, *parts: Markup) -> Markup:
        return Markup('<svg viewBox="0 0 {:.0f} {:.0f}" role="img" aria-label="{}">{}</svg>').format(
            WIDTH, self.height, title, Markup().join(parts)
        )

    def grid(self, ticks: Sequence[float], label: Callable[[float], str]) -> Markup:
        """Horizontal lines with their values, the lowest as the axis."""
        return Markup().join(
            Markup('<line class="{}" x1="{}" x2="{}" y1="{}" y2="{}"/>{}').format(
                "axis" if tick == 0 else "grid",
                LEFT,
                WIDTH - self.right,
                self.y(tick),
                self.y(tick),
                text(LEFT - 8, self.y(tick) + 4, label(tick), "tick end"),
            )
            for tick in ticks
        )


def score_chart(figures: Figures) -> Markup | None:
    """Every metric over the rounds with its interval, the primary one in front; None while nothing is measured."""
    measured = [record for record in figures.rounds if record.scores]
    if not measured:
        return None
    last = measured[-1].round
    ahead = figures.rounds_wanted if figures.state != "Complete" and figures.rounds_wanted <= ROUNDS_AHEAD else last
    highest = max(score.high for record in measured for score in record.scores.values())
    ticks = nice_ticks(min(1.0, max(highest * 1.08, 0.05)))
    frame = Frame(0, max(ahead, last, 1), ticks[-1])
    metrics = [metric for metric in figures.metrics if any(metric in record.scores for record in measured)]
    series = [_series(frame, n, metric, measured, figures.best) for n, metric in reversed([*enumerate(metrics)])]
    return frame.svg(
        f"{metric_name(metrics[0])} and its interval over {last} rounds; the table below has the figures",
        frame.grid(ticks, _plain),
        _round_ticks(frame, range(max(ahead, last) + 1)),
        *series,
        _end_labels(frame, metrics, measured),
        *(_tip(frame, record, _score_lines(record, metrics), _slot(frame, len(measured))) for record in measured),
    )


def _series(frame: Frame, n: int, metric: str, rounds: Sequence[Round], best: int | None) -> Markup:
    found = [(record.round, record.scores[metric]) for record in rounds if metric in record.scores]
    upper = [(frame.x(r), frame.y(score.high)) for r, score in found]
    lower = [(frame.x(r), frame.y(score.low)) for r, score in reversed(found)]
    points = Markup().join(
        Markup(
            '<circle class="point{}" data-metric="{}" data-round="{}" data-mean="{}" cx="{}" cy="{}" r="{}"/>'
        ).format(
            " best" if r == best and n == 0 else " small" if len(found) > ROUNDS_WITH_POINTS else "",
            metric,
            r,
            score.mean,
            frame.x(r),
            frame.y(score.mean),
            (4 if n == 0 else 3) if len(found) <= ROUNDS_WITH_POINTS else 1.5,
        )
        for r, score in found
    )
    whiskers = Markup().join(
        Markup('<line class="whisker" x1="{0}" x2="{0}" y1="{1}" y2="{2}"/>').format(
            frame.x(r), frame.y(score.low), frame.y(score.high)
        )
        for r, score in found
        if len(found) <= ROUNDS_AHEAD and n == 0
    )
    marked = next((score for r, score in found if r == best and n == 0 and r > 0), None)
    flag = text(frame.x(best or 0), frame.y(marked.high) - 7, "best", "flag middle") if marked else Markup()
    return Markup('<g class="series s{}"><path class="band" d="{}Z"/>{}<path class="line" d="{}"/>{}{}</g>').format(
        n,
        path([*upper, *lower]),
        whiskers,
        path([(frame.x(r), frame.y(score.mean)) for r, score in found]),
        points,
        flag,
    )


def _end_labels(frame: Frame, metrics: Sequence[str], rounds: Sequence[Round]) -> Markup:
    """The name of each line at its end, moved apart where lines end close together."""
    ends = []
    for n, metric in enumerate(metrics):
        record = next(record for record in reversed(rounds) if metric in record.scores)
        mean = record.scores[metric].mean
        ends.append((frame.y(mean) + 4, frame.x(record.round), n, f"{metric_name(metric)} {mean:.2f}"))
    ends.sort()
    labels, free = [], TOP
    top_of_last = frame.bottom - LABEL_DISTANCE * (len(ends) - 1)
    for k, (y, x, n, label) in enumerate(ends):
        at = min(max(y, free), top_of_last + LABEL_DISTANCE * k)
        free = at + LABEL_DISTANCE
        labels.append(text(x + 12, at, label, f"name s{n}"))
    return Markup().join(labels)


def _score_lines(record: Round, metrics: Sequence[str]) -> Iterable[str]:
    yield f"Round {record.round}" if record.round else "Before training"
    for metric in metrics:
        if metric in record.scores:
            score = record.scores[metric]
            yield f"{metric_name(metric)} {score.mean:.3f}  ({score.low:.3f} to {score.high:.3f})"
    if record.gate and record.round:
        yield record.gate


def loss_chart(curves: Sequence[LossCurve]) -> Markup | None:
    """Training loss step after step, the rounds side by side; None where there is none."""
    if not curves:
        return None
    total = sum(curve.steps for curve in curves)
    ticks = nice_ticks(max(point.loss for curve in curves for point in curve.points) * 1.05 or 1.0)
    frame = Frame(0, total, ticks[-1], right=24)
    parts = []
    before = 0
    named = next(step for step in (1, 2, 5, 10, 20, 50, 100) if len(curves) / step <= 24)
    for n, curve in enumerate(curves):
        left, right = frame.x(before), frame.x(before + curve.steps)
        ends = curve.points[0], curve.points[-1]
        label = f"Round {curve.round}: {curve.steps} steps, loss from {ends[0].loss:.3f} to {ends[1].loss:.3f}"
        parts.append(
            Markup(
                '<g class="stretch"><title>{}</title><rect class="{}" x="{}" y="{}" width="{}" height="{}"/>{}{}</g>'
            ).format(
                label,
                "odd" if n % 2 and len(curves) <= ROUNDS_AHEAD else "even",
                left,
                TOP,
                round(right - left, 1),
                frame.bottom - TOP,
                _loss_lines(frame, before, curve.points),
                text((left + right) / 2, frame.bottom + 20, _round_name(curve, curves), "tick middle")
                if curve.round % named == 0
                else Markup(),
            )
        )
        before += curve.steps
    return frame.svg(f"Training loss over {total} steps in {len(curves)} rounds", frame.grid(ticks, _plain), *parts)


def _loss_lines(frame: Frame, before: int, points: Sequence[LossPoint]) -> Markup:
    """The loss as it was, and over it a running mean where there are enough points for one."""
    losses = [point.loss for point in points]
    xs = [frame.x(before + point.step) for point in points]
    line = Markup('<path class="{}" d="{}"/>')
    exact = path([(x, frame.y(loss)) for x, loss in zip(xs, losses, strict=True)])
    if len(points) < FEWEST_POINTS_TO_SMOOTH:
        return line.format("line", exact)
    reach = len(points) // 20
    windows = [losses[max(0, at - reach) : at + reach + 1] for at in range(len(losses))]
    smooth = path([(x, frame.y(sum(window) / len(window))) for x, window in zip(xs, windows, strict=True)])
    return line.format("line exact", exact) + line.format("line", smooth)


def _round_name(curve: LossCurve, curves: Sequence[LossCurve]) -> str:
    return f"round {curve.round}" if len(curves) <= 10 else str(curve.round)


def time_chart(rounds: Sequence[Round]) -> Markup | None:
    """Seconds of each round, stacked by kind of stage; None while nothing is done."""
    spent = [record for record in rounds if record.seconds]
    if not spent:
        return None
    longest = max(sum(record.seconds.values()) for record in spent) or 1.0
    unit = 3600.0 if longest >= 7200 else 60.0 if longest >= 120 else 1.0
    ticks = [tick * unit for tick in nice_ticks(longest / unit * 1.02)]
    name = {1.0: "s", 60.0: "min", 3600.0: "h"}[unit]
    last = spent[-1].round
    frame = Frame(-0.5, last + 0.5, ticks[-1], right=24, height=240)
    width = min(64.0, (frame.x(1) - frame.x(0)) * 0.72)
    bars = []
    for record in spent:
        below = 0.0
        for kind in STAGE_KINDS:
            seconds = record.seconds.get(kind, 0.0)
            if seconds:
                top = frame.y(below + seconds)
                bars.append(
                    Markup('<rect class="bar k-{}" x="{}" y="{}" width="{}" height="{}"/>').format(
                        kind.lower(),
                        round(frame.x(record.round) - width / 2, 1),
                        top,
                        round(width, 1),
                        round(frame.y(below) - top, 1),
                    )
                )
                below += seconds
    tips = (_tip(frame, record, _time_lines(record), _slot(frame, len(spent))) for record in spent)
    return frame.svg(
        f"Time per round and kind of stage, {len(spent)} columns; the table below has the figures",
        frame.grid(ticks, lambda tick: f"{tick / unit:g} {name}"),
        _round_ticks(frame, range(last + 1), "prepare, base" if last <= 10 else "base"),
        *bars,
        *tips,
    )


def _time_lines(record: Round) -> Iterable[str]:
    yield f"Round {record.round}" if record.round else "Before the first round"
    yield from (
        f"{kind.value} {format_seconds(record.seconds[kind])}" for kind in STAGE_KINDS if kind in record.seconds
    )


def _round_ticks(frame: Frame, rounds: range, first: str = "base") -> Markup:
    every = next(step for step in (1, 2, 5, 10, 20, 50, 100, 200) if len(rounds) / step <= 26)
    return Markup().join(
        text(frame.x(r), frame.bottom + 20, first if r == 0 else str(r), "tick middle") for r in rounds[::every]
    ) + text((LEFT + WIDTH - frame.right) / 2, frame.height - 2, "round", "tick middle")


def _slot(frame: Frame, count: int) -> float:
    return max(4.0, frame.x(1) - frame.x(0)) if count > 1 else 60.0


def _tip(frame: Frame, record: Round, lines: Iterable[str], slot: float) -> Markup:
    """A column that shows `lines` while the pointer is over it; no script is needed."""
    shown = list(lines)
    x = frame.x(record.round)
    width = 18 + max(len(line) for line in shown) * 6.9
    left = x + 14 if x + 14 + width <= WIDTH else x - 14 - width
    rows = Markup().join(
        text(left + 10, TOP + 20 + 18 * n, line, "heading" if n == 0 else "") for n, line in enumerate(shown)
    )
    return Markup(
        '<g class="spot"><rect class="hit" x="{}" y="{}" width="{}" height="{}"/><g class="tip">'
        '<line class="rule" x1="{}" x2="{}" y1="{}" y2="{}"/>'
        '<rect class="box" x="{}" y="{}" width="{}" height="{}" rx="6"/>{}</g></g>'
    ).format(
        round(x - slot / 2, 1),
        TOP,
        round(slot, 1),
        frame.bottom - TOP,
        x,
        x,
        TOP,
        frame.bottom,
        round(left, 1),
        TOP,
        round(width, 1),
        18 * len(shown) + 12,
        rows,
    )


def nice_ticks(highest: float) -> list[float]:
    """0 and a few round numbers above it, of which the last is not below `highest`."""
    rough = highest / 4
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
    return [round(k * step, 10) for k in range(math.ceil(highest / step - 1e-9) + 1)]


def path(points: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:g},{y:g}" for x, y in points)


def text(x: float, y: float, content: str, classes: str) -> Markup:
    return Markup('<text x="{}" y="{}" class="{}">{}</text>').format(round(x, 1), round(y, 1), classes, content)


def _plain(tick: float) -> str:
    return f"{tick:g}"
