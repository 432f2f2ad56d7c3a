"""`evolve retry` and `evolve gc`: doing a stage again, and removing what no run needs."""

from typing import Annotated

import typer

from evolution.cli.options import RunFile, Store, console, warn
from evolution.cli.run import work
from evolution.local.observe import observe
from evolution.local.places import open_run
from evolution.store.garbage import GRACE, Garbage, collect, remove
from evolution.store.history import kept_stages


def retry(
    file: RunFile,
    stage: Annotated[
        str | None, typer.Option("--stage", help="Also do this finished stage again, for example r2-train.")
    ] = None,
    store: Store = None,
) -> None:
    """Check every artifact of the run by its digest, forget damaged stages, and go on."""
    local = open_run(file, store)
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
    work(local)


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
