"""The operator under its own service account, on an API server that enforces RBAC and logs every request of it."""

import json
import os
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from access import Asked, Audit, Grant, allowed, as_list, granted, manifests, may, served
from controlplane.client import Api, ApiError, Json, object_path
from controlplane.kubelet import Node
from controlplane.plane import COMPONENTS, ControlPlane
from controlplane.plane import control_plane as running_control_plane
from controlplane.simulated_kubelet import Failed, Hang, Outcome, Success, simulated_kubelet
from controlplane.waiting import eventually
from operator_process import OperatorProcess, running_operator
from simulated import MINIMAL, make_run
from tools.build import Unavailable, binary

from evolution.plan.graph import unfold
from evolution.plan.order import Order
from evolution.plan.worker import ExitCode
from evolution_operator.settings import read_settings

pytestmark = [pytest.mark.controlplane, pytest.mark.timeout(180)]

DEPLOY = Path(__file__).parents[2] / "deploy"
SYSTEM = "evolution-system"
ACCOUNT = "evolution-operator"
GROUP = "selfevolution.io/v1alpha1"
JOBSET = "jobset.x-k8s.io/v1alpha2"
EVERYBODY = {
    Grant("create", "authorization.k8s.io", "selfsubjectaccessreviews"),
    Grant("create", "authorization.k8s.io", "selfsubjectrulesreviews"),
    Grant("create", "authentication.k8s.io", "selfsubjectreviews"),
}
"""What Kubernetes lets everybody ask about themselves."""
RBAC = ("rbac.authorization.k8s.io", "clusterroles")
CLUSTER_RUNTIMES = Grant("list", "selfevolution.io", "clusterevolutionruntimes")

Outcomes = Callable[[Json, Order], Outcome]


@pytest.fixture(scope="module")
def audit() -> Iterator[Audit]:
    with tempfile.TemporaryDirectory(prefix="audit-") as folder:
        yield Audit(Path(folder))


@pytest.fixture(scope="module")
def control_plane(audit: Audit) -> Iterator[ControlPlane]:
    """One of its own: it logs requests, and minds who sets owner references, as some distributions do."""
    try:
        for program in (*COMPONENTS, "kubectl"):
            binary(program)
    except Unavailable as error:
        if os.environ.get("CI") == "true":
            pytest.fail(str(error))
        pytest.skip(str(error))
    flags = {**audit.flags, "enable-admission-plugins": "OwnerReferencesPermissionEnforcement"}
    with (
        tempfile.TemporaryDirectory(prefix="control-plane-", ignore_cleanup_errors=True) as folder,
        running_control_plane(Path(folder), flags) as plane,
    ):
        plane.install_crds()
        plane.kubectl("apply", "--filename=-", input=as_list([jobset_definition()]))
        plane.kubectl("wait", "--for=condition=Established", "crd/jobsets.jobset.x-k8s.io", "--timeout=30s")
        wide = runtime("ClusterEvolutionRuntime", name="wide", stages={"train": {"nodes": 2}})
        plane.kubectl("apply", "--filename=-", input=as_list([runtime("ClusterEvolutionRuntime"), wide]))
        yield plane


@pytest.fixture(scope="module")
def whole_cluster(control_plane: ControlPlane) -> Api:
    """The cluster-wide installation, without the operator itself; as its service account."""
    objects = [o for o in manifests(DEPLOY / "cluster") if o["kind"] != "Deployment"]
    control_plane.kubectl("apply", "--filename=-", input=as_list(objects))
    return account(control_plane, SYSTEM, granted([role(objects, "ClusterRole")], "ClusterRole"), "")


@pytest.fixture
def one_namespace(control_plane: ControlPlane, namespace: str) -> Api:
    """The installation for one namespace, without the operator itself; as its service account."""
    objects = [o for o in manifests(DEPLOY / "namespaced", namespace) if o["kind"] != "Deployment"]
    control_plane.kubectl("apply", "--filename=-", input=as_list([*objects, runtime("EvolutionRuntime", namespace)]))
    return account(control_plane, namespace, granted(objects, "Role"), namespace)


