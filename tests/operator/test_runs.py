"""What becomes of runs on a cluster, through a real API server, Job controller and scheduler.

Workers are simulated: they commit what they are told to at once, or fail as a test wants.
"""

import json

import pytest
from cluster import COLLECTED_SECONDS, GROUP, HANG, Cluster, failed, kstatus
from controlplane.client import object_path
from controlplane.waiting import eventually
from simulated import MINIMAL

from evolution.plan.worker import ExitCode

pytestmark = pytest.mark.controlplane


def test_a_run_goes_from_apply_to_complete_and_tells_its_rounds(cluster: Cluster) -> None:
    cluster.apply()
    cluster.kubectl("wait", "--for=condition=Complete", "--timeout=30s", "evo/demo")
    run = cluster.run()
    status = run["status"]
    assert (status["summary"], kstatus(run)) == ("Complete: MaxRounds", "Current")
    assert status["best"] == {
        "round": 3,
        "score": "0.3000",
        "adapterURI": "",
        "scores": {"BLEU": "0.3000", "ROUGEL": "0.3000"},
    }
    assert len(cluster.jobs()) == 15
    assert cluster.told("MaxRounds") == "all 3 rounds are done; best is round 3"
    assert cluster.told("RoundCompleted")


def test_a_run_that_is_deleted_and_applied_again_costs_nothing(cluster: Cluster) -> None:
    cluster.apply()
    cluster.until("Complete: *")
    cluster.delete()
    cluster.wait(lambda: not cluster.jobs(), "the Jobs being collected", seconds=COLLECTED_SECONDS)
    ran = len(cluster.fates.seen)
    cluster.apply()
    cluster.until("Complete: *", seconds=10)
    assert cluster.jobs() == {}
    assert len(cluster.fates.seen) == ran


def test_deleting_a_run_ends_its_workers(cluster: Cluster) -> None:
    cluster.fates.next(cluster.namespace, "r1-train", HANG)
    cluster.apply()
    cluster.until_running("r1-train")
    cluster.delete()
    cluster.wait(lambda: not cluster.jobs() and not cluster.pods(), "Jobs and pods gone", seconds=COLLECTED_SECONDS)


def test_an_edit_stops_what_it_makes_pointless_and_keeps_the_rest(cluster: Cluster) -> None:
    cluster.fates.next(cluster.namespace, "r2-train", HANG)
    cluster.apply()
    before = cluster.until_running("r2-train")
    cluster.edit({"training": {"learningRate": 0.0005}})
    run = cluster.until("Complete: *")
    assert before["metadata"]["name"] not in cluster.jobs()
    assert run["status"]["observedGeneration"] == run["metadata"]["generation"]
    prepared = [stage for namespace, stage in cluster.fates.seen if namespace == cluster.namespace]
    assert prepared.count("prepare-documents") == 1
    assert prepared.count("r1-generate") == 1
    assert prepared.count("r1-train") == 2


def test_more_rounds_continue_a_finished_run(cluster: Cluster) -> None:
    cluster.apply(spec={"rounds": 1})
    cluster.until("Complete: *")
    cluster.edit({"rounds": 2})
    cluster.wait(lambda: cluster.run()["status"]["progress"]["roundsCompleted"] == 2)
    cluster.until("Complete: *")


def test_suspending_frees_the_cluster_and_resuming_goes_on(cluster: Cluster) -> None:
    cluster.fates.next(cluster.namespace, "r1-train", HANG)
    cluster.apply()
    cluster.until_running("r1-train")
    cluster.edit({"suspend": True})
    run = cluster.until("Suspended: UserRequested")
    cluster.wait(lambda: cluster.job("r1-train") is None, "the Job being deleted")
    assert kstatus(run) == "InProgress"
    cluster.edit({"suspend": False})
    cluster.until("Complete: *")


