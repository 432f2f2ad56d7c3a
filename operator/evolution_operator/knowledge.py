"""What the store knows of runs, asked for in threads, since its client blocks."""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import NamedTuple, TypeVar

from evolution.api.run import EvolutionRun
from evolution.api.status import EvolutionRunStatus
from evolution.ledger import Ledger
from evolution.observation import Failure
from evolution.plan.graph import Graph
from evolution.plan.manifest import Artifact, Manifest
from evolution.plan.worker import Progress
from evolution.store import keys
from evolution.store.artifacts import ArtifactDamaged, Artifacts
from evolution.store.base import StoreError, StoreRefused, StoreUnavailable
from evolution.store.history import read_history, write_history
from evolution.store.open import open_store
from evolution_operator.kueue import Waiting
from evolution_operator.showing import Code, Operation

T = TypeVar("T")
Asked = Callable[[Operation, Code], None]
THREADS = 16
ANSWER_SECONDS = 15.0
"""A store that is silent for so long is taken to be away; all that is asked for here is small."""
PROGRESS_BYTES = 1 << 20
"""What a worker tells of itself has no more."""
REMEMBERED_STAGES = 500
"""Stages whose manifests the history object holds, the newest; older ones are read one by one after a restart."""


@dataclass
class Memory:
    """What is known of one run between two of its reconciliations; everything in it can be found out again."""

    uid: str
    manifests: dict[str, Manifest] = field(default_factory=dict)
    """In short, by fingerprint."""
    ledger: Ledger = field(default_factory=Ledger)
    """What its workers held, as far as it was taken in."""
    told: dict[str, Progress] = field(default_factory=dict)
    """What each worker last told the store, by name of its pod."""
    stopped: set[str] = field(default_factory=set)
    """Pods that we made end."""
    closed: frozenset[str] = frozenset()
    """Pods whose attempts have ended in the ledger."""
    fleeting: bool = False
    """An attempt has ended whose pod is gone: until the history is written, nothing but this memory tells how."""
    missed_at: dict[str, datetime] = field(default_factory=dict)
    """When open attempts were first found without a pod, by name of the pod."""
    progress: dict[str, Progress] = field(default_factory=dict)
    """By name of the Job."""
    polled_at: datetime | None = None
    """When the store was last asked for progress."""
    at_work: dict[str, str] = field(default_factory=dict)
    """Fingerprint of the stage that a Job is doing, by its name."""
    waiting: Waiting = field(default_factory=Waiting)
    """Why Jobs are suspended."""
    unmendable: set[str] = field(default_factory=set)
    """Jobs that failed because of an artifact which none of the run's stages made."""
    written: frozenset[str] = frozenset()
    """Stages that the history object in the store tells of."""
    written_state: str = ""
    """State of the run that it tells of; empty if there is none."""
    written_ledger: Ledger | None = None
    """The ledger in it; None if there is none."""
    written_at: datetime | None = None
    """When this process last wrote it."""


class Reports(NamedTuple):
    """What the workers of one stage told."""

    together: Progress
    by_worker: dict[str, Progress]
    """By name of the pod."""


class Knowledge:
    """The store of one installation; every namespace has a prefix of its own in it."""

    def __init__(
        self,
        store: str,
        cache: Path,
        *,
        answer_seconds: float = ANSWER_SECONDS,
        asked: Asked = lambda _operation, _code: None,
    ) -> None:
        """`asked` is told of every question and how it ended, in the event loop."""
        self._store = store.rstrip("/")
        self._answer_seconds = answer_seconds
        self._asked = asked
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
        history = await self._ask("history_read", read_history, self._of(namespace).store, run_id)
        if history is None:
            return Memory(uid)
        stages = frozenset(history.stages.values())
        return Memory(
            uid,
            dict(history.manifests),
            history.ledger,
            written=stages,
            written_state=history.status.state,
            written_ledger=history.ledger,
        )

    async def manifests(self, namespace: str, fingerprints: Iterable[str]) -> dict[str, Manifest | None]:
        """The manifests of finished stages, in short; None for stages that are not done.

        Raises:
            StoreError: the store cannot be asked.
        """
        names = list(fingerprints)
        found = await asyncio.gather(*(self._ask("manifest", _look_up, self._of(namespace), name) for name in names))
        return dict(zip(names, found, strict=True))

    async def progress(self, namespace: str, run_id: str, stages: Mapping[str, tuple[str, int]]) -> dict[str, Reports]:
        """What workers last told about stages; stages of which nobody told anything are left out.

        `stages` and the answer are by name of the Job; a stage is its fingerprint and the number of its workers.
        """
        names = list(stages)
        found = await asyncio.gather(*(self._reports(namespace, run_id, *stages[name]) for name in names))
        return {name: reports for name, reports in zip(names, found, strict=True) if reports}

    async def _reports(self, namespace: str, run_id: str, fingerprint: str, shards: int) -> Reports | None:
        store = self._of(namespace).store
        indices = range(shards) if shards > 1 else [None]
        places = [keys.progress(run_id, fingerprint, index) for index in indices]
        read = await asyncio.gather(*(self._ask("progress", store.read, place, PROGRESS_BYTES) for place in places))
        told = [Progress.model_validate_json(data) for data in read if data]
        if not told:
            return None
        by_worker = {report.tally.worker: report for report in told if report.tally and report.tally.worker}
        return Reports(_together(told, fingerprint, shards), by_worker)

    async def discard_damaged(self, namespace: str, digest: str, manifests: Iterable[Manifest]) -> list[str]:
        """Forget the stages among `manifests` that made the missing or damaged blob `digest`: their fingerprints."""
        return await self._ask("discard", _discard_damaged, self._of(namespace), digest, list(manifests))

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

        await self._ask("history_write", write)

    def _of(self, namespace: str) -> Artifacts:
        if namespace not in self._artifacts:
            self._artifacts[namespace] = Artifacts(open_store(self.location(namespace)), self._cache)
        return self._artifacts[namespace]

    async def _ask(self, operation: Operation, question: Callable[..., T], *arguments: object) -> T:
        code: Code = "error"
        asked = asyncio.get_running_loop().run_in_executor(self._threads, lambda: question(*arguments))
        try:
            async with asyncio.timeout(self._answer_seconds):
                answer = await asked
            code = "ok"
            return answer
        except TimeoutError:
            code = "timeout"
            message = f"the store at {self._store} has not answered for {self._answer_seconds:g} s"
            raise StoreUnavailable(message) from None
        except StoreError as error:
            if isinstance(error, StoreRefused | StoreUnavailable):
                code = "refused" if isinstance(error, StoreRefused) else "unavailable"
            raise
        finally:
            self._asked(operation, code)


def _look_up(artifacts: Artifacts, fingerprint: str) -> Manifest | None:
    try:
        manifest = artifacts.manifest(fingerprint)
    except ArtifactDamaged:
        artifacts.forget(fingerprint)
        return None
    # Parameters, inputs and versions are for people; a thousand runs need not hold them in memory.
    return manifest and manifest.model_copy(update={"parameters": {}, "inputs": {}, "versions": {}})


def _together(reports: list[Progress], fingerprint: str, shards: int) -> Progress:
    """Of all workers of a stage: a share that has not reported yet is taken to be as large as the others."""
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
