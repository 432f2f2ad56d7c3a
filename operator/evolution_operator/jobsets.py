"""The JobSet of an order that several nodes do together: its Job, made for one worker on each of them. Pure.

JobSet (sigs.k8s.io/jobset) adds what a Job lacks: a headless service, by which the workers find the first of them. A
worker that ends is replaced by the Job as any other is; the ones that it leaves behind end as well, uncounted, and all
meet again.
"""

from collections.abc import Mapping
from typing import Any

from evolution.api.run import EvolutionRun
from evolution.api.runtime import EvolutionRuntimeSpec
from evolution.plan.dispatch import Batch
from evolution.plan.order import Order
from evolution_operator.jobs import INDEX, build_job, job_name
from evolution_operator.records import RUN_LABEL, STAGES

GROUP = "jobset.x-k8s.io/v1alpha2"
WORKERS = "node"
"""Name of the one Job, as the JobSet lists it."""
PORT = 29500
"""On which the first worker listens; where torch expects it."""
APPENDED = len(f"-{WORKERS}-0-63-abcde")
"""Characters that the names of pods have more than that of the JobSet."""


def build_jobset(
    run: EvolutionRun,
    uid: str,
    runtime: EvolutionRuntimeSpec,
    batch: Batch,
    order: Order,
    environment: Mapping[str, str],
) -> dict[str, Any]:
    """The JobSet that has `order.compute.nodes` workers do `order` together."""
    job = build_job(run, uid, runtime, batch, order, environment)
    name = jobset_name(run.metadata.name, batch)
    metadata = {**job["metadata"], "name": name}
    spec = {**job["spec"], "completionMode": "Indexed"}
    spec["completions"] = spec["parallelism"] = order.compute.nodes
    ttl = spec.pop("ttlSecondsAfterFinished")
    (worker,) = spec["template"]["spec"]["containers"]
    worker["env"] += [
        {"name": "EVOLUTION_NODE_INDEX", "valueFrom": {"fieldRef": {"fieldPath": INDEX}}},
        {"name": "EVOLUTION_LEADER", "value": f"{name}-{WORKERS}-0-0.{name}:{PORT}"},
    ]
    worker["ports"] = [{"name": "leader", "containerPort": PORT}]
    # Without the operator's own label: what becomes of the Job, the JobSet tells.
    told = {
        "labels": {RUN_LABEL: run.metadata.name},
        "annotations": {STAGES: metadata["annotations"][STAGES]},
    }
    overdue = {"name": "overdue", "action": "FailJobSet", "onJobFailureReasons": ["DeadlineExceeded"]}
    return {
        "apiVersion": GROUP,
        "kind": "JobSet",
        "metadata": metadata,
        "spec": {
            "ttlSecondsAfterFinished": ttl,
            "network": {"enableDNSHostnames": True, "publishNotReadyAddresses": True},
            "failurePolicy": {"maxRestarts": 0, "rules": [overdue]},
            "replicatedJobs": [{"name": WORKERS, "replicas": 1, "template": {"metadata": told, "spec": spec}}],
        },
    }


def jobset_name(run: str, batch: Batch) -> str:
    """As that of a Job; but it begins with a letter, since it names a service as well."""
    return job_name(run if run[0].isalpha() else f"r-{run}", batch, APPENDED)
