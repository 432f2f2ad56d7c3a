"""One schedule at a time: see its runs, decide, look at its sources if the decision asks for that, carry it out.

Level-triggered, and every step may have been done before: names of runs follow from what they are for. Order of writes:
runs to delete for a new one, the new one, the status, runs whose time is over.
"""

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from pydantic import ValidationError

from evolution.api.errors import InvalidRun
from evolution.api.load import schedule_from_object
from evolution.api.schedule import EvolutionSchedule, EvolutionScheduleStatus
from evolution.decide import RunEvent
from evolution.schedule import Decision, ScheduledRun, Seen, Start, decide, refused_status
from evolution_operator.cache import Cache
from evolution_operator.cron import NoSuchTime, last_and_next
from evolution_operator.events import tell
from evolution_operator.gateway import RUNS, SCHEDULES, AlreadyExists, Conflict, Forbidden, Gateway, Invalid, NotFound
from evolution_operator.intake import Intake
from evolution_operator.merge_patch import merge_patch
from evolution_operator.parse import run_record, schedule_record
from evolution_operator.records import RunRecord, ScheduleKey, ScheduleRecord
from evolution_operator.scheduled_runs import run_body, scheduled_run
from evolution_operator.sources import Sources
from evolution_operator.subject import retry_requested

CONFLICT_SECONDS = 1.0
"""By then a watch has told what has changed."""
LONGEST_SLEEP = 300.0
"""Seconds; a machine's clock may be set, or stand still for a while."""

log = logging.getLogger(__name__)


class _Refused(Exception):
    """A run cannot be created."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class Schedules:
    def __init__(
        self,
        gateway: Gateway,
        cache: Cache,
        intake: Intake,
        sources: Sources,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._gateway = gateway
        self._cache = cache
        self._intake = intake
        self._sources = sources
        self._now = clock

    async def reconcile(self, key: ScheduleKey) -> float | None:
        """Do what one schedule asks for now; seconds until it wants to be looked at again though nothing happens.

        Raises:
            GatewayError: the API server did not do what it should; worth another try.
        """
        record = self._cache.schedule(key)
        if record is None or record.deleting:
            return None
        body = json.loads(record.body)
        seen = self._seen(record, body)
        try:
            schedule = schedule_from_object(body)
            seen = self._with_times(seen, schedule)
        except (InvalidRun, NoSuchTime) as error:
            mistakes = error.errors if isinstance(error, InvalidRun) else ()
            message = "; ".join(f"{e.path}: {e.message}" for e in mistakes) or f"spec.schedule: {error}"
            return await self._write(record, body, refused_status(seen, "InvalidSpec", message))
        decision = decide(schedule, seen)
        if decision.look:
            seen = replace(seen, sight=await self._sources.look(schedule.spec.run_template.spec))
            decision = decide(schedule, seen)
        try:
            await self._start(record, body, decision)
        except _Refused as error:
            log.warning("%s/%s: %s", record.key.namespace, record.key.name, error)
            decision = decide(schedule, replace(seen, refused=(error.reason, str(error))))
        if (again := await self._write(record, body, decision.status)) is not None:
            return again
        for run in decision.expired:
            await self._delete(record, run, "its time is over")
        if decision.again_at is None:
            return None
        return min(max((decision.again_at - self._now()).total_seconds(), 0.0), LONGEST_SLEEP)

    def _seen(self, record: ScheduleRecord, body: dict[str, Any]) -> Seen:
        return Seen(
            now=self._now(),
            created_at=datetime.fromisoformat(record.created_at),
            generation=record.generation,
            previous=_status_of(body),
            runs=[scheduled_run(run) for run in self._cache.runs_of_schedule(record.key) if _owns(record, run)],
            retry_requested_at=retry_requested(body),
        )

    def _with_times(self, seen: Seen, schedule: EvolutionSchedule) -> Seen:
        if not schedule.spec.schedule:
            return seen
        due, following = last_and_next(schedule.spec.schedule, schedule.spec.time_zone, seen.now)
        return replace(seen, due=due, next=following)

    async def _start(self, record: ScheduleRecord, body: dict[str, Any], decision: Decision) -> None:
        if decision.start is None:
            return
        for run in decision.replace:
            await self._delete(record, run, f"{decision.start.name} replaces it")
        await self._create(record, body, decision.start)

    async def _create(self, record: ScheduleRecord, body: dict[str, Any], start: Start) -> None:
        """
        Raises:
            _Refused: the API server does not take the run, or somebody else's has its name.
        """
        namespace = record.key.namespace
        try:
            made = await self._gateway.create(RUNS, namespace, run_body(record, body["spec"]["runTemplate"], start))
        except AlreadyExists:
            found = await self._gateway.get(RUNS, namespace, start.name)
            if found is None:
                return  # gone meanwhile: its DELETED event brings us back
            standing = run_record(found)
            if not _owns(record, standing):
                message = (
                    f"EvolutionRun {start.name} is not this schedule's; it is in the way until somebody deletes it: "
                    f"kubectl -n {namespace} delete evo {start.name}"
                )
                raise _Refused("RunNameTaken", message) from None
            self._intake.seen(standing)
            return
        except (Forbidden, Invalid) as error:
            raise _Refused("RunRefused", f"EvolutionRun {start.name} cannot be created: {error}") from error
        self._intake.seen(run_record(made))
        log.info("%s/%s: started %s", namespace, record.key.name, start.name)

    async def _delete(self, record: ScheduleRecord, run: ScheduledRun, why: str) -> None:
        namespace = record.key.namespace
        try:
            if await self._gateway.delete(RUNS, namespace, run.name, run.uid):
                log.info("%s/%s: deleted %s: %s", namespace, record.key.name, run.name, why)
        except (Forbidden, Invalid) as error:
            log.warning("%s/%s: %s cannot be deleted: %s", namespace, record.key.name, run.name, error)

    async def _write(
        self, record: ScheduleRecord, body: dict[str, Any], status: EvolutionScheduleStatus
    ) -> float | None:
        """Seconds until it is to be decided again, because the schedule has changed meanwhile; else None."""
        before = body.get("status") or {}
        patch = merge_patch(before, status.model_dump(by_alias=True, mode="json", exclude_none=True))
        if not patch:
            return None
        key = record.key
        try:
            written = await self._gateway.patch_status(
                SCHEDULES, key.namespace, key.name, {"status": patch}, record.resource_version
            )
        except NotFound:
            return None
        except Conflict:
            return CONFLICT_SECONDS
        self._cache.upsert(schedule_record(written))
        if before.get("summary") != status.summary:
            log.info("%s/%s: %s", key.namespace, key.name, status.summary)
        if stall := _new_stall(_status_of(body), status):
            await tell(self._gateway, record, stall, self._now())
        return None


def _new_stall(before: EvolutionScheduleStatus, after: EvolutionScheduleStatus) -> RunEvent | None:
    """What somebody has to do something about since now: for another reason than before, or of another spec."""
    was, now = before.condition("Stalled"), after.condition("Stalled")
    if now is None or now.status != "True":
        return None
    known = was and (was.status, was.reason, was.observed_generation) == ("True", now.reason, now.observed_generation)
    return None if known else RunEvent("Warning", now.reason, now.message)


def _owns(schedule: ScheduleRecord, run: RunRecord) -> bool:
    return run.owner_uid == schedule.uid and not run.deleting


def _status_of(body: dict[str, Any]) -> EvolutionScheduleStatus:
    try:
        return EvolutionScheduleStatus.model_validate(body.get("status") or {})
    except ValidationError:
        return EvolutionScheduleStatus()  # written by somebody else; it is derived anew
