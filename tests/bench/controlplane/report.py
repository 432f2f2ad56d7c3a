"""Figures as JSON, and as tables in the document that explains them."""

import json
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
from tools.build import KUBERNETES

Json = dict[str, Any]
ROW = "| {} |"
GIB = 1024**3


def record(file: Path, part: str, figures: Json) -> Json:
    """Put the figures of one part into `file`, beside those of other parts; all of it."""
    known: Json = json.loads(file.read_text()) if file.exists() else {}
    known[part] = {"measuredOn": machine(), **figures}
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(known, indent=2, ensure_ascii=False) + "\n")
    return known


def machine() -> Json:
    """What the figures depend on, and nothing that names the machine."""
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "cores": os.cpu_count(),
        "memoryGiB": round(psutil.virtual_memory().total / GIB),
        "loadBefore": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        "kubernetes": KUBERNETES,
        "argoWorkflows": "v3.7.4",
        "kopf": version("kopf"),
        "kubernetesClient": version("kubernetes"),
        "pydantic": version("pydantic"),
    }


def write_tables(document: Path, figures: Mapping[str, Json]) -> None:
    """Renew what stands between `<!-- figures: PART -->` and `<!-- end -->`, for the parts that have figures."""
    text = document.read_text()
    for part, tables in TABLES.items():
        if part in figures:
            body = f"<!-- figures: {part} -->\n\n{tables(figures[part])}\n\n<!-- end -->"
            begin, _, rest = text.partition(f"<!-- figures: {part} -->")
            text = begin + body + rest.partition("<!-- end -->")[2]
    document.write_text(text)


def chain_table(part: Json) -> str:
    rows = [
        (
            each["system"] + (f", {each['job_syncs']} Job syncs" if each["job_syncs"] else ""),
            *(_seconds(each["gap"][quantile]) for quantile in ("p50", "p90", "p99")),
            *(_seconds(each["reaction"][quantile]) for quantile in ("p50", "p99")),
            f"{each['wall_seconds']:.1f}",
            f"{each['stages_per_second']:.1f}",
            f"{each['controller_cpu_per_stage_ms']:.1f}",
            f"{each['controller_peak_rss_mib']:.0f}",
            f"{each['writes_per_stage']:.2f}",
            f"{each['reads_per_stage']:.2f}",
            f"{sum(each['control_plane_cpu_seconds'].values()):.0f}",
            f"{each['ended']} of {each['runs']}",
        )
        for each in part["systems"]
    ]
    head = (
        *(
            "controller",
            "gap p50 s",
            "p90 s",
            "p99 s",
            "own part p50 s",
            "p99 s",
            "wall s",
            "stages/s",
            "CPU ms/stage",
            "RSS MiB",
        ),
        *("writes/stage", "reads/stage", "control plane CPU s", "ended"),
    )
    return f"{_machine_line(part)}\n\n{_table(head, rows)}"


def recovery_table(part: Json) -> str:
    rows = [(f"{part['runs']} runs of 4 stages", f"{part['seconds']:.2f}", f"{part['ended']} of {part['runs']}")]
    return f"{_machine_line(part)}\n\n{_table(('killed amidst', 'next Job after s', 'ended'), rows)}"


def scale_table(part: Json) -> str:
    size = f"{part['active_runs']} active runs, {part['finished_jobs']} finished Jobs"
    more = f"{size}, {part['finished_runs']} finished runs"
    rows: list[Sequence[object]] = [
        (size, "RSS at rest, MiB", part["active"]["rss_mib"]),
        (size, "largest RSS since the start, MiB", part["active"]["peak_rss_mib"]),
        (size, f"writes in {part['active']['seconds']:.0f} s at rest", part["active"]["writes"]),
        (size, "CPU at rest, % of a core", part["active"]["cpu_percent"]),
        (size, "cold start: next stage's Job after s", part["cold_first_job_seconds"]),
        (size, "cold start: every active run looked at after s", part["cold_all_looked_at_seconds"]),
        (size, "cold start: largest RSS, MiB", part["cold_peak_rss_mib"]),
        (size, "SIGKILL to the next stage's Job, s", part["recovery_seconds"]),
        (more, "RSS at rest, MiB", part["all_runs"]["rss_mib"]),
        (more, "largest RSS since the start, MiB", part["all_runs"]["peak_rss_mib"]),
        (more, f"writes in {part['all_runs']['seconds']:.0f} s at rest", part["all_runs"]["writes"]),
        (more, "CPU at rest, % of a core", part["all_runs"]["cpu_percent"]),
    ]
    return f"{_machine_line(part)}\n\n{_table(('with', 'measured', 'figure'), rows)}"


TABLES = {"chains": chain_table, "minio": chain_table, "recovery": recovery_table, "scale": scale_table}


def _machine_line(part: Json) -> str:
    on = part["measuredOn"]
    return (
        f"{on['date']}, {on['cores']} cores, {on['memoryGiB']} GiB, load {on['loadBefore']} before the start; "
        f"Kubernetes {on['kubernetes']}, Python {on['python']}, kopf {on['kopf']}."
    )


def _seconds(value: float) -> str:
    return f"{value:.2f}"


def _table(head: Iterable[str], rows: Iterable[Sequence[object]]) -> str:
    head = list(head)
    lines = [ROW.format(" | ".join(head)), ROW.format(" | ".join("---" for _ in head))]
    lines += [ROW.format(" | ".join(str(cell) for cell in row)) for row in rows]
    return "\n".join(lines)
