"""Schedules on a real cluster: documents in a real MinIO, an operator of one namespace, workers that take no time."""

import io
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from cluster import GROUP, HANG, RETRY, Fates, failed, kstatus
from controlplane.client import Api, Json, object_path
from controlplane.kubelet import Node
from controlplane.plane import ControlPlane
from controlplane.simulated_kubelet import simulated_kubelet
from controlplane.waiting import eventually
from minio.credentials.providers import StaticProvider
from minio.minioadmin import MinioAdmin
from minio_server import ACCESS_KEY, SECRET_KEY, MinioServer
from operator_process import OperatorProcess, running_operator
from simulated import MINIMAL

from evolution.plan.worker import ExitCode

pytestmark = [pytest.mark.controlplane, pytest.mark.minio]


@dataclass
class Team:
    """A namespace with its bucket, its schedules and their runs."""

    api: Api
    namespace: str
    minio: MinioServer
    bucket: str
    fates: Fates
    _asked: Iterator[int] = field(default_factory=lambda: iter(range(1, 1000)))

    def upload(self, name: str, text: str) -> None:
        data = text.encode()
        self.minio.client.put_object(self.bucket, name, io.BytesIO(data), len(data))

    def apply(self, name: str, spec: Json, **run: Any) -> None:
        """Create a schedule of runs with one round."""
        template = {
            **MINIMAL,
            "rounds": 1,
            "runtimeRef": {"kind": "EvolutionRuntime", "name": "default"},
            "documents": {"uri": f"s3://{self.bucket}/manuals"},
            "evaluation": {"uri": f"s3://{self.bucket}/questions.jsonl"},
            **run,
        }
        body = {
            "apiVersion": GROUP,
            "kind": "EvolutionSchedule",
            "metadata": {"name": name},
            "spec": {**spec, "runTemplate": {"spec": template}},
        }
        self.api.create(self._path("evolutionschedules"), body)

    def edit(self, name: str, spec: Json) -> None:
        self.api.patch(self._path("evolutionschedules", name), {"spec": spec})

    def schedule(self, name: str) -> Json:
        return self.api.get(self._path("evolutionschedules", name))

    def until(self, name: str, summary: str) -> Json:
        """The schedule once its State column says so."""
        return eventually(
            lambda: found if (found := self.schedule(name)).get("status", {}).get("summary") == summary else None,
            f"{name} being {summary!r}",
        )

    def look(self, name: str) -> Json:
        """Have the operator look at the sources now; the schedule once it has."""
        asked = f"request {next(self._asked)}"
        self.api.patch(self._path("evolutionschedules", name), {"metadata": {"annotations": {RETRY: asked}}})
        return eventually(
            lambda: found if (found := self.schedule(name))["status"].get("lastHandledRetryAt") == asked else None
        )

    def runs(self) -> dict[str, Json]:
        """By name, the oldest first."""
        runs = self.api.get(self._path("evolutionruns"))["items"]
        return {
            run["metadata"]["name"]: run for run in sorted(runs, key=lambda r: int(r["metadata"]["resourceVersion"]))
        }

    def until_complete(self, name: str) -> Json:
        def complete() -> Json | None:
            run = self.runs()[name]
            return run if run.get("status", {}).get("state") == "Complete" else None

        return eventually(complete, f"{name} being complete")

    def warnings(self, name: str) -> list[tuple[str, str]]:
        """Reason and note of the Events about a schedule, the oldest first."""
        events = self.api.get(object_path("events", namespace=self.namespace, group="events.k8s.io/v1"))["items"]
        about = [e for e in events if (e["regarding"]["kind"], e["regarding"]["name"]) == ("EvolutionSchedule", name)]
        assert {event["type"] for event in about} <= {"Warning"}
        return [(e["reason"], e["note"]) for e in sorted(about, key=lambda e: str(e["eventTime"]))]

    def until_warned(self, name: str, reason: str) -> None:
        """Events come after the status."""
        eventually(
            lambda: any(reason == warned for warned, _ in self.warnings(name)), f"an Event {reason} about {name}"
        )

    def until_training(self) -> None:
        eventually(lambda: (self.namespace, "r1-train") in self.fates.seen, "a training")

    def stages(self) -> list[str]:
        """What has run since this was last asked."""
        seen = [stage for namespace, stage in self.fates.seen if namespace == self.namespace]
        self.fates.seen.clear()
        return seen

    def _path(self, plural: str, name: str = "") -> str:
        return object_path(plural, name, self.namespace, GROUP)


