"""Keeping the ledger of a run: nothing that a pod can tell is let go before the ledger has it."""

from collections import Counter
from collections.abc import Callable, Iterable
from datetime import datetime

from evolution.attempt import Attempt
from evolution.plan.graph import unfold
from evolution_operator.accounting import attempts, fell_silent, lost, own_words
from evolution_operator.cache import Cache
from evolution_operator.knowledge import Knowledge, Memory
from evolution_operator.records import PodRecord
from evolution_operator.showing import Witness
from evolution_operator.subject import Subject

MISSING_SECONDS = 10.0
"""A worker that the history tells of and nobody sees is lost after so long: watches may tell of it a little later."""


class Bookkeeper:
    def __init__(self, cache: Cache, knowledge: Knowledge, witness: Witness, clock: Callable[[], datetime]) -> None:
        self._cache = cache
        self._knowledge = knowledge
        self._witness = witness
        self._now = clock

    async def note(self, subject: Subject, shards: int) -> float | None:
        """Take in what the run's pods tell; seconds until missing ones are to be looked for again.

        `shards` is how many workers share a stage of which nothing else tells it.

        Raises:
            StoreError: a worker ended silently, and the store cannot be asked what it told before.
        """
        memory, key, now = subject.memory, subject.key, self._now()
        jobs, departed = self._cache.jobs(key), self._cache.departed(key)
        pods = [pod for pod in self._cache.pods(key) if pod.run_uid == memory.uid]
        gone = [pod for pod in departed if pod.run_uid == memory.uid]
        seen = {pod.name: pod for pod in (*pods, *gone)}

        def found() -> list[Attempt]:
            return attempts(memory.ledger, jobs, pods, gone, memory.stopped, memory.told, now)

        noted = found()
        if silent := [seen[a.worker] for a in noted if fell_silent(a, seen[a.worker])]:
            await self._ask_about(subject, silent)
            noted = found()
        missing, again = self._missing(memory, seen, now)
        if missing:
            await self._ask_about_missing(subject, missing, shards)
            noted += [lost(a, memory.told.get(a.worker), memory.missed_at[a.worker]) for a in missing]
        known = {attempt.worker: attempt for attempt in memory.ledger.attempts}
        memory.ledger = memory.ledger.noting(noted)
        for attempt in noted:
            if attempt.ended_at:
                pod, before = seen.get(attempt.worker), known.get(attempt.worker)
                words = own_words(pod)[1] if pod else "missing"
                self._witness.ended(key.namespace, before.noting(attempt) if before else attempt, words)
        self._cache.dismiss(key, departed)
        memory.closed = frozenset(pod.name for pod in pods if pod.phase in ("Succeeded", "Failed"))
        memory.fleeting |= any(a.ended_at and a.worker not in memory.closed for a in noted)
        _forget_closed(memory)
        return again

    def release(self, subject: Subject) -> bool:
        """Let go of pods whose Jobs ended well, once the stage is known to be done and the ledger has them; whether
        there are no others.

        A Job may be known to have ended before its pods were seen at all.
        """
        memory, key = subject.memory, subject.key
        pods = self._cache.pods(key)
        open_ = {pod.job for pod in pods if pod.run_uid == memory.uid and pod.name not in memory.closed}
        silent = {pod.job for pod in pods if pod.kind is None}  # made by an earlier version: nothing is told of them
        # A Job may have more pods than the ledger remembers.
        workers = {attempt.worker: attempt.job for attempt in memory.ledger.ended}
        workers |= {pod.name: pod.job for pod in pods if pod.name in memory.closed}
        ended = Counter(workers.values())
        jobs = [job for job in self._cache.jobs(key) if job.state == "Complete" and job.owner_uid == memory.uid]
        told = [job for job in jobs if job.name not in open_ and (job.name in silent or ended[job.name] >= job.shards)]
        for job in told:
            if job.recipe or job.fingerprint in memory.manifests:
                self._cache.settle(key.namespace, job.name)
        return len(told) == len(jobs)

    def _missing(self, memory: Memory, seen: dict[str, PodRecord], now: datetime) -> tuple[list[Attempt], float | None]:
        """Open attempts that have had no pod for long enough, and seconds until others will have had none."""
        absent = [attempt for attempt in memory.ledger.open if attempt.worker not in seen]
        names = {attempt.worker for attempt in absent}
        memory.missed_at = {name: at for name, at in memory.missed_at.items() if name in names}
        left = {
            a.worker: MISSING_SECONDS - (now - memory.missed_at.setdefault(a.worker, now)).total_seconds()
            for a in absent
        }
        waiting = [seconds for seconds in left.values() if seconds > 0]
        return [a for a in absent if left[a.worker] <= 0], min(waiting, default=None)

    async def _ask_about(self, subject: Subject, pods: Iterable[PodRecord]) -> None:
        stages = {}
        for pod in pods:
            for fingerprint in {pod.fingerprint, subject.memory.at_work.get(pod.job, "")} - {""}:
                stages[fingerprint] = fingerprint, pod.shards
        await self._ask(subject, stages)

    async def _ask_about_missing(self, subject: Subject, missing: Iterable[Attempt], shards: int) -> None:
        """What such a worker was doing is not known any more: the first stage of its Job, or the first undone one."""
        graph = unfold(subject.run.spec, dict(subject.memory.manifests))
        named = [stage for stage in graph.stages if stage.fingerprint]
        stages = {}
        for attempt in missing:
            first = [s for s in named if s.fingerprint and attempt.job.endswith(s.fingerprint[:8])]
            for stage in (*first, *[s for s in named if not s.done][:1]):
                assert stage.fingerprint is not None
                job = self._cache.job(subject.key.namespace, attempt.job)
                stages[stage.fingerprint] = stage.fingerprint, job.shards if job else shards
        await self._ask(subject, stages)

    async def _ask(self, subject: Subject, stages: dict[str, tuple[str, int]]) -> None:
        answers = await self._knowledge.progress(subject.key.namespace, subject.id, stages)
        for reports in answers.values():
            subject.memory.told.update(reports.by_worker)


def _forget_closed(memory: Memory) -> None:
    """Of workers that have ended nothing more need be known."""
    open_ = {attempt.worker for attempt in memory.ledger.open}
    memory.told = {name: report for name, report in memory.told.items() if name in open_}
    memory.stopped &= open_
