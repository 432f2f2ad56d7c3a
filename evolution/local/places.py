"""Where a run keeps its things, and where one without a cluster does."""

from dataclasses import dataclass
from pathlib import Path

from evolution.api.load import load_run
from evolution.api.run import EvolutionRun
from evolution.plan.stage import sha256
from evolution.store.artifacts import Artifacts
from evolution.store.cache import cache_folder
from evolution.store.open import open_store
from evolution.store.revisions import local_revision

DEFAULT_STORE = ".evolution"
"""Folder beside the run file."""


@dataclass(frozen=True)
class StoredRun:
    """A run together with the store that has its stages, and its name there."""

    run: EvolutionRun
    artifacts: Artifacts
    id: str
    """`<name>-<uid8>`"""

    @property
    def log(self) -> Path:
        return cache_folder() / "logs" / f"{self.id}.log"


def local_id(run: EvolutionRun) -> str:
    """The id of a run without a cluster: it has no uid, its namespace and name stand in for one."""
    meta = run.metadata
    return f"{meta.name}-{sha256(f'{meta.namespace}/{meta.name}'.encode())[:8]}"


def open_run(path: Path, store: str | None) -> StoredRun:
    """The run in `path` with its store: `store`, else the folder `.evolution` beside the file; below it, the namespace.

    Raises:
        InvalidRun: the file is wrong.
        StoreError: the store cannot be used.
    """
    run = load_run(path)
    root = store or (path.resolve().parent / DEFAULT_STORE).as_uri()
    opened = open_store(f"{root.rstrip('/')}/{run.metadata.namespace}")
    return StoredRun(with_local_revisions(run), Artifacts(opened, cache_folder()), local_id(run))


def with_local_revisions(run: EvolutionRun) -> EvolutionRun:
    """`run` with the content of local files as the revision of every source that names none, so that edits are seen.

    Raises:
        SourceUnusable: a local source is not there, or not readable.
    """
    spec = run.spec

    def revision(*uris: str) -> str:
        return "".join(local_revision(uri, cache_folder()) for uri in uris if uri)

    model = spec.model.revision or revision(spec.model.uri, spec.model.adapter_uri)
    documents = spec.documents.revision or revision(spec.documents.uri)
    evaluation = spec.evaluation.revision or revision(spec.evaluation.uri)
    changed = {
        "model": spec.model.model_copy(update={"revision": model}),
        "documents": spec.documents.model_copy(update={"revision": documents}),
        "evaluation": spec.evaluation.model_copy(update={"revision": evaluation}),
    }
    return run.model_copy(update={"spec": spec.model_copy(update=changed)})
