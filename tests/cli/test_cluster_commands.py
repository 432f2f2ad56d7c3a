"""What a run author sees of runs on a cluster, through `evolve` and `kubectl evolve`."""

import json
import os
import pty
import signal
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from ledgers import ledger_of, under_way
from recorded import recorded_run
from simulated import MINIMAL
from terminals import EVOLVE, Cluster, Lines, Screen, Terminal

from evolution.cluster.errors import ClusterError
from evolution.cluster.kubectl import Kubectl
from evolution.cluster.runs import Runs, read_status
from evolution.plan.stage import Kind
from evolution.store.folder import FolderStore
from evolution.store.history import write_history

pytestmark = pytest.mark.controlplane

HEAD = {"apiVersion": "selfevolution.io/v1alpha1", "kind": "EvolutionRun", "metadata": {"name": "manuals"}}
SINCE = "2026-11-21T10:00:00Z"
RUNNING: dict[str, Any] = {
    "state": "Running",
    "summary": "Running",
    "conditions": [
        {"type": "Accepted", "status": "True", "reason": "Valid", "lastTransitionTime": "2026-11-21T10:00:00Z"},
        {
            "type": "Progressing",
            "status": "True",
            "reason": "StagesRunning",
            "lastTransitionTime": "2026-11-21T10:00:00Z",
        },
    ],
    "current": [
        {"round": 2, "stage": "Train", "job": "manuals-r2-train-1a2b3c4d", "percent": 45, "etaSeconds": 730},
        {"round": 2, "stage": "Score", "waitingFor": "Unschedulable: 0/3 nodes are available"},
    ],
    "progress": {"roundsCompleted": 1, "percent": 38, "etaSeconds": 7260},
    "baseline": {"scores": {"ExactMatch": "0.0040", "ROUGEL": "0.1450"}},
    "best": {"round": 1, "score": "0.2140", "scores": {"ExactMatch": "0.2140", "ROUGEL": "0.3370"}},
    "rounds": [
        {
            "round": 1,
            "pairs": 146,
            "rejects": 4,
            "loss": "0.4815",
            "scores": {"ExactMatch": "0.2140", "ROUGEL": "0.3370"},
            "seconds": 3541,
        }
    ],
    "gpuHours": "1.2",
}


def ended(state: str, reason: str, message: str) -> dict[str, Any]:
    condition = {"type": state, "status": "True", "reason": reason, "message": message}
    return {
        "state": state,
        "summary": state if state == "Complete" else f"{state}: {reason}",
        "current": [],
        "conditions": [{**condition, "lastTransitionTime": SINCE}],
    }