@pytest.fixture
def restricted(control_plane: ControlPlane, namespace: str) -> str:
    """A namespace that admits no pod beyond the restricted profile."""
    control_plane.kubectl("label", "namespace", namespace, "pod-security.kubernetes.io/enforce=restricted")
    return namespace


@pytest.mark.usefixtures("whole_cluster")
def test_the_cluster_wide_operator_needs_every_right_that_it_has(
    control_plane: ControlPlane, restricted: str, audit: Audit, tmp_path: Path
) -> None:
    runs = Runs(control_plane.api, restricted)
    failed: list[str] = []

    def outcome(pod: Json, order: Order) -> Outcome:
        stage = order.stages[0].id
        if order.run.startswith("stuck-"):
            return Hang()
        if order.run.startswith("steady-") and stage == "r1-train" and not failed:
            failed.append(pod["metadata"]["name"])
            return Failed(ExitCode.BAD_INPUT, "no such layer")
        return Success()

    occupy(control_plane.api, restricted, "clash")
    with pytest.raises(ApiError, match='violates PodSecurity "restricted'):  # unlike those of the workers
        control_plane.api.create(object_path("pods", namespace=restricted), plain_pod())
    with operator(control_plane, SYSTEM, tmp_path, outcome) as process:
        for name in ("steady", "stuck", "clash"):
            runs.create(name)
        runs.until("clash", lambda status: reasons(status) & {"JobNameTaken"})
        runs.until("steady", lambda status: status["state"] == "Failed")
        runs.annotate("steady", "selfevolution.io/retry-requested-at", "now")
        runs.until("steady", lambda status: status["state"] == "Complete")
        eventually(lambda: runs.events("stuck", "WorkerHangs"), "replacement of the pod that hangs")
        runs.suspend_jobs("stuck")
        eventually(lambda: asked("list", "workloads", audit.asked(SYSTEM, ACCOUNT)), "a look at Kueue's Workloads")

        def edited_while_the_operator_writes() -> bool:
            for suspend in (True, False, True):
                runs.patch("stuck", {"spec": {"suspend": suspend}})
            return asked("get", "evolutionruns", audit.asked(SYSTEM, ACCOUNT))

        eventually(edited_while_the_operator_writes, "a conflict between two writers of a run")
        runs.until("stuck", lambda status: status["state"] == "Suspended")
        runs.create("wide", runtime_name="wide")
        (jobset,) = eventually(runs.jobsets, "the JobSet of a training on two nodes")
        runs.patch("wide", {"spec": {"suspend": True}})
        eventually(lambda: not runs.jobsets(), "the end of the JobSet")
        runs.occupy_jobset(jobset)
        runs.patch("wide", {"spec": {"suspend": False}})
        runs.until("wide", lambda status: reasons(status) & {"JobNameTaken"})
        runs.schedule("often", spec("steady"))
        runs.create("often-before", run=spec("steady"), schedule="often")
        runs.until("often-before", lambda status: status["state"] == "Complete")
        runs.miss_a_time_of("often")
        eventually(lambda: runs.gone("often-before"), "a run of the schedule that takes the place of the one before")
    assert "Traceback" not in process.said, process.said
    made = audit.asked(SYSTEM, ACCOUNT)
    assert {request.grant for request in made if not request.allowed} == set()
    mine = role(manifests(DEPLOY / "cluster"), "ClusterRole")
    assert {request.grant for request in made} == granted([mine], "ClusterRole")


