"""`evolve retry` and `evolve gc`: doing a stage again, and removing what no run needs."""

from pathlib import Path
from typing import Annotated

import typer

from evolution.cli.cluster import request_retry
from evolution.cli.options import (
    Context,
    Endpoint,
    Engine,
    Kubeconfig,
    Namespace,
    RunFile,
    Store,
    Target,
    console,
    engine_settings,
    warn,
)
from evolution.cli.run import work
from evolution.cli.target import find_run, on_laptop
from evolution.cluster.kubectl import Kubectl
from evolution.local.observe import observe
from evolution.local.places import open_run
from evolution.store.garbage import GRACE, Garbage, collect, remove
from evolution.store.history import kept_stages


def retry(
    target: Target,
    stage: Annotated[
        str | None, typer.Option("--stage", help="Also do this finished stage again, for example r2-train.")
    ] = None,
    store: Store = None,
    engine: Engine = "Transformers",
    endpoint: Endpoint = "",
    context: Context = "",
    namespace: Namespace = "",
    kubeconfig: Kubeconfig = "",
) -> None:
    """Check every artifact by its digest, forget damaged stages, and go on; on a cluster, try again what failed."""
    kubectl = Kubectl(context, namespace, kubeconfig)
    if not on_laptop(target, kubectl):
        if stage is not None:
            raise typer.BadParameter("--stage is for runs on this machine; on a cluster, what failed is tried again")
        run, runs = find_run(target, kubectl)
        request_retry(runs, run)
        return
    local = open_run(Path(target), store)
    graph = observe(local, warn).graph
    assert graph is not None
    if stage is not None and graph.stage(stage) is None:
        raise typer.BadParameter(f"no stage {stage}; stages: {', '.join(s.id for s in graph.stages)}")
    for planned in graph.stages:
        if planned.manifest is None:
            continue
        damaged = local.artifacts.verify(planned.manifest)
        for damage in damaged:
            warn(f"{damage}; {planned.id} is done again")
        if damaged or planned.id == stage:
            local.artifacts.discard(planned.manifest, damaged=[damage.digest for damage in damaged])
    work(local, engine_settings(engine, endpoint))


def gc(
    file: RunFile,
    store: Store = None,
    dry_run: Annotated[bool, typer.Option("--dry-run/--delete", help="Only say what would be removed.")] = True,
    grace: Annotated[float, typer.Option(help="Keep objects younger than this many seconds.")] = GRACE,
) -> None:
    """Remove what no run of the store's namespace reaches: results of settings edited away, lost attempts."""
    local = open_run(file, store)
    runs = kept_stages(local.artifacts.store)
    keep = frozenset().union(*runs.values()) if runs else frozenset()
    garbage = collect(local.artifacts, keep, grace=grace)
    if dry_run:
        kept = f"{len(keep)} stages of {len(runs)} runs are kept"
        console.print(f"would remove {_described(garbage)}; {kept}. --delete removes them")
        return
    removed = remove(local.artifacts, garbage, grace=grace)
    console.print(f"removed {_described(removed)}")


def _described(garbage: Garbage) -> str:
    return f"{len(garbage.manifests)} stages and {len(garbage.blobs)} blobs, {garbage.bytes / 1e6:.1f} MB"
