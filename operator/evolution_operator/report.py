"""Telling what became of a run: its status, Events, its history in the store."""

import logging
from collections.abc import Callable
from datetime import datetime
from typing import Any

from evolution.api.status import EvolutionRunStatus
from evolution.decide import Plan, RunEvent
from evolution_operator.cache import Cache
from evolution_operator.events import event_body
from evolution_operator.gateway import EVENTS, RUNS, AlreadyExists, Conflict, Gateway, GatewayError, NotFound
from evolution_operator.knowledge import Knowledge
from evolution_operator.merge_patch import merge_patch
from evolution_operator.observe import Situation
from evolution_operator.parse import run_record
from evolution_operator.records import RunRecord
from evolution_operator.subject import Subject

HISTORY_SECONDS = 30.0
"""Pause between two writings of a run's history while its state stays: what an operator that dies meanwhile did not
write, the next one reads stage by stage."""

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
    ) -> None:
        after = status.model_dump(by_alias=True, mode="json", exclude_none=True)
        patch = merge_patch(body.get("status") or {}, after)
        if not patch:
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
        try:
            await self._gateway.create(EVENTS, record.key.namespace, event_body(record, event, self._now()))
        except AlreadyExists:
            pass
        except GatewayError as error:  # an Event is worth no retry
            log.warning("%s/%s: the Event %r is lost: %s", *record.key, event.message, error)

    async def write_history(self, subject: Subject, plan: Plan, jobs: Situation) -> None:
        assert plan.graph is not None
        memory, state, now = subject.memory, plan.status.state, self._now()
        done = frozenset(s.fingerprint for s in plan.graph.stages if s.done and s.fingerprint)
        if state == memory.written_state:
            early = memory.written_at and (now - memory.written_at).total_seconds() < HISTORY_SECONDS
            if early or done == memory.written:
                return
        await self._knowledge.write_history(
            subject.run, subject.id, plan.graph, plan.status, jobs.failures, subject.memory.ledger
        )
        memory.written, memory.written_state, memory.written_at = done, state, now
