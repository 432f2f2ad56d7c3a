"""Bodies of Kubernetes objects to records. Pure, and forgiving: what is missing or malformed reads as empty."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from sys import intern
from typing import Any

from evolution.api.run import API_VERSION
from evolution.plan.stage import Kind
from evolution_operator.records import (
    FINGERPRINT,
    GPUS,
    KIND,
    RECIPE,
    ROUND,
    RUN_LABEL,
    RUN_UID,
    RUNTIME_DIGEST,
    SHARDS,
    STAGES,
    JobKind,
    JobRecord,
    JobState,
    PodPhase,
    PodRecord,
    RunKey,
    RunRecord,
    RuntimeKey,
    RuntimeRecord,
    ScheduleKey,
    ScheduleRecord,
)

Body = Mapping[str, Any]

WORKER = "worker"
"""Name of the container that executes the order."""
MOST_SHARDS, MOST_GPUS, MOST_ROUNDS = 256, 64, 1000
"""What the API allows; a label or annotation that says more is somebody else's."""
_NUMBER = re.compile("[0-9]{1,9}")
_INDEX = "batch.kubernetes.io/job-completion-index"
_JOB_NAMES = ("jobset.sigs.k8s.io/jobset-name", "batch.kubernetes.io/job-name", "job-name")
_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
_STARTING = frozenset({"ContainerCreating", "PodInitializing"})
_KINDS: Mapping[str, Kind] = {kind.value: kind for kind in Kind}
_PLAIN_ENDINGS = frozenset({"Completed", "Error"})
# A Job meets its success criteria before its last pod is cleaned up, and only then is Complete. The work is done with
# the first of the two. A Job with FailureTarget still has pods that may end well or commit: it is active until Failed.
_ENDINGS: tuple[tuple[str, JobState], ...] = (
    ("Failed", "Failed"),
    ("SuccessCriteriaMet", "Complete"),
    ("Complete", "Complete"),
)
_JOBSET_ENDINGS: tuple[tuple[str, JobState], ...] = (("Failed", "Failed"), ("Completed", "Complete"))
# The one rule of its failure policy that ends a JobSet by itself is for Jobs that were under way for too long.
_JOBSET_REASONS = {"FailJobSetFailurePolicyAction": "DeadlineExceeded"}
_ENDED: frozenset[PodPhase] = frozenset({"Succeeded", "Failed"})
_PHASES: Mapping[str, PodPhase] = {
    "Pending": "Pending",
    "Running": "Running",
    "Succeeded": "Succeeded",
    "Failed": "Failed",
}


def run_record(body: Body) -> RunRecord:
    meta = _mapping(body.get("metadata"))
    spec = _mapping(body.get("spec"))
    status = _mapping(body.get("status"))
    ended = _condition(status, "Complete") or _condition(status, "Failed")
    ref = _mapping(spec.get("runtimeRef"))
    namespace = _text(meta.get("namespace"))
    kept = _kept_metadata(meta)
    owner = _owner(meta)
    return RunRecord(
        key=_run_key(namespace, _text(meta.get("name"))),
        uid=intern(_text(meta.get("uid"))),
        resource_version=_text(meta.get("resourceVersion")),
        generation=_generation(meta),
        deleting="deletionTimestamp" in meta,
        runtime=runtime_key(
            _text(ref.get("kind")) or "ClusterEvolutionRuntime", namespace, _text(ref.get("name")) or "default"
        ),
        intent=hash(_json({"metadata": kept, "spec": spec})),
        body=_json({**body, "metadata": kept}),
        created_at=_text(meta.get("creationTimestamp")),
        phase=intern(_text(status.get("state")) or "Pending"),
        ended_at=_text(ended.get("lastTransitionTime")),
        schedule=ScheduleKey(namespace, _text(owner.get("name"))) if owner.get("kind") == "EvolutionSchedule" else None,
        owner_uid=_text(owner.get("uid")),
    )


def schedule_record(body: Body) -> ScheduleRecord:
    meta = _mapping(body.get("metadata"))
    kept = {"apiVersion": API_VERSION, "kind": "EvolutionSchedule", **body, "metadata": _kept_metadata(meta)}
    return ScheduleRecord(
        key=ScheduleKey(_text(meta.get("namespace")), _text(meta.get("name"))),
        uid=_text(meta.get("uid")),
        resource_version=_text(meta.get("resourceVersion")),
        generation=_generation(meta),
        deleting="deletionTimestamp" in meta,
        created_at=_text(meta.get("creationTimestamp")),
        state=intern(_text(_mapping(body.get("status")).get("summary")).partition(":")[0] or "Waiting"),
        body=_json(kept),
    )


