"""What is known of the cluster: the newest record of every object of ours, ready to be asked without a request.

Watches, relists and our own writes all end here, in any order. An object never goes back: a record with an older
resource version is refused, a deleted object does not return by a late event, and a Job that we deleted stays marked.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import chain
from typing import TypeVar

from evolution_operator.records import (
    JobRecord,
    PodRecord,
    Record,
    RunKey,
    RunRecord,
    RuntimeKey,
    RuntimeRecord,
    ScheduleKey,
    ScheduleRecord,
    is_newer,
)

_K = TypeVar("_K")
_V = TypeVar("_V")

REMEMBERED_DELETIONS = 4096
"""Deleted objects that late events are checked against."""


class Cache:
    """Records by namespace and name, Jobs and pods also by run. For one event loop; never blocks."""

    def __init__(self) -> None:
        self._runs: dict[RunKey, RunRecord] = {}
        self._schedules: dict[ScheduleKey, ScheduleRecord] = {}
        self._runtimes: dict[RuntimeKey, RuntimeRecord] = {}
        self._jobs: dict[str, dict[str, JobRecord]] = {}
        self._pods: dict[str, dict[str, PodRecord]] = {}
        self._runs_of_runtime: dict[RuntimeKey, set[RunKey]] = {}
        self._runs_of_schedule: dict[ScheduleKey, dict[str, RunRecord]] = {}
        self._jobs_of_run: dict[RunKey, dict[str, JobRecord]] = {}
        self._pods_of_run: dict[RunKey, dict[str, PodRecord]] = {}
        self._departed: dict[RunKey, dict[str, PodRecord]] = {}
        self._deleting: set[str] = set()
        self._settled: set[str] = set()
        self._deleted: dict[str, str] = {}

    def run(self, key: RunKey) -> RunRecord | None:
        return self._runs.get(key)

    def runs(self) -> tuple[RunKey, ...]:
        return tuple(self._runs)

    def schedule(self, key: ScheduleKey) -> ScheduleRecord | None:
        return self._schedules.get(key)

    def runs_of_schedule(self, key: ScheduleKey) -> tuple[RunRecord, ...]:
        """Runs that name this schedule as their owner: compare `owner_uid` with its uid."""
        return tuple(self._runs_of_schedule.get(key, {}).values())

    def jobs(self, key: RunKey) -> tuple[JobRecord, ...]:
        """Jobs labelled with this run, whoever made them: compare `owner_uid` with the run's uid."""
        return tuple(self._jobs_of_run.get(key, {}).values())

    def pods(self, key: RunKey) -> tuple[PodRecord, ...]:
        """Pods of this run's Jobs, without those of settled Jobs."""
        return tuple(self._pods_of_run.get(key, {}).values())

    def departed(self, key: RunKey) -> tuple[PodRecord, ...]:
        """Workers of this run that are no more, as they were seen last, until they are dismissed."""
        return tuple(self._departed.get(key, {}).values())

    def dismiss(self, key: RunKey, pods: Iterable[PodRecord]) -> None:
        """All that these departed pods can tell has been taken in."""
        for pod in pods:
            _drop(self._departed, key, pod.uid)

    def job(self, namespace: str, name: str) -> JobRecord | None:
        return self._jobs.get(namespace, {}).get(name)

    def runtime(self, kind: str, namespace: str, name: str) -> RuntimeRecord | None:
        """`namespace` is that of the run; a ClusterEvolutionRuntime has none."""
        return self._runtimes.get(_runtime_key(kind, namespace, name))

    def runs_of_runtime(self, kind: str, namespace: str, name: str) -> tuple[RunKey, ...]:
        return tuple(self._runs_of_runtime.get(_runtime_key(kind, namespace, name), ()))

    def records(self, kind: type[Record], namespace: str | None = None) -> Iterator[Record]:
        """All records of a kind, of one namespace or of all."""
        tables: dict[type[Record], Iterable[Record]] = {
            RunRecord: self._runs.values(),
            ScheduleRecord: self._schedules.values(),
            RuntimeRecord: self._runtimes.values(),
            JobRecord: chain.from_iterable(jobs.values() for jobs in self._jobs.values()),
            PodRecord: chain.from_iterable(pods.values() for pods in self._pods.values()),
        }
        return (record for record in list(tables[kind]) if namespace in (None, namespace_of(record)))

    def upsert(self, record: Record) -> bool:
        """Remember a record; False if it is stale, or tells nothing that matters."""
        if record.uid in self._deleted and not is_newer(record.resource_version, than=self._deleted[record.uid]):
            return False
        known = self._known(record)
        if known is not None and not is_newer(record.resource_version, than=known.resource_version):
            return False
        if isinstance(record, JobRecord) and record.uid in self._deleting and not record.deleting:
            record = replace(record, deleting=True)
        if isinstance(record, PodRecord) and self._is_settled(record):
            return False
        self._put(record, known)
        if known is None and isinstance(record, PodRecord) and _is_only_starting(record):
            return False
        return record != known

    def forget(self, record: Record, resource_version: str = "") -> bool:
        """The object is gone as of `resource_version` (default: the record's); False if it was not known."""
        self._remember_deletion(record.uid, resource_version or record.resource_version)
        known = self._known(record)
        if known is None or known.uid != record.uid:
            return False
        self._remove(known)
        if isinstance(record, PodRecord) and isinstance(known, PodRecord) and record.kind is not None:
            last = known if is_newer(known.resource_version, than=record.resource_version) else record
            self._departed.setdefault(record.run, {})[record.uid] = last
        return True

    def mark_deleting(self, namespace: str, name: str, uid: str) -> None:
        """We deleted this Job: it counts as going, whatever events say that were under way."""
        known = self.job(namespace, name)
        if known is not None and known.uid == uid:
            self._deleting.add(uid)
            self._put(replace(known, deleting=True), known)

    def settle(self, namespace: str, name: str) -> None:
        """All that this finished Job's pods can tell has been taken in: drop them, and ignore what else comes."""
        job = self.job(namespace, name)
        if job is None or job.state not in ("Complete", "Failed"):
            return
        self._settled.add(job.uid)
        for pod in self.pods(job.run):
            if pod.job == name:
                self._remove(pod)

    def sizes(self) -> dict[str, int]:
        """Number of objects by kind."""
        return {
            "runs": len(self._runs),
            "schedules": len(self._schedules),
            "runtimes": len(self._runtimes),
            "jobs": sum(map(len, self._jobs.values())),
            "pods": sum(map(len, self._pods.values())),
        }

    def _known(self, record: Record) -> Record | None:
        match record:
            case RunRecord():
                return self._runs.get(record.key)
            case ScheduleRecord():
                return self._schedules.get(record.key)
            case RuntimeRecord():
                return self._runtimes.get(record.key)
            case JobRecord():
                return self.job(record.run.namespace, record.name)
            case PodRecord():
                return self._pods.get(record.run.namespace, {}).get(record.name)

    def _put(self, record: Record, known: Record | None) -> None:
        if known is not None and _indexed_by(known) != _indexed_by(record):
            self._remove(known)
        match record:
            case RunRecord():
                self._runs[record.key] = record
                self._runs_of_runtime.setdefault(record.runtime, set()).add(record.key)
                if record.schedule:
                    self._runs_of_schedule.setdefault(record.schedule, {})[record.key.name] = record
            case ScheduleRecord():
                self._schedules[record.key] = record
            case RuntimeRecord():
                self._runtimes[record.key] = record
            case JobRecord():
                self._jobs.setdefault(record.run.namespace, {})[record.name] = record
                self._jobs_of_run.setdefault(record.run, {})[record.name] = record
            case PodRecord():
                self._pods.setdefault(record.run.namespace, {})[record.name] = record
                self._pods_of_run.setdefault(record.run, {})[record.name] = record

    def _remove(self, record: Record) -> None:
        match record:
            case RunRecord():
                self._runs.pop(record.key, None)
                runs = self._runs_of_runtime.get(record.runtime, set())
                runs.discard(record.key)
                if not runs:
                    self._runs_of_runtime.pop(record.runtime, None)
                if record.schedule:
                    _drop(self._runs_of_schedule, record.schedule, record.key.name)
            case ScheduleRecord():
                self._schedules.pop(record.key, None)
            case RuntimeRecord():
                self._runtimes.pop(record.key, None)
            case JobRecord():
                _drop(self._jobs, record.run.namespace, record.name)
                _drop(self._jobs_of_run, record.run, record.name)
                self._deleting.discard(record.uid)
                self._settled.discard(record.uid)
            case PodRecord():
                _drop(self._pods, record.run.namespace, record.name)
                _drop(self._pods_of_run, record.run, record.name)

    def _is_settled(self, pod: PodRecord) -> bool:
        job = self.job(pod.run.namespace, pod.job)
        return job is not None and job.uid in self._settled

    def _remember_deletion(self, uid: str, resource_version: str) -> None:
        self._deleted.pop(uid, None)
        self._deleted[uid] = resource_version
        while len(self._deleted) > REMEMBERED_DELETIONS:
            del self._deleted[next(iter(self._deleted))]


def _runtime_key(kind: str, namespace: str, name: str) -> RuntimeKey:
    return RuntimeKey(kind, "" if kind == "ClusterEvolutionRuntime" else namespace, name)


def namespace_of(record: Record) -> str:
    """Empty for a ClusterEvolutionRuntime."""
    match record:
        case RunRecord() | ScheduleRecord() | RuntimeRecord():
            return record.key.namespace
        case JobRecord() | PodRecord():
            return record.run.namespace


def _indexed_by(record: Record) -> object:
    """What the tables file a record under besides its name; a change means filing it anew."""
    match record:
        case RunRecord():
            return record.uid, record.runtime, record.schedule
        case ScheduleRecord() | RuntimeRecord():
            return record.uid
        case JobRecord() | PodRecord():
            return record.uid, record.run


def _is_only_starting(pod: PodRecord) -> bool:
    """A fresh pod on its way tells nothing that its Job does not."""
    return pod.phase == "Pending" and not pod.waiting_reason and not pod.deleting and not pod.disrupted


def _drop(table: dict[_K, dict[str, _V]], outer: _K, name: str) -> None:
    inner = table.get(outer)
    if inner is not None:
        inner.pop(name, None)
        if not inner:
            del table[outer]
