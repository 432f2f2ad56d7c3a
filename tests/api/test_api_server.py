"""A real API server takes what the laptop takes, refuses what it refuses, and says what would be right."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from api_mistakes import COMMIT, LOCATIONS, WRONG_RUNS, WRONG_RUNTIMES, WRONG_SCHEDULES
from api_objects import LEFT_OUT, Changes, run, runtime, schedule
from controlplane.client import Api, ApiError, object_path
from controlplane.plane import ControlPlane

from evolution.api.errors import InvalidRun
from evolution.api.load import run_from_object, runtime_from_object, schedule_from_object
from evolution.api.presets import PRESETS
from evolution.api.run import API_VERSION

pytestmark = pytest.mark.controlplane

EXAMPLES = Path(__file__).parents[2] / "examples"
QUICKSTART = EXAMPLES / "quickstart" / "run.yaml"
PLURALS = {
    "EvolutionRun": "evolutionruns",
    "EvolutionSchedule": "evolutionschedules",
    "EvolutionRuntime": "evolutionruntimes",
    "ClusterEvolutionRuntime": "clusterevolutionruntimes",
}
Json = dict[str, Any]


@pytest.fixture(scope="module")
def api(control_plane: ControlPlane) -> Api:
    control_plane.install_crds()
    return control_plane.api


def path_of(body: Json, name: str = "") -> str:
    namespace = body["metadata"].get("namespace", "")
    return object_path(PLURALS[body["kind"]], name, namespace, API_VERSION)


def tried(api: Api, body: Json) -> Json:
    """The object as the API server would keep it, checked as strictly as kubectl asks for."""
    return api.create(f"{path_of(body)}?dryRun=All&fieldValidation=Strict", body)


def parsed(body: Json) -> object:
    read = {"EvolutionRun": run_from_object, "EvolutionSchedule": schedule_from_object}.get(body["kind"])
    return (read or runtime_from_object)(body).spec


def quickstart() -> Json:
    """The example as an author would move it to a cluster."""
    body: Json = yaml.safe_load(QUICKSTART.read_text(encoding="utf-8").replace("1e-3", "0.001"))
    body["metadata"]["namespace"] = "default"
    for source in ("model", "documents", "evaluation"):
        body["spec"][source]["uri"] = f"s3://quickstart/{body['spec'][source]['uri']}"
    return body


def example_schedules() -> dict[str, Json]:
    bodies: list[Json] = list(yaml.safe_load_all((EXAMPLES / "gitops" / "schedule.yaml").read_text(encoding="utf-8")))
    for body in bodies:
        body["metadata"]["namespace"] = "default"
    return {f"the example {body['metadata']['name']}": body for body in bodies}


RIGHT = {
    "the four things an author must say": run({}),
    "the quickstart with its files uploaded": quickstart(),
    "the reference preset": run({"spec.preset": "Reference", "spec.gate": {"metric": "ReferenceBLEU"}}),
    "no limit of IFD": run({"spec.selection": {"maxIFD": None}}),
    "nulls for what is optional": run(
        {"spec.budget": None, "spec.publish": None, "spec.evaluation.primary": None, "spec.gate": {"metric": None}}
    ),
    "a queue of Kueue": run({"metadata.labels": {"kueue.x-k8s.io/queue-name": "team-a"}}),
    "a name of 40 characters": run({"metadata.name": "a" * 40}),
    "a bucket without a prefix": run({"spec.documents.uri": "s3://corpora"}),
    "sources on the hub": run(
        {
            "spec.model.uri": f"hf://Qwen/Qwen2.5-0.5B-Instruct@{COMMIT}",
            "spec.model.adapterURI": f"hf://org/adapters@{COMMIT}/telecom",
            "spec.documents.uri": f"hf://datasets/org/manuals@{COMMIT}",
            "spec.evaluation.uri": f"hf://datasets/org/manuals@{COMMIT}/eval/held out.jsonl",
        }
    ),
    "sources on volume claims": run(
        {
            "spec.model.uri": "pvc://models/qwen/0.5b",
            "spec.documents.uri": "pvc://team-a.manuals",
            "spec.evaluation.uri": "pvc://team-a.manuals/..eval/items..jsonl",
        }
    ),
    "values on their borders": run(
        {"spec.rounds": 1000, "spec.seed": 2**31 - 1, "spec.training": {"dropout": 0, "layers": [0], "epochs": 0.5}}
    ),
    "a run that says everything": run(
        {
            "spec.runtimeRef": {"kind": "EvolutionRuntime", "name": "small"},
            "spec.suspend": True,
            "spec.evaluation.metrics": ["CHRF", "ExactMatch"],
            "spec.evaluation.primary": "CHRF",
            "spec.generation": {"temperature": 0, "prompts": {"question": "{document}?"}},
            "spec.gate": {"metric": "ExactMatch", "onRegression": "Rollback"},
            "spec.budget": {"gpuHours": 0.5, "onExceeded": "Stop"},
            "spec.publish": {"uri": "s3://adapters/telecom", "select": "Last"},
        }
    ),
    "a runtime with nothing but an image": runtime({}),
    "a runtime of a namespace": runtime({"kind": "EvolutionRuntime", "metadata.namespace": "default"}),
    "a runtime that says everything": runtime(
        {
            "spec.imagePullSecrets": ["registry"],
            "spec.shards": 4,
            "spec.resources": {"gpus": 1, "cpu": 4, "memory": "16Gi"},
            "spec.stages": {"train": {"gpus": 8}, "score": None},
            "spec.nodeSelector": {"gpu": "h100"},
            "spec.tolerations": [{"operator": "Exists"}, {"key": "gpu", "value": "yes", "effect": "NoSchedule"}],
            "spec.cache": {"hostPath": "/var/cache/evolution"},
            "spec.env": {"HTTPS_PROXY": "http://proxy:3128"},
            "spec.deadlines": {"stage": "1h30m", "idle": "90s"},
            "spec.finishedJobTTL": "0s",
        }
    ),
    **example_schedules(),
    "a schedule by the clock": schedule({}),
    "a schedule on change, with defaults": schedule({"spec.schedule": LEFT_OUT, "spec.onChange": {}}),
    "a schedule that says everything": schedule(
        {
            "metadata.name": "a" * 31,
            "spec.schedule": "*/15 8-18/2 1,15 jan-JUN mon-5,SUN",
            "spec.timeZone": "America/Argentina/Buenos_Aires",
            "spec.onChange": {"interval": "1h30m"},
            "spec.concurrencyPolicy": "Replace",
            "spec.suspend": True,
            "spec.startingDeadlineSeconds": 600,
            "spec.successfulRunsHistoryLimit": 1,
            "spec.failedRunsHistoryLimit": 100,
            "spec.runTemplate.metadata": {"labels": {"a": "b"}, "annotations": {"c": "d"}},
            "spec.runTemplate.spec.preset": "Reference",
        }
    ),
    "one pod per round": runtime({"spec.execution": "Round", "spec.stages": {"train": None}}),
}


def shown(case: object) -> str | None:
    if not isinstance(case, Mapping):
        return None
    given = {path: "left out" if value is LEFT_OUT else value for path, value in case.items()}
    return json.dumps(given)[:60] if given else None


def refusal(api: Api, body: Json) -> str:
    with pytest.raises(ApiError) as refused:
        tried(api, body)
    return str(refused.value)


@pytest.mark.parametrize(("changes", "said"), LOCATIONS, ids=shown)
def test_a_location_that_a_cluster_cannot_reach_is_refused_with_the_way_out(
    api: Api, changes: Changes, said: list[str]
) -> None:
    message = refusal(api, run(changes))
    assert [part for part in said if part not in message] == [], message
    run_from_object(run(changes))


@pytest.mark.parametrize(("changes", "said"), WRONG_RUNS, ids=shown)
def test_a_wrong_run_is_refused_with_field_value_and_remedy(api: Api, changes: Changes, said: list[str]) -> None:
    message = refusal(api, run(changes))
    assert [part for part in said if part not in message] == [], message
    with pytest.raises(InvalidRun) as refused:
        run_from_object(run(changes))
    assert "planted" not in message + str(refused.value), "a password is not repeated"


@pytest.mark.parametrize(("changes", "said"), WRONG_SCHEDULES, ids=shown)
def test_a_wrong_schedule_is_refused_with_field_value_and_remedy(api: Api, changes: Changes, said: list[str]) -> None:
    message = refusal(api, schedule(changes))
    assert [part for part in said if part not in message] == [], message
    with pytest.raises(InvalidRun):
        schedule_from_object(schedule(changes))


@pytest.mark.parametrize(("changes", "said"), WRONG_RUNTIMES, ids=shown)
def test_a_wrong_runtime_is_refused_with_field_value_and_remedy(api: Api, changes: Changes, said: list[str]) -> None:
    message = refusal(api, runtime(changes))
    assert [part for part in said if part not in message] == [], message
    with pytest.raises(InvalidRun) as refused:
        runtime_from_object(runtime(changes))
    assert "planted" not in message + str(refused.value), "a password is not repeated"


@pytest.mark.parametrize("body", RIGHT.values(), ids=RIGHT)
def test_what_the_server_fills_in_is_what_the_types_fill_in(api: Api, body: Json) -> None:
    assert parsed(tried(api, body)) == parsed(body)


def test_a_value_that_a_preset_governs_stays_left_out(api: Api) -> None:
    kept = tried(api, run({"spec.training": {"rank": 8}}))["spec"]
    assert kept["training"]["rank"] == 8
    assert not {*PRESETS["Default"]["training"]} & {*kept["training"]} - {"rank"}
    assert "selection" not in kept


@pytest.mark.parametrize("body", [quickstart(), runtime({})], ids=["run", "runtime"])
def test_applying_the_same_file_twice_changes_nothing(api: Api, control_plane: ControlPlane, body: Json) -> None:
    versions = []
    for _ in range(2):
        control_plane.kubectl("apply", "--server-side", "-f", "-", input=json.dumps(body))
        versions.append(api.get(path_of(body, body["metadata"]["name"]))["metadata"]["resourceVersion"])
    api.delete(path_of(body, body["metadata"]["name"]))
    assert versions[0] == versions[1]


def test_the_list_of_runs_shows_how_each_is_doing(api: Api, control_plane: ControlPlane, namespace: str) -> None:
    body = run({"metadata.namespace": namespace})
    api.create(path_of(body), body)
    status = {
        "summary": "Running",
        "progress": {"roundsCompleted": 3, "percent": 43},
        "current": [{"round": 4, "stage": "Train"}],
        "best": {"round": 3, "score": "0.412"},
        "gpuHours": "24.2",
    }
    api.patch(path_of(body, "telecom-ops") + "/status", {"status": status})
    heading, row = control_plane.kubectl("get", "evo", "-n", namespace).splitlines()
    assert heading.split() == ["NAME", "STATE", "ROUND", "STAGE", "PROGRESS", "BEST", "GPU-H", "AGE"]
    assert row.split()[:-1] == ["telecom-ops", "Running", "3", "Train", "43", "0.412", "24.2"]


def test_runs_and_runtimes_are_one_category(api: Api, control_plane: ControlPlane, namespace: str) -> None:
    for body in (
        run({"metadata.namespace": namespace}),
        runtime({"kind": "EvolutionRuntime", "metadata.namespace": namespace}),
    ):
        api.create(path_of(body), body)
    listed = control_plane.kubectl("get", "evolution", "-n", namespace, "-o", "name").split()
    assert listed == ["evolutionrun.selfevolution.io/telecom-ops", "evolutionruntime.selfevolution.io/default"]


def test_runs_can_be_selected_by_their_runtime(api: Api, namespace: str) -> None:
    for name in ("small", "large"):
        body = run({"metadata.namespace": namespace, "metadata.name": name, "spec.runtimeRef": {"name": name}})
        api.create(path_of(body), body)
    found = api.get(path_of(body), fieldSelector="spec.runtimeRef.name=small")["items"]
    assert [item["metadata"]["name"] for item in found] == ["small"]


def test_kubectl_explains_a_field(api: Api, control_plane: ControlPlane) -> None:  # noqa: ARG001 - CRDs are installed
    explained = control_plane.kubectl("explain", "evolutionrun.spec.training")
    assert "How the adapter is trained." in explained
    assert (
        " ".join(explained.split()).find("LoRA rank. If left out: 16 with preset Default, 8 with preset Reference.") > 0
    )
