"""What news of the cluster makes the operator look at a run, and how soon."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from bodies import container, job_body, pod_body
from virtual_time import run

from evolution_operator.cache import Cache
from evolution_operator.intake import SOON, Intake
from evolution_operator.parse import job_record, pod_record
from evolution_operator.queue import KeyedQueue
from evolution_operator.records import Record, RunKey

COMPLETE = {"Complete": {"reason": "CompletionsReached"}}
JOB, COMPLETE_JOB = job_record(job_body()), job_record(job_body(version=2, conditions=COMPLETE))


def pod(version: int, phase: str, **more: Any) -> Record:
    return pod_record(pod_body(version=version, phase=phase, **more))


RUNNING = pod(2, "Running", containerStatuses=[container(running={"startedAt": "2026-11-21T12:00:01Z"})])
SUCCEEDED = pod(3, "Succeeded")
EVICTED = pod(4, "Running", conditions=[{"type": "DisruptionTarget", "status": "True"}])


def seconds_until_looked_at(*before: Record, news: Record) -> float:
    """After `before` has been taken in and dealt with."""

    async def scene() -> float:
        queue: KeyedQueue[RunKey] = KeyedQueue()
        intake = Intake(Cache(), queue)
        looked = asyncio.Event()

        async def look(_key: RunKey) -> None:
            looked.set()

        for record in before:
            intake.seen(record)
        working = asyncio.create_task(queue.run(look, 1))
        if before:
            await looked.wait()
        looked.clear()
        began = asyncio.get_running_loop().time()
        assert intake.seen(news)
        await looked.wait()
        working.cancel()
        return asyncio.get_running_loop().time() - began

    return run(scene())


def test_a_pod_that_ends_is_looked_at_at_once() -> None:
    assert seconds_until_looked_at(JOB, RUNNING, news=SUCCEEDED) == 0


def test_a_pod_that_merely_runs_can_wait() -> None:
    assert seconds_until_looked_at(JOB, news=RUNNING) == pytest.approx(SOON)


def test_a_pod_that_is_evicted_cannot() -> None:
    assert seconds_until_looked_at(JOB, RUNNING, news=EVICTED) == 0


def test_a_job_that_says_what_its_pod_has_said_can_wait() -> None:
    assert seconds_until_looked_at(JOB, SUCCEEDED, news=COMPLETE_JOB) == pytest.approx(SOON)


def test_a_job_is_looked_at_at_once_if_its_pod_has_not_said_it() -> None:
    assert seconds_until_looked_at(JOB, RUNNING, news=COMPLETE_JOB) == 0


def test_one_pod_of_a_shared_stage_says_nothing_about_the_job() -> None:
    shared, complete = replace(JOB, shards=2), replace(COMPLETE_JOB, shards=2)
    assert seconds_until_looked_at(shared, SUCCEEDED, news=complete) == 0


def test_at_the_start_runs_whose_worker_has_just_ended_come_first() -> None:
    async def order() -> list[str]:
        queue: KeyedQueue[RunKey] = KeyedQueue()
        intake = Intake(Cache(), queue)
        handled: list[str] = []

        async def handle(key: RunKey) -> None:
            handled.append(key.name)

        for name in ("idle", "finished", "waiting"):
            job = COMPLETE_JOB if name == "finished" else JOB
            intake.seen(replace(job, run=RunKey("team-a", name), name=name, uid=f"job-{name}"))
        for name in ("finished", "waiting"):
            intake.seen(replace(SUCCEEDED, run=RunKey("team-a", name), name=name, uid=f"pod-{name}", job=name))
        working = asyncio.create_task(queue.run(handle, 1))
        while len(handled) < 3:
            await asyncio.sleep(0.01)
        working.cancel()
        return handled

    assert run(order()) == ["waiting", "idle", "finished"]
