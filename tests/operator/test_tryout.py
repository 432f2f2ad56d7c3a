"""`python -m evolution_operator.tryout`: what `helm test` asks of a cluster."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from cluster import GROUP, Cluster, failed
from simulated import MINIMAL

from evolution.plan.worker import ExitCode

pytestmark = [pytest.mark.ship, pytest.mark.controlplane, pytest.mark.timeout(120)]


def try_out(cluster: Cluster, folder: Path, timeout: float) -> "subprocess.CompletedProcess[str]":
    file = folder / "run.yaml"
    meta = {"name": "small", "namespace": cluster.namespace}
    file.write_text(json.dumps({"apiVersion": GROUP, "kind": "EvolutionRun", "metadata": meta, "spec": MINIMAL}))
    return subprocess.run(
        [sys.executable, "-m", "evolution_operator.tryout", str(file), "--timeout", str(timeout)],
        env={**os.environ, "KUBECONFIG": str(cluster.plane.kubeconfig)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_cluster_that_works_is_said_to_and_no_run_is_left(cluster: Cluster, tmp_path: Path) -> None:
    cluster.apply("small")
    cluster.until("Complete*", "small")
    done = try_out(cluster, tmp_path, 60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith(f"{cluster.namespace}/small: Complete")
    assert cluster.kubectl("get", "evo", "-o", "name") == ""
    trained = [
        stage for namespace, stage in cluster.fates.seen if (namespace, stage) == (cluster.namespace, "r1-train")
    ]
    assert len(trained) == 2, "what another run has done is done again"


def test_a_run_that_fails_says_why_and_is_kept(cluster: Cluster, tmp_path: Path) -> None:
    cluster.fates.next(cluster.namespace, "r1-train", failed(ExitCode.BAD_INPUT, "BadInput", "no such layer"))
    done = try_out(cluster, tmp_path, 60)
    assert done.returncode == 1
    assert "small is not complete; it is kept, to be looked at" in done.stderr
    assert "no such layer" in done.stderr
    assert cluster.run("small")["status"]["state"] == "Failed"


def test_a_cluster_that_does_nothing_is_not_waited_for_without_end(cluster: Cluster, tmp_path: Path) -> None:
    done = try_out(cluster, tmp_path, 0.1)
    assert done.returncode == 1
    assert "is not complete" in done.stderr
