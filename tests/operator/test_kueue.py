"""What Kueue says of Jobs that it holds back, and how often it is asked. With the real one: tests/queueing."""

import asyncio
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from bodies import job_body
from fakeapi.server import FakeApi

from evolution.observation import Wait
from evolution_operator.gateway import Gateway
from evolution_operator.kueue import ABSENT_SECONDS, Kueue, Waiting, why_it_waits
from evolution_operator.parse import job_record

QUOTA = "couldn't assign flavors to pod set main: insufficient unused quota for nvidia.com/gpu in flavor any"
PREEMPTED = "Preempted to accommodate a workload (UID: 1, JobUID: 2) due to prioritization in the ClusterQueue"
HELD = job_record(job_body(uid="held", suspend=True))


def workload(**conditions: tuple[str, str, str]) -> dict[str, Any]:
    """By type: status, reason and message."""
    told = [{"type": t, "status": s, "reason": r, "message": m} for t, (s, r, m) in conditions.items()]
    return {"metadata": {"labels": {"kueue.x-k8s.io/job-uid": "held"}}, "status": {"conditions": told}}


@pytest.mark.parametrize(
    ("told", "wait"),
    [
        ({}, None),
        ({"QuotaReserved": ("False", "Pending", QUOTA)}, Wait("Queued", "QuotaPending", QUOTA)),
        (
            {"QuotaReserved": ("False", "Inadmissible", "LocalQueue team-a doesn't exist")},
            Wait("Queued", "Inadmissible", "LocalQueue team-a doesn't exist"),
        ),
        (
            {"QuotaReserved": ("False", "Pending", PREEMPTED), "Evicted": ("True", "Preempted", PREEMPTED)},
            Wait("Queued", "Preempted", PREEMPTED),
        ),
        (
            {"QuotaReserved": ("False", "Pending", QUOTA), "Evicted": ("True", "Preempted", PREEMPTED)},
            Wait("Queued", "Preempted", f"{QUOTA} ({PREEMPTED})"),
        ),
        (
            {
                "QuotaReserved": ("True", "QuotaReserved", "Quota reserved in ClusterQueue team-a"),
                "Admitted": ("False", "UnsatisfiedAdmissionChecks", "The workload has failed admission checks"),
                "Evicted": ("False", "QuotaReserved", "Previously: Preempted"),
            },
            Wait("Queued", "UnsatisfiedAdmissionChecks", "The workload has failed admission checks"),
        ),
        ({"QuotaReserved": ("True", "QuotaReserved", ""), "Admitted": ("True", "Admitted", "")}, None),
    ],
)
def test_a_run_waits_for_what_the_workload_of_its_job_tells(
    told: dict[str, tuple[str, str, str]], wait: Wait | None
) -> None:
    assert why_it_waits(workload(**told)) == wait


@dataclass
class Asking:
    """Looks at the suspended Jobs of a run on a cluster without Kueue, at chosen times."""

    kueue: Kueue
    gateway: Gateway
    now: datetime = datetime(2026, 11, 21, 12, tzinfo=UTC)
    known: Waiting = field(default_factory=Waiting)

    async def look(self, after: float = 0.0) -> float | None:
        self.now += timedelta(seconds=after)
        return await self.kueue.look("team", [HELD], self.known)

    @property
    def questions(self) -> int:
        return self.gateway.requests["list", "workloads", 404]


def test_where_there_is_no_kueue_it_is_asked_for_once_in_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        gateway = await Gateway.connect()
        try:
            asking = Asking(Kueue(gateway, lambda: asking.now), gateway)
            assert await asking.look() is None
            asked = asking.questions
            assert asked > 0
            assert await asking.look(ABSENT_SECONDS - 1) is None
            assert asking.questions == asked
            assert await asking.look(2) is None
            assert asking.questions == 2 * asked
        finally:
            await gateway.close()

    with FakeApi() as fake:
        monkeypatch.setenv("KUBECONFIG", str(fake.write_kubeconfig(tmp_path / "kubeconfig")))
        asyncio.run(scenario())
