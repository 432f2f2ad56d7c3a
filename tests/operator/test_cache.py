import tracemalloc
from dataclasses import replace

import pytest
from bodies import container, job_body, pod_body, run_body
from hypothesis import given
from hypothesis import strategies as st

from evolution_operator.cache import REMEMBERED_DELETIONS, Cache
from evolution_operator.parse import job_record, pod_record, run_record, runtime_record
from evolution_operator.records import JobRecord, PodRecord, RunKey, RunRecord, is_newer

KEY = RunKey("team", "ops")
DONE = {"Complete": {"reason": "CompletionsReached", "lastTransitionTime": "2026-11-21T12:00:00Z"}}
FAILED = {"Failed": {"reason": "BackoffLimitExceeded", "lastTransitionTime": "2026-11-21T12:00:00Z"}}


def test_versions_are_compared_as_numbers() -> None:
    assert is_newer("10", than="9")
    assert not is_newer("9", than="10")
    assert not is_newer("9", than="9")


def test_an_older_or_equal_record_changes_nothing() -> None:
    cache = Cache()
    assert cache.upsert(job_record(job_body(version=10, conditions=DONE)))
    assert not cache.upsert(job_record(job_body(version=9)))
    assert not cache.upsert(job_record(job_body(version=10)))
    assert [job.state for job in cache.jobs(KEY)] == ["Complete"]


def test_a_newer_record_without_a_difference_that_matters_is_no_news() -> None:
    cache = Cache()
    cache.upsert(job_record(job_body(version=1)))
    assert not cache.upsert(job_record(job_body(version=2)))
    assert not cache.upsert(job_record(job_body(version=1, conditions=DONE))), "version 2 was seen already"
    assert cache.upsert(job_record(job_body(version=3, conditions=DONE)))


def test_a_fresh_pod_on_its_way_is_no_news_and_one_that_cannot_start_is() -> None:
    cache = Cache()
    assert not cache.upsert(pod_record(pod_body("fine")))
    stuck = [container(waiting={"reason": "ImagePullBackOff"})]
    assert cache.upsert(pod_record(pod_body("stuck", containerStatuses=stuck)))
    assert cache.upsert(pod_record(pod_body("fine", version=2, phase="Running")))
    assert not cache.upsert(pod_record(pod_body("fine", version=3, phase="Running", podIP="10.0.0.1")))


def test_a_deleted_object_does_not_return_by_a_late_event() -> None:
    cache = Cache()
    job = job_record(job_body(version=5))
    cache.upsert(job)
    assert cache.forget(replace(job, resource_version="8"))
    assert not cache.upsert(replace(job, resource_version="7", state="Complete"))
    assert cache.jobs(KEY) == ()
    assert cache.upsert(job_record(job_body(version=9, uid="another"))), "a new object of that name is another one"


def test_an_object_that_gets_its_label_back_returns() -> None:
    cache = Cache()
    job = job_record(job_body(version=5))
    cache.upsert(job)
    cache.forget(replace(job, resource_version="8"))
    assert cache.upsert(replace(job, resource_version="9"))


def test_a_late_deletion_does_not_remove_the_next_object_of_that_name() -> None:
    cache = Cache()
    cache.upsert(job_record(job_body(version=9, uid="second")))
    assert not cache.forget(job_record(job_body(version=8, uid="first")))
    assert cache.job("team", "ops-r1-train-1a2b3c4d") is not None


def test_a_job_that_we_deleted_stays_marked_whatever_was_under_way() -> None:
    cache = Cache()
    job = job_record(job_body(version=5))
    cache.upsert(job)
    cache.mark_deleting("team", job.name, job.uid)
    assert [job.deleting for job in cache.jobs(KEY)] == [True]
    assert not cache.upsert(replace(job, resource_version="6"))
    assert [job.deleting for job in cache.jobs(KEY)] == [True]
    cache.forget(replace(job, resource_version="7"))
    cache.upsert(job_record(job_body(version=8, uid="next")))
    assert [job.deleting for job in cache.jobs(KEY)] == [False]


def test_marking_a_job_of_another_uid_does_nothing() -> None:
    cache = Cache()
    job = job_record(job_body())
    cache.upsert(job)
    cache.mark_deleting("team", job.name, "another")
    assert cache.jobs(KEY) == (job,)


def test_pods_of_a_settled_job_are_dropped_and_ignored_until_the_job_is_gone() -> None:
    cache = Cache()
    job = job_record(job_body(version=3, conditions=FAILED))
    pod = pod_record(pod_body(version=2, phase="Failed"))
    other = pod_record(pod_body("other", job="another", phase="Running"))
    for record in (job, pod, other):
        cache.upsert(record)
    cache.settle("team", job.name)
    assert cache.pods(KEY) == (other,)
    assert not cache.upsert(replace(pod, resource_version="9", deleting=True))
    assert cache.pods(KEY) == (other,)
    cache.forget(replace(job, resource_version="10"))
    again = replace(pod, resource_version="11", uid="again")
    assert cache.upsert(again)
    assert set(cache.pods(KEY)) == {other, again}


