"""Kubernetes Events of runs and schedules: few, and only what a person wants to be told."""

import logging
from datetime import UTC, datetime
from typing import Any

from evolution.api.run import API_VERSION
from evolution.decide import RunEvent
from evolution.plan.stage import sha256
from evolution_operator.gateway import EVENTS, RUNS, SCHEDULES, AlreadyExists, Gateway, GatewayError
from evolution_operator.records import OPERATOR, RunRecord, ScheduleRecord

LONGEST_NOTE = 1024

log = logging.getLogger(__name__)


async def tell(gateway: Gateway, about: RunRecord | ScheduleRecord, event: RunEvent, now: datetime) -> None:
    try:
        await gateway.create(EVENTS, about.key.namespace, _body(about, event, now))
    except AlreadyExists:
        pass
    except GatewayError as error:  # an Event is worth no retry
        log.warning("%s/%s: the Event %r is lost: %s", about.key.namespace, about.key.name, event.message, error)


def _body(about: RunRecord | ScheduleRecord, event: RunEvent, now: datetime) -> dict[str, Any]:
    """An events.k8s.io/v1 Event. The same thing said twice of a generation has one name, so it is there once."""
    said = sha256(f"{about.uid}/{about.generation}/{event.reason}/{event.message}".encode())[:16]
    return {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"name": f"{about.key.name}.{said}", "namespace": about.key.namespace},
        "regarding": {
            "apiVersion": API_VERSION,
            "kind": (SCHEDULES if isinstance(about, ScheduleRecord) else RUNS).kind,
            "name": about.key.name,
            "namespace": about.key.namespace,
            "uid": about.uid,
        },
        "type": event.type,
        "reason": event.reason,
        "action": "Reconcile",
        "note": event.message[:LONGEST_NOTE],
        "eventTime": now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "reportingController": f"selfevolution.io/{OPERATOR}",
        "reportingInstance": OPERATOR,
    }
