"""Pods that are processes live as pods do on a real node."""

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from controlplane.client import Changed, Json, Listed, Removed, object_path
from controlplane.container_environment import expand
from controlplane.jobs import Jobs, job, worker, worker_state
from controlplane.kubelet import Node
from controlplane.plane import ControlPlane
from controlplane.process_kubelet import process_kubelet
from controlplane.waiting import eventually
from tools.build import binary

pytestmark = [pytest.mark.controlplane, pytest.mark.timeout(120)]

OBEDIENT = "trap 'exit 44' TERM; echo ready; while :; do sleep 0.05; done"


@pytest.fixture
def jobs(control_plane: ControlPlane, namespace: str) -> Jobs:
    return Jobs(control_plane.api, namespace)


def shell(script: str, **fields: object) -> Json:
    return worker("sh", "-c", script.replace("$(", "$$("), **fields)


def secret(jobs: Jobs, name: str, **data: str) -> None:
    body = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": data}
    jobs.api.create(object_path("secrets", namespace=jobs.namespace), body)


def config_map(jobs: Jobs, name: str, **data: str) -> None:
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}
    jobs.api.create(object_path("configmaps", namespace=jobs.namespace), body)


def claim(jobs: Jobs, name: str) -> None:
    """A claim that is bound to a volume of its own."""
    volume = f"{jobs.namespace}-{name}"
    size = {"storage": "1Gi"}
    common = {"accessModes": ["ReadWriteOnce"], "storageClassName": ""}
    persistent = {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": volume},
        "spec": {**common, "capacity": size, "hostPath": {"path": "/unused"}},
    }
    body = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": name},
        "spec": {**common, "resources": {"requests": size}, "volumeName": volume},
    }
    jobs.api.create(object_path("persistentvolumes"), persistent)
    # What meets a volume or a claim too early looks again only many seconds later.
    reaches(jobs, object_path("persistentvolumes", volume), "Available")
    jobs.api.create(object_path("persistentvolumeclaims", namespace=jobs.namespace), body)
    reaches(jobs, object_path("persistentvolumeclaims", name, jobs.namespace), "Bound")


def reaches(jobs: Jobs, path: str, phase: str) -> None:
    eventually(lambda: jobs.api.get(path)["status"]["phase"] == phase, f"{path} {phase}")


def sharing_job(name: str, script: str, folder: Path) -> Json:
    """A Job whose pods have `folder` of this machine at /shared."""
    container = shell(script, volumeMounts=[{"name": "shared", "mountPath": "/shared"}])
    return job(name, container, pod={"volumes": [{"name": "shared", "hostPath": {"path": str(folder)}}]})


def last_seen(watch: Iterator[Listed | Changed | Removed]) -> Json:
    """The object of a watch as it was when it went."""
    return next(event.object for event in watch if isinstance(event, Removed))


def watch_of(jobs: Jobs, pod: str) -> Iterator[Listed | Changed | Removed]:
    """Events from now on."""
    path = object_path("pods", namespace=jobs.namespace)
    watch = iter(jobs.api.watch(path, fieldSelector=f"metadata.name={pod}"))
    assert isinstance(next(watch), Listed)
    return watch


def message(pod: Json) -> str:
    text: str = worker_state(pod)["terminated"].get("message", "")
    return text


@pytest.mark.parametrize(
    ("text", "expanded"),
    [
        ("$(NAME)", "value"),
        ("$$(NAME)", "$(NAME)"),
        ("$$$(NAME)", "$value"),
        ("$(UNKNOWN)", "$(UNKNOWN)"),
        ("$NAME $ $( $()", "$NAME $ $( $()"),
        ("$(a)$(NAME)", "$(a)value"),
    ],
)
def test_references_to_variables_are_expanded_as_kubernetes_does(text: str, expanded: str) -> None:
    assert expand(text, {"NAME": "value"}) == expanded


