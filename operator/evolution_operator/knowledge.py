"""What the store knows of runs, asked for in threads, since its client blocks."""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TypeVar

from evolution.api.run import EvolutionRun
from evolution.api.status import EvolutionRunStatus
from evolution.ledger import Ledger
from evolution.observation import Failure
from evolution.plan.graph import Graph
from evolution.plan.manifest import Artifact, Manifest
from evolution.plan.worker import Progress
from evolution.store import keys
from evolution.store.artifacts import ArtifactDamaged, Artifacts
from evolution.store.base import ObjectStore, StoreUnavailable
from evolution.store.history import read_history, write_history
from evolution.store.open import open_store

T = TypeVar("T")
THREADS = 16
ANSWER_SECONDS = 15.0
"""A store that is silent for so long is taken to be away; all that is asked for here is small."""
REMEMBERED_STAGES = 500
"""Stages whose manifests the history object holds, the newest; older ones are read one by one after a restart."""


@dataclass
class Memory:
    """What is known of one run between two of its reconciliations; everything in it can be found out again."""

    uid: str
    manifests: dict[str, Manifest] = field(default_factory=dict)
    """In short, by fingerprint."""
    ledger: Ledger = field(default_factory=Ledger)
    progress: dict[str, Progress] = field(default_factory=dict)
    """By name of the Job."""
    polled_at: datetime | None = None
    """When the store was last asked for progress."""
    at_work: dict[str, str] = field(default_factory=dict)
    """Fingerprint of the stage that a Job is doing, by its name."""
    unmendable: set[str] = field(default_factory=set)
    """Jobs that failed because of an artifact which none of the run's stages made."""
    written: frozenset[str] = frozenset()
    """Stages that the history object in the store tells of."""
    written_state: str = ""
    """State of the run that it tells of; empty if there is none."""
    written_at: datetime | None = None
    """When this process last wrote it."""


class Knowledge:
    """The store of one installation; every namespace has a prefix of its own in it."""

    def __init__(self, store: str, cache: Path, *, answer_seconds: float = ANSWER_SECONDS) -> None:
        self._store = store.rstrip("/")
        self._answer_seconds = answer_seconds
        self._cache = cache
        self._artifacts: dict[str, Artifacts] = {}
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="store")

    def location(self, namespace: str) -> str:
        """Where the artifacts of a namespace lie, as workers are told."""
        return f"{self._store}/{namespace}"

    def history_uri(self, namespace: str, run_id: str) -> str:
        return f"{self.location(namespace)}/{keys.history(run_id)}"

    async def recall(self, namespace: str, run_id: str, uid: str) -> Memory:
        """What the run's history object remembers; an empty memory if there is none."""
        history = await self._ask(read_history, self._of(namespace).store, run_id)
        if history is None:
            return Memory(uid)
        stages = frozenset(history.stages.values())
        return Memory(uid, dict(history.manifests), history.ledger, written=stages, written_state=history.status.state)

    async def manifests(self, namespace: str, fingerprints: Iterable[str]) -> dict[str, Manifest | None]:
        """The manifests of finished stages, in short; None for stages that are not done.

        Raises:
            StoreError: the store cannot be asked.
        """
        names = list(fingerprints)
        found = await asyncio.gather(*(self._ask(_look_up, self._of(namespace), name) for name in names))
        return dict(zip(names, found, strict=True))

    async def progress(self, namespace: str, run_id: str, stages: Mapping[str, tuple[str, int]]) -> dict[str, Progress]:
        """What workers last reported about stages; silent ones are left out.

        `stages` and the answer are by name of the Job; a stage is its fingerprint and the number of its workers.
        """
        store = self._of(namespace).store
        names = list(stages)
        found = await asyncio.gather(*(self._ask(_progress, store, run_id, *stages[name]) for name in names))
        return {name: progress for name, progress in zip(names, found, strict=True) if progress}

    async def discard_damaged(self, namespace: str, digest: str, manifests: Iterable[Manifest]) -> list[str]:
        """Forget the stages among `manifests` that made the missing or damaged blob `digest`: their fingerprints."""
        return await self._ask(_discard_damaged, self._of(namespace), digest, list(manifests))

    async def write_history(
        self,
        run: EvolutionRun,
        run_id: str,
        graph: Graph,
        status: EvolutionRunStatus,
        failures: Mapping[str, Failure],
        ledger: Ledger,
    ) -> None:
        done = {s.fingerprint: s.manifest for s in graph.stages if s.fingerprint and s.manifest}
        kept = dict(list(done.items())[-REMEMBERED_STAGES:])
        store = self._of(run.metadata.namespace).store

        def write() -> None:
            write_history(store, run_id, run, graph, status, failures=failures, ledger=ledger, manifests=kept)

        await self._ask(write)

    def _of(self, namespace: str) -> Artifacts:
        if namespace not in self._artifacts:
            self._artifacts[namespace] = Artifacts(open_store(self.location(namespace)), self._cache)
        return self._artifacts[namespace]

    async def _ask(self, question: Callable[..., T], *arguments: object) -> T:
        asked = asyncio.get_running_loop().run_in_executor(self._threads, lambda: question(*arguments))
        try:
            async with asyncio.timeout(self._answer_seconds):
                return await asked
        except TimeoutError:
            message = f"the store at {self._store} has not answered for {self._answer_seconds:g} s"
            raise StoreUnavailable(message) from None


def _look_up(artifacts: Artifacts, fingerprint: str) -> Manifest | None:
    try:
        manifest = artifacts.manifest(fingerprint)
    except ArtifactDamaged:
        artifacts.forget(fingerprint)
        return None
    # Parameters, inputs and versions are for people; a thousand runs need not hold them in memory.
    return manifest and manifest.model_copy(update={"parameters": {}, "inputs": {}, "versions": {}})


def _progress(store: ObjectStore, run_id: str, fingerprint: str, shards: int) -> Progress | None:
    """Of all workers of a stage together: a share that has not reported yet is taken to be as large as the others."""
    indices = range(shards) if shards > 1 else [None]
    read = (store.read(keys.progress(run_id, fingerprint, index)) for index in indices)
    reports = [Progress.model_validate_json(data) for data in read if data]
    if not reports:
        return None
    newest = max(reports, key=lambda report: report.updated_at)
    same = [report for report in reports if report.phase == newest.phase]
    return newest.model_copy(
        update={
            "fingerprint": fingerprint,
            "done": sum(report.done for report in same),
            "total": sum(report.total for report in same) * shards // len(same),
            "rate": sum(report.rate for report in same),
            "eta_seconds": max((r.eta_seconds for r in same if r.eta_seconds is not None), default=None),
        }
    )


def _discard_damaged(artifacts: Artifacts, digest: str, manifests: list[Manifest]) -> list[str]:
    """The worker has compared the blob with its digest already, so nothing is read here but listings of trees."""
    found: list[str] = []
    for manifest in manifests:
        if any(_contains(artifacts, output, digest) for output in manifest.outputs.values()):
            artifacts.discard(manifest, damaged=[digest])
            found.append(manifest.fingerprint)
    return found


def _contains(artifacts: Artifacts, output: Artifact, digest: str) -> bool:
    if output.digest == digest:
        return True
    if output.form == "Blob":
        return False
    try:
        return any(file.digest == digest for file in artifacts.tree(output.digest).files)
    except ArtifactDamaged:
        return True
