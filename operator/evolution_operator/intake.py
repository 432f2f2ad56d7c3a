"""News of the cluster, from watches and lists: into the cache, and the runs they concern into the queue."""

from time import monotonic

from evolution_operator.cache import Cache
from evolution_operator.queue import KeyedQueue
from evolution_operator.records import (
    JobRecord,
    PodRecord,
    Record,
    RunKey,
    RunRecord,
    RuntimeRecord,
    ScheduleKey,
    ScheduleRecord,
)

SOON = 2.0
"""Seconds until a run is looked at because of news that no decision waits for, unless other news comes first."""


class Intake:
    """Every piece of news passes here, in any order and as often as it comes."""

    def __init__(self, cache: Cache, queue: KeyedQueue[RunKey | ScheduleKey]) -> None:
        self._cache = cache
        self._queue = queue
        self.watched_at = monotonic()
        """When a watch last said something, by the monotonic clock."""

    def seen(self, record: Record) -> bool:
        """An object as it was; False if that is no news."""
        before = self._cache.run(record.key) if isinstance(record, RunRecord) else None
        if not self._cache.upsert(record):
            return False
        if isinstance(record, RunRecord):
            self._tell_schedule(record, before)
        # Only the operator writes a run's status: what changes while the run is being reconciled is our own writing,
        # seen before its answer arrived.
        own_writing = (
            isinstance(record, RunRecord)
            and before is not None
            and (before.uid, before.intent) == (record.uid, record.intent)
            and self._queue.is_busy(record.key)
        )
        if not own_writing:
            self._enqueue(record)
        return True

    def gone(self, record: Record, resource_version: str = "") -> bool:
        """An object that is no more, as of `resource_version` (default: the record's); False if that is no news."""
        if not self._cache.forget(record, resource_version):
            return False
        if isinstance(record, RunRecord):
            self._tell_schedule(record, None)
        self._enqueue(record)
        return True

    def _tell_schedule(self, run: RunRecord, before: RunRecord | None) -> None:
        """A schedule waits for its runs to end."""
        if run.schedule and (before is None or (before.phase, before.deleting) != (run.phase, run.deleting)):
            self._queue.add(run.schedule)

    def _enqueue(self, record: Record) -> None:
        match record:
            case RunRecord() | ScheduleRecord():
                self._queue.add(record.key)
            case RuntimeRecord():
                for key in self._cache.runs_of_runtime(*record.key):
                    self._queue.add(key)
            case JobRecord() | PodRecord() if record.run.name:
                if self._is_idle_news(record):
                    self._queue.add_after(record.run, SOON)
                else:
                    self._queue.add(record.run, urgent=self._frees_a_worker(record))

    def _frees_a_worker(self, record: JobRecord | PodRecord) -> bool:
        """A pod has ended whose Job does not know yet: the next stage waits for nothing but us."""
        if isinstance(record, JobRecord) or record.phase not in ("Succeeded", "Failed"):
            return False
        job = self._cache.job(record.run.namespace, record.job)
        return job is not None and job.state == "Active"

    def _is_idle_news(self, record: JobRecord | PodRecord) -> bool:
        """A pod has a node or runs, or a Job says what its pod has said already: most of all news."""
        if isinstance(record, PodRecord):
            troubled = record.deleting or record.disrupted or record.waiting_reason
            return record.phase in ("Pending", "Running") and not troubled
        pods = self._cache.pods(record.run)
        return (
            record.state == "Complete"
            and record.shards == 1
            and any(pod.job == record.name and pod.phase == "Succeeded" for pod in pods)
        )