@pytest.fixture(scope="module")
def fates(control_plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fates]:
    fates, node = Fates(), Node(f"schedules-{uuid.uuid4().hex[:8]}", gpus=64, cpu="1000", memory="4Ti", pods=1000)
    control_plane.install_crds()
    folder = tmp_path_factory.mktemp("nodes")
    with simulated_kubelet(control_plane.kubeconfig, folder, [node], outcome=fates.decide) as kubelet:
        yield fates
        kubelet.unregister()


@pytest.fixture
def team(control_plane: ControlPlane, namespace: str, minio_server: MinioServer, fates: Fates) -> Team:
    runtime = {
        "apiVersion": GROUP,
        "kind": "EvolutionRuntime",
        "metadata": {"name": "default"},
        "spec": {"image": "registry.example/trainer:1"},
    }
    control_plane.api.create(object_path("evolutionruntimes", namespace=namespace, group=GROUP), runtime)
    team = Team(control_plane.api, namespace, minio_server, minio_server.new_bucket(), fates)
    team.upload("manuals/first.md", "What the first manual says.")
    team.upload("questions.jsonl", '{"question": "?", "answer": "!"}')
    return team


@pytest.fixture
def operator(control_plane: ControlPlane, team: Team, tmp_path: Path) -> Iterator[OperatorProcess]:
    only = ("--namespace", team.namespace, "--progress-seconds", "1")
    store = (tmp_path / "store").as_uri()
    environment = team.minio.environment
    with running_operator(control_plane.kubeconfig, store, tmp_path, *only, environment=environment) as process:
        yield process
        assert "Traceback" not in process.said, process.said


@pytest.mark.usefixtures("operator")
def test_new_documents_start_a_run_that_does_no_more_than_they_change(control_plane: ControlPlane, team: Team) -> None:
    team.apply("manuals", {"onChange": {}, "schedule": "0 3 29 2 *", "timeZone": "Europe/Berlin"})
    (first,) = eventually(team.runs, "a first run")
    team.until_complete(first)
    team.until("manuals", "Waiting")
    assert "prepare-model" in team.stages()

    same = team.look("manuals")
    assert list(team.runs()) == [first]
    assert (same["status"]["lastRun"], kstatus(same)) == (first, "Current")
    row = control_plane.kubectl("get", "evs", "--namespace", team.namespace, "--no-headers").split()
    assert row[:9] == ["manuals", *["0", "3", "29", "2", "*"], "1h", "Waiting", first]
    assert row[-2] == "2028-02-29T02:00:00Z", "the next time"

    team.upload("manuals/second.md", "What the second manual says.")
    looked = team.look("manuals")
    second = looked["status"]["lastRun"]
    assert second != first
    run = team.until_complete(second)
    assert run["spec"]["documents"]["revision"] == looked["status"]["lastDocumentsDigest"]
    assert run["spec"]["evaluation"] == team.runs()[first]["spec"]["evaluation"]
    assert run["metadata"]["ownerReferences"][0]["name"] == "manuals"
    assert sorted(team.stages()) == ["prepare-documents", "r1-evaluate", "r1-generate", "r1-train"]


@pytest.mark.usefixtures("operator")
def test_a_run_that_fails_does_not_stack_up_and_the_next_one_comes_with_new_documents(team: Team) -> None:
    team.fates.next(team.namespace, "r1-train", HANG)
    team.apply("manuals", {"onChange": {}})
    (first,) = eventually(team.runs, "a first run")
    team.until_training()
    team.upload("manuals/second.md", "This cannot be read.")
    team.look("manuals")
    assert list(team.runs()) == [first]

    team.fates.next(team.namespace, "r1-train", failed(ExitCode.BAD_INPUT, "DocumentInvalid", "cannot be read"))
    jobs = team.api.get(object_path("jobs", namespace=team.namespace, group="batch/v1"))["items"]
    (training,) = (job["metadata"]["name"] for job in jobs if "-r1-train-" in job["metadata"]["name"])
    team.api.delete(object_path("jobs", training, team.namespace, "batch/v1") + "?propagationPolicy=Background")
    second = eventually(lambda: set(team.runs()) - {first}, "a run of the documents that came meanwhile").pop()
    assert team.runs()[first]["status"]["summary"] == "Failed: DocumentInvalid"
    team.until_complete(second)
    status = team.until("manuals", "Waiting")["status"]
    assert (status["lastSuccessfulRun"], status["failuresInARow"], len(team.runs())) == (second, 0, 2)


