"""One self-contained HTML page about a run: opens from disk, needs no network, trusts none of the texts it shows."""

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from evolution.api.run import EvolutionRun
from evolution.api.status import EvolutionRunStatus
from evolution.plan.graph import Graph
from evolution.report.chart import STAGE_KINDS, loss_chart, score_chart, time_chart
from evolution.report.figures import Figures, Read
from evolution.report.gather import gather
from evolution.report.headline import metric_name
from evolution.report.lineage import drawn_rounds, lineage_drawing
from evolution.report.panels import panels, reasons
from evolution.report.partition import CLASS_NAMES, RESULT_MEANINGS, Partition
from evolution.report.partition_chart import partition_chart
from evolution.report.table import format_seconds
from evolution.store.artifacts import Artifacts

FOLDER = Path(__file__).parent
READS_IN_SIGHT = 5
"""Further inputs of a stage (pairs and scores of many rounds) are folded away."""


def write_report(
    run: EvolutionRun,
    graph: Graph,
    artifacts: Artifacts,
    path: Path,
    status: EvolutionRunStatus,
    time: Partition | None = None,
    gpu_price: float | None = None,
) -> None:
    """Write the page about `run` to `path`; `time` is what its ledger says. The same run gives the same bytes.

    Raises:
        StoreError: the store cannot be read.
        OSError: `path` cannot be written.
    """
    page = render(gather(run, graph, artifacts, status, time, gpu_price))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8", errors="replace")


def render(figures: Figures) -> str:
    """The page as text."""
    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"seconds": format_seconds, "size": format_size, "metric": metric_name, "count": _thousands}
    script = (FOLDER / "report.js").read_text(encoding="utf-8")
    return environment.get_template("report.html.j2").render(
        f=figures,
        score_chart=score_chart(figures),
        loss_chart=loss_chart(figures.losses),
        time_chart=time_chart(figures.rounds),
        lineage=lineage_drawing(figures),
        drawn=drawn_rounds(figures),
        finished_kinds=[kind for kind in STAGE_KINDS if any(s.kind is kind and s.total for s in figures.stages)],
        finished_seconds=sum(stage.total for stage in figures.stages),
        partition_chart=partition_chart(figures.time),
        class_names=CLASS_NAMES,
        used=[class_ for class_, value in figures.time.by_class.items() if value] if figures.time else [],
        result_meanings=RESULT_MEANINGS,
        qualities=(qualities := [record.quality for record in figures.rounds if record.round]),
        panels=panels(qualities),
        reasons=reasons(qualities),
        fold=_fold,
        # Only this very script may run on the page, so text that slipped through as markup would still be inert.
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        script=Markup(script),
        style=Markup((FOLDER / "report.css").read_text(encoding="utf-8")),
        data=embedded_json(_browsed(figures)),
    )


def embedded_json(value: Any) -> Markup:
    """JSON that can stand inside a script element: no character in it can end the element or begin another."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def _browsed(figures: Figures) -> Mapping[str, Any]:
    """The rows that the page's script shows, as lists rather than objects to keep the file small."""
    predictions = figures.predictions
    return {
        "pairs": [
            [pair.round, pair.document, pair.question, pair.answer, pair.reject, pair.ifd, pair.ifd_missing]
            for pair in figures.pairs.rows
        ],
        "documents": {id_: [document.text, document.cut] for id_, document in figures.pairs.documents.items()},
        "predictions": {
            "rounds": predictions.rounds,
            "right": predictions.right,
            "best": figures.best or 0,
            "items": [
                [item.question, item.answer, [item.predictions.get(round_) for round_ in predictions.rounds]]
                for item in predictions.items
            ],
        },
    }


def _fold(reads: Sequence[Read]) -> tuple[Sequence[Read], Sequence[Read]]:
    """Inputs to show at once, and those to fold away: of many rounds, where there are many."""
    if len(reads) <= READS_IN_SIGHT:
        return reads, ()
    return [read for read in reads if "." not in read.name], [read for read in reads if "." in read.name]


def format_size(size: int) -> str:
    """Bytes for people: `312 B`, `4.1 kB`, `8.2 MB`."""
    value, unit = float(size), "B"
    for larger in ("kB", "MB", "GB"):
        if value < 999.5:
            break
        value, unit = value / 1000, larger
    return f"{value:.1f} {unit}" if unit != "B" and value < 10 else f"{value:.0f} {unit}"


def _thousands(number: int) -> str:
    return f"{number:,}"
