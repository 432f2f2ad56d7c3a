"""`evolve logs`: what the workers of a run say, from the pods of its Jobs."""

import json
import subprocess
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from controlplane.kubelet_port import KubeletPort
from controlplane.waiting import eventually
from terminals import Cluster, Lines

pytestmark = pytest.mark.controlplane

FINGERPRINT = "f" * 64
STARTED = json.dumps({"event": "started", "stage": "r1-train", "fingerprint": FINGERPRINT})
PROGRESS = json.dumps(
    {
        "event": "progress",
        "stage": "r1-train",
        "fingerprint": FINGERPRINT,
        "phase": "steps",
        "done": 120,
        "total": 400,
        "rate": 3.14,
        "etaSeconds": 125.0,
        "note": "loss 0.4100",
    }
)
FAILED = json.dumps(
    {"event": "failed", "stage": "r1-train", "code": 41, "reason": "ModelUnusable", "message": "there are no weights"}
)


class Workers:
    """Jobs of the run `manuals` and their pods on a node that keeps logs and runs nothing."""

    def __init__(self, cluster: Cluster, node: str) -> None:
        self.cluster = cluster
        self.node = node
        self.open: set[Path] = set()

    def job(self, name: str, stages: str, jobset: str = "") -> None:
        annotations = {"selfevolution.io/stages": stages}
        spec = {"suspend": True, "template": {"spec": pod_spec()}}
        self._apply("batch/v1", "Job", name, {"annotations": annotations, "labels": of_jobset(jobset)}, spec)

    def pod(self, name: str, job: str, *lines: str, index: str = "", phase: str = "Running", jobset: str = "") -> None:
        labels = {"batch.kubernetes.io/job-name": job, **of_jobset(jobset)}
        annotations = {"batch.kubernetes.io/job-completion-index": index} if index else {}
        self.log(self.cluster.namespace, name).write_text("".join(f"{line}\n" for line in lines))
        self._apply(
            "v1", "Pod", name, {"labels": labels, "annotations": annotations}, {**pod_spec(), "nodeName": self.node}
        )
        self.becomes(name, phase)

    def becomes(self, name: str, phase: str) -> None:
        waiting = {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}
        state = {"Pending": waiting, "Running": {"running": {}}}.get(phase, {"terminated": {"exitCode": 0}})
        container = {"name": "worker", "image": "w", "imageID": "", "ready": True, "restartCount": 0, "state": state}
        patch = json.dumps({"status": {"phase": phase, "containerStatuses": [container]}})
        self.cluster.kubectl("patch", "pod", name, "--subresource=status", "--type=merge", f"--patch={patch}")

    def log(self, namespace: str, pod: str, container: str = "worker") -> Path:
        assert container == "worker"
        return self.cluster.folder / f"{namespace}-{pod}.log"

    def writes(self, log: Path) -> bool:
        return log in self.open

    def _apply(self, version: str, kind: str, name: str, metadata: Mapping[str, Any], spec: Mapping[str, Any]) -> None:
        labels = {**metadata.get("labels", {}), "selfevolution.io/run": "manuals"}
        body = {"apiVersion": version, "kind": kind, "metadata": {**metadata, "name": name, "labels": labels}}
        self.cluster.kubectl("create", "--filename=-", stdin=json.dumps({**body, "spec": spec}))


def of_jobset(name: str) -> dict[str, str]:
    """Labels of what belongs to it."""
    return {"jobset.sigs.k8s.io/jobset-name": name} if name else {}


def pod_spec() -> dict[str, Any]:
    return {"restartPolicy": "Never", "containers": [{"name": "worker", "image": "w"}]}


@pytest.fixture
def workers(cluster: Cluster) -> Iterator[Workers]:
    cluster.submitted()
    node = f"node-of-{cluster.namespace}"
    found = Workers(cluster, node)
    with KubeletPort(cluster.folder / "kubelet", found) as port:
        body = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": node}}
        cluster.kubectl("create", "--filename=-", stdin=json.dumps(body))
        status = {
            "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": port.number}},
        }
        patch = json.dumps({"status": status})
        cluster.kubectl("patch", "node", node, "--subresource=status", "--type=merge", f"--patch={patch}")
        yield found
        cluster.kubectl("delete", "pods", "--all", "--force", "--grace-period=0")
        cluster.kubectl("delete", "node", node)


def test_events_are_told_in_words_and_other_lines_as_they_are(workers: Workers) -> None:
    workers.job("manuals-r1-train-1a2b3c4d", "r1-train")
    workers.pod(
        "t-0", "manuals-r1-train-1a2b3c4d", STARTED, "a warning of a library", PROGRESS, FAILED, "{", phase="Failed"
    )
    assert workers.cluster.evolve("logs", "manuals").out.splitlines() == [
        "r1-train: started",
        "a warning of a library",
        "r1-train: steps 120/400 (3.1/s, 2m 05s left, loss 0.4100)",
        "r1-train: failed (ModelUnusable, exit code 41): there are no weights",
        "{",
    ]
    assert workers.cluster.evolve("logs", "manuals", "--raw").out.splitlines()[0] == STARTED