def test_a_job_at_work_cannot_be_settled() -> None:
    cache = Cache()
    cache.upsert(job_record(job_body()))
    cache.upsert(pod_record(pod_body(phase="Running")))
    cache.settle("team", "ops-r1-train-1a2b3c4d")
    assert len(cache.pods(KEY)) == 1


def worker(version: int, phase: str = "Running", uid: str = "uid-pod") -> PodRecord:
    body = pod_body("pod", version, phase=phase)
    body["metadata"] |= {"uid": uid, "annotations": {"selfevolution.io/kind": "Train", "selfevolution.io/gpus": "1"}}
    return pod_record(body)


def test_a_worker_that_is_gone_is_remembered_as_it_was_last_until_it_is_dismissed() -> None:
    cache = Cache()
    cache.upsert(worker(1))
    cache.forget(worker(2, "Failed"))
    assert cache.pods(KEY) == ()
    (departed,) = cache.departed(KEY)
    assert departed.phase == "Failed"
    cache.dismiss(KEY, [departed])
    assert cache.departed(KEY) == ()


def test_a_worker_that_a_list_no_longer_has_is_remembered_as_it_was_seen_last() -> None:
    cache = Cache()
    cache.upsert(worker(5, "Succeeded"))
    cache.forget(worker(3), "9")
    assert [pod.phase for pod in cache.departed(KEY)] == ["Succeeded"]


def test_somebody_elses_pod_and_those_of_settled_jobs_are_not_remembered_when_they_go() -> None:
    cache = Cache()
    cache.upsert(pod_record(pod_body("stranger", phase="Running")))
    cache.forget(pod_record(pod_body("stranger", version=2)))
    cache.upsert(job_record(job_body(conditions=DONE)))
    cache.upsert(worker(1, "Succeeded"))
    cache.settle("team", "ops-r1-train-1a2b3c4d")
    cache.forget(worker(2, "Succeeded"))
    assert cache.departed(KEY) == ()


def test_the_runs_of_a_runtime_follow_their_reference() -> None:
    cache = Cache()
    cache.upsert(run_record(run_body("one", 1)))
    cache.upsert(run_record(run_body("two", 2)))
    assert set(cache.runs_of_runtime("ClusterEvolutionRuntime", "", "default")) == {("team", "one"), ("team", "two")}
    own = {"kind": "EvolutionRuntime", "name": "own"}
    cache.upsert(run_record(run_body("two", 3, runtime=own)))
    assert cache.runs_of_runtime("ClusterEvolutionRuntime", "team", "default") == (("team", "one"),)
    assert cache.runs_of_runtime("EvolutionRuntime", "team", "own") == (("team", "two"),)
    cache.forget(run_record(run_body("two", 4, runtime=own)))
    assert cache.runs_of_runtime("EvolutionRuntime", "team", "own") == ()


def test_a_cluster_wide_runtime_is_found_from_every_namespace() -> None:
    cache = Cache()
    runtime = runtime_record({"metadata": {"name": "default", "uid": "r", "resourceVersion": "1"}})
    cache.upsert(runtime)
    assert cache.runtime("ClusterEvolutionRuntime", "team", "default") == runtime
    assert cache.runtime("EvolutionRuntime", "team", "default") is None


def test_records_are_listed_by_kind_and_namespace() -> None:
    cache = Cache()
    cache.upsert(run_record(run_body()))
    cache.upsert(job_record(job_body()))
    cache.upsert(pod_record(pod_body()))
    assert [type(record) for record in cache.records(JobRecord, "team")] == [JobRecord]
    assert list(cache.records(PodRecord, "elsewhere")) == []
    assert len(list(cache.records(RunRecord))) == 1
    assert cache.sizes() == {"runs": 1, "schedules": 0, "runtimes": 0, "jobs": 1, "pods": 1}


def test_deletions_are_not_remembered_without_end() -> None:
    cache = Cache()
    for number in range(REMEMBERED_DELETIONS + 10):
        cache.forget(job_record(job_body(uid=f"uid-{number}")))
    assert len(cache._deleted) == REMEMBERED_DELETIONS


@given(st.permutations(range(1, 7)))
def test_whatever_the_order_of_events_the_newest_state_is_what_is_known(versions: list[int]) -> None:
    cache = Cache()
    states = {
        version: job_record(job_body(version=version, conditions=DONE if version > 3 else {})) for version in versions
    }
    for version in versions:
        cache.upsert(states[version])
    assert [job.resource_version for job in cache.jobs(KEY)] == ["6"]
    assert [job.state for job in cache.jobs(KEY)] == ["Complete"]


@pytest.mark.slow
def test_five_thousand_runs_and_ten_thousand_finished_jobs_stay_small() -> None:
    tracemalloc.start()
    cache = Cache()
    before, _ = tracemalloc.get_traced_memory()
    for number in range(5_000):
        cache.upsert(run_record(run_body(f"run-{number}", number)))
    for number in range(10_000):
        run = f"run-{number % 5_000}"
        job = job_body(f"{run}-r{number // 5_000}-train-1a2b3c4d", number, run, DONE, uid=f"{number:036d}")
        cache.upsert(job_record(job))
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (after - before) / 2**20 < 30