@pytest.mark.usefixtures("process_node")
def test_a_container_gets_the_environment_that_its_pod_describes(jobs: Jobs) -> None:
    secret(jobs, "credentials", key="open sesame")
    config_map(jobs, "settings", region="here")
    show = "import json, os; json.dump(dict(os.environ), open('/dev/termination-log', 'w'))"
    container = worker(
        "python",
        "-c",
        show,
        envFrom=[{"configMapRef": {"name": "settings"}, "prefix": "SET_"}],
        env=[
            {"name": "ORDER", "value": '{"price": "$$(SET_region)", "store": "file:///tmp/store"}'},
            {"name": "PLACE", "value": "right $(SET_region)"},
            {"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "credentials", "key": "key"}}},
            {"name": "OPTIONAL", "valueFrom": {"secretKeyRef": {"name": "none", "key": "key", "optional": True}}},
            {"name": "REGION", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "region"}}},
            {"name": "ROUND", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['example/round']"}}},
            {"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
            {"name": "CPU", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}},
            {"name": "SCRATCH", "value": "/tmp/work"},
        ],
        resources={"limits": {"cpu": "1", "nvidia.com/gpu": "1"}},
        volumeMounts=[{"name": "scratch", "mountPath": "/tmp"}],
    )
    body = job("environment", container, pod={"volumes": [{"name": "scratch", "emptyDir": {}}]})
    body["spec"]["template"]["metadata"] = {"labels": {"example/round": "7"}}
    jobs.create(body)
    pod = jobs.pod("environment", "Succeeded")
    seen = json.loads(message(pod))
    assert json.loads(seen["ORDER"]) == {"price": "$(SET_region)", "store": "file:///tmp/store"}
    assert (seen["PLACE"], seen["KEY"], seen["REGION"], seen["ROUND"]) == ("right here", "open sesame", "here", "7")
    assert (seen["NODE"], seen["CPU"]) == (pod["spec"]["nodeName"], "1")
    assert "OPTIONAL" not in seen
    assert seen["SCRATCH"] == f"{seen['TMPDIR']}/work"


def test_volumes_are_folders_and_claims_outlive_their_pods(jobs: Jobs, process_node: Node, tmp_path: Path) -> None:
    secret(jobs, "keys", private="s3cret")
    config_map(jobs, "files", greeting="hello", other="unused")
    claim(jobs, "models")
    projected = [
        {"serviceAccountToken": {"path": "token", "audience": "store"}},
        {"downwardAPI": {"items": [{"path": "name", "fieldRef": {"fieldPath": "metadata.namespace"}}]}},
    ]
    volumes = [
        {"name": "keys", "secret": {"secretName": "keys"}},
        {"name": "files", "configMap": {"name": "files", "items": [{"key": "greeting", "path": "a/b"}]}},
        {"name": "identity", "projected": {"sources": projected}},
        {"name": "host", "hostPath": {"path": str(tmp_path / "host"), "type": "DirectoryOrCreate"}},
        {"name": "models", "persistentVolumeClaim": {"claimName": "models"}},
    ]
    script = (
        "echo $(cat /keys/private) $(cat /files/a/b) $(cat /id/name) $(ls /files) > /dev/termination-log;"
        "grep -q '^ey.*[.].*[.]' /id/token && echo kept > /cache/sub/file && echo kept > /models/file"
    )
    paths = {"keys": "/keys", "files": "/files", "identity": "/id", "host": "/cache/sub", "models": "/models"}
    mounts = [{"name": name, "mountPath": path} for name, path in paths.items()]
    jobs.create(job("volumes", shell(script, volumeMounts=mounts), pod={"volumes": volumes}))
    assert message(jobs.pod("volumes", "Succeeded")) == f"s3cret hello {jobs.namespace} a\n"
    assert (tmp_path / "host" / "file").read_text() == "kept\n"
    kept = tmp_path / process_node.name / "claims" / jobs.namespace / "models" / "file"
    assert kept.read_text() == "kept\n"
    eventually(lambda: not list((tmp_path / process_node.name).glob("pods/*/volumes")), "removal of the pod's volumes")