def test_the_current_stage_is_shown_unless_another_is_asked_for(workers: Workers) -> None:
    workers.job("manuals-r1-train-1a2b3c4d", "r1-train")
    workers.job("manuals-r1-score-5a5a5a5a", "r1-score")
    workers.pod("t-0", "manuals-r1-train-1a2b3c4d", "training")
    workers.pod("s-0", "manuals-r1-score-5a5a5a5a", "scoring")
    workers.cluster.operator_says(current=[{"round": 1, "stage": "Train", "job": "manuals-r1-train-1a2b3c4d"}])
    assert workers.cluster.evolve("logs", "manuals").out == "training\n"
    assert workers.cluster.evolve("logs", "manuals", "--stage", "r1-score").out == "scoring\n"
    unknown = workers.cluster.evolve("logs", "manuals", "--stage", "r9-train")
    assert unknown.code == 6
    assert "no Job of run 'manuals' does stage 'r9-train'; the Jobs that are left do:" in unknown.err


def test_shards_are_named_and_the_previous_attempt_can_be_read(workers: Workers) -> None:
    job = "manuals-r1-generate-1a2b3c4d"
    workers.job(job, "r1-generate")
    workers.pod("g-0", job, "first attempt", index="0", phase="Failed")
    eventually(lambda: _seconds_since(workers, "g-0") >= 1)  # creation times count whole seconds
    workers.pod("g-1", job, "second attempt", index="0")
    workers.pod("g-2", job, "other shard", index="1")
    assert workers.cluster.evolve("logs", "manuals").out.splitlines() == [
        "[r1-generate/0] second attempt",
        "[r1-generate/1] other shard",
    ]
    assert workers.cluster.evolve("logs", "manuals", "--previous").out == "first attempt\n"


def test_workers_that_train_together_are_found_by_what_the_run_calls_their_jobset(workers: Workers) -> None:
    jobset = "manuals-r1-train-1a2b3c4d"
    workers.job("manuals-r1-score-5a5a5a5a", "r1-score")
    workers.job(f"{jobset}-node-0", "r1-train", jobset)
    for node in "01":
        workers.pod(f"n-{node}", f"{jobset}-node-0", f"on node {node}", index=node, jobset=jobset)
    workers.cluster.operator_says(current=[{"round": 1, "stage": "Train", "job": jobset}])
    said = workers.cluster.evolve("logs", "manuals").out.splitlines()
    assert sorted(line.partition("on node ")[2] for line in said) == ["0", "1"]


def test_following_waits_for_the_pod_and_ends_with_it(workers: Workers) -> None:
    workers.job("manuals-r1-train-1a2b3c4d", "r1-train")
    workers.pod("t-0", "manuals-r1-train-1a2b3c4d", STARTED, phase="Pending")
    refused = workers.cluster.evolve("logs", "manuals")
    assert refused.err.strip() == "pod t-0 has not begun: ImagePullBackOff: no such image"

    log = workers.log(workers.cluster.namespace, "t-0")
    workers.open.add(log)

    with workers.cluster.started("logs", "manuals", "--follow", stdout=subprocess.PIPE) as process:
        shown = Lines(process)
        shown.wait_for("waiting for pod t-0: ImagePullBackOff: no such image")
        workers.becomes("t-0", "Running")
        shown.wait_for("r1-train: started")
        with log.open("a") as file:
            file.write(f"{PROGRESS}\n")
        shown.wait_for("r1-train: steps 120/400")
        assert process.poll() is None
        workers.open.discard(log)
        assert process.wait(20) == 0


def test_a_run_without_pods_says_why(workers: Workers) -> None:
    nothing = workers.cluster.evolve("logs", "manuals")
    assert (nothing.code, "run 'manuals' has no Jobs" in nothing.err) == (6, True)
    workers.job("manuals-r1-train-1a2b3c4d", "r1-train")
    waiting = [
        {"round": 1, "stage": "Train", "job": "manuals-r1-train-1a2b3c4d", "waitingFor": "no quota left in team-a"}
    ]
    workers.cluster.operator_says(current=waiting)
    refused = workers.cluster.evolve("logs", "manuals")
    assert refused.err.strip() == "Job manuals-r1-train-1a2b3c4d (r1-train) has no pod: no quota left in team-a"


def _seconds_since(workers: Workers, pod: str) -> float:
    body = json.loads(workers.cluster.kubectl("get", "pod", pod, "--output=json"))
    return (datetime.now(UTC) - datetime.fromisoformat(body["metadata"]["creationTimestamp"])).total_seconds()
