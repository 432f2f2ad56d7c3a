"""Commands that look and change nothing: `plan`, `status`, `report`, `validate`."""

import json
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from evolution.api.load import load_run
from evolution.cli.options import Json, RunFile, Store, console, warn
from evolution.local.observe import observe
from evolution.local.places import open_run, with_local_revisions
from evolution.plan.graph import Graph
from evolution.report.html import write_report
from evolution.report.table import format_seconds, rounds_table, stages_table


def plan(file: RunFile, store: Store = None, as_json: Json = False) -> None:
    """Show what would be reused and what would run, before anything is spent."""
    graph = observe(open_run(file, store), warn).graph
    assert graph is not None
    counts = Counter(stage.state for stage in graph.stages)
    if as_json:
        typer.echo(json.dumps({"stages": _stages(graph), "counts": dict(counts)}, indent=2))
        return
    console.print(stages_table(graph))
    undecided = f", {counts['Undecided']} after the gate has decided" if counts["Undecided"] else ""
    run = counts["Ready"] + counts["Waiting"]
    console.print(f"{counts['Done']} stages are reused, {run} run{undecided}")


def _stages(graph: Graph) -> list[dict[str, object]]:
    return [
        {
            "id": stage.id,
            "kind": stage.kind.value,
            "round": stage.round,
            "state": stage.state,
            "fingerprint": stage.fingerprint,
            "outputs": {name: a.digest for name, a in stage.manifest.outputs.items()} if stage.manifest else {},
            "waitsFor": sorted({i.stage for i in stage.inputs.values() if i.digest is None}),
        }
        for stage in graph.stages
    ]


def status(file: RunFile, store: Store = None, as_json: Json = False) -> None:
    """Show where a run stands; works while another terminal runs it."""
    local = open_run(file, store)
    seen = observe(local, warn)
    if as_json:
        typer.echo(seen.status.model_dump_json(by_alias=True, exclude_none=True, indent=2))
        return
    assert seen.graph is not None
    now = seen.status
    eta = f", about {format_seconds(now.progress.eta_seconds)} left" if now.progress.eta_seconds else ""
    console.print(f"[bold]{local.run.metadata.name}[/]: {now.state}, {now.progress.percent} %{eta}")
    for current in now.current:
        left = f", {format_seconds(current.eta_seconds)} left" if current.eta_seconds is not None else ""
        console.print(f"  round {current.round} {current.stage}: {current.waiting_for or f'{current.percent} %{left}'}")
    console.print(rounds_table(now, seen.graph))
    for condition in now.conditions:
        if condition.status == "True" and condition.type in ("Complete", "Failed", "Suspended"):
            console.print(f"{condition.type}: {condition.message}")


def report(
    file: RunFile,
    store: Store = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="The HTML file to write.")] = Path("report.html"),
) -> None:
    """Write one self-contained HTML page: scores, losses, pairs, predictions, time and lineage."""
    local = open_run(file, store)
    seen = observe(local, warn)
    assert seen.graph is not None
    try:
        write_report(local.run, seen.graph, local.artifacts, output, seen.status)
    except OSError as error:
        raise typer.BadParameter(f"{output} cannot be written: {error.strerror}") from error
    console.print(f"wrote {output}")


def validate(
    files: Annotated[list[Path], typer.Argument(metavar="RUN.yaml...", help="Run files to check.")],
    as_json: Json = False,
) -> None:
    """Check run files, and that the local files which they name are there."""
    for file in files:
        run = with_local_revisions(load_run(file))
        if as_json:
            typer.echo(run.model_dump_json(by_alias=True, indent=2))
        else:
            console.print(f"{file}: valid ({run.spec.preset} preset, {run.spec.rounds} rounds)", markup=False)
