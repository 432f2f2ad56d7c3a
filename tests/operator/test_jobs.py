"""The Job of an order: what a worker's pod is told, whom it belongs to, what it may use."""

import json
from typing import Any

import pytest
from simulated import World, finish, make_run

from evolution.api.load import runtime_from_object
from evolution.api.run import EvolutionRun
from evolution.api.runtime import EvolutionRuntimeSpec
from evolution.plan.dispatch import Batch, batches, make_order
from evolution.plan.graph import Graph
from evolution.plan.order import Order
from evolution.plan.stage import Kind
from evolution_operator.jobs import build_job, job_name
from evolution_operator.parse import job_record, pod_record

UID = "0ff0e7b6-e42e-4053-9949-5f0eef0e3916"


def runtime(**spec: Any) -> EvolutionRuntimeSpec:
    body = {
        "apiVersion": "selfevolution.io/v1alpha1",
        "kind": "ClusterEvolutionRuntime",
        "metadata": {"name": "default"},
        "spec": {"image": "trainer:1", **spec},
    }
    return runtime_from_object(body).spec


def graph_at(run: EvolutionRun, stage: str) -> Graph:
    """The graph of `run` when that stage has become ready."""
    world = World()
    while True:
        graph = world.graph(run)
        ready = [s for s in graph.stages if s.ready]
        if stage in [s.id for s in ready]:
            return graph
        for other in ready:
            world.manifests[other.fingerprint or ""] = finish(other)


def made(run: EvolutionRun, stage: str, **spec: Any) -> dict[str, Any]:
    settings = runtime(**spec)
    graph = graph_at(run, stage)
    ready = [s for s in graph.stages if s.id == stage]
    (batch,) = batches(graph, ready, settings.execution, ())
    order = make_order(run, "demo-0ff0e7b6", "s3://store/default", graph, batch, shards=settings.shards)
    return build_job(run, UID, settings, batch, order, {"AWS_REGION": "eu-west-1"})


def environment(job: dict[str, Any]) -> dict[str, Any]:
    (container,) = job["spec"]["template"]["spec"]["containers"]
    return {entry["name"]: entry.get("value", entry.get("valueFrom")) for entry in container["env"]}


def test_a_dollar_sign_in_a_prompt_reaches_the_worker_as_it_is() -> None:
    prompt = "{document} costs $(HOME) or $5?"
    job = made(make_run({"generation": {"prompts": {"question": prompt}}}), "r1-generate")
    told = environment(job)["EVOLUTION_ORDER"]
    assert "$$(HOME)" in told
    order = Order.model_validate_json(told.replace("$$", "$"))  # as the kubelet expands it
    assert order.stages[0].parameters["questionPrompt"] == prompt


def test_the_same_stage_of_the_same_run_has_the_same_job() -> None:
    assert made(make_run(), "r1-train") == made(make_run(), "r1-train")


def test_names_of_runs_as_long_as_they_may_be_fit_into_names_of_jobs() -> None:
    run = make_run({"rounds": 1}, name="r" * 40)
    for stage in ("prepare-evaluation", "r1-generate"):
        name = made(run, stage)["metadata"]["name"]
        assert len(name) <= 63
        assert name.startswith("r" * 20)
    graph = graph_at(run, "r1-generate")
    (batch,) = (Batch("Stage", (stage,)) for stage in graph.stages if stage.id == "r1-generate")
    assert len(job_name("r" * 40, batch, appended=len("-255"))) + len("-255") <= 63


def test_credentials_come_from_the_secret_and_never_from_the_operator() -> None:
    found = environment(made(make_run(), "r1-train", storeSecretName="store"))
    assert found["AWS_SECRET_ACCESS_KEY"] == {"secretKeyRef": {"name": "store", "key": "AWS_SECRET_ACCESS_KEY"}}
    assert found["AWS_REGION"] == "eu-west-1"
    assert "OPENAI_API_KEY" not in found


def test_the_key_of_a_server_that_generates_text_comes_from_its_secret() -> None:
    engine = {"name": "OpenAI", "endpoint": "https://models/v1", "secretName": "models"}
    found = environment(made(make_run(), "r1-generate", engine=engine))
    assert found["OPENAI_API_KEY"] == {"secretKeyRef": {"name": "models", "key": "OPENAI_API_KEY"}}


def test_a_worker_gets_gpus_and_memory_of_its_kind_of_stage() -> None:
    spec = {"resources": {"gpus": 8, "memory": "80Gi"}, "stages": {"prepare": {"memory": "2Gi"}}}
    (train,) = made(make_run(), "r1-train", **spec)["spec"]["template"]["spec"]["containers"]
    assert train["resources"]["limits"] == {"cpu": "1", "memory": "80Gi", "nvidia.com/gpu": "8"}
    (prepare,) = made(make_run(), "prepare-documents", **spec)["spec"]["template"]["spec"]["containers"]
    assert prepare["resources"]["limits"] == {"cpu": "1", "memory": "2Gi"}


@pytest.mark.parametrize(("gpus", "shares"), [(0, False), (1, False), (2, True)])
def test_processes_on_several_gpus_may_share_as_much_memory_as_the_worker_has(gpus: int, shares: bool) -> None:
    pod = made(make_run(), "r1-train", resources={"gpus": gpus})["spec"]["template"]["spec"]
    mounts = {mount["mountPath"]: mount["name"] for mount in pod["containers"][0]["volumeMounts"]}
    assert ("/dev/shm" in mounts) == shares
    assert ({"name": mounts.get("/dev/shm"), "emptyDir": {"medium": "Memory"}} in pod["volumes"]) == shares