def runtime_record(body: Body) -> RuntimeRecord:
    """Of an EvolutionRuntime or a ClusterEvolutionRuntime: those have no namespace."""
    meta = _mapping(body.get("metadata"))
    namespace = _text(meta.get("namespace"))
    # Items of a list carry no kind of their own.
    kind = "EvolutionRuntime" if namespace else "ClusterEvolutionRuntime"
    kept = {"apiVersion": API_VERSION, "kind": kind, **body, "metadata": _kept_metadata(meta)}
    return RuntimeRecord(
        key=runtime_key(kind, namespace, _text(meta.get("name"))),
        uid=_text(meta.get("uid")),
        resource_version=_text(meta.get("resourceVersion")),
        body=_json(kept),
    )


def job_record(body: Body) -> JobRecord:
    return _job_record(body, "Job", _ENDINGS)


def jobset_record(body: Body) -> JobRecord:
    return _job_record(body, "JobSet", _JOBSET_ENDINGS)


def _job_record(body: Body, kind: JobKind, endings: Sequence[tuple[str, JobState]]) -> JobRecord:
    meta = _mapping(body.get("metadata"))
    annotations = _mapping(meta.get("annotations"))
    state, condition = _job_state(body, endings)
    reason = _text(condition.get("reason"))
    ended = state in ("Complete", "Failed")
    return JobRecord(
        run=_run_key(_text(meta.get("namespace")), _text(_mapping(meta.get("labels")).get(RUN_LABEL))),
        name=intern(_text(meta.get("name"))),
        uid=_text(meta.get("uid")),
        resource_version=_text(meta.get("resourceVersion")),
        kind=kind,
        owner_uid=intern(_text(_owner(meta).get("uid"))),
        fingerprint=_text(annotations.get(FINGERPRINT)),
        stages=_stages(_text(annotations.get(STAGES))),
        recipe=intern(_text(annotations.get(RECIPE))),
        shards=number(annotations.get(SHARDS), 1, MOST_SHARDS),
        runtime_digest=intern(_text(annotations.get(RUNTIME_DIGEST))),
        state=state,
        deleting="deletionTimestamp" in meta,
        reason=intern(_JOBSET_REASONS.get(reason, reason) if kind == "JobSet" else reason),
        message=intern(_text(condition.get("message"))),
        created_at=_text(meta.get("creationTimestamp")),
        finished_at=_text(condition.get("lastTransitionTime")) if ended else "",
    )


def pod_record(body: Body) -> PodRecord:
    meta = _mapping(body.get("metadata"))
    status = _mapping(body.get("status"))
    labels = _mapping(meta.get("labels"))
    annotations = _mapping(meta.get("annotations"))
    phase = _PHASES.get(_text(status.get("phase")), "Unknown")
    state = _mapping(_worker(status).get("state"))
    ended = _mapping(state.get("terminated"))
    exit_code = ended.get("exitCode")
    waiting_reason, waiting_message = _waiting(status) if phase in ("Pending", "Running") else ("", "")
    return PodRecord(
        run=_run_key(_text(meta.get("namespace")), _text(labels.get(RUN_LABEL))),
        name=_text(meta.get("name")),
        uid=_text(meta.get("uid")),
        resource_version=_text(meta.get("resourceVersion")),
        job=intern(next((name for label in _JOB_NAMES if (name := _text(labels.get(label)))), _job_owner(meta))),
        phase=phase,
        deleting="deletionTimestamp" in meta,
        created_at=_text(meta.get("creationTimestamp")),
        started_at=_text(ended.get("startedAt")) or _text(_mapping(state.get("running")).get("startedAt")),
        finished_at=_text(ended.get("finishedAt")) or (_last_change(status) if phase in _ENDED else ""),
        exit_code=exit_code if isinstance(exit_code, int) else None,
        message=_ending_message(status, ended, phase),
        disrupted=bool(_condition(status, "DisruptionTarget")),
        waiting_reason=intern(waiting_reason),
        waiting_message=intern(waiting_message),
        index=_index(meta),
        run_uid=intern(_text(annotations.get(RUN_UID))),
        kind=_KINDS.get(_text(annotations.get(KIND))),
        fingerprint=intern(_text(annotations.get(FINGERPRINT))),
        round=number(labels.get(ROUND), 0, MOST_ROUNDS),
        gpus=number(annotations.get(GPUS), 0, MOST_GPUS),
        shards=number(annotations.get(SHARDS), 1, MOST_SHARDS),
        scheduled_at=_text(_condition(status, "PodScheduled").get("lastTransitionTime")),
    )