@pytest.mark.usefixtures("process_node")
def test_init_containers_come_first(jobs: Jobs) -> None:
    mount = {"volumeMounts": [{"name": "shared", "mountPath": "/shared"}]}
    first = {**shell("echo first > /shared/file", **mount), "name": "first"}
    pod = {"initContainers": [first], "volumes": [{"name": "shared", "emptyDir": {}}]}
    jobs.create(job("two", shell("cat /shared/file > /dev/termination-log", **mount), pod=pod))
    assert message(jobs.pod("two", "Succeeded")) == "first\n"
    jobs.create(job("broken", shell("true"), pod={"initContainers": [{**shell("exit 3"), "name": "first"}]}))
    failed = jobs.pod("broken", "Failed")
    assert failed["status"]["initContainerStatuses"][0]["state"]["terminated"]["exitCode"] == 3


@pytest.mark.usefixtures("process_node")
def test_the_exit_code_of_a_worker_decides_about_its_job(jobs: Jobs) -> None:
    for name, script in {
        "fine": "exit 0",
        "spec": "echo why > /dev/termination-log; exit 40",
        "crash": "kill -9 $$$$",
    }.items():
        jobs.create(job(name, shell(script)))
    assert [kind for kind, _ in jobs.ended("fine")] == ["SuccessCriteriaMet", "Complete"]
    assert jobs.ended("spec") == [("FailureTarget", "PodFailurePolicy"), ("Failed", "PodFailurePolicy")]
    assert message(jobs.pod("spec", "Failed")) == "why\n"
    assert jobs.ended("crash")[-1] == ("Failed", "BackoffLimitExceeded")
    assert worker_state(jobs.pod("crash", "Failed"))["terminated"]["exitCode"] == 137


@pytest.mark.usefixtures("process_node")
def test_a_program_that_is_not_there_is_a_start_error(jobs: Jobs) -> None:
    jobs.create(job("none", worker("no-such-program")))
    ended = worker_state(jobs.pod("none", "Failed"))["terminated"]
    assert (ended["exitCode"], ended["reason"]) == (128, "StartError")
    assert '"no-such-program": executable file not found in $PATH' in ended["message"]


@pytest.mark.usefixtures("process_node")
def test_a_pod_with_the_token_of_its_service_account_is_that_account(jobs: Jobs) -> None:
    who = f"{binary('kubectl')} auth whoami -o jsonpath={{.status.userInfo.username}} >/dev/termination-log"
    jobs.create(job("somebody", shell(who), pod={"automountServiceAccountToken": True}))
    assert message(jobs.pod("somebody", "Succeeded")) == f"system:serviceaccount:{jobs.namespace}:default"
    jobs.create(job("nobody", shell('echo "${KUBECONFIG:-none}" >/dev/termination-log')))
    assert message(jobs.pod("nobody", "Succeeded")) == "none\n"


@pytest.mark.usefixtures("process_node")
def test_a_pod_waits_for_its_secret_and_says_so(jobs: Jobs) -> None:
    reference = {"secretKeyRef": {"name": "credentials", "key": "key"}}
    jobs.create(job("patient", shell("true", env=[{"name": "KEY", "valueFrom": reference}])))

    def waits() -> Json:
        return next((worker_state(pod).get("waiting", {}) for pod in jobs.pods("patient")), {})

    expected = {"reason": "CreateContainerConfigError", "message": 'secret "credentials" not found'}
    eventually(lambda: waits() == expected, "CreateContainerConfigError")
    secret(jobs, "credentials", other="value")
    wanted = f"couldn't find key key in Secret {jobs.namespace}/credentials"
    eventually(lambda: waits().get("message") == wanted, wanted)
    secret_path = object_path("secrets", "credentials", jobs.namespace)
    jobs.api.patch(secret_path, {"stringData": {"key": "value"}})
    assert jobs.ended("patient")[-1][0] == "Complete"


