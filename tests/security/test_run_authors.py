"""What somebody tries who may write runs, and little else: nothing of it gives more than runs do."""

import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from controlplane.client import Api, ApiError, Json, object_path
from controlplane.container_environment import Sources, environment
from controlplane.kubelet import Node
from controlplane.plane import ControlPlane
from controlplane.simulated_kubelet import simulated_kubelet
from controlplane.waiting import eventually
from operator_process import OperatorProcess, running_operator
from simulated import MINIMAL, make_run, merged

from evolution.plan.graph import unfold

pytestmark = pytest.mark.controlplane

ROOT = Path(__file__).parents[2]
GROUP = "selfevolution.io/v1alpha1"
SECRET = "the-key-that-only-workers-have"
MANAGED = {"app.kubernetes.io/managed-by": "evolution-operator"}


@dataclass(frozen=True)
class Town:
    """Two namespaces with a runtime and a Secret each, those who live there, and the operator of both."""

    plane: ControlPlane
    ours: str
    theirs: str
    author: Api
    """May write runs in our namespace, as examples/tenancy has it, and nothing else."""
    editor: Api
    """Has the role edit in our namespace."""
    operator: OperatorProcess

    def run(self, name: str, namespace: str = "") -> Json:
        return self.plane.api.get(object_path("evolutionruns", name, namespace or self.ours, GROUP))

    def until(self, name: str, summary: str, namespace: str = "") -> Json:
        def status() -> Json | None:
            found: Json = self.run(name, namespace).get("status", {})
            return found if summary in found.get("summary", "") else None

        return eventually(status, f"{name} being {summary}")

    def jobs(self, namespace: str = "") -> list[Json]:
        path = object_path("jobs", namespace=namespace or self.ours, group="batch/v1")
        found: list[Json] = self.plane.api.get(path)["items"]
        return found