def test_a_permanent_failure_says_why_and_is_tried_again_when_asked(cluster: Cluster) -> None:
    message = "documents/part-3.jsonl:17: is not JSON"
    cluster.fates.next(cluster.namespace, "prepare-documents", failed(ExitCode.BAD_INPUT, "DocumentInvalid", message))
    cluster.apply()
    run = cluster.until("Failed: DocumentInvalid")
    assert cluster.condition("Stalled")["message"] == f"prepare-documents: {message}"
    assert kstatus(run) == "Failed"
    assert cluster.told("DocumentInvalid") == f"prepare-documents: {message}"
    cluster.ask_again("2026-11-01T12:00:00Z")
    run = cluster.until("Complete: *")
    assert run["status"]["lastHandledRetryAt"] == "2026-11-01T12:00:00Z"


def test_attempts_of_a_dying_worker_are_limited_and_the_last_one_is_told(cluster: Cluster) -> None:
    # One attempt here: the Job controller pauses ten seconds before it makes another pod.
    cluster.runtime("impatient", retries={"limit": 0})
    cluster.fates.next(cluster.namespace, "r1-train", failed(137, "OutOfMemory", "killed"))
    cluster.apply(spec={"runtimeRef": {"kind": "EvolutionRuntime", "name": "impatient"}})
    cluster.until("Failed: OutOfMemory")


def test_a_job_that_somebody_deletes_is_made_again(cluster: Cluster) -> None:
    cluster.fates.next(cluster.namespace, "r1-train", HANG)
    cluster.apply()
    job = cluster.until_running("r1-train")
    cluster.kubectl("delete", "job", job["metadata"]["name"], "--wait=false")
    cluster.until("Complete: *")


def test_a_blob_that_vanished_is_made_again_by_its_stage(cluster: Cluster) -> None:
    cluster.fates.next(cluster.namespace, "r1-train", HANG)
    cluster.apply()
    cluster.until_running("r1-train")
    generate = cluster.job("r1-generate")
    assert generate is not None
    manifest = cluster.artifacts.manifest(generate["metadata"]["annotations"]["selfevolution.io/fingerprint"])
    assert manifest is not None
    lost = manifest.outputs["pairs"].digest
    cluster.fates.next(
        cluster.namespace, "r1-train", failed(ExitCode.BAD_INPUT, "ArtifactDamaged", "is missing", artifact=lost)
    )
    job = cluster.job("r1-train")
    assert job is not None
    cluster.kubectl("delete", "job", job["metadata"]["name"], "--wait=false")
    cluster.until("Complete: *")
    ran = [stage for namespace, stage in cluster.fates.seen if namespace == cluster.namespace]
    assert ran.count("r1-generate") == 2
    assert cluster.told("ArtifactDamaged")


def test_without_its_runtime_a_run_says_so_and_starts_once_it_is_there(cluster: Cluster) -> None:
    cluster.apply(spec={"runtimeRef": {"kind": "EvolutionRuntime", "name": "late"}})
    run = cluster.until("Pending: RuntimeNotFound")
    assert "'late'" in cluster.condition("Stalled")["message"]
    assert kstatus(run) == "Failed"
    cluster.runtime("late")
    cluster.until("Complete: *")


def test_a_run_that_its_runtimes_engine_cannot_serve_says_so_before_a_job_is_made(cluster: Cluster) -> None:
    cluster.runtime("swift", engine={"name": "VLLM"})
    runtime_ref = {"kind": "EvolutionRuntime", "name": "swift"}
    cluster.apply(spec={"runtimeRef": runtime_ref, "training": {"variant": "DoRA"}})
    cluster.until("Pending: EngineCannotServe")
    assert "spec.training.variant is DoRA" in cluster.condition("Stalled")["message"]
    assert cluster.job("prepare-model") is None
    cluster.apply(spec={"runtimeRef": runtime_ref, "training": {"variant": "RSLoRA"}})
    cluster.until("Complete: *")


def test_workers_that_cannot_start_are_made_anew_when_their_runtime_is_mended(cluster: Cluster) -> None:
    cluster.runtime("picky", nodeSelector={"gpu": "of-next-year"})
    cluster.apply(spec={"runtimeRef": {"kind": "EvolutionRuntime", "name": "picky"}})
    cluster.until("Queued: Unschedulable")
    picky = object_path("evolutionruntimes", "picky", cluster.namespace, GROUP)
    cluster.api.patch(picky, {"spec": {"nodeSelector": None}})
    cluster.until("Complete: *")


