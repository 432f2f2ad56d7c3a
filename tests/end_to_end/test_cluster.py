"""The quickstart on a cluster, as its README tells it: real control plane, real MinIO, pods that really train."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from controlplane.plane import ControlPlane
from controlplane.waiting import eventually
from minio import Minio
from minio_server import MinioServer
from small_run import EVOLVE, QUICKSTART, Workplace, small_workplace
from tools.build import binary

pytestmark = [pytest.mark.slow, pytest.mark.controlplane, pytest.mark.minio]

ROOT = Path(__file__).parents[2]
RUN = ROOT / "examples" / "cluster" / "quickstart.yaml"
RESULTS = {"model", "documents", "items", "pairs", "rejects", "scores", "adapter", "predictions"}
"""Outputs that say nothing about where they were made."""


@dataclass(frozen=True)
class DevCluster:
    """`make dev-cluster`, seen from another terminal."""

    environment: dict[str, str]

    def kubectl(self, *arguments: str, input: str | None = None) -> str:  # noqa: A002 - as subprocess calls it
        return self._run(str(binary("kubectl")), *arguments, input=input)

    def evolve(self, *arguments: str) -> str:
        return self._run(str(EVOLVE), *arguments)

    def run(self, name: str = "quickstart") -> dict[str, Any]:
        body: dict[str, Any] = json.loads(self.kubectl("get", "evolutionrun", name, "-o", "json"))
        return body

    def upload(self, path: Path, name: str) -> None:
        """A file, or a folder of files, into the bucket of the examples."""
        host = self.environment["EVOLUTION_S3_ENDPOINT"].removeprefix("http://")
        keys = (self.environment[key] for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"))
        client = Minio(host, *keys, secure=False)
        for file in [path] if path.is_file() else path.iterdir():
            client.fput_object("examples", name if file == path else f"{name}/{file.name}", str(file))

    def summary(self, name: str = "quickstart") -> str:
        return str(self.run(name).get("status", {}).get("summary", ""))

    def _run(self, *command: str, input: str | None = None) -> str:  # noqa: A002 - as subprocess calls it
        environment = {**os.environ, **self.environment, "COLUMNS": "200"}
        done = subprocess.run(command, env=environment, input=input, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout


@pytest.fixture
def dev_cluster(tmp_path: Path, control_plane: ControlPlane, minio_server: MinioServer) -> Iterator[DevCluster]:
    """Its own servers; the fixtures of others only tell whether the programs are there."""
    del control_plane, minio_server
    log = tmp_path / "dev-cluster.log"
    command = [sys.executable, str(ROOT / "tests" / "dev_cluster.py"), "--folder", str(tmp_path / "cluster")]
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    try:
        eventually(lambda: "The cluster is ready" in log.read_text(), "the cluster", seconds=90)
        told = (line.strip().removeprefix("export ") for line in log.read_text().splitlines() if " export " in line)
        yield DevCluster(dict(os.path.expandvars(line).split("=", 1) for line in told))
    finally:
        process.terminate()
        process.wait(60)


def test_the_quickstart_goes_from_apply_to_complete_with_the_digests_of_the_laptop(
    dev_cluster: DevCluster, tmp_path: Path
) -> None:
    secret = dev_cluster.kubectl("get", "secret", "store-credentials", "-o", "yaml")
    dev_cluster.kubectl("delete", "secret", "store-credentials")
    dev_cluster.kubectl("apply", "-f", str(RUN))
    eventually(lambda: dev_cluster.summary() == "Pending: CreateContainerConfigError", "the run saying what it lacks")
    (stalled,) = [c for c in dev_cluster.run()["status"]["conditions"] if c["type"] == "Stalled"]
    assert stalled["status"] == "True"
    assert 'secret "store-credentials" not found' in stalled["message"]

    dev_cluster.kubectl("apply", "-f", "-", input=_without_identity(secret))
    started = time.monotonic()
    on_laptop = _laptop_run(tmp_path)  # meanwhile
    dev_cluster.kubectl("wait", "--for=condition=Complete", "--timeout=500s", "evo/quickstart")
    sys.stdout.write(f"{time.monotonic() - started:.0f} s from credentials to Complete, beside the laptop's run\n")

    status = dev_cluster.run()["status"]
    assert status["state"] == "Complete"
    assert float(status["best"]["score"]) >= 0.60
    described = dev_cluster.kubectl("describe", "evo", "quickstart")
    for told in ("RoundCompleted", "MaxRounds", "best is round 4"):
        assert told in described
    row = dev_cluster.kubectl("get", "evo").splitlines()[1]
    for cell in ("quickstart", "Complete: MaxRounds", "100", status["best"]["score"]):
        assert cell in row

    planned = json.loads(dev_cluster.evolve("plan", "quickstart", "--namespace", "default", "--json"))
    assert len(on_laptop) == 16
    _same_results(on_laptop, {stage["id"]: stage["outputs"] for stage in planned["stages"]})


RUNTIMES: dict[str, dict[str, Any]] = {
    "shared": {"shards": 3},
    "by-round": {"execution": "Round"},
    "at-once": {"execution": "Run"},
}
"""Specs of runtimes, by the namespace that uses them: each has its own part of the store, so nothing is shared."""


def test_shared_stages_and_orders_of_several_stages_give_the_digests_of_the_laptop(
    dev_cluster: DevCluster, tmp_path: Path
) -> None:
    place = small_workplace(tmp_path / "laptop", {"gate": {"patience": 2}})
    dev_cluster.upload(place.folder / "documents", "small/documents")
    dev_cluster.upload(place.folder / "questions.jsonl", "small/questions.jsonl")
    body = yaml.safe_load(place.file.read_text())
    for field, uri in (
        ("model", "quickstart/model"),
        ("documents", "small/documents"),
        ("evaluation", "small/questions.jsonl"),
    ):
        body["spec"][field]["uri"] = f"s3://examples/{uri}"
    secret = yaml.safe_load(dev_cluster.kubectl("get", "secret", "store-credentials", "-o", "yaml"))
    default = json.loads(dev_cluster.kubectl("get", "clusterevolutionruntime", "default", "-o", "json"))["spec"]
    for namespace, spec in RUNTIMES.items():
        dev_cluster.kubectl("create", "namespace", namespace)
        runtime = {
            "apiVersion": "selfevolution.io/v1alpha1",
            "kind": "EvolutionRuntime",
            "metadata": {"name": "own", "namespace": namespace},
            "spec": {key: value for key, value in default.items() if key != "stages"}
            | {"resources": {"cpu": "100m", "memory": "256Mi"}}
            | spec,
        }
        credentials = {**secret, "metadata": {"name": secret["metadata"]["name"], "namespace": namespace}}
        run = {**body, "metadata": {"name": "small", "namespace": namespace}}
        run["spec"] = {**body["spec"], "runtimeRef": {"kind": "EvolutionRuntime", "name": "own"}}
        for object_ in (credentials, runtime, run):
            dev_cluster.kubectl("apply", "-f", "-", input=yaml.safe_dump(object_))
    done = place.evolve("run")
    assert done.returncode == 0, done.stderr
    on_laptop = {id_: stage["outputs"] for id_, stage in place.stages().items()}
    for namespace in RUNTIMES:
        dev_cluster.kubectl("-n", namespace, "wait", "--for=condition=Complete", "--timeout=300s", "evo/small")
        planned = json.loads(dev_cluster.evolve("plan", "small", "--namespace", namespace, "--json"))
        _same_results(on_laptop, {stage["id"]: stage["outputs"] for stage in planned["stages"]})
    jobs = {name: dev_cluster.kubectl("-n", name, "get", "jobs", "-o", "name").split() for name in RUNTIMES}
    assert [len(jobs[name]) for name in ("by-round", "at-once")] == [3, 1]
    pods = dev_cluster.kubectl("-n", "shared", "get", "pods", "-l", "selfevolution.io/stage=Generate", "-o", "name")
    assert len(pods.split()) == 3 * 2


def _same_results(on_laptop: dict[str, dict[str, str]], on_cluster: dict[str, dict[str, str]]) -> None:
    assert on_laptop.keys() == on_cluster.keys()
    for id_, outputs in on_laptop.items():
        for name in outputs.keys() & RESULTS:
            assert on_cluster[id_][name] == outputs[name], f"{id_}: {name}"


def _laptop_run(folder: Path) -> dict[str, dict[str, str]]:
    place = Workplace(folder / "laptop")
    shutil.copytree(QUICKSTART, place.folder, ignore=shutil.ignore_patterns(".evolution"))
    done = place.evolve("run", timeout=500)
    assert done.returncode == 0, done.stderr
    return {id_: stage["outputs"] for id_, stage in place.stages().items()}


def _without_identity(secret: str) -> str:
    body = yaml.safe_load(secret)
    body["metadata"] = {key: body["metadata"][key] for key in ("name", "namespace")}
    return yaml.safe_dump(body)
