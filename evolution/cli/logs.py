"""`evolve logs`: what the workers of a run on a cluster say."""

import json
from typing import Annotated

import typer
from pydantic import ValidationError

from evolution.cli.options import Context, Kubeconfig, Name, Namespace, errors
from evolution.cluster.kubectl import Kubectl
from evolution.cluster.logs import WorkerPod, follow, together, worker_pods, written
from evolution.cluster.runs import Runs
from evolution.plan import worker
from evolution.report.table import format_seconds


def logs(
    name: Name,
    stage: Annotated[
        str | None, typer.Option("--stage", help="Of this stage, for example r2-train; default: what is being done.")
    ] = None,
    following: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the pods end.")] = False,
    previous: Annotated[bool, typer.Option("--previous", help="Of the attempt before the last one.")] = False,
    raw: Annotated[bool, typer.Option("--raw", help="Print the worker's lines as they are.")] = False,
    context: Context = "",
    namespace: Namespace = "",
    kubeconfig: Kubeconfig = "",
) -> None:
    """Show what the workers of a run say, progress and errors included."""
    kubectl = Kubectl(context, namespace, kubeconfig)
    pods = worker_pods(kubectl, Runs(kubectl).get(name), stage, previous=previous)
    if following:
        lines = together([(_label(pod), follow(kubectl, pod, _say_waiting)) for pod in pods])
    else:
        lines = ((_label(pod), line) for pod in pods for line in written(kubectl, pod))
    try:
        for label, line in lines:
            shown = line if raw else spoken(line)
            typer.echo(f"[{label}] {shown}" if len(pods) > 1 else shown)
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


def spoken(line: str) -> str:
    """A worker's event in words; any other line as it is."""
    try:
        event = worker.parse_event(line)
    except ValidationError:
        return line
    match event:
        case worker.Ready():
            return "ready for orders"
        case worker.Started():
            return f"{event.stage}: started"
        case worker.ModelLoaded():
            return f"model loaded in {format_seconds(event.seconds)}"
        case worker.Progress():
            return f"{event.stage}: {_progress(event)}"
        case worker.Committed():
            return f"{event.stage}: {_committed(event)}"
        case worker.OrderDone():
            return "all stages of the order are done"
        case worker.Failed():
            stage = f"{event.stage}: " if event.stage else ""
            return f"{stage}failed ({event.reason}, exit code {event.code}): {event.message}"


def _progress(event: worker.Progress) -> str:
    total = f"/{event.total}" if event.total else ""
    figures = [
        f"{event.rate:.1f}/s" if event.rate else "",
        f"{format_seconds(event.eta_seconds)} left" if event.eta_seconds is not None else "",
        event.note,
    ]
    more = ", ".join(filter(None, figures))
    return f"{event.phase} {event.done}{total}" + (f" ({more})" if more else "")


def _committed(event: worker.Committed) -> str:
    if event.adopted:
        return "was done already, adopted"
    outputs = ", ".join(f"{artifact.count} {name}" for name, artifact in event.manifest.outputs.items())
    seconds = format_seconds(event.manifest.timings.total)
    figures = f"; {json.dumps(event.manifest.scores)}" if event.manifest.scores else ""
    return f"done in {seconds}: {outputs}{figures}"


def _label(pod: WorkerPod) -> str:
    stages = pod.stages[0] if len(pod.stages) == 1 else f"{pod.stages[0]}…{pod.stages[-1]}" if pod.stages else pod.job
    return f"{stages}/{pod.index}" if pod.index else stages


def _say_waiting(why: str) -> None:
    errors.print(f"waiting for pod {why}", style="yellow", markup=False)
