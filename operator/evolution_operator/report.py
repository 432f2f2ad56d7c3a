"""Telling what became of a run: its status, Events, its history in the store."""

import logging
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from evolution.api.status import EvolutionRunStatus
from evolution.decide import Plan, RunEvent
from evolution.ledger import Ledger
from evolution_operator.cache import Cache
from evolution_operator.events import tell
from evolution_operator.gateway import RUNS, Conflict, Gateway, NotFound
from evolution_operator.knowledge import Knowledge
from evolution_operator.merge_patch import merge_patch
from evolution_operator.observe import Situation
from evolution_operator.parse import run_record
from evolution_operator.records import RunRecord
from evolution_operator.subject import Subject

HISTORY_SECONDS = 30.0
"""Pause between two writings of a run's history while its state stays: what an operator that dies meanwhile did not
write, the next one reads stage by stage."""

HALTED = ("Complete", "Failed", "Suspended")

log = logging.getLogger(__name__)


class Reporter:
    def __init__(self, gateway: Gateway, cache: Cache, knowledge: Knowledge, clock: Callable[[], datetime]) -> None:
        self._gateway = gateway
        self._cache = cache
        self._knowledge = knowledge
        self._now = clock

    async def write_status(
        self,
        record: RunRecord,
        body: dict[str, Any],
        status: EvolutionRunStatus,
        events: tuple[RunEvent, ...] = (),
        *,
        figures_last: bool = True,
    ) -> None:
        """Unless `figures_last`, what GPUs did is no reason to write by itself: it changes every second."""
        before = body.get("status") or {}
        after = status.model_dump(by_alias=True, mode="json", exclude_none=True)
        patch = merge_patch(before, after)
        if not patch or not (figures_last or merge_patch(_without_figures(before), _without_figures(after))):
            return
        key = record.key
        try:
            written = await self._gateway.patch_status(
                RUNS, key.namespace, key.name, {"status": patch}, record.resource_version
            )
        except NotFound:
            return
        except Conflict:
            fresh = await self._gateway.get(RUNS, key.namespace, key.name)
            if fresh is not None:
                self._cache.upsert(run_record(fresh))
            raise
        self._cache.upsert(run_record(written))
        if (body.get("status") or {}).get("summary") != status.summary:
            log.info("%s/%s: %s", key.namespace, key.name, status.summary)
        for event in events:
            await self.tell(record, event)

    async def tell(self, record: RunRecord, event: RunEvent) -> None:
        await tell(self._gateway, record, event, self._now())

    async def write_history(self, subject: Subject, plan: Plan, jobs: Situation) -> float | None:
        """At once when the state changes or the last worker of a run that has halted has ended, else now and then;
        seconds until what has been put off is to be written.
        """
        assert plan.graph is not None
        memory, now = subject.memory, self._now()
        done = frozenset(s.fingerprint for s in plan.graph.stages if s.done and s.fingerprint)
        if plan.status.state == memory.written_state and not memory.fleeting:
            if done == memory.written and not _differ(memory.ledger, memory.written_ledger):
                return None
            last = plan.status.state in HALTED and not memory.ledger.open
            age = (now - memory.written_at).total_seconds() if memory.written_at else HISTORY_SECONDS
            if age < HISTORY_SECONDS and not last:
                return HISTORY_SECONDS - age
        await self._write_history(subject, plan, jobs, done)
        return None

    async def secure_ledger(self, subject: Subject, plan: Plan, jobs: Situation) -> None:
        """Before workers are made to end: whoever comes after a crash must know that there were any."""
        assert plan.graph is not None
        if _differ(subject.memory.ledger, subject.memory.written_ledger):
            done = frozenset(s.fingerprint for s in plan.graph.stages if s.done and s.fingerprint)
            await self._write_history(subject, plan, jobs, done)

    async def _write_history(self, subject: Subject, plan: Plan, jobs: Situation, done: frozenset[str]) -> None:
        assert plan.graph is not None
        memory, ledger = subject.memory, subject.memory.ledger
        await self._knowledge.write_history(subject.run, subject.id, plan.graph, plan.status, jobs.failures, ledger)
        memory.written, memory.written_state, memory.written_at = done, plan.status.state, self._now()
        memory.written_ledger, memory.fleeting = ledger, False


def _differ(ledger: Ledger, written: Ledger | None) -> bool:
    """Whether more has changed than what workers under way tell of themselves."""
    return written is None or _without_telling(ledger) != _without_telling(written)


def _without_telling(ledger: Ledger) -> Ledger:
    kept = (a if a.ended_at else a.model_copy(update={"tally": None}) for a in ledger.attempts)
    return ledger.model_copy(update={"attempts": tuple(kept)})


def _without_figures(status: Mapping[str, Any]) -> dict[str, Any]:
    rounds = [{name: value for name, value in r.items() if name != "gpuSeconds"} for r in status.get("rounds") or []]
    kept = {name: value for name, value in status.items() if name not in ("gpuSeconds", "gpuHours")}
    return {**kept, "rounds": rounds}
