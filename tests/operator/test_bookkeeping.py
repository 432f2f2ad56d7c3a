"""What the ledger of a run is to the pods of its Jobs."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from bodies import job_body, pod_body, run_body
from simulated import make_run

from evolution.attempt import Attempt
from evolution.ledger import REMEMBERED_ATTEMPTS
from evolution.plan.stage import Kind
from evolution_operator.bookkeeping import Bookkeeper
from evolution_operator.cache import Cache
from evolution_operator.knowledge import Knowledge, Memory
from evolution_operator.parse import job_record, pod_record, run_record
from evolution_operator.records import RunKey
from evolution_operator.showing import Nobody, Words
from evolution_operator.subject import Subject

NOW = datetime(2026, 11, 21, 13, 0, tzinfo=UTC)
JOB = "ops-r1-generate-1a2b3c4d"
SHARDS = REMEMBERED_ATTEMPTS + 50


class Witness(Nobody):
    def __init__(self) -> None:
        self.heard: list[str] = []

    def ended(self, namespace: str, attempt: Attempt, words: Words) -> None:  # noqa: ARG002
        self.heard.append(attempt.worker)


def test_a_job_of_more_pods_than_the_ledger_remembers_is_let_go_and_each_pod_is_told_once(tmp_path: Path) -> None:
    cache, witness = Cache(), Witness()
    subject = Subject(run_record(run_body()), run_body(), make_run(), Memory("uid-ops"))
    done = job_record(job_body(JOB, conditions={"Complete": {"reason": "CompletionsReached"}}))
    cache.upsert(replace(done, shards=SHARDS))
    for number in range(SHARDS):
        pod = pod_record(pod_body(f"{JOB}-{number}", job=JOB))
        times = {"scheduled_at": "2026-11-21T12:01:00Z", "finished_at": "2026-11-21T12:05:00Z"}
        cache.upsert(
            replace(pod, kind=Kind.GENERATE, round=1, run_uid="uid-ops", phase="Succeeded", exit_code=0, **times)
        )
    books = Bookkeeper(cache, Knowledge(tmp_path.as_uri(), tmp_path), witness, lambda: NOW)
    assert not books.release(subject), "nothing is known of its pods yet"
    for _ in range(2):
        asyncio.run(books.note(subject, SHARDS))
    assert len(subject.memory.ledger.settled) == REMEMBERED_ATTEMPTS
    assert len(witness.heard) == len(set(witness.heard)) == SHARDS
    assert books.release(subject)
    assert cache.pods(RunKey("team", "ops")) == ()