class TestSubmit:
    def test_a_new_run_is_created_then_unchanged_then_changed_field_by_field(self, cluster: Cluster) -> None:
        file = str(cluster.file({"rounds": 4}))
        created = cluster.evolve("submit", file)
        assert (created.code, created.err) == (0, "")
        assert f"created manuals in namespace {cluster.namespace}" in created.out
        assert "unchanged: manuals" in cluster.evolve("submit", file).out

        cluster.file({"rounds": 6})
        changed = cluster.evolve("submit", file)
        assert "changed manuals" in changed.out
        assert "spec.rounds: 4 → 6" in changed.out
        assert cluster.run()["spec"]["rounds"] == 6

    def test_presets_are_left_to_the_operator(self, cluster: Cluster) -> None:
        assert cluster.evolve("submit", str(cluster.file())).code == 0
        assert "training" not in cluster.run()["spec"]

    def test_a_wrong_field_is_told_with_its_line_before_the_cluster_is_asked(self, terminal: Terminal) -> None:
        file = terminal.folder / "run.yaml"
        file.write_text(yaml.safe_dump({**HEAD, "spec": {"round": 4}}, sort_keys=False))
        refused = terminal.evolve("submit", str(file), "--context", "none-such")
        assert refused.code == 40
        assert "run.yaml:6: spec.round: unknown field; did you mean rounds?" in refused.err

    def test_places_on_this_machine_are_refused_with_the_way_to_upload_them(self, terminal: Terminal) -> None:
        (terminal.folder / "my manuals").mkdir()
        file = terminal.folder / "run.yaml"
        spec = {
            "rounds": 1,
            "model": {"uri": "s3://models/base"},
            "documents": {"uri": "my manuals"},
            "evaluation": {"uri": "file:///data/questions.jsonl"},
            "publish": {"uri": "out"},
        }
        file.write_text(yaml.safe_dump({**HEAD, "spec": spec}, sort_keys=False))
        refused = terminal.evolve("submit", str(file))
        documents, evaluation, publish = refused.err.splitlines()
        assert refused.code == 40
        assert documents.startswith(f"{file}:10: spec.documents.uri: is 'my manuals', a place on this machine")
        source = terminal.folder / "my manuals"
        assert f"aws s3 cp --recursive '{source}' 's3://BUCKET/my manuals'" in documents
        assert "aws s3 cp /data/questions.jsonl s3://BUCKET/questions.jsonl" in evaluation
        assert "publish to a bucket: s3://BUCKET/out" in publish

    def test_the_namespace_of_the_file_counts_and_must_not_contradict_the_option(self, cluster: Cluster) -> None:
        file = str(cluster.file(namespace=cluster.namespace))
        assert f"in namespace {cluster.namespace}" in cluster.evolve("submit", file).out
        refused = cluster.evolve("submit", file, "--namespace", "default")
        assert refused.code == 40
        assert f"metadata.namespace: is '{cluster.namespace}', but --namespace says 'default'" in refused.err

    def test_a_field_that_somebody_else_has_set_is_not_taken_over_unasked(self, cluster: Cluster) -> None:
        file = str(cluster.file({"rounds": 4}))
        cluster.evolve("submit", file)
        cluster.kubectl(
            "patch", "evo", "manuals", "--type=merge", "--field-manager=admin", '--patch={"spec":{"rounds":9}}'
        )
        refused = cluster.evolve("submit", file)
        assert refused.code == 1
        assert "admin" in refused.err
        assert ".spec.rounds" in refused.err
        assert "--force" in refused.err
        assert "spec.rounds: 9 → 4" in cluster.evolve("submit", file, "--force").out

    def test_with_wait_it_is_watched_to_its_end(self, cluster: Cluster) -> None:
        with cluster.started("submit", str(cluster.file()), "--wait", stdout=subprocess.PIPE) as process:
            lines = Lines(process)
            lines.wait_for("no operator has looked at this run yet")
            cluster.operator_says(**RUNNING)
            lines.wait_for("round 1: 146 pairs, 4 rejects, loss 0.4815, ExactMatch 0.2140, ROUGEL 0.3370")
            cluster.operator_says(**ended("Complete", "MaxRounds", "all 3 rounds are done; best is round 3"))
            lines.wait_for("Complete (MaxRounds): all 3 rounds are done")
            assert process.wait(20) == 0


