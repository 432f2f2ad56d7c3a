import copy
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from bodies import container, job_body, meta, pod_body, run_body

from evolution_operator.parse import job_record, pod_record, run_record, runtime_record
from evolution_operator.records import RunKey, RuntimeKey

ENDED = {"reason": "Why", "message": "because", "lastTransitionTime": "2026-11-21T12:00:00Z"}
WHOLE_POD = pod_body(
    phase="Pending",
    conditions=[{"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}],
    containerStatuses=[container(waiting={"reason": "ImagePullBackOff"}, terminated={"exitCode": 1})],
)
READERS = {
    run_record: run_body(runtime={"kind": "EvolutionRuntime", "name": "own"}),
    runtime_record: run_body(),
    job_record: job_body(conditions={"Complete": ENDED}),
    pod_record: WHOLE_POD,
}
JUNK = (None, 0, True, "text", [], {}, [1], ["text"], {"a": {}}, [{}])


def places(value: object, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """The paths of everything in a body."""
    yield path
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(inner, (*path, key))


@pytest.mark.parametrize("junk", JUNK, ids=str)
@pytest.mark.parametrize("read", READERS, ids=lambda read: read.__name__)
def test_the_body_of_a_stranger_never_raises_wherever_it_is_not_as_expected(
    read: Callable[[dict[str, Any]], object], junk: object
) -> None:
    for *path, last in filter(None, places(READERS[read])):
        body = copy.deepcopy(READERS[read])
        inner: Any = body
        for key in path:
            inner = inner[key]
        inner[last] = junk
        hash(read(body))
        del inner[last]
        hash(read(body))


def test_a_run_keeps_what_is_reconciled_and_drops_what_only_the_api_server_reads() -> None:
    body = run_body(version=7)
    body["metadata"]["annotations"] = {"kubectl.kubernetes.io/last-applied-configuration": "{}", "note": "x"}
    record = run_record(body)
    assert (record.key, record.uid, record.resource_version, record.generation) == (
        RunKey("team", "ops"),
        "uid-ops",
        "7",
        1,
    )
    kept = json.loads(record.body)
    assert kept["spec"] == body["spec"]
    assert kept["metadata"]["annotations"] == {"note": "x"}
    assert not {"managedFields", "resourceVersion"} & set(kept["metadata"])


def test_the_intent_of_a_run_is_all_but_its_status() -> None:
    plain = run_record(run_body(version=1))
    reported = run_record(run_body(version=2, status={"state": "Running"}))
    edited = run_body(version=3)
    edited["metadata"]["annotations"] = {"selfevolution.io/retry-requested-at": "now"}
    assert plain.intent == reported.intent
    assert plain != reported
    assert run_record(edited).intent != plain.intent


@pytest.mark.parametrize(
    ("ref", "key"),
    [
        (None, RuntimeKey("ClusterEvolutionRuntime", "", "default")),
        ({"name": "gpu"}, RuntimeKey("ClusterEvolutionRuntime", "", "gpu")),
        ({"kind": "EvolutionRuntime", "name": "own"}, RuntimeKey("EvolutionRuntime", "team", "own")),
    ],
)
def test_a_run_names_its_runtime_or_gets_the_default_one(ref: dict[str, str] | None, key: RuntimeKey) -> None:
    assert run_record(run_body(runtime=ref)).runtime == key


def test_a_runtime_is_told_from_a_cluster_wide_one_by_its_namespace_as_items_of_lists_have_no_kind() -> None:
    own = runtime_record({"metadata": meta("own"), "spec": {}})
    cluster_wide = runtime_record({"metadata": {"name": "default"}, "spec": {}})
    assert own.key == RuntimeKey("EvolutionRuntime", "team", "own")
    assert cluster_wide.key == RuntimeKey("ClusterEvolutionRuntime", "", "default")
    assert json.loads(own.body)["kind"] == "EvolutionRuntime"


@pytest.mark.parametrize(
    ("conditions", "spec", "state"),
    [
        ({}, {}, "Active"),
        ({"Complete": ENDED}, {}, "Complete"),
        ({"SuccessCriteriaMet": ENDED}, {}, "Complete"),
        ({"Failed": ENDED}, {}, "Failed"),
        ({"FailureTarget": ENDED}, {}, "Active"),
        ({"FailureTarget": ENDED, "Failed": ENDED}, {}, "Failed"),
        ({"Suspended": ENDED}, {"suspend": True}, "Suspended"),
        ({}, {"suspend": True}, "Suspended"),
    ],
)
def test_the_state_of_a_job_comes_from_its_conditions(
    conditions: dict[str, dict[str, str]], spec: dict[str, bool], state: str
) -> None:
    record = job_record(job_body(conditions=conditions, **spec))
    assert record.state == state
    assert bool(record.finished_at) == (state in ("Complete", "Failed"))
    if state in conditions:
        assert (record.reason, record.message) == ("Why", "because")


def test_a_condition_that_is_false_counts_for_nothing() -> None:
    body = job_body()
    body["status"]["conditions"] = [{"type": "Failed", "status": "False"}]
    assert job_record(body).state == "Active"


def test_complete_after_met_criteria_is_no_news() -> None:
    met = job_record(job_body(conditions={"SuccessCriteriaMet": ENDED}))
    later = {**ENDED, "lastTransitionTime": "2026-11-21T12:00:01Z"}
    complete = job_record(job_body(version=2, conditions={"SuccessCriteriaMet": ENDED, "Complete": later}))
    assert met == complete


def test_a_job_tells_its_run_its_owner_and_its_stages() -> None:
    record = job_record(job_body())
    assert record.run == RunKey("team", "ops")
    assert record.owner_uid == "uid-ops"
    assert record.stages == ("r1/Generate", "r1/Train")
    assert (record.fingerprint, record.recipe) == ("f" * 64, "abc")


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        ({}, ""),
        ({"conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}]}, "Unschedulable"),
        ({"containerStatuses": [container(waiting={"reason": "ContainerCreating"})]}, ""),
        ({"containerStatuses": [container(waiting={"reason": "PodInitializing"})]}, ""),
        ({"containerStatuses": [container(waiting={"reason": "ImagePullBackOff"})]}, "ImagePullBackOff"),
        (
            {"containerStatuses": [container(waiting={"reason": "CreateContainerConfigError"})]},
            "CreateContainerConfigError",
        ),
        ({"initContainerStatuses": [container("init", waiting={"reason": "ErrImagePull"})]}, "ErrImagePull"),
    ],
)
def test_a_pod_that_cannot_start_says_why(status: dict[str, Any], reason: str) -> None:
    assert pod_record(pod_body(**status)).waiting_reason == reason


def test_a_worker_that_ended_tells_its_code_times_and_last_words() -> None:
    ended = {"exitCode": 41, "message": '{"code":41}', "startedAt": "t1", "finishedAt": "t2", "reason": "Error"}
    statuses = [container("proxy", running={"startedAt": "t0"}), container(terminated=ended)]
    record = pod_record(pod_body(phase="Failed", containerStatuses=statuses))
    assert (record.exit_code, record.message, record.started_at, record.finished_at) == (41, '{"code":41}', "t1", "t2")


@pytest.mark.parametrize(
    ("ended", "more", "message"),
    [
        ({"exitCode": 137, "reason": "OOMKilled"}, {}, "OOMKilled"),
        ({"exitCode": 1, "reason": "Error"}, {}, ""),
        ({}, {"reason": "Evicted", "message": "the node was low on memory"}, "Evicted: the node was low on memory"),
    ],
)
def test_a_pod_that_ended_without_last_words_tells_what_kubernetes_knows(
    ended: dict[str, Any], more: dict[str, str], message: str
) -> None:
    statuses = [container(terminated=ended)] if ended else []
    assert pod_record(pod_body(phase="Failed", containerStatuses=statuses, **more)).message == message


def test_an_evicted_pod_is_disrupted() -> None:
    evicted = [{"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI"}]
    assert pod_record(pod_body(phase="Failed", conditions=evicted)).disrupted
    assert not pod_record(pod_body(phase="Failed")).disrupted


def test_a_pod_knows_when_a_node_was_given_to_it() -> None:
    scheduled = {"type": "PodScheduled", "status": "True", "lastTransitionTime": "2026-11-21T12:00:03Z"}
    assert pod_record(pod_body(conditions=[scheduled])).scheduled_at == "2026-11-21T12:00:03Z"
    assert pod_record(pod_body(conditions=[{**scheduled, "status": "False"}])).scheduled_at == ""


def test_a_pod_that_ended_without_times_ended_when_its_conditions_last_changed() -> None:
    conditions = [
        {"type": "DisruptionTarget", "status": "True", "lastTransitionTime": "2026-11-21T12:09:00Z"},
        {"type": "PodScheduled", "status": "True", "lastTransitionTime": "2026-11-21T12:00:03Z"},
    ]
    assert pod_record(pod_body(phase="Failed", conditions=conditions)).finished_at == "2026-11-21T12:09:00Z"
    assert pod_record(pod_body(phase="Running", conditions=conditions)).finished_at == ""


def test_somebody_elses_pod_is_no_worker() -> None:
    record = pod_record(pod_body())
    assert (record.kind, record.gpus, record.run_uid, record.shards) == (None, 0, "", 1)


def test_a_pod_of_an_indexed_job_knows_its_index_and_its_job() -> None:
    body = pod_body()
    assert (pod_record(body).index, pod_record(body).job) == (0, "ops-r1-train-1a2b3c4d")
    body["metadata"]["annotations"] = {"batch.kubernetes.io/job-completion-index": "3"}
    del body["metadata"]["labels"]["batch.kubernetes.io/job-name"]
    assert (pod_record(body).index, pod_record(body).job) == (3, "ops-r1-train-1a2b3c4d")


@pytest.mark.parametrize("claim", ["²", "9" * 5000, "1000000000", "257", "-1", "", "1.0"])
def test_numbers_that_somebody_made_up_count_for_nothing(claim: str) -> None:
    named = {"selfevolution.io/shards": claim, "selfevolution.io/gpus": claim}
    index = {"batch.kubernetes.io/job-completion-index": claim}
    metadata = {"name": "x", "labels": {"selfevolution.io/round": claim}, "annotations": {**named, **index}}
    pod = pod_record({"metadata": metadata})
    assert (pod.shards, pod.gpus, pod.index) == (1, 0, 0)
    assert pod.round == (257 if claim == "257" else 0)
    assert job_record({"metadata": metadata}).shards == 1