@pytest.mark.usefixtures("operator")
def test_events_tell_what_somebody_has_to_do_something_about(control_plane: ControlPlane, team: Team) -> None:
    team.apply("manuals", {"schedule": "0 0 30 2 *"})
    team.until_warned("manuals", "InvalidSpec")
    unreadable = failed(ExitCode.BAD_INPUT, "DocumentInvalid", "cannot be read")
    team.fates.next(team.namespace, "r1-train", unreadable, unreadable, unreadable)
    team.edit("manuals", {"schedule": "", "onChange": {}})
    for failures in (1, 2):
        eventually(lambda: team.schedule("manuals")["status"].get("failuresInARow") == failures)  # noqa: B023
        team.look("manuals")
    team.until("manuals", "Stalled: RunsFail")
    team.until_warned("manuals", "RunsFail")

    (wrong, never), (fail, row) = team.warnings("manuals")
    assert (wrong, fail) == ("InvalidSpec", "RunsFail")
    assert never.startswith("spec.schedule: '0 0 30 2 *' names no time that there is")
    assert row.startswith("3 runs in a row have failed")
    assert "3 runs in a row" in control_plane.kubectl("describe", "evs", "manuals", "--namespace", team.namespace)


@pytest.mark.usefixtures("operator")
def test_a_change_replaces_the_run_under_way_and_none_while_the_schedule_is_suspended(team: Team) -> None:
    team.fates.next(team.namespace, "r1-train", HANG)
    team.apply("manuals", {"onChange": {}, "concurrencyPolicy": "Replace"})
    (first,) = eventually(team.runs, "a first run")
    team.until_training()

    team.edit("manuals", {"suspend": True})
    team.until("manuals", "Suspended")
    team.upload("manuals/second.md", "What the second manual says.")
    team.edit("manuals", {"startingDeadlineSeconds": 600})
    eventually(lambda: team.schedule("manuals")["status"]["observedGeneration"] == 3)
    assert list(team.runs()) == [first]

    team.edit("manuals", {"suspend": False})
    (second,) = eventually(lambda: set(team.runs()) - {first}, "a second run")
    eventually(lambda: first not in team.runs(), "the first run being deleted")
    team.until_complete(second)


@pytest.mark.usefixtures("operator")
def test_times_that_were_missed_start_one_run_and_old_runs_go(team: Team) -> None:
    team.apply("nightly", {"schedule": "* * * * *", "suspend": True, "successfulRunsHistoryLimit": 1})
    team.until("nightly", "Suspended")
    schedules = object_path("evolutionschedules", "nightly", team.namespace, GROUP)
    team.api.patch(f"{schedules}/status", {"status": {"lastScheduleTime": "2026-01-01T00:00:00Z"}})
    team.edit("nightly", {"suspend": False})
    (first,) = eventually(team.runs, "one run")
    team.until_complete(first)
    status = team.until("nightly", "Waiting")["status"]
    slot = team.runs()[first]["metadata"]["annotations"]["selfevolution.io/scheduled-at"]
    assert status["lastScheduleTime"] == slot
    assert status["nextScheduleTime"] > slot


def test_what_the_operator_may_not_list_is_named_with_the_right_that_it_lacks(
    control_plane: ControlPlane, team: Team, tmp_path: Path
) -> None:
    only = ("--namespace", team.namespace)
    name, secret = f"stranger-{uuid.uuid4().hex[:8]}", uuid.uuid4().hex
    MinioAdmin(
        endpoint=team.minio.endpoint.removeprefix("http://"),
        credentials=StaticProvider(ACCESS_KEY, SECRET_KEY),
        secure=False,
    ).user_add(name, secret)
    stranger = team.minio.environment | {"AWS_ACCESS_KEY_ID": name, "AWS_SECRET_ACCESS_KEY": secret}
    store = (tmp_path / "store").as_uri()
    with running_operator(control_plane.kubeconfig, store, tmp_path, *only, environment=stranger):
        team.apply("manuals", {"onChange": {}})
        schedule = team.until("manuals", "Stalled: SourcesNotVisible")
        team.until_warned("manuals", "SourcesNotVisible")
        team.look("manuals")
    message = next(c["message"] for c in schedule["status"]["conditions"] if c["type"] == "SourcesVisible")
    assert f"spec.runTemplate.spec.documents.uri: s3://{team.bucket}/manuals" in message
    assert "their policy has to allow s3:ListBucket there" in message
    assert team.warnings("manuals") == [("SourcesNotVisible", message)], "however often it looks"
    assert kstatus(schedule) == "Failed"
    assert team.runs() == {}
