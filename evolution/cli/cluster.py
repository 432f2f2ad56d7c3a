"""Commands for runs of a cluster: `submit`, `suspend`, `resume`, `cancel`; and `retry` of a run there."""

import sys
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import typer

from evolution.cli.options import Context, Kubeconfig, Name, Namespace, RunFile, console
from evolution.cli.watching import watch
from evolution.cluster.kubectl import Kubectl
from evolution.cluster.manifest import load_manifest
from evolution.cluster.runs import ClusterRun, Runs


def submit(
    file: RunFile,
    wait: Annotated[
        bool, typer.Option("--wait", "--follow", "-f", help="Then watch it until it is complete or failed.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Take over fields that somebody else has set.")] = False,
    context: Context = "",
    namespace: Namespace = "",
    kubeconfig: Kubeconfig = "",
) -> None:
    """Check a run file and apply it to a cluster; an edited file changes the run, and only what changed runs again."""
    manifest = load_manifest(file, namespace)
    runs = Runs(Kubectl(context, namespace, kubeconfig).within(manifest.namespace))
    name = manifest.run.metadata.name
    before = runs.find(name)
    after = runs.apply(manifest.text, force=force)
    there = f"{after.name} in namespace {after.namespace}"
    if before is None:
        console.print(f"created {there}", markup=False)
    else:
        changes = list(_changes(_applied(before), _applied(after)))
        console.print(f"changed {there}" if changes else f"unchanged: {there}", markup=False)
        for change in changes:
            console.print(f"  {change}", markup=False)
    if after.body.get("spec", {}).get("suspend"):
        console.print(f"it is suspended; `evolve resume {name}` lets it run", markup=False)
    if wait:
        sys.exit(watch(Runs(runs.kubectl.within(after.namespace)), name, console))
    console.print(f"`evolve status {name} --watch` follows it", markup=False, style="dim")


def suspend(name: Name, context: Context = "", namespace: Namespace = "", kubeconfig: Kubeconfig = "") -> None:
    """Stop the work on a run and free its GPUs; what is finished is kept."""
    runs = Runs(Kubectl(context, namespace, kubeconfig))
    if _set_suspend(runs, name, suspended=True):
        console.print(f"suspended {name}; `evolve resume {name}` goes on with it", markup=False)
    else:
        console.print(f"{name} is suspended already", markup=False)


def resume(name: Name, context: Context = "", namespace: Namespace = "", kubeconfig: Kubeconfig = "") -> None:
    """Go on with a suspended run."""
    runs = Runs(Kubectl(context, namespace, kubeconfig))
    if _set_suspend(runs, name, suspended=False):
        console.print(f"resumed {name}", markup=False)
    else:
        console.print(f"{name} is not suspended", markup=False)


def cancel(
    name: Name,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    context: Context = "",
    namespace: Namespace = "",
    kubeconfig: Kubeconfig = "",
) -> None:
    """Delete a run and its Jobs. Its finished stages stay in the store: the same file, submitted again, reuses them."""
    runs = Runs(Kubectl(context, namespace, kubeconfig))
    run = runs.get(name)
    there = f"{name} in namespace {run.namespace} ({run.status.summary or run.status.state})"
    if not yes:
        if not sys.stdin.isatty():
            raise typer.BadParameter(f"to delete {there} without being asked, say --yes")
        typer.confirm(f"delete {there}?", abort=True)
    runs.delete(name)
    where = f" ({run.store})" if run.store else ""
    console.print(f"deleted {name}; its finished stages stay in the store{where} and are reused", markup=False)


def request_retry(runs: Runs, run: ClusterRun) -> None:
    """Have the operator try again what failed."""
    runs.request_retry(run.name)
    console.print(f"asked for a retry of {run.name}; `evolve status {run.name} --watch` follows it", markup=False)


def _set_suspend(runs: Runs, name: str, *, suspended: bool) -> bool:
    """Whether that changed anything."""
    if bool(runs.get(name).body.get("spec", {}).get("suspend", False)) == suspended:
        return False
    runs.set_suspend(name, suspended)
    return True


def _applied(run: ClusterRun) -> Mapping[str, Any]:
    """What an author writes of a run."""
    metadata = {field: run.body["metadata"].get(field, {}) for field in ("labels", "annotations")}
    return {"metadata": metadata, "spec": run.body.get("spec", {})}


def _changes(before: Any, after: Any, path: str = "") -> Iterator[str]:
    """`spec.rounds: 4 → 6` for every field that differs."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for field in dict.fromkeys((*before, *after)):
            yield from _changes(before.get(field), after.get(field), f"{path}.{field}" if path else str(field))
    elif before != after:
        yield f"{path}: {_shown(before)} → {_shown(after)}"


def _shown(value: Any) -> str:
    return "not set" if value is None else str(value)