def runtime_key(kind: str, namespace: str, name: str) -> RuntimeKey:
    """Key of the runtime that a run in `namespace` names by kind and name."""
    return _runtime_key(kind, "" if kind == "ClusterEvolutionRuntime" else namespace, name)


def number(value: object, otherwise: int, most: int) -> int:
    """What a label or annotation counts; `otherwise` where it is no number from 0 to `most`.

    Anybody who may create objects writes these, and what is counted here costs every run of the operator.
    """
    text = _text(value)
    found = int(text) if _NUMBER.fullmatch(text) else otherwise
    return found if found <= most else otherwise


# Thousands of Jobs and pods share few runs and stages: equal keys are one object.
@lru_cache(maxsize=16_384)
def _run_key(namespace: str, name: str) -> RunKey:
    return RunKey(intern(namespace), intern(name))


@lru_cache(maxsize=1024)
def _runtime_key(kind: str, namespace: str, name: str) -> RuntimeKey:
    return RuntimeKey(intern(kind), intern(namespace), intern(name))


@lru_cache(maxsize=4096)
def _stages(text: str) -> tuple[str, ...]:
    return tuple(intern(stage) for stage in text.split(",") if stage)


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _mappings(value: object) -> Iterator[Mapping[str, Any]]:
    if isinstance(value, list):
        yield from (item for item in value if isinstance(item, Mapping))


def _text(value: object) -> str:
    return str(value) if isinstance(value, str) else ""


def _generation(meta: Mapping[str, Any]) -> int:
    generation = meta.get("generation")
    return generation if isinstance(generation, int) else 0


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def _kept_metadata(meta: Mapping[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in meta.items() if key not in ("managedFields", "resourceVersion")}
    annotations = kept.get("annotations")
    if isinstance(annotations, Mapping) and _APPLIED in annotations:
        kept["annotations"] = {key: value for key, value in annotations.items() if key != _APPLIED}
    return kept


def _condition(status: Mapping[str, Any], type_: str) -> Mapping[str, Any]:
    """The condition, if it holds."""
    conditions = _mappings(status.get("conditions"))
    return next((c for c in conditions if c.get("type") == type_ and c.get("status") == "True"), {})


def _owner(meta: Mapping[str, Any]) -> Mapping[str, Any]:
    return next((owner for owner in _mappings(meta.get("ownerReferences")) if owner.get("controller") is True), {})


def _job_owner(meta: Mapping[str, Any]) -> str:
    owner = _owner(meta)
    return _text(owner.get("name")) if owner.get("kind") == "Job" else ""


def _job_state(body: Body, endings: Sequence[tuple[str, JobState]]) -> tuple[JobState, Mapping[str, Any]]:
    conditions = {
        _text(condition.get("type")): condition
        for condition in _mappings(_mapping(body.get("status")).get("conditions"))
        if condition.get("status") == "True"
    }
    for type_, state in endings:
        if type_ in conditions:
            return state, conditions[type_]
    if _mapping(body.get("spec")).get("suspend") is True or "Suspended" in conditions:
        return "Suspended", conditions.get("Suspended", {})
    return "Active", {}


def _worker(status: Mapping[str, Any]) -> Mapping[str, Any]:
    containers = list(_mappings(status.get("containerStatuses")))
    return next((container for container in containers if container.get("name") == WORKER), next(iter(containers), {}))


def _ending_message(status: Mapping[str, Any], ended: Mapping[str, Any], phase: PodPhase) -> str:
    if message := _text(ended.get("message")):
        return message
    reason = _text(ended.get("reason"))
    if reason and reason not in _PLAIN_ENDINGS:
        return reason
    if phase != "Failed":
        return ""
    return ": ".join(filter(None, (_text(status.get("reason")), _text(status.get("message")))))


def _last_change(status: Mapping[str, Any]) -> str:
    return max((_text(c.get("lastTransitionTime")) for c in _mappings(status.get("conditions"))), default="")


def _waiting(status: Mapping[str, Any]) -> tuple[str, str]:
    for condition in _mappings(status.get("conditions")):
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
            return _text(condition.get("reason")), _text(condition.get("message"))
    for field in ("initContainerStatuses", "containerStatuses"):
        for container in _mappings(status.get(field)):
            waiting = _mapping(_mapping(container.get("state")).get("waiting"))
            reason = _text(waiting.get("reason"))
            if reason and reason not in _STARTING:
                return reason, _text(waiting.get("message"))
    return "", ""


def _index(meta: Mapping[str, Any]) -> int:
    for field in ("annotations", "labels"):
        value = _mapping(meta.get(field)).get(_INDEX)
        if value is not None:
            return number(value, 0, MOST_SHARDS - 1)
    return 0