@pytest.mark.usefixtures("process_node")
def test_an_eviction_and_a_store_that_is_away_do_not_count_as_attempts(jobs: Jobs, tmp_path: Path) -> None:
    jobs.create(sharing_job("away", "test -e /shared/again && exit 0; touch /shared/again; exit 43", tmp_path))
    script = f"test -e /shared/once && exit 0; {OBEDIENT.replace('echo ready', 'touch /shared/once')}"
    jobs.create(sharing_job("evicted", script, tmp_path))
    eventually((tmp_path / "once").exists, "the first pod")
    name = jobs.pod("evicted", "Running")["metadata"]["name"]
    watch = watch_of(jobs, name)
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}}
    jobs.api.create(f"{object_path('pods', name, jobs.namespace)}/eviction", eviction)
    last = last_seen(watch)
    assert worker_state(last)["terminated"]["exitCode"] == 44
    targets = [each for each in last["status"]["conditions"] if each["type"] == "DisruptionTarget"]
    assert [(each["status"], each["reason"]) for each in targets] == [("True", "EvictionByEvictionAPI")]
    # The Job controller waits for ten seconds before it tries again.
    for name in ("away", "evicted"):
        assert jobs.ended(name)[-1][0] == "Complete"


@pytest.mark.usefixtures("process_node")
def test_a_deaf_process_is_killed_when_its_grace_is_over(jobs: Jobs, tmp_path: Path) -> None:
    body = sharing_job("deaf", "trap '' TERM; touch /shared/up; while :; do sleep 0.05; done", tmp_path)
    body["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] = 1
    jobs.create(body)
    eventually((tmp_path / "up").exists, "the trap")
    watch = watch_of(jobs, jobs.pods("deaf")[0]["metadata"]["name"])
    jobs.delete("deaf")
    assert worker_state(last_seen(watch))["terminated"]["exitCode"] == 137


@pytest.mark.usefixtures("process_node")
def test_logs_can_be_read_and_followed(jobs: Jobs, control_plane: ControlPlane, tmp_path: Path) -> None:
    script = "echo one; echo two; while [ ! -e /shared/go ]; do sleep 0.05; done; echo three"
    jobs.create(sharing_job("talk", script, tmp_path))
    jobs.pod("talk", "Running")

    def logs(*options: str) -> str:
        return control_plane.kubectl("logs", "job/talk", "-n", jobs.namespace, *options)

    eventually(lambda: logs() == "one\ntwo\n", "two lines")
    assert logs("--tail=1") == "two\n"
    threading.Timer(0.5, (tmp_path / "go").touch).start()
    assert logs("--follow") == "one\ntwo\nthree\n"


def test_an_indexed_job_tells_each_pod_its_index(jobs: Jobs, process_node: Node) -> None:
    assert process_node.gpus == 1
    index = {"fieldRef": {"fieldPath": "metadata.annotations['batch.kubernetes.io/job-completion-index']"}}
    container = shell("echo $INDEX > /dev/termination-log", env=[{"name": "INDEX", "valueFrom": index}])
    jobs.create(job("indexed", container, spec={"completionMode": "Indexed", "completions": 3, "parallelism": 3}))
    assert [kind for kind, _ in jobs.ended("indexed")] == ["SuccessCriteriaMet", "Complete"]
    assert sorted(message(pod) for pod in jobs.pods("indexed")) == ["0\n", "1\n", "2\n"]


def test_what_ran_on_a_kubelet_that_restarts_has_failed(
    jobs: Jobs, control_plane: ControlPlane, tmp_path: Path
) -> None:
    node = Node(f"restarted-{jobs.namespace}")
    with process_kubelet(control_plane.kubeconfig, tmp_path / "node", [node]):
        jobs.create(job("running", shell(OBEDIENT)))
        jobs.pod("running", "Running")
    with process_kubelet(control_plane.kubeconfig, tmp_path / "node", [node]) as kubelet:
        ended = worker_state(jobs.pod("running", "Failed"))["terminated"]
        assert (ended["exitCode"], ended["reason"]) == (137, "ContainerStatusUnknown")
        jobs.create(job("next", shell("true")))
        assert jobs.ended("next")[-1][0] == "Complete"
    kubelet.unregister()