def test_nothing_but_these_rights_is_granted(control_plane: ControlPlane, whole_cluster: Api) -> None:
    everything = served(control_plane.api)
    assert {Grant("get", "", "secrets"), Grant("create", "", "pods/exec"), Grant("bind", *RBAC)} <= everything
    rights = granted([role(manifests(DEPLOY / "cluster"), "ClusterRole")], "ClusterRole")
    assert allowed(whole_cluster, everything, "") == rights | EVERYBODY
    own, others = {"", "batch", "events.k8s.io", "selfevolution.io"}, {"jobset.x-k8s.io", "kueue.x-k8s.io"}
    assert {grant.group for grant in rights} == own | others
    assert {grant.resource for grant in rights if not grant.group} == {"pods"}, "and no Secrets"


def test_the_role_of_a_namespace_gives_the_same_there_and_nothing_elsewhere(
    control_plane: ControlPlane, one_namespace: Api, namespace: str
) -> None:
    everything = served(control_plane.api)
    cluster = granted([role(manifests(DEPLOY / "cluster"), "ClusterRole")], "ClusterRole")
    namespaced = {grant for grant in cluster if grant.resource != CLUSTER_RUNTIMES.resource}
    assert allowed(one_namespace, everything, namespace) == namespaced | EVERYBODY
    assert allowed(one_namespace, namespaced | {CLUSTER_RUNTIMES}, "") == set()
    assert allowed(one_namespace, namespaced, "default") == set()
    cluster_scoped = {"Namespace", "ClusterRole", "ClusterRoleBinding"}
    assert not {object_["kind"] for object_ in manifests(DEPLOY / "namespaced")} & cluster_scoped


@pytest.mark.usefixtures("one_namespace")
def test_with_the_role_of_a_namespace_its_runs_complete_with_a_runtime_of_the_namespace(
    control_plane: ControlPlane, namespace: str, audit: Audit, tmp_path: Path
) -> None:
    runs = Runs(control_plane.api, namespace)
    with operator(control_plane, namespace, tmp_path, lambda *_: Success(), "--namespace", namespace) as process:
        runs.create("near", runtime_kind="EvolutionRuntime")
        runs.create("far", runtime_kind="ClusterEvolutionRuntime")
        runs.until("near", lambda status: status["state"] == "Complete")
        runs.until("far", lambda status: reasons(status) & {"RuntimeNotFound"})
    assert "Traceback" not in process.said, process.said
    (_,) = (line for line in process.said.splitlines() if "clusterevolutionruntimes" in line)
    made = audit.asked(namespace, ACCOUNT)
    assert {request.namespace for request in made if request.allowed} == {namespace}
    assert {request.grant for request in made if not request.allowed} == {CLUSTER_RUNTIMES}


def test_a_run_says_what_its_operator_may_not_do_and_goes_on_once_it_may(
    control_plane: ControlPlane, one_namespace: Api, namespace: str, tmp_path: Path
) -> None:
    runs = Runs(control_plane.api, namespace)
    whole = role(manifests(DEPLOY / "namespaced", namespace), "Role")
    rules = [
        {**rule, "verbs": [verb for verb in rule["verbs"] if verb != "create"]}
        if rule["resources"] == ["jobs"]
        else rule
        for rule in whole["rules"]
    ]
    create = Grant("create", "batch", "jobs")
    control_plane.kubectl("apply", "--filename=-", input=as_list([{**whole, "rules": rules}]))
    eventually(lambda: not may(one_namespace, create, namespace))
    with operator(control_plane, namespace, tmp_path, lambda *_: Success(), "--namespace", namespace) as process:
        runs.create("poor", runtime_kind="EvolutionRuntime")
        stopped = runs.until("poor", lambda status: reasons(status) & {"JobRefused"})
        said = [c["message"] for c in stopped["conditions"] if c["reason"] == "JobRefused"]
        assert all('cannot create resource "jobs"' in message for message in said), said
        control_plane.kubectl("apply", "--filename=-", input=as_list([whole]))
        eventually(lambda: may(one_namespace, create, namespace))
        # It tries again by itself after half a minute; somebody who looks after the run does not wait for that.
        runs.annotate("poor", "selfevolution.io/retry-requested-at", "now")
        runs.until("poor", lambda status: status["state"] == "Complete")
    assert "Traceback" not in process.said, process.said


