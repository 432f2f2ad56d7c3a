"""The chart as a platform team uses it: installed, tried out, upgraded amid a run, removed; pods are processes here.

A real control plane, a real MinIO, the operator from the chart's own manifest under its own service account, and
workers that really train.
"""

import base64
import io
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from shutil import copytree

import pytest
import yaml
from charts import CHART, RELEASE, REPOSITORY, VALUES, Helm, Json
from controlplane.client import Api, object_path
from controlplane.kubelet import Node
from controlplane.plane import ControlPlane
from controlplane.plane import control_plane as running_control_plane
from controlplane.process_kubelet import process_kubelet
from controlplane.waiting import eventually
from dev_cluster import SOURCES, STORE, upload_examples
from minio import Minio
from minio.error import S3Error
from minio_server import MinioServer
from prometheus_client.parser import text_string_to_metric_families
from tools.build import binary

pytestmark = [pytest.mark.ship, pytest.mark.controlplane, pytest.mark.minio, pytest.mark.timeout(1800)]

SYSTEM, TEAM = "evolution-system", "team-a"
GROUP = "selfevolution.io/v1alpha1"
QUICKSTART = REPOSITORY / "examples" / "cluster" / "quickstart.yaml"
ROUNDS = 2
STAGES = 4 + 3 * ROUNDS
"""Of a run that is upgraded under: three sources, the evaluation before the first round, and three for each."""


@dataclass(frozen=True)
class Cluster:
    """A cluster with a store, as it is before somebody installs the chart."""

    plane: ControlPlane
    minio: MinioServer
    values: Path

    @property
    def api(self) -> Api:
        return self.plane.api

    def helm(self, program: str) -> Helm:
        return Helm(binary(program), self.values.parent / program, self.plane.kubeconfig)

    def names(self, plural: str, namespace: str = "", group: str = "") -> set[str]:
        return {each["metadata"]["name"] for each in self.objects(plural, namespace, group)}

    def objects(self, plural: str, namespace: str = "", group: str = "") -> list[Json]:
        found: list[Json] = self.api.get(object_path(plural, namespace=namespace, group=group))["items"]
        return found

    def operator(self) -> Json:
        """The pod of the operator that acts."""

        def alone() -> Json | None:
            pods = [pod for pod in self.objects("pods", SYSTEM) if pod["metadata"]["name"].startswith(RELEASE)]
            working = [pod for pod in pods if labels(pod).get("app.kubernetes.io/component") == "operator"]
            return working[0] if len(working) == 1 and working[0]["status"]["phase"] == "Running" else None

        return eventually(alone, "one operator") or {}

    def run(self, name: str = "quickstart") -> Json:
        return self.api.get(object_path("evolutionruns", name, TEAM, GROUP)).get("status", {})

    def completed(self, name: str = "quickstart") -> Json:
        eventually(lambda: self.run(name).get("state") == "Complete", f"the end of {name}", seconds=900)
        return self.run(name)

    def stored(self) -> set[str]:
        listed = self.minio.client.list_objects(STORE, recursive=True)
        return {each.object_name for each in listed if each.object_name and "/probe/" not in each.object_name}

    def workers(self) -> dict[str, Json]:
        """Pods of workers by uid."""
        return {pod["metadata"]["uid"]: pod for pod in self.objects("pods", TEAM)}