class TestStatus:
    def test_it_shows_what_is_done_and_why_something_waits(self, cluster: Cluster) -> None:
        cluster.operator_says(cluster.submitted(), **RUNNING)
        shown = cluster.evolve("status", "manuals")
        assert shown.code == 0
        assert f"manuals ({cluster.namespace}): Running, 38 %, 2h 01m left" in shown.out
        assert "45 %, 12m 10s left" in shown.out
        assert "Unschedulable: 0/3 nodes are available" in " ".join(
            shown.out.split()
        )  # wrapped as the terminal is wide
        assert "0.4815" in shown.out
        assert "best: round 1 with 0.2140, 1.2 GPU-hours" in shown.out

    def test_it_says_what_became_of_the_gpu_time(self, cluster: Cluster) -> None:
        spent = {"productive": 2700, "overhead": 540, "wasted": 360, "unsettled": 0, "queued": 65}
        cluster.operator_says(cluster.submitted(), **RUNNING, gpuSeconds=spent)
        shown = cluster.evolve("status", "manuals").out
        assert "GPU time: productive 45m 00s (75 %), overhead 9m 00s (15 %), wasted 6m 00s (10 %)" in shown
        assert "queued before that 1m 05s" in shown

    def test_json_is_the_status_as_the_cluster_has_it(self, cluster: Cluster) -> None:
        cluster.operator_says(cluster.submitted(), **RUNNING)
        assert json.loads(cluster.evolve("status", "manuals", "--json").out) == cluster.run()["status"]

    def test_a_failure_is_told_once_with_its_reason(self, cluster: Cluster) -> None:
        message = "prepare-documents: docs.jsonl:17 is not JSON"
        failed = ended("Failed", "DocumentInvalid", message)
        failed["conditions"].append({**failed["conditions"][0], "type": "Stalled"})
        cluster.operator_says(cluster.submitted(), **failed)
        shown = cluster.evolve("status", "manuals")
        assert f"Failed (DocumentInvalid): {message}" in shown.out
        assert shown.out.count(message) == 1

    def test_a_status_of_another_version_is_shown_as_far_as_it_is_understood(self) -> None:
        since = {"lastTransitionTime": SINCE}
        status = read_status(
            {
                "state": "Hibernating",
                "summary": "Hibernating: TooCold",
                "weather": {"degrees": -3},
                "conditions": [
                    {"type": "Frozen", "status": "True", "reason": "TooCold", **since},
                    {"type": "Accepted", "status": "True", "reason": "Valid", **since},
                ],
                "current": [{"stage": "Thaw"}, {"round": 2, "stage": "Train", "percent": 7}],
                "best": {"score": "0.5"},
            }
        )
        assert status.summary == "Hibernating: TooCold"
        assert [condition.type for condition in status.conditions] == ["Accepted"]
        assert [(now.round, now.percent) for now in status.current] == [(2, 7)]
        assert status.best is None

    def test_a_run_that_no_operator_has_seen_says_so(self, cluster: Cluster) -> None:
        assert "is one running" in cluster.evolve("status", cluster.submitted()).out

    def test_without_a_name_all_runs_of_the_namespace_are_listed(self, cluster: Cluster) -> None:
        assert f"no runs in namespace {cluster.namespace}" in cluster.evolve("status").out
        cluster.operator_says(cluster.submitted(name="first"), **RUNNING)
        cluster.submitted(name="second")
        listed = cluster.evolve("status").out
        assert row(listed, "first")[:9] == ["first", "Running", "1/3", "38", "%", "2h", "01m", "0.2140", "1.2"]
        assert row(listed, "second")[1:3] == ["Pending", "0/3"]
        assert row(cluster.evolve("status", "-A").out, cluster.namespace)[:3] == [cluster.namespace, "first", "Running"]
        everywhere = json.loads(cluster.evolve("status", "--all-namespaces", "--json").out)
        assert {(run["namespace"], run["name"]) for run in everywhere} >= {(cluster.namespace, "first")}

    def test_a_file_together_with_a_namespace_is_the_run_on_the_cluster(self, cluster: Cluster) -> None:
        cluster.operator_says(cluster.submitted(), **RUNNING)
        file = str(cluster.file())
        assert "45 %" in cluster.evolve("status", file, "-n", cluster.namespace).out
        assert "45 %" in cluster.evolve("status", file, program="kubectl-evolve").out

    def test_watching_a_failed_run_ends_with_1_but_not_before_a_retry_is_handled(self, cluster: Cluster) -> None:
        failed = ended("Failed", "WorkerDied", "r1-train: killed by signal 9")
        cluster.operator_says(cluster.submitted(), **failed)
        asked = cluster.evolve("retry", "manuals")
        assert asked.code == 0
        when = cluster.run()["metadata"]["annotations"]["selfevolution.io/retry-requested-at"]
        with cluster.started("status", "manuals", "--watch", stdout=subprocess.PIPE) as process:
            lines = Lines(process)
            lines.wait_for("the operator has not acted upon the requested retry yet")
            assert process.poll() is None
            cluster.operator_says(**failed, lastHandledRetryAt=when)
            assert process.wait(20) == 1

    def test_in_a_terminal_the_view_is_redrawn(self, cluster: Cluster) -> None:
        cluster.operator_says(cluster.submitted(), **RUNNING)
        ours, theirs = pty.openpty()
        with cluster.started("status", "manuals", "-w", stdin=theirs, stdout=theirs) as process:
            os.close(theirs)
            screen = Screen(ours)
            screen.wait_for("45 %")
            cluster.operator_says(**{**RUNNING, "current": [{**RUNNING["current"][0], "percent": 46}]})
            screen.wait_for("46 %")
            process.send_signal(signal.SIGINT)
            assert process.wait(20) == 130
        screen.wait_for("no longer watching; the run goes on")

    def test_watching_a_run_that_is_deleted_ends(self, cluster: Cluster) -> None:
        cluster.submitted()
        with cluster.started("status", "manuals", "--watch", stdout=subprocess.PIPE) as process:
            lines = Lines(process)
            lines.wait_for("manuals")
            assert "deleted manuals" in cluster.evolve("cancel", "manuals", "--yes").out
            lines.wait_for("was deleted")
            assert process.wait(20) == 6


class TestSteering:
    def test_suspend_and_resume_change_the_spec_once(self, cluster: Cluster) -> None:
        cluster.submitted()
        assert "suspended manuals" in cluster.evolve("suspend", "manuals").out
        assert cluster.run()["spec"]["suspend"] is True
        assert "is suspended already" in cluster.evolve("suspend", "manuals").out
        assert "it is suspended; `evolve resume manuals`" in cluster.evolve("submit", str(cluster.file())).out
        assert "resumed manuals" in cluster.evolve("resume", "manuals").out
        assert cluster.run()["spec"]["suspend"] is False
        assert "is not suspended" in cluster.evolve("resume", "manuals").out

    def test_cancel_asks_first(self, cluster: Cluster) -> None:
        cluster.submitted()
        refused = cluster.evolve("cancel", "manuals")
        assert refused.code == 2
        assert "--yes" in refused.err
        gone = cluster.evolve("cancel", "manuals", "--yes")
        assert "finished stages stay in the store" in gone.out
        assert cluster.evolve("status", "manuals").code == 6


