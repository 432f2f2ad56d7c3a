"""The JobSet of a training on several nodes: what it asks Kubernetes for, and what the operator reads back of it."""

import json
from typing import Any

import pytest
from bodies import Body, container, job_body, pod_body
from simulated import make_run
from test_jobs import UID, environment, graph_at, made, runtime
from test_observe import NOW

from evolution.plan.dispatch import batches, make_order
from evolution.plan.order import Order, compute_for
from evolution.plan.stage import Kind
from evolution_operator.jobsets import build_jobset, jobset_name
from evolution_operator.observe import Situation, situation
from evolution_operator.parse import jobset_record, pod_record
from evolution_operator.records import SELECTOR

NAME = job_body()["metadata"]["name"]


def jobset(name: str = "demo", **train: Any) -> dict[str, Any]:
    """Of the training of round 1."""
    run = make_run(name=name)
    settings = runtime(stages={"train": {"nodes": 2, "gpus": 8, **train}})
    graph = graph_at(run, "r1-train")
    (batch,) = batches(graph, [s for s in graph.stages if s.id == "r1-train"], "Stage", ())
    order = make_order(
        run, "demo-0ff0e7b6", "s3://store/default", graph, batch, compute=compute_for(run, settings, Kind.TRAIN)
    )
    return build_jobset(run, UID, settings, batch, order, {})


def only_job(body: dict[str, Any]) -> dict[str, Any]:
    (replicated,) = body["spec"]["replicatedJobs"]
    assert (replicated["name"], replicated["replicas"]) == ("node", 1)
    found: dict[str, Any] = replicated["template"]
    return found


def test_the_workers_are_one_indexed_job_with_what_every_job_of_a_run_has() -> None:
    body = jobset()
    together, alone = only_job(body)["spec"], made(make_run(), "r1-train", stages={"train": {"gpus": 8}})["spec"]
    assert (together["completionMode"], together["completions"], together["parallelism"]) == ("Indexed", 2, 2)
    for field in ("backoffLimit", "activeDeadlineSeconds", "podFailurePolicy", "podReplacementPolicy"):
        assert together[field] == alone[field]
    assert body["spec"]["ttlSecondsAfterFinished"] == alone["ttlSecondsAfterFinished"]
    (worker,), (single,) = (spec["template"]["spec"]["containers"] for spec in (together, alone))
    assert worker["resources"] == single["resources"]


def test_every_worker_is_told_which_node_it_is_how_many_there_are_and_where_the_first_one_listens() -> None:
    body = jobset()
    name, told = body["metadata"]["name"], environment(only_job(body))
    assert told["EVOLUTION_LEADER"] == f"{name}-node-0-0.{name}:29500"
    index = "metadata.annotations['batch.kubernetes.io/job-completion-index']"
    assert told["EVOLUTION_NODE_INDEX"] == {"fieldRef": {"fieldPath": index}}
    assert Order.model_validate_json(told["EVOLUTION_ORDER"].replace("$$", "$")).compute.nodes == 2


@pytest.mark.parametrize("run", ["demo", "r" * 40, "2026-manuals"])
def test_names_serve_for_the_service_the_job_and_its_pods(run: str) -> None:
    graph = graph_at(make_run(name=run), "r1-train")
    (batch,) = batches(graph, [s for s in graph.stages if s.id == "r1-train"], "Stage", ())
    name = jobset_name(run, batch)
    assert len(f"{name}-node-0-63-abcde") <= 63
    assert name[0].isalpha()
    assert "-r1-train-" in name


def test_a_run_whose_runtime_asks_for_one_node_trains_in_a_job() -> None:
    assert compute_for(make_run(), runtime(stages={"train": {"gpus": 8}}), Kind.TRAIN).nodes == 1
    assert compute_for(make_run(), runtime(stages={"train": {"nodes": 2}}), Kind.GENERATE).nodes == 1


