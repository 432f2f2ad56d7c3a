"""Commands that look and change nothing: `plan`, `status`, `report`, `validate`."""

import json
import sys
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from evolution.api.load import load_run
from evolution.cli.options import CLUSTER, Context, Json, Kubeconfig, Namespace, Store, Target, console, warn
from evolution.cli.spent import spent
from evolution.cli.standing import runs_table, standing
from evolution.cli.target import find_ledger, find_run, on_laptop, open_target
from evolution.cli.watching import watch
from evolution.cluster.kubectl import Kubectl
from evolution.cluster.runs import Runs
from evolution.local.observe import observe, read_ledger
from evolution.local.places import StoredRun, open_run, with_local_revisions
from evolution.plan.graph import Graph
from evolution.report.html import write_report
from evolution.report.partition import Partition, partition, partition_json
from evolution.report.table import format_seconds, rounds_table, stages_table


def plan(
    target: Target,
    store: Store = None,
    as_json: Json = False,
    context: Context = "",
    namespace: Namespace = "",
    kubeconfig: Kubeconfig = "",
) -> None:
    """Show what would be reused and what would run, before anything is spent."""
    graph = observe(open_target(target, store, Kubectl(context, namespace, kubeconfig)), warn).graph
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


def status(
    target: Annotated[
        str | None,
        typer.Argument(
            metavar="[RUN.yaml|NAME]",
            help="A run file, or the name of a run on a cluster; without it, all runs of the namespace.",
            show_default=False,
        ),
    ] = None,
    store: Store = None,
    as_json: Json = False,
    watching: Annotated[
        bool, typer.Option("--watch", "-w", help="Watch it until it is complete or failed.", rich_help_panel=CLUSTER)
    ] = False,
    everywhere: Annotated[
        bool, typer.Option("--all-namespaces", "-A", help="Runs of all namespaces.", rich_help_panel=CLUSTER)
    ] = False,
    context: Context = "",
    namespace: Namespace = "",
    kubeconfig: Kubeconfig = "",
) -> None:
    """Show where a run stands; works while another terminal or a cluster runs it."""
    kubectl = Kubectl(context, namespace, kubeconfig)
    if target is None:
        if watching:
            raise typer.BadParameter("name the run to watch")
        _show_runs(Runs(kubectl), everywhere=everywhere, as_json=as_json)
    elif everywhere:
        raise typer.BadParameter("--all-namespaces lists runs; leave out the name")
    elif on_laptop(target, kubectl):
        if watching:
            raise typer.BadParameter("--watch is for runs on a cluster; `evolve run` shows a run on this machine")
        _show_local(open_run(Path(target), store), as_json=as_json)
    else:
        run, runs = find_run(target, kubectl)
        if watching:
            sys.exit(watch(runs, run.name, console, as_json=as_json))
        time = partition(find_ledger(run, store), datetime.now(UTC))
        if as_json:
            _print_status(run.body.get("status", {}), time)
        else:
            console.print(standing(run, time))


def _show_runs(runs: Runs, *, everywhere: bool, as_json: bool) -> None:
    found = runs.list(everywhere=everywhere)
    if as_json:
        listed = [{"namespace": r.namespace, "name": r.name, "status": r.body.get("status", {})} for r in found]
        typer.echo(json.dumps(listed, indent=2, ensure_ascii=False))
    elif found:
        console.print(runs_table(found, namespaces=everywhere))
    else:
        where = "this cluster" if everywhere else f"namespace {runs.kubectl.current_namespace()}"
        console.print(f"no runs in {where}", markup=False)


def _show_local(local: StoredRun, *, as_json: bool) -> None:
    seen = observe(local, warn)
    time = partition(read_ledger(local), datetime.now(UTC))
    if as_json:
        _print_status(seen.status.model_dump(by_alias=True, exclude_none=True, mode="json"), time)
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
    if time:
        console.print(spent(time))


def _print_status(status: Mapping[str, Any], time: Partition | None) -> None:
    """The resource's status, with the partition beside it where it is known."""
    told = {**status, **({"partition": partition_json(time)} if time else {})}
    typer.echo(json.dumps(told, indent=2, ensure_ascii=False))


def report(
    target: Target,
    store: Store = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="The HTML file to write.")] = Path("report.html"),
    gpu_price: Annotated[
        float | None,
        typer.Option(
            "--gpu-price",
            min=0.0,
            help="Price of a GPU-hour, to say what the run and each round cost.",
            show_default=False,
        ),
    ] = None,
    context: Context = "",
    namespace: Namespace = "",
    kubeconfig: Kubeconfig = "",
) -> None:
    """Write one self-contained HTML page: scores, losses, pairs, predictions, time and lineage."""
    stored = open_target(target, store, Kubectl(context, namespace, kubeconfig))
    seen = observe(stored, warn)
    assert seen.graph is not None
    time = partition(read_ledger(stored), datetime.now(UTC))
    try:
        write_report(stored.run, seen.graph, stored.artifacts, output, seen.status, time, gpu_price)
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
