"""From pods to attempts: since when each held its GPUs, how it ended, and whose word counts."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from bodies import job_body, pod_body

from evolution.attempt import Attempt, Result
from evolution.ledger import REMEMBERED_ATTEMPTS, Ledger
from evolution.plan.stage import Kind
from evolution.plan.tally import Spending, Tally
from evolution.plan.worker import Failed, OrderDone, Progress
from evolution_operator.accounting import attempts, fell_silent, lost, own_words, progressed_at
from evolution_operator.parse import job_record, pod_record
from evolution_operator.records import JobRecord, PodRecord

NOW = datetime(2026, 11, 21, 13, 0, tzinfo=UTC)
JOB = "ops-r1-train-1a2b3c4d"
SPENT = Tally(worker="pod", spent={Kind.TRAIN: Spending(productive=30_000)})
DONE = OrderDone(tally=SPENT).to_json().decode()


def at(minute: int, second: int = 0) -> str:
    return f"2026-11-21T12:{minute:02}:{second:02}Z"


def pod(name: str = "pod", **fields: Any) -> PodRecord:
    """A worker that has run from 12:02 to 12:05."""
    told = {
        "kind": Kind.TRAIN,
        "round": 1,
        "gpus": 4,
        "phase": "Running",
        "created_at": at(0),
        "scheduled_at": at(1),
        "started_at": at(2),
    }
    return replace(pod_record(pod_body(name, job=JOB)), **{**told, **fields})


def ended(exit_code: int = 0, message: str = "", **fields: Any) -> PodRecord:
    phase = "Failed" if exit_code else "Succeeded"
    return pod(**{"phase": phase, "exit_code": exit_code, "message": message, "finished_at": at(5), **fields})


def job(**fields: Any) -> JobRecord:
    return replace(job_record(job_body(JOB)), **{"created_at": at(0), **fields})


def attempt_of(
    seen: PodRecord | None = None,
    *,
    gone: PodRecord | None = None,
    known: Ledger = Ledger(),  # noqa: B008 (immutable)
    job: JobRecord | None = None,
    stopped: bool = False,
    told: Tally | None = None,
) -> Attempt:
    reports = {"pod": report(told)} if told else {}
    pods, departed = [seen] if seen else [], [gone] if gone else []
    jobs = [job] if job else []
    (found,) = attempts(known, jobs, pods, departed, {"pod"} if stopped else (), reports, NOW)
    return found


def report(tally: Tally | None) -> Progress:
    return Progress(stage="r1-train", fingerprint="f", phase="steps", done=1, total=2, updated_at=at(4), tally=tally)


def test_a_worker_holds_its_gpus_from_the_node_to_the_end_of_its_container() -> None:
    found = attempt_of(ended(message=DONE), job=job())
    assert (found.worker, found.job, found.kind, found.round, found.gpus) == ("pod", JOB, Kind.TRAIN, 1, 4)
    assert (found.queued_at, found.allocated_at, found.started_at, found.ended_at) == (at(0), at(1), at(2), at(5))
    assert (found.result, found.tally, found.held(NOW)) == ("succeeded", SPENT, 4 * 60_000)


@pytest.mark.parametrize(
    ("phase", "scheduled_at", "started_at"), [("Pending", "", ""), ("Pending", at(1), ""), ("Running", at(1), at(2))]
)
def test_a_worker_under_way_has_no_end_and_no_result(phase: str, scheduled_at: str, started_at: str) -> None:
    found = attempt_of(pod(phase=phase, scheduled_at=scheduled_at, started_at=started_at))
    assert (found.allocated_at, found.started_at, found.ended_at, found.result) == (scheduled_at, started_at, "", None)


def test_a_node_that_nobody_tells_of_was_given_when_the_worker_started() -> None:
    assert attempt_of(pod(scheduled_at="")).allocated_at == at(2)


@pytest.mark.parametrize(
    ("seen", "result"),
    [
        (ended(), "succeeded"),
        (ended(40), "permanent"),
        (ended(41), "permanent"),
        (ended(42), "permanent"),
        (ended(43), "retryable"),
        (ended(1), "retryable"),
        (ended(137), "retryable"),
        (ended(44), "preempted"),
        (ended(44, deleting=True), "preempted"),
        (ended(137, deleting=True, disrupted=True), "preempted"),
        (ended(143, deleting=True), "lost"),
        (ended(1, deleting=True), "retryable"),
        (ended(exit_code=1, phase="Failed", disrupted=True), "preempted"),
    ],
)
def test_how_a_worker_ended_follows_from_its_exit_code_and_why_it_was_ended(seen: PodRecord, result: Result) -> None:
    assert attempt_of(seen).result == result


@pytest.mark.parametrize("exit_code", [44, 143, 41])
def test_what_we_made_end_was_stopped_however_it_says_that_it_ended(exit_code: int) -> None:
    assert attempt_of(ended(exit_code, deleting=True), stopped=True).result == "stopped"


def test_what_ended_well_before_it_was_stopped_has_succeeded() -> None:
    assert attempt_of(ended(), stopped=True).result == "succeeded"


def test_a_queue_that_takes_workers_away_preempts_them() -> None:
    assert attempt_of(ended(143, deleting=True), job=job(state="Suspended")).result == "preempted"


def test_a_pod_that_is_gone_in_the_middle_of_its_work_is_lost_when_it_is_missed() -> None:
    found = attempt_of(gone=pod(), told=SPENT)
    assert (found.result, found.ended_at, found.tally) == ("lost", "2026-11-21T13:00:00.000Z", SPENT)


def test_a_pod_that_is_gone_after_its_end_ended_as_it_said() -> None:
    found = attempt_of(gone=ended(message=DONE, deleting=True))
    assert (found.result, found.ended_at, found.tally) == ("succeeded", at(5), SPENT)


def test_an_evicted_pod_without_times_ended_when_that_was_seen() -> None:
    found = attempt_of(pod(phase="Failed", disrupted=True))
    assert (found.result, found.ended_at) == ("preempted", "2026-11-21T13:00:00.000Z")


def test_last_words_come_before_what_was_told_earlier() -> None:
    earlier = Tally(worker="pod", spent={Kind.TRAIN: Spending(wasted=10)})
    assert attempt_of(ended(message=DONE), told=earlier).tally == SPENT
    assert attempt_of(ended(137), told=earlier).tally == earlier
    assert attempt_of(pod(), told=earlier).tally == earlier


def test_words_of_a_worker_that_gave_up_count_as_those_of_one_that_is_done() -> None:
    said = Failed(code=44, reason="Preempted", message="was told to stop", tally=SPENT).to_json().decode()
    assert attempt_of(ended(44, said)).tally == SPENT


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (DONE, "applied"),
        (OrderDone().to_json().decode(), "missing"),
        ("", "missing"),
        ("OOMKilled", "missing"),
        ('{"level": "info"}\n{"level": "info"}', "missing"),
        (DONE[:-9], "unreadable"),
    ],
)
def test_last_words_are_there_or_missing_or_cannot_be_read(message: str, words: str) -> None:
    assert own_words(ended(message=message))[1] == words


def test_a_worker_falls_silent_if_it_ran_and_ended_without_a_word() -> None:
    silent, never_ran = ended(137), ended(137, started_at="")
    assert fell_silent(attempt_of(silent), silent)
    assert not fell_silent(attempt_of(never_ran), never_ran)
    assert not fell_silent(attempt_of(ended(message=DONE)), ended(message=DONE))
    assert not fell_silent(attempt_of(pod()), pod())


def test_the_first_worker_waits_since_its_job_was_made_and_the_next_since_its_own_beginning() -> None:
    first = pod("first", created_at=at(3), finished_at=at(5), phase="Failed", exit_code=1)
    second = pod("second", created_at=at(6), scheduled_at=at(7), started_at=at(7))
    queued = {a.worker: a.queued_at for a in attempts(Ledger(), [job()], [second, first], [], (), {}, NOW)}
    assert queued == {"first": at(0), "second": at(6)}


def test_a_worker_that_follows_on_one_that_the_ledger_alone_remembers_waits_since_its_own_beginning() -> None:
    known = Ledger().noting([attempt_of(ended(137), job=job())])
    second = pod("second", created_at=at(6))
    (found,) = attempts(known, [job()], [second], [], (), {}, NOW)
    assert found.queued_at == at(6)


def test_workers_that_share_a_stage_all_wait_since_their_job_was_made() -> None:
    pods = [pod(f"pod-{index}", index=index, created_at=at(1)) for index in range(3)]
    assert {a.queued_at for a in attempts(Ledger(), [job()], pods, [], (), {}, NOW)} == {at(0)}


def test_a_job_that_came_later_by_the_same_name_is_not_the_pods() -> None:
    assert attempt_of(pod(created_at=at(1)), job=job(created_at=at(9))).queued_at == at(1)


def test_an_attempt_that_has_ended_is_not_looked_at_again() -> None:
    known = Ledger().noting([attempt_of(ended(message=DONE))])
    assert attempts(known, [], [ended(137, deleting=True)], [], (), {}, NOW) == []


def test_an_attempt_that_the_ledger_no_longer_keeps_is_not_looked_at_again() -> None:
    many = [ended(name=f"pod-{n}", message=DONE) for n in range(REMEMBERED_ATTEMPTS + 5)]
    known = Ledger().noting(attempts(Ledger(), [], many, [], (), {}, NOW))
    assert len(known.settled) == REMEMBERED_ATTEMPTS
    assert attempts(known, [], many, [], (), {}, NOW) == []


def test_somebody_elses_pod_is_no_attempt() -> None:
    assert attempts(Ledger(), [], [pod(kind=None)], [], (), {}, NOW) == []


def test_a_worker_that_vanished_while_nobody_looked_ended_with_its_last_word() -> None:
    open_ = attempt_of(pod())
    heard = lost(open_, report(SPENT), NOW)
    assert (heard.result, heard.ended_at, heard.tally) == ("lost", at(4), SPENT)
    unheard = lost(open_, None, NOW)
    assert (unheard.result, unheard.ended_at, unheard.tally) == ("lost", "2026-11-21T13:00:00.000Z", None)


def test_progress_is_the_newest_of_what_workers_told_and_did() -> None:
    ledger = Ledger().noting([attempt_of(pod())])
    assert progressed_at(Ledger(), ()) is None
    assert progressed_at(ledger, ()) == datetime.fromisoformat(at(2))
    assert progressed_at(ledger, [report(None)]) == datetime.fromisoformat(at(4))
