"""Bodies of objects as the API server gives them."""

from typing import Any

Body = dict[str, Any]


def meta(name: str, version: int = 1, uid: str = "", **more: Any) -> Body:
    return {"namespace": "team", "name": name, "uid": uid or f"uid-{name}", "resourceVersion": str(version), **more}


def run_body(name: str = "ops", version: int = 1, runtime: Body | None = None, status: Body | None = None) -> Body:
    return {
        "apiVersion": "selfevolution.io/v1alpha1",
        "kind": "EvolutionRun",
        "metadata": meta(name, version, generation=1, managedFields=[{"manager": "kubectl"}]),
        "spec": {"rounds": 2} | ({"runtimeRef": runtime} if runtime else {}),
        "status": status or {},
    }


def job_body(
    name: str = "ops-r1-train-1a2b3c4d",
    version: int = 1,
    run: str = "ops",
    conditions: dict[str, Body] | None = None,
    uid: str = "",
    **spec: Any,
) -> Body:
    """`conditions` are true, by type."""
    return {
        "metadata": meta(
            name,
            version,
            uid,
            labels={"selfevolution.io/run": run, "app.kubernetes.io/managed-by": "evolution-operator"},
            annotations={
                "selfevolution.io/fingerprint": "f" * 64,
                "selfevolution.io/stages": "r1/Generate,r1/Train",
                "selfevolution.io/recipe": "abc",
            },
            ownerReferences=[{"kind": "EvolutionRun", "name": run, "uid": f"uid-{run}", "controller": True}],
        ),
        "spec": spec,
        "status": {
            "conditions": [{"type": type_, "status": "True", **more} for type_, more in (conditions or {}).items()]
        },
    }


def pod_body(
    name: str = "ops-r1-train-1a2b3c4d-xyz", version: int = 1, job: str = "ops-r1-train-1a2b3c4d", **status: Any
) -> Body:
    return {
        "metadata": meta(
            name,
            version,
            creationTimestamp="2026-11-21T12:00:00Z",
            labels={"selfevolution.io/run": "ops", "batch.kubernetes.io/job-name": job},
            ownerReferences=[{"kind": "Job", "name": job, "uid": f"uid-{job}", "controller": True}],
        ),
        "status": {"phase": "Pending", **status},
    }


def container(name: str = "worker", **state: Body) -> Body:
    return {"name": name, "state": state}
