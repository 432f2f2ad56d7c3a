"""A run from end to end, scraped by Prometheus: what it says a point of score and a round cost is what its manifests
and pods come to.
"""

from pathlib import Path

import pytest
from cluster import Cluster
from controlplane.processes import Port
from controlplane.waiting import eventually
from monitoring.dashboard_files import QUERIES
from monitoring.rule_files import plain_rules
from operator_process import running_operator
from prometheus_server import StartPrometheus, Target
from test_efficiency import Pods, apply, cluster, history, nodes, pods, store, until_settled  # noqa: F401 - fixtures

from evolution.plan.stage import Kind

pytestmark = [pytest.mark.controlplane, pytest.mark.prometheus, pytest.mark.slow]

PRICE = 3.0
"""Of a GPU for an hour."""


def of_dashboard(panel: str, letter: str, namespace: str) -> str:
    """The query of the dashboard of one run, as Grafana sends it."""
    (query,) = (q for q in QUERIES if (q.dashboard, q.panel, q.letter) == ("run", panel, letter))
    expression = query.expression
    for variable, value in {"$namespace": namespace, "$run": "demo", "$__range": "1h"}.items():
        expression = expression.replace(variable, value)
    return expression


@pytest.mark.usefixtures("nodes")
def test_prometheus_says_what_a_point_and_a_round_cost(
    cluster: Cluster,  # noqa: F811
    pods: Pods,  # noqa: F811
    store: str,  # noqa: F811
    start_prometheus: StartPrometheus,
    tmp_path: Path,
) -> None:
    port = Port()
    port.release()
    prometheus = start_prometheus(
        [Target("evolution-operator", f"127.0.0.1:{port.number}")], plain_rules(tmp_path / "rules"), interval=0.5
    )
    flags = ("--namespace", cluster.namespace, "--progress-seconds", "1", "--metrics-port", str(port.number))
    with running_operator(cluster.plane.kubeconfig, store, tmp_path, *flags, "--gpu-price", f"h100={PRICE}"):
        apply(cluster, rounds=2)
        cluster.until("Complete: *")
        until_settled(cluster)
        told = history(cluster).manifests.values()

        scores = {m.round: m.scores["ROUGEL"] for m in told if m.kind is Kind.EVALUATE}
        gain = max(scores.values()) - scores[0]
        assert gain > 0
        gpu_hours = pods.gpu_seconds / 3600
        rounds = len(scores) - 1
        by_hand = {
            of_dashboard("GPU-hours", "A", cluster.namespace): gpu_hours,
            of_dashboard("Cost", "A", cluster.namespace): gpu_hours * PRICE,
            of_dashboard("Gain per GPU-hour", "A", cluster.namespace): 100 * gain / gpu_hours,
            of_dashboard("What it cost", "A", cluster.namespace): gpu_hours * PRICE / rounds,
            of_dashboard("What it cost", "C", cluster.namespace): gpu_hours * PRICE / (100 * gain),
            "namespace_run:evolution_score_gain_per_gpu_hour:ratio": gain / gpu_hours,
            "namespace_run:evolution_cost_per_round:ratio": gpu_hours * PRICE / rounds,
        }
        held = f"evolution_run_allocated_gpu_seconds == {pods.gpu_seconds}"
        eventually(lambda: prometheus.query(held), "the ledger that is in the store being scraped")
        for expression, value in by_hand.items():
            eventually(
                lambda e=expression, v=value: prometheus.value(e) == pytest.approx(v, rel=1e-9),
                f"{value} being said by {expression}",
            )