def test_an_operator_without_rights_ends_with_one_line_that_says_so(
    control_plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    nobody = control_plane.service_account_kubeconfig(namespace, "default")
    with running_operator(nobody, (tmp_path / "store").as_uri(), tmp_path / "operator") as process:
        assert process.process.wait(30) == 1
    (line,) = process.said.strip().splitlines()
    assert 'cannot list resource "jobs"' in line


@pytest.mark.usefixtures("whole_cluster")
@pytest.mark.parametrize("folder", ["cluster", "namespaced"])
def test_the_manifests_apply_and_their_pod_is_admitted_where_only_restricted_ones_are(
    control_plane: ControlPlane, restricted: str, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    objects = manifests(DEPLOY / folder, restricted)
    control_plane.kubectl("apply", "--dry-run=server", "--filename=-", input=as_list(objects))
    control_plane.kubectl("apply", "--filename=-", input=as_list(objects))
    home = SYSTEM if folder == "cluster" else restricted
    (deployment,) = (object_ for object_ in objects if object_["kind"] == "Deployment")
    try:
        pods = eventually(lambda: control_plane.api.get(object_path("pods", namespace=home))["items"], "the pod")
    finally:
        control_plane.kubectl("delete", "deployment", ACCOUNT, "--namespace", home)
    (container,) = pods[0]["spec"]["containers"]
    assert container["resources"]["limits"]
    labels = control_plane.api.get(object_path("namespaces", home))["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    for name, value in environment(deployment, objects, home).items():
        monkeypatch.setenv(name, value)
    settings = read_settings([])
    assert settings.liveness_port == container["ports"][0]["containerPort"]
    assert settings.namespaces == (() if folder == "cluster" else (home,))


@pytest.mark.usefixtures("whole_cluster")
def test_who_may_edit_a_namespace_may_write_runs_and_who_may_view_it_may_read_them(
    control_plane: ControlPlane, namespace: str
) -> None:
    for name in ("edit", "view"):
        binding = ("rolebinding", name, f"--clusterrole={name}", f"--user={namespace}-{name}", "--namespace", namespace)
        control_plane.kubectl("create", *binding)
    editor, viewer = (Api(control_plane.kubeconfig_for(f"{namespace}-{name}")) for name in ("edit", "view"))
    ours = {
        grant for grant in served(control_plane.api) if grant.resource.startswith(("evolutionrun", "evolutionschedule"))
    }
    read = {
        Grant(verb, "selfevolution.io", kind)
        for verb in ("get", "list", "watch")
        for kind in ("evolutionruns", "evolutionschedules", "evolutionruntimes")
    }
    write = {
        Grant(verb, "selfevolution.io", kind)
        for kind in ("evolutionruns", "evolutionschedules")
        for verb in ("create", "update", "patch", "delete", "deletecollection")
    }
    # A controller puts these roles together.
    eventually(lambda: allowed(viewer, ours, namespace) == read, "what a viewer may do")
    eventually(lambda: allowed(editor, ours, namespace) == read | write, "what an editor may do")
    assert not may(editor, CLUSTER_RUNTIMES, "")
    everywhere = ("--clusterrole=evolution-cluster-runtimes", f"--user={namespace}-edit")
    control_plane.kubectl("create", "clusterrolebinding", namespace, *everywhere)
    eventually(lambda: editor.get(object_path("clusterevolutionruntimes", group=GROUP))["items"])


class Runs:
    """The runs of a namespace, as an administrator sees them."""

    def __init__(self, api: Api, namespace: str) -> None:
        self._api = api
        self._namespace = namespace

    def create(
        self,
        name: str,
        runtime_kind: str = "ClusterEvolutionRuntime",
        run: Json | None = None,
        schedule: str = "",
        runtime_name: str = "default",
    ) -> None:
        """By default one that shares no model with others; as if `schedule` had started it."""
        owners = []
        if schedule:
            uid = self._api.get(self._schedule(schedule))["metadata"]["uid"]
            owner = {"apiVersion": GROUP, "kind": "EvolutionSchedule", "name": schedule, "uid": uid, "controller": True}
            owners.append(owner)
        body = {
            "apiVersion": GROUP,
            "kind": "EvolutionRun",
            "metadata": {"name": name, "ownerReferences": owners},
            "spec": {**(run or spec(name)), "runtimeRef": {"kind": runtime_kind, "name": runtime_name}},
        }
        self._api.create(self._path(), body)

    def schedule(self, name: str, run: Json) -> None:
        """Create one that keeps one complete run, and is suspended for now."""
        often = {"schedule": "* * * * *", "suspend": True, "successfulRunsHistoryLimit": 1}
        body = {
            "apiVersion": GROUP,
            "kind": "EvolutionSchedule",
            "metadata": {"name": name},
            "spec": {**often, "runTemplate": {"spec": run}},
        }
        self._api.create(self._schedule(), body)

    def miss_a_time_of(self, schedule: str) -> None:
        """Let it go on as one that has started nothing for long."""
        long_ago = {"status": {"lastScheduleTime": "2026-01-01T00:00:00Z"}}
        self._api.patch(f"{self._schedule(schedule)}/status", long_ago)
        self._api.patch(self._schedule(schedule), {"spec": {"suspend": False}})

    def gone(self, name: str) -> bool:
        listed = self._api.get(self._path())["items"]
        return name not in {run["metadata"]["name"] for run in listed}

    def _schedule(self, name: str = "") -> str:
        return object_path("evolutionschedules", name, self._namespace, GROUP)

    def until(self, name: str, holds: Callable[[Json], Any]) -> Json:
        """The run's status once it is so."""
        seen: Json = {}

        def status() -> bool:
            seen.clear()
            seen.update(self._api.get(self._path(name)).get("status", {}))
            return bool(seen) and bool(holds(seen))

        try:
            eventually(status)
        except TimeoutError as error:
            raise AssertionError(f"{name}: {json.dumps(seen, indent=1)}") from error
        return seen

    def suspend_jobs(self, name: str) -> None:
        """As Kueue does to take the quota back."""
        jobs = self._api.get(object_path("jobs", namespace=self._namespace, group="batch/v1"))["items"]
        for job in jobs:
            if job["metadata"].get("labels", {}).get("selfevolution.io/run") == name:
                path = object_path("jobs", job["metadata"]["name"], self._namespace, "batch/v1")
                self._api.patch(path, {"spec": {"suspend": True}})

    def jobsets(self) -> list[str]:
        """Their names."""
        listed = self._api.get(object_path("jobsets", namespace=self._namespace, group=JOBSET))["items"]
        return [body["metadata"]["name"] for body in listed]

    def occupy_jobset(self, name: str) -> None:
        """Somebody's JobSet of that name."""
        body = {"apiVersion": JOBSET, "kind": "JobSet", "metadata": {"name": name}}
        self._api.create(object_path("jobsets", namespace=self._namespace, group=JOBSET), body)

    def annotate(self, name: str, annotation: str, value: str) -> None:
        self.patch(name, {"metadata": {"annotations": {annotation: value}}})

    def patch(self, name: str, patch: Json) -> None:
        self._api.patch(self._path(name), patch)

    def events(self, name: str, reason: str) -> list[Json]:
        events = self._api.get(object_path("events", namespace=self._namespace, group="events.k8s.io/v1"))["items"]
        return [event for event in events if (event["regarding"]["name"], event["reason"]) == (name, reason)]

    def _path(self, name: str = "") -> str:
        return object_path("evolutionruns", name, self._namespace, GROUP)


@contextmanager
def operator(
    plane: ControlPlane, home: str, folder: Path, outcome: Outcomes, *arguments: str
) -> Iterator[OperatorProcess]:
    """The operator as the account of its installation, and a node whose pods end as `outcome` says."""
    node = Node(f"node-{uuid.uuid4().hex[:8]}", gpus=64)
    kubeconfig = plane.service_account_kubeconfig(home, ACCOUNT)
    quick = ("--progress-seconds", "0.5", "--resync-seconds", "1", *arguments)
    with simulated_kubelet(plane.kubeconfig, folder / "pods", [node], outcome=outcome) as kubelet:
        with running_operator(kubeconfig, (folder / "store").as_uri(), folder / "operator", *quick) as process:
            yield process
        kubelet.unregister()


def account(plane: ControlPlane, namespace: str, rights: set[Grant], scope: str) -> Api:
    """As the operator's service account, once the API server knows of its rights."""
    api = Api(plane.service_account_kubeconfig(namespace, ACCOUNT))
    eventually(lambda: allowed(api, rights, scope) == rights, "rights of the account")
    return api


def role(objects: list[Json], kind: str) -> Json:
    """The operator's own among some manifests."""
    (found,) = (o for o in objects if o["kind"] == kind and o["metadata"]["name"] == ACCOUNT)
    return found


def jobset_definition() -> Json:
    """JobSets that no controller looks after."""
    open_ = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    version = {"name": "v1alpha2", "served": True, "storage": True, "schema": {"openAPIV3Schema": open_}}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": "jobsets.jobset.x-k8s.io",
            "annotations": {"api-approved.kubernetes.io": "https://github.com/kubernetes-sigs/jobset"},
        },
        "spec": {
            "group": "jobset.x-k8s.io",
            "scope": "Namespaced",
            "names": {"kind": "JobSet", "plural": "jobsets", "singular": "jobset"},
            "versions": [version],
        },
    }


def runtime(kind: str, namespace: str = "", name: str = "default", **spec: Any) -> Json:
    """One whose workers are quickly taken to hang."""
    metadata = {"name": name, **({"namespace": namespace} if namespace else {})}
    return {
        "apiVersion": GROUP,
        "kind": kind,
        "metadata": metadata,
        "spec": {"image": "trainer", "deadlines": {"idle": "1s"}, **spec},
    }


def spec(name: str) -> Json:
    """Of a run that shares no model with others."""
    return {**MINIMAL, "rounds": 2, "model": {"uri": f"s3://models/{name}"}}


def plain_pod() -> Json:
    """One that nothing was thought of for."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "plain"},
        "spec": {"restartPolicy": "Never", "containers": [{"name": "mine", "image": "mine"}]},
    }


def occupy(api: Api, namespace: str, name: str) -> None:
    """Somebody's Job, suspended, with the name that the first Job of a run will want."""
    stages = unfold(make_run(spec(name), name=name).spec, {}).stages
    first = next(stage for stage in stages if stage.id == "prepare-model")
    assert first.fingerprint
    body = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": f"{name}-prepare-model-{first.fingerprint[:8]}"},
        "spec": {
            "suspend": True,
            "template": {"spec": plain_pod()["spec"]},
        },
    }
    api.create(object_path("jobs", namespace=namespace, group="batch/v1"), body)


def reasons(status: Json) -> set[str]:
    return {condition["reason"] for condition in status.get("conditions", ())}


def asked(verb: str, resource: str, requests: set[Asked]) -> bool:
    return any((request.grant.verb, request.grant.resource) == (verb, resource) for request in requests)


def environment(deployment: Json, objects: list[Json], namespace: str) -> dict[str, str]:
    """Of the Deployment's container, with the Secret that is not among the manifests."""
    (configuration,) = (object_ for object_ in objects if object_["kind"] == "ConfigMap")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    own = {entry["name"]: entry.get("value", namespace) for entry in container["env"]}
    secret = {"AWS_ACCESS_KEY_ID": "operator", "AWS_SECRET_ACCESS_KEY": "operator"}
    return {**configuration["data"], **secret, **own}
