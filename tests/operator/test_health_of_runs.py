"""Every state of a run, brought about on a cluster, is the recorded one, whose health the GitOps tests know.

A record that is missing is written; the test fails then, so that somebody looks at it.
"""

from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest
import yaml
from api_objects import run as made_run
from cluster import GROUP, HANG, Cluster, failed, kstatus
from controlplane.client import object_path
from controlplane.processes import Port
from fakeapi.kinds import CLUSTER_RUNTIMES, RUNS, Resource
from fakeapi.kinds import SCHEDULES as SCHEDULE_KIND
from fakeapi.kubelet import Fate, simulated_worker
from fakeapi.server import FakeApi
from gitops.runs import HEALTH, RECORDED, SCHEDULES, Run, recorded
from operator_process import running_operator
from simulated import MINIMAL, merged

from evolution.plan.worker import ExitCode


def just_created(cluster: Cluster) -> Run:
    body = made_run({"metadata.namespace": cluster.namespace, "metadata.name": "demo"})
    path = object_path("evolutionruns", namespace=cluster.namespace, group=GROUP)
    return cluster.api.create(f"{path}?dryRun=All", body)


def running(cluster: Cluster) -> Run:
    cluster.fates.next(cluster.namespace, "r1-train", HANG)
    cluster.apply()
    cluster.until_running("r1-train")
    return cluster.until("Running")


def running_again(cluster: Cluster) -> Run:
    cluster.apply()
    cluster.until("Complete: *")
    cluster.fates.next(cluster.namespace, "r4-train", HANG)
    cluster.edit({"rounds": 5})
    cluster.until_running("r4-train")
    return cluster.until("Running")


def retrying(cluster: Cluster) -> Run:
    cluster.fates.next(cluster.namespace, "r1-train", failed(137, "OutOfMemory", "killed"), HANG)
    cluster.apply(spec={"selection": {"strategy": "None"}})
    return cluster.until("Running: OutOfMemory")


def without_a_node(cluster: Cluster) -> Run:
    cluster.runtime("picky", nodeSelector={"gpu": "of-next-year"})
    cluster.apply(spec={"runtimeRef": {"kind": "EvolutionRuntime", "name": "picky"}})
    return cluster.until("Queued: Unschedulable")


def for_quota(cluster: Cluster) -> Run:
    cluster.fates.next(cluster.namespace, "r1-train", HANG)
    cluster.apply(spec={"selection": {"strategy": "None"}})
    name = cluster.until_running("r1-train")["metadata"]["name"]
    cluster.api.patch(object_path("jobs", name, cluster.namespace, "batch/v1"), {"spec": {"suspend": True}})
    return cluster.until("Queued: QuotaPending")


def by_its_author(cluster: Cluster) -> Run:
    cluster.fates.next(cluster.namespace, "r1-train", HANG)
    cluster.apply()
    cluster.until_running("r1-train")
    cluster.edit({"suspend": True})
    return cluster.until("Suspended: UserRequested")


def with_a_budget(cluster: Cluster, on_exceeded: str) -> None:
    cluster.runtime("paid", resources={"gpus": 1})
    budget = {"gpuHours": 8 / 3600, "onExceeded": on_exceeded}
    cluster.apply(spec={"runtimeRef": {"kind": "EvolutionRuntime", "name": "paid"}, "budget": budget})


def by_its_budget(cluster: Cluster) -> Run:
    with_a_budget(cluster, "Suspend")
    return cluster.until("Suspended: BudgetExceeded")


def after_all_rounds(cluster: Cluster) -> Run:
    cluster.apply()
    return cluster.until("Complete: MaxRounds")


def on_a_plateau(cluster: Cluster) -> Run:
    cluster.apply(spec={"rounds": 8, "gate": {"minDelta": 0.5, "patience": 3}})
    return cluster.until("Complete: Plateau")


def with_its_budget(cluster: Cluster) -> Run:
    with_a_budget(cluster, "Stop")
    return cluster.until("Complete: Budget")


def for_its_documents(cluster: Cluster) -> Run:
    message = "documents/part-3.jsonl:17: is not JSON"
    cluster.fates.next(cluster.namespace, "prepare-documents", failed(ExitCode.BAD_INPUT, "DocumentInvalid", message))
    cluster.apply()
    return cluster.until("Failed: DocumentInvalid")