def test_a_run_waits_for_the_volume_claim_of_its_model_and_says_so(cluster: Cluster) -> None:
    cluster.apply(spec={"model": {"uri": "pvc://models/qwen"}})
    run = cluster.until("Queued: Unschedulable")
    assert 'persistentvolumeclaim "models" not found' in cluster.condition("Progressing")["message"]
    assert 'persistentvolumeclaim "models" not found' in run["status"]["current"][0]["waitingFor"]
    volume = f"models-{cluster.namespace}"
    size = {"accessModes": ["ReadOnlyMany"], "storageClassName": ""}
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "models"},
        "spec": {**size, "volumeName": volume, "resources": {"requests": {"storage": "1Gi"}}},
    }
    place = {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": volume},
        "spec": {**size, "capacity": {"storage": "1Gi"}, "hostPath": {"path": "/models"}},
    }
    for body in (place, claim):
        cluster.kubectl("apply", "-f", "-", input=json.dumps(body))
    cluster.until("Complete: *")


def test_a_strangers_job_of_that_name_is_named_and_left_alone(cluster: Cluster) -> None:
    cluster.fates.next(cluster.namespace, "r1-train", HANG)
    cluster.apply()
    name = cluster.until_running("r1-train")["metadata"]["name"]
    cluster.edit({"suspend": True})
    cluster.wait(lambda: cluster.job("r1-train") is None, "the Job being deleted")
    pod = {"restartPolicy": "Never", "containers": [{"name": "c", "image": "stranger"}], "nodeSelector": {"no": "one"}}
    stranger = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name},
        "spec": {"template": {"spec": pod}},
    }
    cluster.kubectl("apply", "-f", "-", input=json.dumps(stranger))
    cluster.edit({"suspend": False})
    cluster.until("Pending: JobNameTaken")
    assert name in cluster.condition("Stalled")["message"]
    assert name in cluster.jobs()
    cluster.kubectl("delete", "job", name)
    cluster.ask_again("2026-11-01T12:00:00Z")  # rather than waiting for the next look
    cluster.until("Complete: *")


def test_a_worker_that_reports_nothing_for_too_long_is_replaced(cluster: Cluster) -> None:
    cluster.fates.next(cluster.namespace, "r1-train", HANG)
    cluster.apply()
    cluster.until_running("r1-train")
    cluster.until("Complete: *", seconds=60)
    assert cluster.told("WorkerHangs")


def test_an_evicted_worker_is_replaced_and_does_not_count_as_failed(cluster: Cluster) -> None:
    cluster.fates.next(cluster.namespace, "r1-train", HANG)
    cluster.apply()
    job = cluster.until_running("r1-train")
    pod = next(p for p in cluster.pods() if p["metadata"]["labels"]["job-name"] == job["metadata"]["name"])
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod["metadata"]["name"]}}
    cluster.api.create(object_path("pods", pod["metadata"]["name"], cluster.namespace) + "/eviction", eviction)
    cluster.until("Complete: *", seconds=60)
    job = cluster.job("r1-train")
    assert job is not None
    assert job["status"].get("failed", 0) == 0


def test_a_spent_budget_suspends_the_run_until_it_grows(cluster: Cluster) -> None:
    cluster.runtime("paid", resources={"gpus": 1})  # every simulated stage holds its GPU for a second at least
    paid = {"kind": "EvolutionRuntime", "name": "paid"}
    cluster.apply(spec={"runtimeRef": paid, "budget": {"gpuHours": 8 / 3600}})
    cluster.until("Suspended: BudgetExceeded")
    assert cluster.condition("BudgetExceeded")["status"] == "True"
    spent = cluster.run()["status"]["gpuSeconds"]
    assert spent["productive"] + spent["unsettled"] >= 8
    cluster.edit({"budget": {"gpuHours": 1}})
    cluster.until("Complete: *")