class TestTheStoreOfACluster:
    @pytest.fixture
    def finished(self, cluster: Cluster) -> str:
        """A run whose stages are all in the cluster's store."""
        team = cluster.folder / "team"
        team.mkdir()
        done = recorded_run(team, {"rounds": 2}, name="manuals")
        assert isinstance(done.artifacts.store, FolderStore)
        cluster.submitted({"rounds": 2})
        id_ = f"manuals-{cluster.run()['metadata']['uid'][:8]}"
        history = f"{done.artifacts.store.uri}/runs/{id_}/history.json"
        cluster.operator_says(**ended("Complete", "MaxRounds", "all 2 rounds are done"), historyURI=history)
        return "manuals"

    def test_plan_shows_what_an_edit_would_run(self, cluster: Cluster, finished: str) -> None:
        whole = json.loads(cluster.evolve("plan", finished, "--json").out)
        assert set(whole["counts"]) == {"Done"}
        edited = cluster.evolve("plan", str(cluster.file({"rounds": 3})), "-n", cluster.namespace, "--json")
        stages = {stage["id"]: stage["state"] for stage in json.loads(edited.out)["stages"]}
        assert stages["r2-train"] == "Done"
        assert stages["r3-generate"] == "Ready"

    def test_a_run_that_is_not_submitted_is_planned_in_the_store_of_its_namespace(
        self, cluster: Cluster, finished: str
    ) -> None:
        other = cluster.file({"rounds": 2}, name="other")
        planned = json.loads(cluster.evolve("plan", str(other), "-n", cluster.namespace, "--json").out)
        assert set(planned["counts"]) == {"Done"}
        assert finished == "manuals"

    def test_the_store_can_be_named(self, cluster: Cluster, finished: str) -> None:
        root = cluster.folder / "root"
        root.mkdir()
        (root / cluster.namespace).symlink_to(cluster.folder / "team" / "store")
        cluster.operator_says(finished, historyURI="")
        assert "--store s3://BUCKET/PREFIX" in cluster.evolve("plan", finished).err
        assert "0 run" in cluster.evolve("plan", finished, "--store", str(root)).out

    def test_a_store_that_only_the_cluster_sees_is_told(self, cluster: Cluster, finished: str) -> None:
        id_ = f"manuals-{cluster.run()['metadata']['uid'][:8]}"
        cluster.operator_says(finished, historyURI=f"file:///not/here/runs/{id_}/history.json")
        refused = cluster.evolve("plan", finished)
        assert refused.code == 2
        assert "file:///not/here" in refused.err

    def test_where_the_time_went_is_told_in_full_if_the_store_can_be_read(
        self, cluster: Cluster, finished: str
    ) -> None:
        done = recorded_run(cluster.folder / "team", {"rounds": 2}, name="manuals")
        ledger = ledger_of(done.graph, more=[under_way("pod", Kind.TRAIN, 2, datetime.now(UTC))])
        id_ = f"manuals-{cluster.run()['metadata']['uid'][:8]}"
        write_history(done.artifacts.store, id_, done.run, done.graph, done.status, failures={}, ledger=ledger)
        cluster.operator_says(finished, gpuSeconds={"productive": 1, "overhead": 1, "wasted": 0, "queued": 0})
        shown = cluster.evolve("status", finished).out
        assert "cold start: image" in shown
        assert "GPU time:" not in shown
        told = json.loads(cluster.evolve("status", finished, "--json").out)["partition"]
        assert told["seconds"] == {class_: value / 1000 for class_, value in ledger.by_class().items()}
        assert told["unsettled"] > 0
        assert cluster.evolve("report", finished, "--output", "page.html").code == 0
        assert "Unsettled, and in no class yet" in (cluster.folder / "page.html").read_text(encoding="utf-8")
        cluster.operator_says(finished, historyURI=f"file:///not/here/runs/{id_}/history.json")
        assert "GPU time: productive 1.0 s (50 %)" in cluster.evolve("status", finished).out

    def test_report_and_pull_read_the_store(self, cluster: Cluster, finished: str) -> None:
        assert cluster.evolve("report", finished, "--output", "page.html").code == 0
        assert "manuals" in (cluster.folder / "page.html").read_text(encoding="utf-8")
        assert cluster.evolve("pull", finished, "pairs", "--round", "1", "--to", "out").code == 0
        assert (cluster.folder / "out" / "manuals-r1-pairs.jsonl").exists()


