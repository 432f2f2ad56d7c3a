"""Runs that schedules start: their bodies, and what their records tell. Pure."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from evolution.api.run import API_VERSION
from evolution.api.times import rfc3339
from evolution.schedule import ScheduledRun, Start
from evolution_operator.parse import number
from evolution_operator.records import RunRecord, ScheduleRecord

SCHEDULE_LABEL = "selfevolution.io/schedule"
"""On runs: name of the schedule that started them."""
SCHEDULED_AT = "selfevolution.io/scheduled-at"
"""Annotation of runs: the time of the schedule that they are for, in RFC 3339; of no others."""
FAILURES_BEFORE = "selfevolution.io/failures-before"
"""Annotation of runs: how many runs of the schedule had failed in a row when they were started."""
MOST_FAILURES = 1_000_000


def run_body(record: ScheduleRecord, template: Mapping[str, Any], start: Start) -> dict[str, Any]:
    """The EvolutionRun to create: what the template says, and what was seen of its sources."""
    metadata = template.get("metadata") or {}
    spec = template["spec"]
    annotations = {**(metadata.get("annotations") or {}), FAILURES_BEFORE: str(start.failures_before)}
    if start.slot:
        annotations[SCHEDULED_AT] = rfc3339(start.slot)
    owner = {
        "apiVersion": API_VERSION,
        "kind": "EvolutionSchedule",
        "name": record.key.name,
        "uid": record.uid,
        "controller": True,
    }
    return {
        "apiVersion": API_VERSION,
        "kind": "EvolutionRun",
        "metadata": {
            "name": start.name,
            "namespace": record.key.namespace,
            "labels": {**(metadata.get("labels") or {}), SCHEDULE_LABEL: record.key.name},
            "annotations": annotations,
            "ownerReferences": [owner],
        },
        "spec": {
            **spec,
            "documents": {**spec["documents"], "revision": start.documents},
            "evaluation": {**spec["evaluation"], "revision": start.evaluation},
        },
    }


def scheduled_run(record: RunRecord) -> ScheduledRun:
    body = json.loads(record.body)
    annotations = body["metadata"].get("annotations") or {}
    spec, slot = body.get("spec") or {}, annotations.get(SCHEDULED_AT)
    return ScheduledRun(
        name=record.key.name,
        uid=record.uid,
        created_at=datetime.fromisoformat(record.created_at),
        state="Complete" if record.phase == "Complete" else "Failed" if record.phase == "Failed" else "Active",
        summary=str((body.get("status") or {}).get("summary", "")),
        ended_at=datetime.fromisoformat(record.ended_at) if record.ended_at else None,
        documents=str((spec.get("documents") or {}).get("revision", "")),
        evaluation=str((spec.get("evaluation") or {}).get("revision", "")),
        slot=_moment(slot),
        failures_before=number(annotations.get(FAILURES_BEFORE), 0, MOST_FAILURES),
    )


def _moment(text: object) -> datetime | None:
    try:
        moment = datetime.fromisoformat(text) if isinstance(text, str) else None
    except ValueError:  # somebody has edited it
        return None
    return moment if moment is None or moment.tzinfo else moment.replace(tzinfo=UTC)