@pytest.mark.parametrize(("execution", "jobs"), [("Round", 4), ("Run", 1)])
def test_fewer_pods_do_the_same_stages(cluster: Cluster, execution: str, jobs: int) -> None:
    cluster.runtime("warm", execution=execution)
    cluster.apply(spec={"runtimeRef": {"kind": "EvolutionRuntime", "name": "warm"}})
    run = cluster.until("Complete: *")
    assert run["status"]["progress"]["roundsCompleted"] == 3
    assert len(cluster.jobs()) == jobs


def test_shards_share_a_generate_stage_as_one_indexed_job(cluster: Cluster) -> None:
    cluster.runtime("wide", shards=3)
    cluster.apply(spec={"rounds": 1, "runtimeRef": {"kind": "EvolutionRuntime", "name": "wide"}})
    cluster.until("Complete: *")
    job = cluster.job("r1-generate")
    assert job is not None
    assert (job["spec"]["completionMode"], job["spec"]["completions"]) == ("Indexed", 3)
    eventually(lambda: [stage for ns, stage in cluster.fates.seen if ns == cluster.namespace].count("r1-generate") == 3)


def test_two_runs_that_share_their_beginning_share_its_stages(cluster: Cluster) -> None:
    cluster.apply("first")
    cluster.until("Complete: *", "first")
    before = len([1 for namespace, _ in cluster.fates.seen if namespace == cluster.namespace])
    cluster.apply("second", {"rounds": 4})
    cluster.until("Complete: *", "second")
    assert len([1 for namespace, _ in cluster.fates.seen if namespace == cluster.namespace]) == before + 4


def test_a_run_that_git_owns_is_written_by_the_operator_in_its_status_only(cluster: Cluster) -> None:
    run = {"apiVersion": GROUP, "kind": "EvolutionRun", "metadata": {"name": "demo"}, "spec": MINIMAL}
    as_git = ("apply", "--server-side", "--field-manager=gitops", "-f", "-")
    cluster.kubectl(*as_git, input=json.dumps(run))
    done = cluster.until("Complete: *")
    shown = json.loads(cluster.kubectl("get", "evo", "demo", "-o", "json", "--show-managed-fields"))
    owners = shown["metadata"]["managedFields"]
    fields = {(o["manager"] == "gitops", o.get("subresource", "")): [*o["fieldsV1"]] for o in owners}
    assert fields == {(True, ""): ["f:spec"], (False, "status"): ["f:status"]}
    assert done["metadata"]["generation"] == 1
    assert not {"annotations", "labels", "finalizers"} & {*done["metadata"]}
    cluster.kubectl(*as_git, input=json.dumps(run))
    assert cluster.run()["metadata"]["resourceVersion"] == done["metadata"]["resourceVersion"]


def test_a_training_on_several_nodes_needs_jobset_and_the_run_says_so_until_one_node_will_do(cluster: Cluster) -> None:
    cluster.runtime("wide", stages={"train": {"nodes": 2}})
    cluster.apply(spec={"runtimeRef": {"kind": "EvolutionRuntime", "name": "wide"}})
    cluster.until("Pending: JobSetNotInstalled")
    said = cluster.condition("Progressing")["message"]
    assert "stages.train.nodes of the runtime is 2" in said
    assert "jobset.x-k8s.io/v1alpha2" in said
    runtime = object_path("evolutionruntimes", "wide", cluster.namespace, GROUP)
    cluster.api.patch(runtime, {"spec": {"stages": {"train": {"nodes": 1}}}})
    cluster.until("Complete: *")


def test_a_batch_that_the_nodes_cannot_share_is_said_before_any_worker_is_made(cluster: Cluster) -> None:
    cluster.runtime("wide", stages={"train": {"nodes": 2}})
    wide = {"runtimeRef": {"kind": "EvolutionRuntime", "name": "wide"}}
    cluster.apply(spec={**wide, "training": {"batchSize": 15}})
    cluster.until("Pending: NodesCannotShare")
    said = cluster.condition("Progressing")["message"]
    assert "spec.training.batchSize is 15, which 2 nodes cannot share equally" in said
    assert cluster.jobs() == {}
