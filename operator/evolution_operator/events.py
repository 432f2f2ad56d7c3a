"""Kubernetes Events of a run: few, and only what a person wants to be told. Pure."""

from datetime import UTC, datetime
from typing import Any

from evolution.api.run import API_VERSION
from evolution.decide import RunEvent
from evolution.plan.stage import sha256
from evolution_operator.records import OPERATOR, RunRecord

LONGEST_NOTE = 1024


def event_body(run: RunRecord, event: RunEvent, now: datetime) -> dict[str, Any]:
    """An events.k8s.io/v1 Event. The same thing said twice of a generation has one name, so it is there once."""
    said = sha256(f"{run.uid}/{run.generation}/{event.reason}/{event.message}".encode())[:16]
    return {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"name": f"{run.key.name}.{said}", "namespace": run.key.namespace},
        "regarding": {
            "apiVersion": API_VERSION,
            "kind": "EvolutionRun",
            "name": run.key.name,
            "namespace": run.key.namespace,
            "uid": run.uid,
        },
        "type": event.type,
        "reason": event.reason,
        "action": "Reconcile",
        "note": event.message[:LONGEST_NOTE],
        "eventTime": now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "reportingController": f"selfevolution.io/{OPERATOR}",
        "reportingInstance": OPERATOR,
    }
