"""The stages of a run and what they hand to each other, as a drawing."""

from collections.abc import Iterable, Sequence

from markupsafe import Markup

from evolution.plan.stage import Kind
from evolution.report.chart import path, text
from evolution.report.figures import Figures, StageLine

FIRST_ROUNDS, LAST_ROUNDS = 2, 4
"""Rounds in the drawing of a long run."""
COLUMN, ROW, BOX_WIDTH, BOX_HEIGHT, MARGIN = 148.0, 62.0, 112.0, 40.0, 12.0
ROWS = {Kind.SCORE: 0, Kind.GENERATE: 1, Kind.TRAIN: 2, Kind.EVALUATE: 3, Kind.PUBLISH: 2}
PREPARE_ROWS = {"prepare-documents": 1, "prepare-model": 2, "prepare-evaluation": 3, "prepare-adapter": 0}


def drawn_rounds(figures: Figures) -> list[int]:
    """All rounds of a short run; of a long one the first and the last, around the gap."""
    rounds = sorted({stage.round for stage in figures.stages if stage.round > 0})
    return rounds if len(rounds) <= FIRST_ROUNDS + LAST_ROUNDS else rounds[:FIRST_ROUNDS] + rounds[-LAST_ROUNDS:]


def lineage_drawing(figures: Figures) -> Markup:
    """A box per stage, a column per round; lines of one input each, those from far away shown on demand only."""
    rounds = drawn_rounds(figures)
    shown = [stage for stage in figures.stages if stage.round in (0, *rounds)]
    top = min(_row(stage) for stage in shown)
    places = {stage.id: _place(stage, rounds, top) for stage in shown}
    width = max(x for x, _ in places.values()) + BOX_WIDTH + MARGIN
    height = (4 - top) * ROW + MARGIN + 18
    heads = (
        text(MARGIN + COLUMN * (2 + n) + BOX_WIDTH / 2, 14, f"round {r}", "tick middle") for n, r in enumerate(rounds)
    )
    gap = next((n for n in range(1, len(rounds)) if rounds[n] > rounds[n - 1] + 1), None)
    dots = text(MARGIN + COLUMN * (2 + gap) - (COLUMN - BOX_WIDTH) / 2, 14, "…", "tick middle") if gap else Markup()
    return Markup(
        '<svg class="lineage" viewBox="0 0 {0:.0f} {1:.0f}" width="{0:.0f}" aria-hidden="true">{2}</svg>'
    ).format(width, height, Markup().join([*heads, dots, *_lines(shown, places, rounds), *_boxes(shown, places)]))


def _row(stage: StageLine) -> int:
    return PREPARE_ROWS[stage.id] if stage.kind is Kind.PREPARE else ROWS[stage.kind]


def _place(stage: StageLine, rounds: Sequence[int], top: int) -> tuple[float, float]:
    if stage.kind is Kind.PREPARE:
        column = 0
    elif stage.kind is Kind.PUBLISH:
        column = 2 + len(rounds)
    else:
        column = 2 + rounds.index(stage.round) if stage.round else 1
    return MARGIN + COLUMN * column, 26 + ROW * (_row(stage) - top)


def _boxes(stages: Iterable[StageLine], places: dict[str, tuple[float, float]]) -> Iterable[Markup]:
    for stage in stages:
        x, y = places[stage.id]
        name = stage.id.removeprefix("prepare-") if stage.kind is Kind.PREPARE else stage.kind.value
        yield Markup(
            '<g class="stage k-{} {}" data-id="{}"><rect x="{}" y="{}" width="{}" height="{}" rx="6"/>{}{}</g>'
        ).format(
            stage.kind.lower(),
            stage.state.lower(),
            stage.id,
            x,
            y,
            BOX_WIDTH,
            BOX_HEIGHT,
            text(x + 10, y + 17, name, "heading"),
            text(x + 10, y + 32, (stage.fingerprint or "")[:8] or "not known yet", "hash"),
        )


def _lines(
    stages: Iterable[StageLine], places: dict[str, tuple[float, float]], rounds: Sequence[int]
) -> Iterable[Markup]:
    by_id = {stage.id: stage for stage in stages}
    for stage in by_id.values():
        for source in dict.fromkeys(read.stage for read in stage.reads):
            if source in by_id:
                near = _near(by_id[source], stage, rounds)
                yield Markup('<path class="{}" data-from="{}" data-to="{}" d="{}"/>').format(
                    "edge" if near else "edge far", source, stage.id, _curve(places[source], places[stage.id])
                )


def _near(source: StageLine, target: StageLine, rounds: Sequence[int]) -> bool:
    """Whether the line stays short: within a round, or from one column to the next."""
    if source.kind is Kind.PREPARE or (source.kind is Kind.GENERATE and target.kind is Kind.EVALUATE):
        return False
    if target.kind is Kind.PUBLISH or source.round == target.round:
        return True
    adjacent = source.round in rounds and target.round == source.round + 1
    return adjacent and source.kind is not Kind.GENERATE


def _curve(source: tuple[float, float], target: tuple[float, float]) -> str:
    (x0, y0), (x1, y1) = source, target
    if x0 == x1:
        down = y1 > y0
        start, end = y0 + (BOX_HEIGHT if down else 0), y1 + (0 if down else BOX_HEIGHT)
        return path([(x0 + BOX_WIDTH / 2, start), (x1 + BOX_WIDTH / 2, end)])
    start, end = y0 + BOX_HEIGHT / 2, y1 + BOX_HEIGHT / 2
    middle = (x0 + BOX_WIDTH + x1) / 2
    return f"M{x0 + BOX_WIDTH:g},{start:g}C{middle:g},{start:g} {middle:g},{end:g} {x1:g},{end:g}"