def test_a_pod_has_no_token_no_root_and_no_way_to_write_but_its_own_folders() -> None:
    pod = made(make_run(), "r1-train")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert {mount["mountPath"] for mount in container["volumeMounts"]} == {"/tmp", "/cache"}


@pytest.mark.parametrize(
    ("cache", "volume"),
    [
        ({}, {"emptyDir": {}}),
        ({"claimName": "models"}, {"persistentVolumeClaim": {"claimName": "models"}}),
        ({"hostPath": "/models"}, {"hostPath": {"path": "/models", "type": "DirectoryOrCreate"}}),
    ],
)
def test_models_are_cached_where_the_runtime_says(cache: dict[str, str], volume: dict[str, Any]) -> None:
    volumes = made(make_run(), "r1-train", cache=cache)["spec"]["template"]["spec"]["volumes"]
    assert {"name": "cache", **volume} in volumes


def test_volume_claims_of_the_sources_are_mounted_for_reading_alone() -> None:
    run = make_run(
        {
            "model": {"uri": "pvc://models/qwen"},
            "documents": {"uri": "pvc://manuals.team-a/2026"},
            "evaluation": {"uri": "pvc://manuals.team-a/eval.jsonl"},
        }
    )
    job = made(run, "r1-train")
    pod = job["spec"]["template"]["spec"]
    volumes = {volume["name"]: volume.get("persistentVolumeClaim") for volume in pod["volumes"]}
    mounts = [mount for mount in pod["containers"][0]["volumeMounts"] if mount["mountPath"].startswith("/sources")]
    assert [(mount["mountPath"], volumes[mount["name"]], mount["readOnly"]) for mount in mounts] == [
        ("/sources/manuals.team-a", {"claimName": "manuals.team-a", "readOnly": True}, True),
        ("/sources/models", {"claimName": "models", "readOnly": True}, True),
    ]
    assert environment(job)["EVOLUTION_CLAIMS"] == "/sources/manuals.team-a:/sources/models"


def test_a_claim_that_is_the_cache_too_is_mounted_once_more_and_not_named_twice() -> None:
    job = made(make_run({"model": {"uri": "pvc://models/qwen"}}), "r1-train", cache={"claimName": "models"})
    pod = job["spec"]["template"]["spec"]
    assert [volume["name"] for volume in pod["volumes"]] == ["tmp", "cache"]
    mounted = {"name": "cache", "mountPath": "/sources/models", "readOnly": True}
    assert mounted in pod["containers"][0]["volumeMounts"]


def test_a_run_without_claims_mounts_none() -> None:
    assert "EVOLUTION_CLAIMS" not in environment(made(make_run(), "r1-train"))


def test_a_shared_stage_is_an_indexed_job_whose_workers_know_their_share() -> None:
    job = made(make_run(), "r1-generate", shards=4)
    assert (job["spec"]["completionMode"], job["spec"]["completions"], job["spec"]["parallelism"]) == ("Indexed", 4, 4)
    index = "metadata.annotations['batch.kubernetes.io/job-completion-index']"
    assert environment(job)["EVOLUTION_SHARD_INDEX"] == {"fieldRef": {"fieldPath": index}}
    assert job_record(job).shards == 4
    assert "completionMode" not in made(make_run(), "r1-train", shards=4)["spec"]


def test_the_queue_of_the_run_comes_before_that_of_the_runtime() -> None:
    label = "kueue.x-k8s.io/queue-name"
    run = make_run()
    labelled = run.model_copy(update={"metadata": run.metadata.model_copy(update={"labels": {label: "team-a"}})})
    assert made(labelled, "r1-train", queueName="everyone")["metadata"]["labels"][label] == "team-a"
    assert made(run, "r1-train", queueName="everyone")["metadata"]["labels"][label] == "everyone"
    assert label not in made(run, "r1-train")["metadata"]["labels"]


def test_what_the_operator_reads_back_is_what_it_wrote() -> None:
    job = made(make_run(), "r1-generate", execution="Round")
    record = job_record(json.loads(json.dumps(job)))
    assert record.owner_uid == UID
    assert record.stages == ("r1-generate", "r1-train", "r1-evaluate", "r1-score")
    assert record.recipe
    assert job["metadata"]["name"] == f"demo-r1-round-{record.fingerprint[:8]}"


@pytest.mark.parametrize(("stage", "execution", "gpus"), [("r1-train", "Stage", 8), ("prepare-model", "Run", 4)])
def test_a_pod_tells_whose_it_is_what_it_does_and_how_many_gpus_it_holds(stage: str, execution: str, gpus: int) -> None:
    own = {"stages": {"train": {"gpus": 8}}} if execution == "Stage" else {}
    job = made(make_run(), stage, execution=execution, resources={"gpus": 4}, **own)
    record = pod_record({**job["spec"]["template"], "status": {}})
    kind = Kind.TRAIN if stage == "r1-train" else Kind.PREPARE
    assert (record.kind, record.round, record.gpus) == (kind, int(stage == "r1-train"), gpus)
    assert (record.run_uid, record.fingerprint) == (UID, job_record(job).fingerprint)
    assert environment(job)["EVOLUTION_WORKER"] == {"fieldRef": {"fieldPath": "metadata.name"}}


def test_a_pod_that_shares_a_stage_knows_with_how_many() -> None:
    template = made(make_run(), "r1-generate", shards=4)["spec"]["template"]
    assert pod_record({**template, "status": {}}).shards == 4