def after_all_attempts(cluster: Cluster) -> Run:
    cluster.runtime("impatient", retries={"limit": 0})
    cluster.fates.next(cluster.namespace, "r1-train", failed(137, "OutOfMemory", "killed"))
    cluster.apply(spec={"runtimeRef": {"kind": "EvolutionRuntime", "name": "impatient"}})
    return cluster.until("Failed: OutOfMemory")


def without_its_runtime(cluster: Cluster) -> Run:
    cluster.apply(spec={"runtimeRef": {"kind": "EvolutionRuntime", "name": "late"}})
    return cluster.until("Pending: RuntimeNotFound")


ON_A_CLUSTER: dict[str, Callable[[Cluster], Run]] = {
    "just-created": just_created,
    "running": running,
    "running-again-after-an-edit": running_again,
    "retrying-after-a-failed-attempt": retrying,
    "queued-without-a-node": without_a_node,
    "queued-for-quota": for_quota,
    "suspended-by-its-author": by_its_author,
    "suspended-by-its-budget": by_its_budget,
    "complete-after-all-rounds": after_all_rounds,
    "complete-on-a-plateau": on_a_plateau,
    "complete-with-its-budget": with_its_budget,
    "failed-for-its-documents": for_its_documents,
    "failed-after-all-attempts": after_all_attempts,
    "without-its-runtime": without_its_runtime,
}
OF_AN_OPERATOR_OF_ITS_OWN = {
    "edited-while-the-operator-is-away",
    "store-away",
    "store-refused",
    "spec-refused",
    "image-not-pulled",
    "complete-on-a-regression",
}


def test_every_state_is_brought_about() -> None:
    assert {*ON_A_CLUSTER} | OF_AN_OPERATOR_OF_ITS_OWN == {*HEALTH}


def test_kstatus_as_these_tests_use_it_says_what_that_of_flux_says() -> None:
    assert {n: kstatus(recorded(n)) for n in HEALTH} == {
        n: health.kstatus or health.flux for n, health in HEALTH.items()
    }


@pytest.mark.ship
@pytest.mark.controlplane
@pytest.mark.parametrize("name", ON_A_CLUSTER)
def test_a_state_is_the_recorded_one(cluster: Cluster, name: str) -> None:
    compare(name, ON_A_CLUSTER[name](cluster))


@pytest.fixture
def api() -> Iterator[FakeApi]:
    with FakeApi(worker=worsening_worker) as api:
        api.client.create(CLUSTER_RUNTIMES, {"metadata": {"name": "default"}, "spec": {"image": "trainer:1"}})
        yield api


@pytest.mark.ship
def test_an_edit_that_no_operator_has_seen_is_the_recorded_one(api: FakeApi, tmp_path: Path) -> None:
    with running_operator(api.write_kubeconfig(tmp_path / "k"), (tmp_path / "store").as_uri(), tmp_path):
        create(api, gate={"patience": 0})
        until(api, "Complete: MaxRounds")
    api.client.patch(RUNS, "demo", {"spec": {"rounds": 5}})
    compare("edited-while-the-operator-is-away", api.client.get(RUNS, "demo"))


@pytest.mark.ship
def test_an_end_by_a_regression_is_the_recorded_one(api: FakeApi, tmp_path: Path) -> None:
    with running_operator(api.write_kubeconfig(tmp_path / "k"), (tmp_path / "store").as_uri(), tmp_path):
        create(api, gate={"onRegression": "Stop"})
        compare("complete-on-a-regression", until(api, "Complete: Regression"))


@pytest.mark.ship
def test_a_store_that_does_not_answer_is_the_recorded_one(api: FakeApi, tmp_path: Path) -> None:
    nobody = Port()
    environment = {
        "EVOLUTION_S3_ENDPOINT": f"http://127.0.0.1:{nobody.number}",
        "AWS_ACCESS_KEY_ID": "nobody",
        "AWS_SECRET_ACCESS_KEY": "nobody",
    }
    with running_operator(api.write_kubeconfig(tmp_path / "k"), "s3://store", tmp_path, environment=environment):
        create(api)
        compare("store-away", until(api, "*: StoreUnavailable", seconds=60))
    nobody.release()


@pytest.mark.ship
def test_a_store_that_refuses_is_the_recorded_one(api: FakeApi, tmp_path: Path) -> None:
    in_its_place = tmp_path / "store"
    in_its_place.write_text("a file")
    with running_operator(api.write_kubeconfig(tmp_path / "k"), in_its_place.as_uri(), tmp_path):
        create(api)
        compare("store-refused", until(api, "*: StoreRefused"))