class TestErrors:
    def test_an_unknown_run_is_told_with_the_runs_that_there_are(self, cluster: Cluster) -> None:
        cluster.submitted()
        missing = cluster.evolve("status", "manual")
        assert missing.code == 6
        assert missing.err.strip() == f"no run 'manual' in namespace {cluster.namespace}; did you mean manuals?"
        for command in (["suspend"], ["retry"], ["cancel", "--yes"], ["logs"], ["plan"]):
            assert cluster.evolve(command[0], "manual", *command[1:]).code == 6

    def test_a_run_file_that_is_missing_is_no_name(self, terminal: Terminal) -> None:
        missing = terminal.evolve("status", "none.yaml", program="kubectl-evolve")
        assert missing.code == 40
        assert "none.yaml: cannot be read: No such file or directory" in missing.err

    def test_no_kubectl(self, terminal: Terminal) -> None:
        terminal.patch.setenv("PATH", str(terminal.folder))
        refused = terminal.evolve("status", "manuals")
        assert refused.code == 127
        assert refused.err.startswith("kubectl is not on the PATH")

    def test_no_such_context_or_kubeconfig(self, cluster: Cluster) -> None:
        context = cluster.evolve("status", "manuals", "--context", "none-such")
        assert (context.code, "no context 'none-such'" in context.err) == (2, True)
        file = cluster.evolve("status", "manuals", "--kubeconfig", "/none/such")
        assert (file.code, "the kubeconfig /none/such cannot be read" in file.err) == (2, True)

    def test_no_such_namespace(self, cluster: Cluster) -> None:
        refused = cluster.evolve("submit", str(cluster.file()), "--namespace", "none-such")
        assert (refused.code, refused.err.strip()) == (6, "no namespace 'none-such'")

    def test_a_user_who_may_not(self, cluster: Cluster) -> None:
        cluster.use(cluster.plane.kubeconfig_for("visitor"))
        refused = cluster.evolve("status", "manuals")
        assert refused.code == 4
        assert refused.err.startswith('not permitted: User "visitor" cannot get resource "evolutionruns"')
        assert len(refused.err.splitlines()) == 1

    def test_what_the_rules_of_the_cluster_refuse_is_passed_on(self, cluster: Cluster) -> None:
        wrong = cluster.file().read_text().replace("rounds: 3", "rounds: 0")
        with pytest.raises(ClusterError, match=r"the cluster refuses the run: .*spec\.rounds") as refused:
            Runs(Kubectl()).apply(wrong, force=False)
        assert refused.value.code == 40
        assert "\n" not in str(refused.value)

    def test_a_cluster_without_the_operator(self, terminal: Terminal, without_operator: Path) -> None:
        terminal.patch.setenv("KUBECONFIG", str(without_operator))
        file = terminal.folder / "run.yaml"
        file.write_text(yaml.safe_dump({**HEAD, "spec": MINIMAL}))
        for command in (["status"], ["status", "manuals"], ["submit", str(file)], ["suspend", "manuals"]):
            refused = terminal.evolve(*command)
            assert refused.code == 5, refused
            assert "is the operator installed?" in refused.err

    def test_a_cluster_that_does_not_answer(self, terminal: Terminal) -> None:
        path = terminal.folder / "gone"
        gone = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "gone", "cluster": {"server": "https://127.0.0.1:1"}}],
            "contexts": [{"name": "gone", "context": {"cluster": "gone", "user": "me"}}],
            "users": [{"name": "me", "user": {"token": "secret"}}],
            "current-context": "gone",
        }
        path.write_text(json.dumps(gone))
        refused = terminal.evolve("status", "manuals", "--kubeconfig", str(path))
        assert refused.code == 3
        assert refused.err.startswith(
            "the cluster does not answer: The connection to the server 127.0.0.1:1 was refused"
        )
        assert len(refused.err.splitlines()) == 1


def test_kubectl_finds_it_as_a_plugin(cluster: Cluster) -> None:
    cluster.operator_says(cluster.submitted(), **RUNNING)
    path = f"{EVOLVE.parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["kubectl", "evolve", "status", "manuals"],
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "Running, 38 %" in done.stdout


def row(table: str, name: str) -> list[str]:
    return next(line.split() for line in table.splitlines() if line.split()[:1] == [name])
