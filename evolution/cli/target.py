"""What a command is about: a run file on this machine, or a run on a cluster."""

import os
import sys
from pathlib import Path

from evolution.cluster.errors import ClusterError, ClusterExit
from evolution.cluster.kubectl import Kubectl
from evolution.cluster.manifest import load_manifest
from evolution.cluster.runs import ClusterRun, Runs
from evolution.ledger import Ledger
from evolution.local.places import StoredRun, local_id, open_run
from evolution.store.artifacts import Artifacts
from evolution.store.base import StoreError
from evolution.store.cache import cache_folder
from evolution.store.history import read_history
from evolution.store.open import local_path, open_store

PLUGIN = "kubectl-evolve"


def is_file(target: str) -> bool:
    """Whether `target` means a run file, there or missing, rather than the name of a run."""
    return target.endswith((".yaml", ".yml")) or Path(target).is_file()


def on_laptop(target: str, kubectl: Kubectl) -> bool:
    """Whether `target` is a file that is run here: no cluster was named, and this is not `kubectl evolve`."""
    return is_file(target) and not kubectl.chosen and Path(sys.argv[0]).stem != PLUGIN


def open_target(target: str, store: str | None, kubectl: Kubectl) -> StoredRun:
    """The run with its store: on this machine as `open_run`, else as the cluster has it.

    A file together with a cluster is the run as the file has it, in the store that the cluster uses.

    Raises:
        InvalidRun: the run is wrong.
        ClusterError: the cluster does not have it, or cannot be asked.
        StoreError: the store cannot be used.
    """
    if on_laptop(target, kubectl):
        return open_run(Path(target), store)
    if is_file(target):
        manifest = load_manifest(Path(target), kubectl.namespace)
        within = kubectl.within(manifest.namespace)
        applied = Runs(within).find(manifest.run.metadata.name)
        run = manifest.run
    else:
        within = kubectl
        applied = Runs(within).get(target)
        run = applied.run()
    location = _store(applied, store, within)
    return StoredRun(run, Artifacts(open_store(location), cache_folder()), applied.id if applied else local_id(run))


def find_run(target: str, kubectl: Kubectl) -> tuple[ClusterRun, Runs]:
    """The run of that name, or of the name that the run file gives, on the cluster; and the runs of its namespace.

    Raises:
        InvalidRun: the file is wrong.
        ClusterError: the cluster does not have it, or cannot be asked.
    """
    if is_file(target):
        manifest = load_manifest(Path(target), kubectl.namespace)
        runs = Runs(kubectl.within(manifest.namespace))
        return runs.get(manifest.run.metadata.name), runs
    runs = Runs(kubectl)
    return runs.get(target), runs


def find_ledger(run: ClusterRun, store: str | None) -> Ledger:
    """What the attempts of a run of a cluster have held, by its store; empty if this machine cannot read there."""
    from_environment = store == os.environ.get("EVOLUTION_STORE")
    location = f"{store.rstrip('/')}/{run.namespace}" if store and not from_environment else run.store
    try:
        history = read_history(open_store(location), run.id) if location else None
    except StoreError:
        history = None
    return history.ledger if history else Ledger()


def _store(applied: ClusterRun | None, option: str | None, kubectl: Kubectl) -> str:
    """Where the stages of the namespace lie: as the user says, as the run's status says, as that of another run does.

    The environment is asked last: EVOLUTION_STORE may well mean the store of runs on this machine.
    """
    from_environment = option == os.environ.get("EVOLUTION_STORE")
    location = "" if from_environment else _below(option, applied, kubectl)
    location = location or (applied.store if applied else "")
    location = location or next((run.store for run in Runs(kubectl).list() if run.store), "")
    location = location or _below(option, applied, kubectl)
    if not location:
        raise ClusterError(
            "no run of this namespace says yet where its store is; name the operator's store with --store s3://BUCKET/PREFIX",
            ClusterExit.WRONG_OPTION,
        )
    folder = None if location.startswith("s3://") else local_path(location)
    if folder is not None and not folder.is_dir():
        raise ClusterError(
            f"the cluster's store {location} is a folder that this machine does not have; "
            "mount it and name it with --store",
            ClusterExit.WRONG_OPTION,
        )
    return location


def _below(root: str | None, applied: ClusterRun | None, kubectl: Kubectl) -> str:
    """The part of the operator's store at `root` that belongs to the namespace."""
    if not root:
        return ""
    return f"{root.rstrip('/')}/{applied.namespace if applied else kubectl.current_namespace()}"