def test_what_the_operator_reads_back_of_a_jobset_is_what_it_wrote() -> None:
    body = json.loads(json.dumps(jobset()))
    record = jobset_record(body)
    assert (record.kind, record.owner_uid, record.stages) == ("JobSet", UID, ("r1-train",))
    assert record.state == "Active"
    key, _, value = SELECTOR.partition("=")
    assert body["metadata"]["labels"][key] == value
    job = only_job(body)["metadata"]
    assert key not in job["labels"], "the operator watches the JobSet, not its Job"
    assert job["labels"]["selfevolution.io/run"] == "demo", "people find the Job by its run all the same"


def test_a_pod_belongs_to_its_jobset() -> None:
    pod = pod_body(job=f"{NAME}-node-0")
    pod["metadata"]["labels"]["jobset.sigs.k8s.io/jobset-name"] = NAME
    assert pod_record(pod).job == NAME


def condition(type_: str, reason: str = "") -> Body:
    return {"type": type_, "status": "True", "reason": reason, "lastTransitionTime": "2026-11-21T12:00:00Z"}


def body_in(*conditions: Body, **spec: Any) -> Body:
    """A JobSet of the run `ops`, as the API server gives it."""
    job = job_body()
    return {"metadata": job["metadata"], "spec": spec, "status": {"conditions": list(conditions)}}


@pytest.mark.parametrize(
    ("body", "state", "reason"),
    [
        (body_in(), "Active", ""),
        (body_in(suspend=True), "Suspended", ""),
        (body_in(condition("StartupPolicyCompleted")), "Active", ""),
        (body_in(condition("Completed", "AllJobsCompleted")), "Complete", "AllJobsCompleted"),
        (body_in(condition("Failed", "ReachedMaxRestarts")), "Failed", "ReachedMaxRestarts"),
        (body_in(condition("Failed", "FailJobSetFailurePolicyAction")), "Failed", "DeadlineExceeded"),
    ],
)
def test_how_a_jobset_stands_is_read_from_its_conditions(body: Body, state: str, reason: str) -> None:
    record = jobset_record(body)
    assert (record.state, record.reason) == (state, reason)


def seen(body: Body, *pods: Body) -> Situation:
    return situation("uid-ops", [jobset_record(body)], [*map(pod_record, pods)], {}, (), (), {}, NOW)


def node(index: int, **status: Any) -> Body:
    pod = pod_body(name=f"{NAME}-node-0-{index}-abcde", **status)
    pod["metadata"]["labels"]["jobset.sigs.k8s.io/jobset-name"] = NAME
    return pod


RUNNING = {"phase": "Running", "containerStatuses": [container(running={"startedAt": "2026-11-21T12:00:00Z"})]}
NO_NODE = [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes are available"}]


def test_a_training_waits_as_long_as_one_of_its_nodes_is_missing() -> None:
    waits = seen(body_in(), node(0, **RUNNING), node(1, conditions=NO_NODE)).active[NAME].wait
    assert waits is not None
    assert (waits.kind, waits.reason) == ("Queued", "Unschedulable")
    assert seen(body_in(), node(0, **RUNNING), node(1, **RUNNING)).active[NAME].wait is None


def ended(code: int, reason: str, at: str) -> dict[str, Any]:
    said = json.dumps({"event": "failed", "code": code, "reason": reason, "message": f"because of {reason}"})
    return {
        "phase": "Failed",
        "containerStatuses": [container(terminated={"exitCode": code, "finishedAt": at, "message": said})],
    }


def test_the_worker_that_failed_is_blamed_and_not_those_that_ended_with_it() -> None:
    culprit = node(1, **ended(40, "LossNotFinite", "2026-11-21T12:00:01Z"))
    left = node(0, **ended(44, "PeerLost", "2026-11-21T12:00:02Z"))
    (failure,) = seen(body_in(condition("Failed", "ReachedMaxRestarts")), left, culprit).failures.values()
    assert (failure.code, failure.reason) == (40, "LossNotFinite")