@pytest.fixture
def cluster(tmp_path: Path, minio_server: MinioServer) -> Iterator[Cluster]:
    """Its bucket, credentials and examples are there, and every namespace admits restricted pods alone."""
    upload_examples(minio_server)
    for left in list(minio_server.client.list_objects(STORE, recursive=True)):
        minio_server.client.remove_object(STORE, left.object_name or "")
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "minio").symlink_to(binary("minio"))
    path = os.pathsep.join([str(programs), str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {"OMP_NUM_THREADS": "2", "PATH": path}
    with (
        tempfile.TemporaryDirectory(prefix="control-plane-", ignore_cleanup_errors=True) as folder,
        running_control_plane(Path(folder)) as plane,
        process_kubelet(plane.kubeconfig, tmp_path / "node", [Node("gpu-0")], environment),
    ):
        for namespace, secret in (
            (SYSTEM, "evolution-store"),
            (SYSTEM, "store-credentials"),
            (TEAM, "store-credentials"),
        ):
            equip(plane, minio_server, namespace, secret)
        values = tmp_path / "values.yaml"
        values.write_text(yaml.safe_dump(values_of(minio_server)))
        yield Cluster(plane, minio_server, values)


def equip(plane: ControlPlane, minio: MinioServer, namespace: str, secret: str) -> None:
    """Makes the namespace, and in it a Secret with the store's credentials."""
    level = {"pod-security.kubernetes.io/enforce": "restricted"}
    body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace, "labels": level}}
    plane.kubectl("apply", "--filename=-", input=json.dumps(body))
    keys = {name: minio.environment[name] for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")}
    credentials = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": secret}, "stringData": keys}
    plane.api.create(object_path("secrets", namespace=namespace), credentials)


def values_of(minio: MinioServer) -> Json:
    small = {"cpu": "1", "memory": "1Gi"}
    return {
        "objectStore": {
            "uri": f"s3://{STORE}/runs",
            "endpoint": minio.endpoint,
            "region": "us-east-1",
            "existingSecret": "evolution-store",
        },
        "runtime": {
            "create": True,
            "spec": {
                "image": "evolution-trainer:0.1.0",
                "storeSecretName": "store-credentials",
                "resources": {**small, "gpus": 1},
                "stages": {"prepare": small, "publish": small},
            },
        },
        "admissionPolicies": {"enabled": True, "limits": {"rounds": "10"}},
        # Pods share the ports of this machine.
        "metrics": {"port": free_port()},
        "env": {"EVOLUTION_LIVENESS_PORT": str(free_port())},
        "test": {"evolution": {"source": f"s3://{SOURCES}/quickstart", "timeoutSeconds": 300}},
    }


def test_what_is_installed_completes_runs_passes_its_tests_and_leaves_runs_and_data_when_it_goes(
    cluster: Cluster,
) -> None:
    helm = cluster.helm("helm")
    notes = helm("install", RELEASE, CHART, "-n", SYSTEM, "-f", cluster.values)
    assert "ONE STEP IS LEFT" in notes
    assert "ONE STEP IS LEFT" not in helm("upgrade", RELEASE, CHART, "-n", SYSTEM, "--reuse-values", "--wait")
    assert cluster.names("clusterevolutionruntimes", group=GROUP) == {"default"}
    cluster.operator()

    cluster.plane.kubectl("apply", "-n", TEAM, f"--filename={QUICKSTART}")
    started = time.monotonic()
    best = cluster.completed()["best"]
    sys.stdout.write(f"quickstart: {time.monotonic() - started:.0f} s, best score {best['score']}\n")
    assert float(best["score"]) >= 0.60
    complete = {"namespace": TEAM, "run": "quickstart", "phase": "Complete"}
    eventually(lambda: measured(cluster, "evolution_run_phase", complete) == 1, "the run in the metrics")

    with pytest.raises(RuntimeError, match=r"spec.rounds: 11 is more than 10, the most in namespace team-a"):
        cluster.plane.kubectl("patch", "-n", TEAM, "evo", "quickstart", "--type=merge", "-p", '{"spec":{"rounds":11}}')

    tested = helm("test", RELEASE, "-n", SYSTEM, "--logs", "--timeout=6m")
    assert f"s3://{STORE}/runs/{SYSTEM} is fit: 20 races of 32 writers, 0 of them wrong" in tested
    assert f"{SYSTEM}/{RELEASE}-test: Complete: MaxRounds, 100 %" in tested

    before = cluster.stored()
    helm("uninstall", RELEASE, "-n", SYSTEM, "--wait")
    assert not cluster.names("deployments", SYSTEM, "apps/v1")
    assert RELEASE not in cluster.names("clusterroles", group="rbac.authorization.k8s.io/v1")
    assert not cluster.names("validatingadmissionpolicies", group="admissionregistration.k8s.io/v1") & OURS
    definitions = cluster.names("customresourcedefinitions", group="apiextensions.k8s.io/v1")
    assert {
        f"{kind}.selfevolution.io" for kind in ("evolutionruns", "evolutionruntimes", "clusterevolutionruntimes")
    } <= definitions
    assert cluster.names("clusterevolutionruntimes", group=GROUP) == {"default"}
    assert cluster.run()["state"] == "Complete"
    assert cluster.stored() == before

    jobs = cluster.names("jobs", TEAM, "batch/v1")
    again = ("--take-ownership", "--wait", "--set", "runtime.spec.gpuClass=l40s")
    assert "ONE STEP IS LEFT" not in helm("install", RELEASE, CHART, "-n", SYSTEM, "-f", cluster.values, *again)
    assert runtime(cluster)["spec"]["gpuClass"] == "l40s", "what stayed is brought up to date"
    cluster.plane.kubectl(
        "patch", "-n", TEAM, "evo", "quickstart", "--type=merge", "-p", '{"spec":{"gate":{"patience":9}}}'
    )
    observed = object_path("evolutionruns", "quickstart", TEAM, GROUP)
    eventually(lambda: up_to_date(cluster.api.get(observed)), "the new installation looking after the old run")
    assert cluster.run()["state"] == "Complete"
    assert cluster.names("jobs", TEAM, "batch/v1") == jobs, "nothing is done twice"


OURS = {"evolution-run-limits", "evolution-runtime-limits"}


@pytest.mark.parametrize("program", ["helm", "helm4"])
def test_an_upgrade_and_a_rollback_amid_a_run_lose_nothing(cluster: Cluster, program: str, tmp_path: Path) -> None:
    helm, wait = cluster.helm(program), ("-n", SYSTEM, "--wait", "--timeout=2m")
    next_version = newer(tmp_path / "next")
    helm("install", RELEASE, CHART, "-f", cluster.values, *wait)
    helm("upgrade", RELEASE, CHART, "--reuse-values", *wait)
    first = cluster.operator()
    run = QUICKSTART.read_text().replace("rounds: 4\n", f"rounds: {ROUNDS}\n")
    cluster.plane.kubectl("apply", "-n", TEAM, "--filename=-", input=run)

    upgraded_under = training(cluster, round_=1)
    helm("upgrade", RELEASE, next_version, "--reuse-values", *wait)
    second = cluster.operator()
    assert uid(second) != uid(first)
    assert image(second) == "evolution-operator:0.2.0"
    assert "A newer EvolutionRun." in cluster.plane.kubectl(
        "get", "crd", "evolutionruns.selfevolution.io", "-o", "yaml"
    )

    rolled_back_under = training(cluster, round_=2)
    helm("rollback", RELEASE, *wait)
    assert image(cluster.operator()) == "evolution-operator:0.1.0"

    status = cluster.completed()
    assert status["progress"]["roundsCompleted"] == ROUNDS
    workers = cluster.workers()
    assert {workers[name]["status"]["phase"] for name in (upgraded_under, rolled_back_under)} == {"Succeeded"}
    assert len(workers) == len(cluster.names("jobs", TEAM, "batch/v1")) == STAGES, "each stage was done by one pod"

    helm("uninstall", RELEASE, "-n", SYSTEM, "--wait")
    assert cluster.run()["state"] == "Complete"


def test_the_throw_away_store_has_its_bucket_and_a_password_that_an_upgrade_keeps(cluster: Cluster) -> None:
    if taken(9000):
        pytest.skip("port 9000, which the store's pod has for itself in a cluster, is taken on this machine")
    helm = cluster.helm("helm")
    only_store = ("-n", SYSTEM, "--set", "replicas=0", "-f", VALUES["trying-out"], "--wait", "--timeout=2m")
    assert "THE OBJECT STORE IS A THROW-AWAY ONE" in helm("install", RELEASE, CHART, *only_store)
    store = throw_away(cluster)
    buckets = eventually(lambda: [bucket.name for bucket in store.list_buckets()], "the store")
    assert buckets == ["evolution"]
    store.put_object("evolution", "runs/kept", io.BytesIO(b"until the pod ends"), 18)
    helm("upgrade", RELEASE, CHART, *only_store)
    assert [each.object_name for each in throw_away(cluster).list_objects("evolution", recursive=True)] == ["runs/kept"]
    with pytest.raises(S3Error, match="SignatureDoesNotMatch"):
        Minio("127.0.0.1:9000", "evolution", "a guess", secure=False).list_buckets()


def test_operator_and_workers_do_a_run_with_the_throw_away_store(cluster: Cluster) -> None:
    if taken(9000):
        pytest.skip("port 9000, which the store's pod has for itself in a cluster, is taken on this machine")
    helm = cluster.helm("helm")
    values = cluster.values.with_name("trying-out.yaml")
    values.write_text(yaml.safe_dump(trying_out(values_of(cluster.minio))))
    notes = helm("install", RELEASE, CHART, "-n", SYSTEM, "-f", values)
    helm("upgrade", RELEASE, CHART, "-n", SYSTEM, "--reuse-values", "--wait")
    cluster.plane.kubectl("delete", "secret", "store-credentials", "-n", TEAM)
    run_as_said(cluster, notes, "create secret generic store-credentials")

    store = throw_away(cluster)
    eventually(store.list_buckets, "the store")
    store.make_bucket(SOURCES)
    for file in (REPOSITORY / "examples" / "quickstart").rglob("*"):
        if file.is_file():
            store.fput_object(SOURCES, file.relative_to(REPOSITORY / "examples").as_posix(), str(file))
    cluster.plane.kubectl("apply", "-n", TEAM, "--filename=-", input=QUICKSTART.read_text().replace(": 4\n", ": 1\n"))
    assert cluster.completed()["progress"]["roundsCompleted"] == 1
    kept = [each.object_name or "" for each in store.list_objects("evolution", recursive=True)]
    assert any(name.startswith(f"runs/{TEAM}/") for name in kept)
    assert not cluster.stored(), "nothing went to another store"


def trying_out(values: Json) -> Json:
    """With the throw-away store in place of the real one, which is told under its address on this machine."""
    given = yaml.safe_load(VALUES["trying-out"].read_text())
    env = {**values["env"], "EVOLUTION_S3_ENDPOINT": "http://127.0.0.1:9000"}
    return {**values, "devObjectStore": given["devObjectStore"], "objectStore": {}, "env": env}


def run_as_said(cluster: Cluster, notes: str, words: str) -> None:
    """The command of the notes with these words in it, with a namespace in place of NAMESPACE."""
    lines = notes.splitlines()
    first = next(number for number, line in enumerate(lines) if words in line)
    last = next(number for number, line in enumerate(lines) if number >= first and not line.endswith("\\"))
    command = "\n".join(lines[first : last + 1]).replace("NAMESPACE", TEAM)
    environment = {**os.environ, "KUBECONFIG": str(cluster.plane.kubeconfig)}
    subprocess.run(["sh", "-ec", command], env=environment, check=True)


def throw_away(cluster: Cluster) -> Minio:
    secret = cluster.api.get(object_path("secrets", f"{RELEASE}-dev-store", SYSTEM))["data"]
    keys = (base64.b64decode(secret[name]).decode() for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"))
    return Minio("127.0.0.1:9000", *keys, secure=False)


def runtime(cluster: Cluster) -> Json:
    return cluster.api.get(object_path("clusterevolutionruntimes", "default", group=GROUP))


def newer(folder: Path) -> Path:
    """The chart as it may look after the next release: another image, and definitions that say more."""
    copytree(CHART, folder)
    chart = yaml.safe_load((folder / "Chart.yaml").read_text())
    (folder / "Chart.yaml").write_text(yaml.safe_dump({**chart, "version": "0.2.0", "appVersion": "0.2.0"}))
    runs = folder / "files" / "crds" / "evolutionruns.yaml"
    said = "A language model that trains itself on documents"
    assert said in runs.read_text()
    runs.write_text(runs.read_text().replace(said, f"A newer EvolutionRun. {said}"))
    return folder


def training(cluster: Cluster, round_: int) -> str:
    """The uid of the pod that trains in this round, once it runs."""

    def running() -> str | None:
        for name, pod in cluster.workers().items():
            if f"-r{round_}-train-" in pod["metadata"]["name"] and pod["status"]["phase"] == "Running":
                return name
        return None

    return eventually(running, f"training of round {round_}", seconds=300) or ""


def measured(cluster: Cluster, name: str, labels: dict[str, str]) -> float | None:
    """What the operator says to Prometheus; None if it says nothing of it."""
    port = yaml.safe_load(cluster.values.read_text())["metrics"]["port"]
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        families = text_string_to_metric_families(answer.read().decode())
    samples = (sample for family in families for sample in family.samples)
    return next((each.value for each in samples if each.name == name and each.labels == labels), None)


def up_to_date(run: Json) -> bool:
    observed: int = run["status"].get("observedGeneration", 0)
    return observed == run["metadata"]["generation"]


def labels(object_: Json) -> dict[str, str]:
    found: dict[str, str] = object_["metadata"].get("labels", {})
    return found


def uid(object_: Json) -> str:
    return str(object_["metadata"]["uid"])


def image(pod: Json) -> str:
    return str(pod["spec"]["containers"][0]["image"])


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def taken(port: int) -> bool:
    with socket.socket() as asked:
        return asked.connect_ex(("127.0.0.1", port)) == 0
