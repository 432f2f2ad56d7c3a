"""What the API server fills into built-in objects, and which of their fields may change."""

import uuid

from fakeapi.errors import invalid
from fakeapi.kinds import JOBS, NAMESPACES, PODS, Body, Resource
from fakeapi.schema import conform

_JOB_DEFAULTS = {
    "parallelism": 1,
    "completions": 1,
    "backoffLimit": 6,
    "completionMode": "NonIndexed",
    "suspend": False,
    "manualSelector": False,
}
_IMMUTABLE = ("template", "completionMode", "podFailurePolicy", "selector", "successPolicy", "backoffLimitPerIndex")


def with_defaults(resource: Resource, body: Body) -> Body:
    if resource is JOBS:
        return _job(body)
    if resource is PODS:
        return {**body, "status": {"phase": "Pending", "qosClass": "BestEffort"}}
    if resource is NAMESPACES:
        return {**body, "status": {"phase": "Active"}}
    return conform(resource, body) if resource.custom else body


def _job(body: Body) -> Body:
    name, spec = body["metadata"]["name"], body.get("spec") or {}
    template = spec.get("template")
    if not template:
        raise invalid(JOBS, name, "spec.template.spec.containers: Required value")
    if template["spec"].get("restartPolicy") not in ("Never", "OnFailure"):
        raise invalid(
            JOBS, name, 'spec.template.spec.restartPolicy: Required value: valid values: "OnFailure", "Never"'
        )
    if len(name) > 63:
        raise invalid(JOBS, name, "spec.template.labels: Invalid value: must be no more than 63 characters")
    uid = str(uuid.uuid4())
    labels = {
        "batch.kubernetes.io/controller-uid": uid,
        "batch.kubernetes.io/job-name": name,
        "controller-uid": uid,
        "job-name": name,
    }
    own = (template.get("metadata") or {}).get("labels") or {}
    replacement = "Failed" if spec.get("podFailurePolicy") else "TerminatingOrFailed"
    return {
        **body,
        "metadata": {**body["metadata"], "uid": uid, "labels": body["metadata"].get("labels") or own},
        "spec": {
            **_JOB_DEFAULTS,
            "podReplacementPolicy": replacement,
            **spec,
            "selector": {"matchLabels": {"batch.kubernetes.io/controller-uid": uid}},
            "template": {**template, "metadata": {**(template.get("metadata") or {}), "labels": {**own, **labels}}},
        },
        "status": {},
    }


def check_update(resource: Resource, old: Body, new: Body) -> None:
    """Raises: StatusError: 422, a field that is fixed for life would change."""
    if resource is not JOBS:
        return
    suspended = old["spec"].get("suspend") and not old.get("status", {}).get("startTime")
    for field in _IMMUTABLE:
        if old["spec"].get(field) != new["spec"].get(field) and not (suspended and field == "template"):
            raise invalid(JOBS, old["metadata"]["name"], f"spec.{field}: Invalid value: field is immutable")
