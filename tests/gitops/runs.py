"""Runs and schedules as an operator left them in every state, and what GitOps tools are to make of each.

`recorded/` has them; `tests/operator/test_health_of_runs.py` brings them about on a cluster and compares.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

RECORDED = Path(__file__).parent / "recorded"
Run = dict[str, Any]


@dataclass(frozen=True)
class Health:
    argo: str
    """Healthy, Progressing, Suspended or Degraded."""
    flux: str
    """Current, InProgress or Failed by the expressions of the example that waits for the end of a run, or Unknown."""
    going: str = ""
    """The same by those of the example that wants it to be on its way."""
    kstatus: str = ""
    """By the generic rules, where they differ from `flux`."""
    told: str = ""
    """Part of Argo CD's message."""


DONE = "Healthy", "Current", "Current"
MOVING = "Progressing", "InProgress", "Current"
HALTED = "Suspended", "InProgress", "Current"
STUCK = "Degraded", "Failed", "Failed"

HEALTH = {
    "just-created": Health("Progressing", "Unknown", "Unknown", kstatus="Current", told="has not looked at it yet"),
    "edited-while-the-operator-is-away": Health("Progressing", "InProgress", "InProgress", told="newest edit"),
    "running": Health(*MOVING, told="0 of 3 rounds"),
    "running-again-after-an-edit": Health(*MOVING, told="of 5 rounds"),
    "retrying-after-a-failed-attempt": Health(*MOVING, told="OutOfMemory"),
    "queued-without-a-node": Health(*MOVING, told="Unschedulable"),
    "queued-for-quota": Health(*MOVING, told="QuotaPending"),
    "store-away": Health(*MOVING, told="StoreUnavailable"),
    "suspended-by-its-author": Health(*HALTED, told="UserRequested: spec.suspend is true"),
    "suspended-by-its-budget": Health("Suspended", "Failed", "Failed", kstatus="InProgress", told="GPU-hours"),
    "complete-after-all-rounds": Health(*DONE, told="MaxRounds: all 3 rounds are done; best is round 3"),
    "complete-on-a-plateau": Health(*DONE, told="Plateau: stopped after round 3"),
    "complete-on-a-regression": Health(*DONE, told="Regression: stopped after round 2"),
    "complete-with-its-budget": Health(*DONE, told="Budget: stopped"),
    "failed-for-its-documents": Health(*STUCK, told="DocumentInvalid: prepare-documents: documents/part-3.jsonl:17"),
    "failed-after-all-attempts": Health(*STUCK, told="OutOfMemory"),
    "without-its-runtime": Health(*STUCK, told="RuntimeNotFound"),
    "image-not-pulled": Health(*STUCK, told="ImagePullBackOff"),
    "spec-refused": Health(*STUCK, told="InvalidSpec"),
    "store-refused": Health(*STUCK, told="StoreRefused"),
}
SCHEDULES = {
    "schedule-just-created": Health("Progressing", "Current", told="has not looked at it yet"),
    "schedule-waiting": Health("Healthy", "Current", told="Waiting"),
    "schedule-running": Health("Healthy", "Current", told="Running"),
    "schedule-suspended": Health("Suspended", "Current", told="spec.suspend is true"),
    "schedule-refused": Health("Degraded", "Failed", told="time zone"),
}
"""The examples have no expressions for them: `flux` is by the generic rules."""


def recorded(name: str) -> Run:
    run: Run = yaml.safe_load((RECORDED / f"{name}.yaml").read_text(encoding="utf-8"))
    return run