@pytest.fixture(scope="module")
def town(control_plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    control_plane.install_crds()
    folder, mark = tmp_path_factory.mktemp("town"), uuid.uuid4().hex[:6]
    ours, theirs = f"ours-{mark}", f"theirs-{mark}"
    api = control_plane.api
    for namespace in (ours, theirs):
        api.create(object_path("namespaces"), {"metadata": {"name": namespace}})
        eventually(lambda namespace=namespace: api.get(object_path("serviceaccounts", "default", namespace)))
        api.create(object_path("evolutionruntimes", namespace=namespace, group=GROUP), runtime())
        keys = {"AWS_ACCESS_KEY_ID": namespace, "AWS_SECRET_ACCESS_KEY": SECRET}
        secret = {"metadata": {"name": "evolution-store"}, "stringData": keys}
        api.create(object_path("secrets", namespace=namespace), secret)
    (role,) = (
        found
        for found in yaml.safe_load_all((ROOT / "examples/tenancy/namespace.yaml").read_text())
        if found["kind"] == "Role"
    )
    roles = object_path("roles", namespace=ours, group="rbac.authorization.k8s.io/v1")
    api.create(roles, {**role, "metadata": {"name": role["metadata"]["name"]}})
    control_plane.kubectl("apply", "--filename", str(ROOT / "deploy/cluster/run-authors.yaml"))
    for user, kind in (("author", "role=run-author"), ("editor", "clusterrole=edit")):
        binding = ("rolebinding", user, f"--{kind}", f"--user={user}-{mark}", "--namespace", ours)
        control_plane.kubectl("create", *binding)
    author, editor = (Api(control_plane.kubeconfig_for(f"{user}-{mark}")) for user in ("author", "editor"))
    eventually(lambda: allowed(lambda: create_run(editor, ours, "probe?dryRun=All")), "the editor's rights")
    eventually(lambda: allowed(lambda: create_run(author, ours, "probe?dryRun=All")), "the author's rights")
    node = Node(f"town-{mark}", gpus=64)
    scope = ("--namespace", ours, "--namespace", theirs, "--resync-seconds", "1", "--progress-seconds", "0.5")
    with simulated_kubelet(control_plane.kubeconfig, folder / "pods", [node]) as kubelet:
        store = (folder / "store").as_uri()
        with running_operator(control_plane.kubeconfig, store, folder, *scope) as operator:
            yield Town(control_plane, ours, theirs, author, editor, operator)
            assert "Traceback" not in operator.said, operator.said
        kubelet.unregister()
    for namespace in (ours, theirs):
        api.delete(object_path("namespaces", namespace))


Try = Callable[[Api, str, str], Any]
BEYOND_RUNS: dict[str, Try] = {
    "choose an image": lambda me, ours, _: me.create(
        object_path("evolutionruntimes", namespace=ours, group=GROUP), runtime("mine")
    ),
    "change the image": lambda me, ours, _: me.patch(
        object_path("evolutionruntimes", "default", ours, GROUP), {"spec": {"image": "miner"}}
    ),
    "choose one for the cluster": lambda me, *_: me.create(
        object_path("clusterevolutionruntimes", group=GROUP), {**runtime("mine"), "kind": "ClusterEvolutionRuntime"}
    ),
    "say how a run stands": lambda me, ours, _: me.patch(
        object_path("evolutionruns", "any", ours, GROUP) + "/status", {"status": {"state": "Complete"}}
    ),
    "write a run elsewhere": lambda me, _, theirs: create_run(me, theirs, "mine"),
    "read runs elsewhere": lambda me, _, theirs: me.get(object_path("evolutionruns", namespace=theirs, group=GROUP)),
    "read Secrets elsewhere": lambda me, _, theirs: me.get(object_path("secrets", namespace=theirs)),
    "make pods elsewhere": lambda me, _, theirs: me.create(object_path("pods", namespace=theirs), pod()),
    "change limits": lambda me, *_: me.patch(
        object_path("configmaps", "evolution-limits", "evolution-system"), {"data": {"rounds": "1000"}}
    ),
    "change a namespace": lambda me, ours, _: me.patch(
        object_path("namespaces", ours), {"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "privileged"}}}
    ),
    "read what nodes hold": lambda me, *_: me.get(object_path("nodes")),
}
BEYOND_RUNS_OF_AN_AUTHOR: dict[str, Try] = {
    "read the store's keys": lambda me, ours, _: me.get(object_path("secrets", "evolution-store", ours)),
    "list Secrets": lambda me, ours, _: me.get(object_path("secrets", namespace=ours)),
    "make a pod": lambda me, ours, _: me.create(object_path("pods", namespace=ours), pod()),
    "make a Job": lambda me, ours, _: me.create(object_path("jobs", namespace=ours, group="batch/v1"), job("mine", {})),
    "be a service account": lambda me, ours, _: me.create(
        object_path("serviceaccounts", "default", ours) + "/token", {"spec": {}}
    ),
    "enter a pod": lambda me, ours, _: me.create(object_path("pods", "any", ours) + "/exec?command=sh", {}),
    "read a log": lambda me, ours, _: me.get(object_path("pods", "any", ours) + "/log"),
}


@pytest.mark.parametrize("attempt", BEYOND_RUNS)
def test_neither_author_nor_editor_may(town: Town, attempt: str) -> None:
    for me in (town.author, town.editor):
        assert forbidden(lambda me=me: BEYOND_RUNS[attempt](me, town.ours, town.theirs))


@pytest.mark.parametrize("attempt", BEYOND_RUNS_OF_AN_AUTHOR)
def test_who_may_only_write_runs_may_not(town: Town, attempt: str) -> None:
    assert forbidden(lambda: BEYOND_RUNS_OF_AN_AUTHOR[attempt](town.author, town.ours, town.theirs))


@pytest.mark.parametrize(
    "smuggled",
    [
        {"image": "miner"},
        {"serviceAccountName": "admin"},
        {"template": {"spec": {"hostNetwork": True}}},
        {"env": {"LD_PRELOAD": "/tmp/mine.so"}},
        {"storeSecretName": "of-another"},
        {"nodeSelector": {"pool": "control-plane"}},
        {"runtimeRef": {"name": "default", "namespace": "kube-system"}},
        {"model": {"trustRemoteCode": True}},
        {"training": {"outputDir": "/"}},
    ],
    ids=lambda spec: next(iter(spec)),
)
def test_a_run_has_no_such_field(town: Town, smuggled: Json) -> None:
    with pytest.raises(ApiError, match="unknown field"):
        create_run(town.author, town.ours, "mine?dryRun=All&fieldValidation=Strict", smuggled)
    made = town.author.create(
        object_path("evolutionruns", namespace=town.ours, group=GROUP) + "?dryRun=All", body("mine", smuggled)
    )
    (field, value), *_ = smuggled.items()
    for name in value if isinstance(value, dict) else ():
        assert name == "name" or name not in made["spec"].get(field, {})
    assert field in MINIMAL | {"training": {}, "runtimeRef": {}} or field not in made["spec"]


@pytest.mark.parametrize(
    "uri", ["file:///etc/passwd", "/var/run/secrets", "http://169.254.169.254/latest", "hf://org/model@main"]
)
def test_a_run_names_no_place_that_is_no_store(town: Town, uri: str) -> None:
    for field in ("model", "documents", "evaluation", "publish"):
        with pytest.raises(ApiError, match=rf"spec\.{field}\.uri"):
            create_run(town.author, town.ours, "mine?dryRun=All", {field: {"uri": uri}})
    with pytest.raises(ApiError, match=r"spec\.model\.adapterURI"):
        create_run(town.author, town.ours, "mine?dryRun=All", {"model": {"adapterURI": uri}})


def test_a_run_that_wants_its_worker_to_tell_secrets_or_be_another_gets_neither(town: Town) -> None:
    told = "$(AWS_SECRET_ACCESS_KEY) $$(AWS_SECRET_ACCESS_KEY) ${AWS_SECRET_ACCESS_KEY}"
    spec = {
        "model": {"uri": "s3://models/$(AWS_SECRET_ACCESS_KEY)", "revision": told},
        "documents": {"uri": "pvc://manuals/$(AWS_SECRET_ACCESS_KEY)", "field": told},
        "generation": {"prompts": {"question": "{document} " + told}},
        "training": {"targetModules": [told]},
        "publish": {"uri": "s3://adapters/$(AWS_SECRET_ACCESS_KEY)"},
    }
    spoofed = {
        **MANAGED,
        "selfevolution.io/run": "another",
        "job-name": "another",
        "kueue.x-k8s.io/queue-name": "ours",
    }
    annotations = {"selfevolution.io/fingerprint": "f" * 64, "selfevolution.io/run-uid": "another"}
    create_run(town.author, town.ours, "asking", spec, labels=spoofed, annotations=annotations)
    made = eventually(lambda: [j for j in town.jobs() if j["metadata"]["name"].startswith("asking-")], "its Jobs")
    for found in made:
        assert found["metadata"]["labels"]["selfevolution.io/run"] == "asking"
        assert found["metadata"]["annotations"]["selfevolution.io/fingerprint"] != "f" * 64
        template = found["spec"]["template"]
        assert template["metadata"]["labels"]["selfevolution.io/run"] == "asking"
        pod_spec = template["spec"]
        assert pod_spec["automountServiceAccountToken"] is False
        assert pod_spec.get("serviceAccountName", "default") == "default"
        (container,) = pod_spec["containers"]
        assert container["image"] == "registry.example/trainer:1"
        assert "args" not in container
        variables = environment(
            {"metadata": {"name": "some", "namespace": town.ours, **template["metadata"]}, "spec": pod_spec},
            container,
            Sources(town.plane.api, town.ours),
        )
        assert {name for name, value in variables.items() if SECRET in value} == {"AWS_SECRET_ACCESS_KEY"}
        for volume in pod_spec["volumes"]:
            if "persistentVolumeClaim" in volume:
                assert volume["persistentVolumeClaim"]["readOnly"]
    town.author.delete(object_path("evolutionruns", "asking", town.ours, GROUP))


def test_a_run_cannot_name_the_runtime_of_another_namespace(town: Town) -> None:
    town.plane.api.create(object_path("evolutionruntimes", namespace=town.theirs, group=GROUP), runtime("large"))
    create_run(town.author, town.ours, "reaching", {"runtimeRef": {"kind": "EvolutionRuntime", "name": "large"}})
    status = town.until("reaching", "RuntimeNotFound")
    (said,) = {c["message"] for c in status["conditions"] if c["reason"] == "RuntimeNotFound"}
    assert f"there is no EvolutionRuntime named 'large' in namespace {town.ours}" in said
    assert not [j for j in town.jobs() if j["metadata"]["name"].startswith("reaching-")]


def test_a_job_with_the_name_of_ours_and_all_of_our_labels_is_not_taken_for_ours(town: Town) -> None:
    spec = {"model": {"uri": "s3://models/clash"}}
    stages = unfold(make_run(merged(MINIMAL, spec), name="clash").spec, {}).stages
    first = next(stage for stage in stages if stage.id == "prepare-model")
    assert first.fingerprint
    name = f"clash-prepare-model-{first.fingerprint[:8]}"
    town.editor.create(
        object_path("jobs", namespace=town.ours, group="batch/v1"),
        job(name, {"selfevolution.io/fingerprint": first.fingerprint}, run="clash"),
    )
    create_run(town.author, town.ours, "clash", spec)
    status = town.until("clash", "JobNameTaken")
    (said,) = {c["message"] for c in status["conditions"] if c["reason"] == "JobNameTaken"}
    assert f"kubectl -n {town.ours} delete job {name}" in said
    town.editor.delete(object_path("jobs", name, town.ours, "batch/v1"), propagationPolicy="Background")
    town.until("clash", "Complete")


def test_what_an_editor_makes_up_does_nothing_to_the_runs_of_another_namespace(town: Town) -> None:
    create_run(town.plane.api, town.theirs, "honest", {"suspend": True})
    uid = town.run("honest", town.theirs)["metadata"]["uid"]
    fingerprint = unfold(make_run(name="honest").spec, {}).stages[0].fingerprint or ""
    owner = {
        "apiVersion": GROUP,
        "kind": "EvolutionRun",
        "name": "honest",
        "uid": uid,
        "controller": True,
        "blockOwnerDeletion": False,
    }
    numbers = ("1", "²", "1000000000", "9" * 5000, "-1", "")
    for index, number in enumerate(numbers):
        claims = {
            "selfevolution.io/fingerprint": fingerprint,
            "selfevolution.io/stages": "prepare-model",
            "selfevolution.io/shards": number,
            "selfevolution.io/gpus": number,
            "selfevolution.io/run-uid": uid,
            "selfevolution.io/kind": "Train",
            "batch.kubernetes.io/job-completion-index": number,
        }
        made_up = job(f"made-up-{index}", claims, run="honest", suspend=index % 2 == 0)
        # The garbage collector takes away a Job whose owner is not in its namespace: half of them have one.
        if index >= len(numbers) // 2:
            made_up["metadata"]["ownerReferences"] = [owner]
        town.editor.create(object_path("jobs", namespace=town.ours, group="batch/v1"), made_up)
        alone = pod(f"alone-{index}")
        alone["metadata"] |= {"labels": {**MANAGED, "selfevolution.io/run": "honest"}, "annotations": claims}
        town.editor.create(object_path("pods", namespace=town.ours), alone)
    town.plane.api.patch(object_path("evolutionruns", "honest", town.theirs, GROUP), {"spec": {"suspend": False}})
    status = town.until("honest", "Complete", town.theirs)
    assert status["gpuSeconds"]["wasted"] == 0
    create_run(town.author, town.ours, "beside", {"model": {"uri": "s3://models/beside"}})
    town.until("beside", "Complete")
    assert town.operator.process.poll() is None


def forbidden(attempt: Callable[[], Any]) -> bool:
    with pytest.raises(ApiError) as refused:
        attempt()
    return refused.value.code == 403


def allowed(attempt: Callable[[], Any]) -> bool:
    attempt()
    return True


def create_run(me: Api, namespace: str, name: str, spec: Json | None = None, **metadata: Any) -> Json:
    """`name` may be followed by options of the request."""
    name, _, options = name.partition("?")
    path = object_path("evolutionruns", namespace=namespace, group=GROUP)
    return me.create(f"{path}?{options}" if options else path, body(name, spec or {}, **metadata))


def body(name: str, spec: Json, **metadata: Any) -> Json:
    asked = {"runtimeRef": {"kind": "EvolutionRuntime", "name": "default"}, "rounds": 1}
    return {
        "apiVersion": GROUP,
        "kind": "EvolutionRun",
        "metadata": {"name": name, **metadata},
        "spec": merged(merged(MINIMAL, asked), spec),
    }


def runtime(name: str = "default") -> Json:
    spec = {"image": "registry.example/trainer:1", "storeSecretName": "evolution-store"}
    return {"apiVersion": GROUP, "kind": "EvolutionRuntime", "metadata": {"name": name}, "spec": spec}


def job(name: str, annotations: dict[str, str], run: str = "", *, suspend: bool = True) -> Json:
    labels = {**MANAGED, "selfevolution.io/run": run} if run else {}
    metadata = {"labels": labels, "annotations": annotations}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, **metadata},
        "spec": {"suspend": suspend, "template": {"metadata": metadata, "spec": pod()["spec"]}},
    }


def pod(name: str = "mine") -> Json:
    container = {"name": "worker", "image": "mine", "env": [{"name": "EVOLUTION_ORDER", "value": "{}"}]}
    spec = {"restartPolicy": "Never", "containers": [container], "nodeSelector": {"there-is": "none"}}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}
