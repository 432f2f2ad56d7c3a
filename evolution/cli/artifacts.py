"""`evolve pull`: a round's results as plain files."""

import shutil
from pathlib import Path
from typing import Annotated, Literal

import typer

from evolution.cli.options import Context, Kubeconfig, Namespace, Store, Target, console, warn
from evolution.cli.target import open_target
from evolution.cluster.kubectl import Kubectl
from evolution.local.observe import observe
from evolution.plan.graph import Graph, Stage
from evolution.plan.stage import Kind

What = Literal["pairs", "rejects", "scores", "predictions", "adapter", "log"]
PRODUCER: dict[str, Kind] = {
    "pairs": Kind.GENERATE,
    "rejects": Kind.GENERATE,
    "scores": Kind.SCORE,
    "predictions": Kind.EVALUATE,
    "adapter": Kind.TRAIN,
    "log": Kind.TRAIN,
}


def pull(
    target: Target,
    what: Annotated[What, typer.Argument(help="What to copy.", show_default=False)],
    round_: Annotated[
        int | None,
        typer.Option("--round", help="Round; default: the best for adapter and predictions, else the newest."),
    ] = None,
    to: Annotated[Path, typer.Option("--to", help="Folder to write into.")] = Path(),
    store: Store = None,
    context: Context = "",
    namespace: Namespace = "",
    kubeconfig: Kubeconfig = "",
) -> None:
    """Copy a round's pairs, predictions, adapter and so on into a folder, as JSON Lines or as a plain PEFT folder."""
    local = open_target(target, store, Kubectl(context, namespace, kubeconfig))
    graph = observe(local, warn).graph
    assert graph is not None
    stage = _producer(graph, what, round_)
    assert stage.manifest is not None
    artifact = stage.manifest.outputs[what]
    if artifact.form == "Tree":
        copy = to / f"{local.run.metadata.name}-r{stage.round}-{what}"
        shutil.copytree(local.artifacts.fetch_tree(artifact.digest), copy, dirs_exist_ok=True)
    else:
        to.mkdir(parents=True, exist_ok=True)
        copy = to / f"{local.run.metadata.name}-r{stage.round}-{what}.jsonl"
        shutil.copyfile(local.artifacts.fetch(artifact.digest), copy)
    console.print(f"wrote {copy}")


def _producer(graph: Graph, what: What, round_: int | None) -> Stage:
    """The finished stage that made `what` in `round_`."""
    done = {stage.round: stage for stage in graph.stages if stage.kind is PRODUCER[what] and stage.done}
    if not done:
        raise typer.BadParameter(f"no round has {what} yet")
    if round_ is None:
        best = graph.verdict.best
        round_ = best if what in ("adapter", "predictions") and best in done else max(done)
    if round_ not in done:
        rounds = ", ".join(map(str, sorted(done)))
        raise typer.BadParameter(f"round {round_} has no {what}; rounds that have: {rounds}")
    return done[round_]
