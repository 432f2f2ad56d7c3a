"""Why Kueue keeps Jobs waiting: a suspended Job does not say so, its Workload does."""

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from evolution.observation import Wait
from evolution_operator.gateway import Forbidden, Gateway, GatewayError, NotFound, Resource
from evolution_operator.records import JobRecord

WORKLOADS = tuple(
    Resource(f"apis/kueue.x-k8s.io/{version}", "workloads", "Workload") for version in ("v1beta2", "v1beta1")
)
"""Newest version first: older Kueues have only the other one."""
JOB_UID = "kueue.x-k8s.io/job-uid"
"""Label of a Workload: uid of the Job that it is about."""
LONGEST_PAUSE = 300.0
"""Seconds between two questions about the same Jobs: what is missing changes, but thousands may wait."""
ABSENT_SECONDS = 300.0
"""Pause where there is no Kueue, or the operator may not read Workloads."""

log = logging.getLogger(__name__)


@dataclass
class Waiting:
    """What is known of the suspended Jobs of one run."""

    jobs: frozenset[str] = frozenset()
    """Their uids, as of the last question."""
    reasons: Mapping[str, Wait] = field(default_factory=dict)
    """By uid of the Job."""
    pause: float = 0.0
    """Seconds from the last question to the next: short at first, since Kueue needs a moment to judge."""
    asked_at: datetime | None = None


class Kueue:
    """Asked about suspended Jobs alone, with one request for all those of a run: nothing is watched or remembered."""

    def __init__(self, gateway: Gateway, clock: Callable[[], datetime]) -> None:
        self._gateway = gateway
        self._now = clock
        self._absent_until: datetime | None = None

    async def look(self, namespace: str, jobs: Iterable[JobRecord], known: Waiting) -> float | None:
        """Bring `known` up to date; seconds until that is due again, None if nothing waits or nobody can tell why."""
        uids = frozenset(job.uid for job in jobs if job.state == "Suspended" and not job.deleting)
        if not uids:
            known.jobs, known.reasons = uids, {}
            return None
        now = self._now()
        if self._absent_until and now < self._absent_until:
            return None
        if uids <= known.jobs and known.asked_at:
            left = known.pause - (now - known.asked_at).total_seconds()
            if left > 0:
                return left
            known.pause = min(2 * known.pause, LONGEST_PAUSE)
        else:
            known.pause = 1.0
        known.jobs, known.asked_at = uids, now
        try:
            workloads = await self._workloads(namespace, uids)
        except (NotFound, Forbidden) as error:
            if isinstance(error, Forbidden) and self._absent_until is None:
                log.warning("runs that wait for quota cannot say what Kueue says: %s", error)
            self._absent_until = now + timedelta(seconds=ABSENT_SECONDS)
            known.reasons = {}
            return None
        except GatewayError as error:
            log.info("what Kueue says cannot be read now: %s", error)
            return known.pause
        known.reasons = {
            workload["metadata"]["labels"][JOB_UID]: wait for workload in workloads if (wait := why_it_waits(workload))
        }
        return known.pause

    async def _workloads(self, namespace: str, uids: Iterable[str]) -> list[dict[str, Any]]:
        selector = f"{JOB_UID} in ({','.join(sorted(uids))})"
        newest, older = WORKLOADS
        try:
            return [workload async for workload in self._gateway.list(newest, namespace, selector)]
        except NotFound:
            return [workload async for workload in self._gateway.list(older, namespace, selector)]


def why_it_waits(workload: Mapping[str, Any]) -> Wait | None:
    """In Kueue's words; None if it says nothing (yet), or has admitted the Job."""
    conditions = {c["type"]: c for c in (workload.get("status") or {}).get("conditions") or []}
    held = next((c for t in ("QuotaReserved", "Admitted") if (c := conditions.get(t)) and c["status"] == "False"), None)
    if held is None:
        return None
    reason, message = held.get("reason") or "Pending", held.get("message") or ""
    evicted = conditions.get("Evicted")
    if evicted and evicted["status"] == "True":
        # It had been admitted: that, and what it lacks now, which at first is the same text.
        why = evicted.get("message") or ""
        reason, message = evicted.get("reason") or reason, why if message in ("", why) else f"{message} ({why})"
    return Wait("Queued", "QuotaPending" if reason == "Pending" else reason, message or reason)
