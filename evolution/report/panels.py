"""What the data of each round are like, as small charts side by side."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from evolution.quality import Quality
from evolution.report.chart import nice_ticks, path, text

WIDTH, HEIGHT = 340.0, 190.0
LEFT, RIGHT, TOP, BOTTOM = 44.0, 12.0, 10.0, 30.0
REASONS_SHOWN = 5
"""Reasons with a colour of their own; the others share one."""
LABELS = 10
POINTS = 24
"""In longer runs, lines have no points."""
WHISKERS = 10


@dataclass(frozen=True)
class Panel:
    title: str
    drawing: Markup
    legend: tuple[tuple[str, str], ...] = ()
    """CSS class and meaning of each colour."""


@dataclass(frozen=True)
class _Frame:
    rounds: Sequence[int]
    highest: float

    def x(self, round_: int) -> float:
        return round(LEFT + (self.rounds.index(round_) + 0.5) * self.slot, 1)

    def y(self, value: float) -> float:
        return round(HEIGHT - BOTTOM - value / self.highest * (HEIGHT - TOP - BOTTOM), 1)

    @property
    def slot(self) -> float:
        return (WIDTH - LEFT - RIGHT) / len(self.rounds)


def panels(rounds: Sequence[Quality]) -> list[Panel]:
    """Of what is known of at least one round."""
    drawn = [
        _rejects(rounds),
        _shares(rounds),
        _spread("Length of the questions, in tokens", rounds, lambda q: q.question_tokens),
        _spread("Length of the answers, in tokens", rounds, lambda q: q.answer_tokens),
        _spread("Difficulty (IFD)", rounds, lambda q: q.ifd),
    ]
    return [panel for panel in drawn if panel]


def reasons(rounds: Iterable[Quality]) -> list[str]:
    """Why questions and answers were not kept, the most frequent reason first."""
    sums: dict[str, int] = {}
    for quality in rounds:
        for reason, count in quality.rejects.items():
            sums[reason] = sums.get(reason, 0) + count
    return sorted(sums, key=lambda reason: (-sums[reason], reason))


def _rejects(rounds: Sequence[Quality]) -> Panel | None:
    known = [quality for quality in rounds if quality.pairs is not None]
    named = reasons(known)[:REASONS_SHOWN]
    if not named:
        return None
    frame = _frame(known, max(sum(quality.rejects.values()) for quality in known))
    width = round(min(34.0, frame.slot * 0.7), 1)
    bars = []
    for quality in known:
        parts = [(f"s{n}", reason, quality.rejects.get(reason, 0)) for n, reason in enumerate(named)]
        parts.append(("s5", "other", sum(quality.rejects.values()) - sum(count for _, _, count in parts)))
        below = 0
        for class_, reason, count in parts:
            if count:
                top = frame.y(below + count)
                bars.append(
                    Markup(
                        '<rect class="column {}" x="{}" y="{}" width="{}" height="{}"><title>{}</title></rect>'
                    ).format(
                        class_,
                        round(frame.x(quality.round) - width / 2, 1),
                        top,
                        width,
                        round(frame.y(below) - top, 1),
                        f"round {quality.round}: {count} {reason}",
                    )
                )
                below += count
    legend = [(f"s{n}", reason) for n, reason in enumerate(named)]
    if len(reasons(known)) > REASONS_SHOWN:
        legend.append(("s5", "other"))
    return Panel("Rejected, by reason", _svg("Rejected questions and answers", frame, *bars), tuple(legend))


def _shares(rounds: Sequence[Quality]) -> Panel | None:
    series: Mapping[str, dict[int, float]] = {
        "documents with a pair": {q.round: q.coverage for q in rounds if q.coverage is not None},
        "duplicates among the questions": {q.round: q.duplicates for q in rounds if q.duplicates is not None},
    }
    known = [quality for quality in rounds if any(quality.round in values for values in series.values())]
    if not known:
        return None
    frame = _frame(known, 1.0)
    lines = [_line(frame, f"s{n}", values) for n, values in enumerate(series.values()) if values]
    tips = [
        _tip(
            frame,
            quality.round,
            [
                f"{100 * values[quality.round]:.1f} % {name}"
                for name, values in series.items()
                if quality.round in values
            ],
        )
        for quality in known
    ]
    legend = tuple((f"s{n}", name) for n, (name, values) in enumerate(series.items()) if values)
    drawing = _svg("Coverage and duplicates", frame, *lines, *tips, label=lambda tick: f"{100 * tick:g} %")
    return Panel("Coverage and duplicates", drawing, legend)


def _spread(title: str, rounds: Sequence[Quality], of: Callable[[Quality], Mapping[str, float]]) -> Panel | None:
    """The median of each round as a line, in the band from the 0.1 to the 0.9 quantile."""
    known = [quality for quality in rounds if "0.5" in of(quality)]
    if not known:
        return None
    frame = _frame(known, max(value for quality in known for value in of(quality).values()))
    banded = [quality for quality in known if {"0.1", "0.9"} <= of(quality).keys()]
    edges = [(frame.x(q.round), frame.y(of(q)["0.9"])) for q in banded]
    edges += [(frame.x(q.round), frame.y(of(q)["0.1"])) for q in reversed(banded)]
    whiskers = [
        Markup('<line class="whisker" x1="{0}" x2="{0}" y1="{1}" y2="{2}"/>').format(
            frame.x(q.round), frame.y(of(q)["0.1"]), frame.y(of(q)["0.9"])
        )
        for q in banded
        if len(known) <= WHISKERS
    ]
    band = Markup('<g class="series s0"><path class="band" d="{}Z"/>{}</g>').format(
        path(edges), Markup().join(whiskers)
    )
    line = _line(frame, "s0", {quality.round: of(quality)["0.5"] for quality in known})
    tips = [_tip(frame, quality.round, [_quantiles(of(quality))]) for quality in known]
    return Panel(title, _svg(title, frame, band if edges else Markup(), line, *tips))


def _quantiles(values: Mapping[str, float]) -> str:
    return ", ".join(
        f"{'median' if name == '0.5' else f'{name} quantile'} {value:.3g}" for name, value in values.items()
    )


def _frame(rounds: Sequence[Quality], highest: float) -> _Frame:
    return _Frame([quality.round for quality in rounds], nice_ticks(highest or 1.0)[-1])


def _line(frame: _Frame, class_: str, values: Mapping[int, float]) -> Markup:
    places = [(frame.x(round_), frame.y(value)) for round_, value in values.items()]
    points = [Markup('<circle class="dot" cx="{}" cy="{}" r="3"/>').format(x, y) for x, y in places]
    return Markup('<g class="series {}"><path class="line" d="{}"/>{}</g>').format(
        class_, path(places), Markup().join(points if len(points) <= POINTS else [])
    )


def _tip(frame: _Frame, round_: int, lines: Sequence[str]) -> Markup:
    """A column with a title of its own, which browsers show while the pointer rests on it."""
    return Markup('<rect class="hit" x="{}" y="{}" width="{}" height="{}"><title>{}</title></rect>').format(
        round(frame.x(round_) - frame.slot / 2, 1),
        TOP,
        round(frame.slot, 1),
        HEIGHT - TOP - BOTTOM,
        f"round {round_}: {', '.join(lines)}",
    )


def _svg(title: str, frame: _Frame, *parts: Markup, label: Callable[[float], str] = lambda tick: f"{tick:g}") -> Markup:
    ticks = [tick for tick in nice_ticks(frame.highest) if tick <= frame.highest]
    grid = Markup().join(
        Markup('<line class="{}" x1="{}" x2="{}" y1="{}" y2="{}"/>{}').format(
            "axis" if tick == 0 else "grid",
            LEFT,
            WIDTH - RIGHT,
            frame.y(tick),
            frame.y(tick),
            text(LEFT - 6, frame.y(tick) + 4, label(tick), "tick end"),
        )
        for tick in ticks
    )
    every = next(step for step in (1, 2, 5, 10, 20, 50, 100, 200) if len(frame.rounds) / step <= LABELS)
    names = Markup().join(
        text(frame.x(round_), HEIGHT - BOTTOM + 18, str(round_), "tick middle") for round_ in frame.rounds[::every]
    )
    return Markup('<svg viewBox="0 0 {:.0f} {:.0f}" role="img" aria-label="{}">{}{}{}</svg>').format(
        WIDTH, HEIGHT, f"{title}, by round; the table below has the figures", grid, names, Markup().join(parts)
    )