@pytest.mark.ship
def test_a_spec_that_only_the_operator_refuses_is_the_recorded_one(api: FakeApi, tmp_path: Path) -> None:
    """The API server here knows no CEL rules, as one whose CRDs are older than the operator."""
    with running_operator(api.write_kubeconfig(tmp_path / "k"), (tmp_path / "store").as_uri(), tmp_path):
        create(api, gate={"metric": "CHRF"})
        compare("spec-refused", until(api, "*: InvalidSpec"))


@pytest.mark.ship
def test_an_image_that_cannot_be_pulled_is_the_recorded_one(api: FakeApi, tmp_path: Path) -> None:
    api.fate(Fate(pending="ImagePullBackOff", times=10))
    with running_operator(api.write_kubeconfig(tmp_path / "k"), (tmp_path / "store").as_uri(), tmp_path):
        create(api)
        compare("image-not-pulled", until(api, "*: ImagePullBackOff"))


@pytest.mark.ship
@pytest.mark.parametrize("name", SCHEDULES)
def test_a_schedule_is_the_recorded_one(api: FakeApi, tmp_path: Path, name: str) -> None:
    on_claims = {"documents": {"uri": "pvc://manuals"}, "evaluation": {"uri": "pvc://manuals/questions.jsonl"}}
    spec: dict[str, Any] = {"schedule": "0 3 1 1 *", "runTemplate": {"spec": MINIMAL | on_claims}}
    spec |= {
        "schedule-running": {"schedule": "* * * * *"},
        "schedule-suspended": {"suspend": True},
        "schedule-refused": {"timeZone": "Mars/Olympus"},
    }.get(name, {})
    api.client.create(SCHEDULE_KIND, {"metadata": {"name": "demo"}, "spec": spec})
    if name == "schedule-just-created":
        compare(name, api.client.get(SCHEDULE_KIND, "demo"))
        return
    api.fate(Fate(hang=True, times=10))
    kubeconfig, store = api.write_kubeconfig(tmp_path / "k"), (tmp_path / "store").as_uri()
    with running_operator(kubeconfig, store, tmp_path):
        state = {"waiting": "Waiting", "running": "Running", "suspended": "Suspended", "refused": "Stalled: *"}
        compare(name, until(api, state[name.removeprefix("schedule-")], seconds=90, kind=SCHEDULE_KIND))


def worsening_worker(pod: Any) -> str:
    return simulated_worker(pod, lambda round_: 0.5 - 0.1 * round_ if round_ > 1 else 0.1 + 0.4 * round_)


def create(api: FakeApi, **spec: Any) -> None:
    api.client.create(RUNS, {"metadata": {"name": "demo"}, "spec": merged(MINIMAL, spec)})


def until(api: FakeApi, summary: str, seconds: float = 30, kind: Resource = RUNS) -> Run:
    def there(run: Run) -> bool:
        return fnmatchcase(run.get("status", {}).get("summary", ""), summary)

    return api.client.until(kind, "demo", there, seconds=seconds)


def compare(name: str, run: Run) -> None:
    """With the record: the conditions, but for their times and messages; a record that is missing is written."""
    file = RECORDED / f"{name}.yaml"
    if not file.exists():
        file.write_text(yaml.safe_dump(to_keep(run), sort_keys=False, width=120), encoding="utf-8")
        pytest.fail(f"{file} was missing and has been written: look at it, and keep it")
    assert shape(recorded(name)) == shape(run)


def to_keep(run: Run) -> Run:
    metadata = {key: run["metadata"][key] for key in ("name", "generation")}
    kept = {"apiVersion": run["apiVersion"], "kind": run["kind"], "metadata": metadata, "spec": run["spec"]}
    status = {key: value for key, value in run.get("status", {}).items() if key != "historyURI"}
    return kept | ({"status": status} if status else {})


def shape(run: Run) -> tuple[bool, str, list[tuple[str, ...]]]:
    status = run.get("status", {})
    conditions = [tuple(c[key] for key in ("type", "status", "reason")) for c in status.get("conditions", [])]
    seen = status.get("observedGeneration") == run["metadata"]["generation"]
    return seen, status.get("summary", ""), sorted(conditions)
