"""The Job controller: creates pods, counts how they end, and says so in conditions, in the order of the real one."""

import asyncio
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from fakeapi.kinds import JOBS, PODS, Body
from fakeapi.kubelet import INDEX
from fakeapi.storage import Change, Key, Storage, key_of, now
from fakeapi.writing import Writer, random_suffix

TRACKING = "batch.kubernetes.io/job-tracking"


@dataclass(slots=True)
class Attempts:
    """What is remembered of a Job beside its status."""

    failures: int = 0
    """In a row."""
    wait_until: float = 0.0
    """Loop time before which no pod is replaced."""


@dataclass(slots=True)
class Pods:
    """A Job's pods by how they stand."""

    active: list[Body] = field(default_factory=list)
    terminating: list[Body] = field(default_factory=list)
    succeeded: list[Body] = field(default_factory=list)
    failed: list[Body] = field(default_factory=list)


class JobController:
    """Reconciles one Job at a time; changes of pods are answered after `sync_seconds`, as the real one batches them."""

    def __init__(self, storage: Storage, writer: Writer, *, sync_seconds: float, backoff_seconds: float) -> None:
        self.storage, self.writer = storage, writer
        self.sync_seconds, self.backoff_seconds = sync_seconds, backoff_seconds
        self._due: dict[Key, float] = {}
        self._pods: dict[str, set[Key]] = {}
        self._attempts: dict[str, Attempts] = {}
        storage.listeners.append(self._seen)

    def _seen(self, change: Change) -> None:
        body = change.revision.body
        if change.revision.resource is JOBS:
            self._enqueue(key_of(body), 0.0)
        elif change.revision.resource is PODS and (owner := _controller(body)):
            pods = self._pods.setdefault(owner["uid"], set())
            (pods.discard if change.type == "DELETED" else pods.add)(key_of(body))
            self._enqueue(Key(body["metadata"]["namespace"], owner["name"]), self.sync_seconds)

    def _enqueue(self, key: Key, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        at = loop.time() + seconds
        if self._due.get(key, float("inf")) > at:
            self._due[key] = at
            loop.call_at(at, self._run, key, at)

    def _run(self, key: Key, at: float) -> None:
        if self._due.get(key) == at:
            del self._due[key]
            self._sync(key)

    def _sync(self, key: Key) -> None:
        job = self.storage.find(JOBS, key)
        if job is None or job["metadata"].get("deletionTimestamp"):
            self._release_orphans(key)
            return
        status = dict(job.get("status") or {})
        pods = self._sorted(job)
        if finished := _finished(status):
            self._release(pods.succeeded + pods.failed)
            self._expire(job, finished)
            return
        conditions = list(status.get("conditions") or [])
        spec = job["spec"]
        if spec["suspend"]:
            if _set(conditions, "Suspended", "True", "JobSuspended", "Job suspended"):
                status.pop("startTime", None)
            self._delete(pods)
        elif not status.get("startTime"):
            _set(conditions, "Suspended", "False", "JobResumed", "Job resumed", only_change=True)
            status["startTime"] = now()
        failure = next((c for c in conditions if c["type"] == "FailureTarget"), None)
        reason = self._count(job, status, pods)
        if not reason and status.get("failed", 0) > spec["backoffLimit"]:
            reason = ("BackoffLimitExceeded", "Job has reached the specified backoff limit")
        if not reason and not spec["suspend"] and self._past_deadline(key, spec, status):
            reason = ("DeadlineExceeded", "Job was active longer than specified deadline")
        complete = not spec["suspend"] and status.get("succeeded", 0) >= spec["completions"]
        if failure or (reason and not complete):
            self._fail(conditions, pods, failure, reason)
        elif complete:
            self._complete(conditions, status, pods)
        elif not spec["suspend"]:
            self._create_missing(job, status, pods)
        pods = self._sorted(job)
        status |= {"active": len(pods.active), "terminating": len(pods.terminating), "ready": _ready(pods)}
        status["uncountedTerminatedPods"] = {}
        if conditions:
            status["conditions"] = conditions
        tidy = {name: value for name, value in status.items() if value != 0 or name in ("ready", "terminating")}
        self.writer.set_status(JOBS, job, tidy)
        self._release(pods.succeeded + pods.failed)

    def _sorted(self, job: Body) -> Pods:
        pods = Pods()
        for key in sorted(self._pods.get(job["metadata"]["uid"], ())):
            pod = self.storage.find(PODS, key)
            if pod is None:
                continue
            phase = pod["status"].get("phase")
            if phase in ("Succeeded", "Failed"):
                (pods.succeeded if phase == "Succeeded" else pods.failed).append(pod)
            else:
                (pods.terminating if pod["metadata"].get("deletionTimestamp") else pods.active).append(pod)
        return pods

    def _count(self, job: Body, status: Body, pods: Pods) -> tuple[str, str] | None:
        """Count what ended since the last time; why the whole Job must fail, if a rule says so."""
        attempts = self._attempts.setdefault(job["metadata"]["uid"], Attempts())
        fatal = None
        for pod in pods.succeeded:
            if _uncounted(pod):
                attempts.failures = 0
                status["succeeded"] = status.get("succeeded", 0) + 1
        for pod in pods.failed:
            if not _uncounted(pod):
                continue
            action, why = _policy(job["spec"].get("podFailurePolicy") or {}, pod)
            if action == "FailJob":
                fatal = ("PodFailurePolicy", why)
            if action != "Ignore":
                status["failed"] = status.get("failed", 0) + 1
            attempts.failures += 1
            wait = self.backoff_seconds * 2 ** (attempts.failures - 1)
            attempts.wait_until = asyncio.get_running_loop().time() + wait
        if job["spec"]["completionMode"] == "Indexed":
            status["completedIndexes"] = _ranges(sorted({_index(pod) for pod in pods.succeeded}))
        return fatal

    def _past_deadline(self, key: Key, spec: Body, status: Body) -> bool:
        seconds = spec.get("activeDeadlineSeconds")
        if seconds is None or not status.get("startTime"):
            return False
        left = float(seconds) - (datetime.now(UTC) - datetime.fromisoformat(status["startTime"])).total_seconds()
        if left > 0:
            asyncio.get_running_loop().call_later(left, self._enqueue, key, 0.0)
        return left <= 0

    def _fail(self, conditions: list[Body], pods: Pods, failure: Body | None, reason: tuple[str, str] | None) -> None:
        """FailureTarget at once; Failed when no pod is left, and never in the same write."""
        self._delete(pods)
        if failure is None:
            assert reason is not None
            _set(conditions, "FailureTarget", "True", *reason)
        elif not (pods.active or pods.terminating):
            _set(conditions, "Failed", "True", failure["reason"], failure["message"])

    def _complete(self, conditions: list[Body], status: Body, pods: Pods) -> None:
        reached = ("CompletionsReached", "Reached expected number of succeeded pods")
        if not _set(conditions, "SuccessCriteriaMet", "True", *reached) and not (pods.active or pods.terminating):
            _set(conditions, "Complete", "True", *reached)
            status["completionTime"] = now()

    def _create_missing(self, job: Body, status: Body, pods: Pods) -> None:
        spec, loop = job["spec"], asyncio.get_running_loop()
        attempts = self._attempts.setdefault(job["metadata"]["uid"], Attempts())
        occupied = pods.active + (pods.terminating if spec["podReplacementPolicy"] == "Failed" else [])
        wanted = min(spec["parallelism"], spec["completions"] - status.get("succeeded", 0)) - len(occupied)
        if wanted <= 0:
            return
        if attempts.wait_until > loop.time():
            loop.call_at(attempts.wait_until + 0.001, self._enqueue, key_of(job), 0.0)
            return
        if spec["completionMode"] == "Indexed":
            taken = {_index(pod) for pod in occupied + pods.succeeded}
            free = [index for index in range(spec["completions"]) if index not in taken]
            for index in free[:wanted]:
                self._create(job, index)
        else:
            for _ in range(wanted):
                self._create(job, None)

    def _create(self, job: Body, index: int | None) -> None:
        template, name = job["spec"]["template"], job["metadata"]["name"]
        metadata: dict[str, Any] = {
            **template.get("metadata", {}),
            "name": f"{name}-{random_suffix()}" if index is None else f"{name}-{index}-{random_suffix()}",
            "finalizers": [TRACKING],
            "ownerReferences": [
                {
                    "apiVersion": "batch/v1",
                    "kind": "Job",
                    "name": name,
                    "uid": job["metadata"]["uid"],
                    "controller": True,
                    "blockOwnerDeletion": True,
                }
            ],
        }
        if index is not None:
            metadata["labels"] = {**metadata.get("labels", {}), INDEX: str(index)}
            completions = str(job["spec"]["completions"])
            metadata["annotations"] = {
                **metadata.get("annotations", {}),
                INDEX: str(index),
                "fake/completions": completions,
            }
        self.writer.create(PODS, job["metadata"]["namespace"], {"metadata": metadata, "spec": template["spec"]})

    def _delete(self, pods: Pods) -> None:
        for pod in pods.active:
            self.writer.delete(PODS, key_of(pod))

    def _release(self, pods: list[Body]) -> None:
        for pod in pods:
            self.writer.drop_finalizer(PODS, pod, TRACKING)

    def _release_orphans(self, key: Key) -> None:
        """Pods of a deleted Job are held by nobody."""
        for pod in self.storage.all(PODS, key.namespace):
            owner = _controller(pod)
            if owner and owner["name"] == key.name and pod["status"].get("phase") in ("Succeeded", "Failed"):
                self.writer.drop_finalizer(PODS, pod, TRACKING)

    def _expire(self, job: Body, finished: Body) -> None:
        seconds = job["spec"].get("ttlSecondsAfterFinished")
        if seconds is None:
            return
        age = (datetime.now(UTC) - datetime.fromisoformat(finished["lastTransitionTime"])).total_seconds()
        if age >= seconds:
            self.writer.delete(JOBS, key_of(job), {"propagationPolicy": "Background"})
        else:
            asyncio.get_running_loop().call_later(seconds - age, self._enqueue, key_of(job), 0.0)


def _controller(body: Body) -> Body | None:
    references = body["metadata"].get("ownerReferences") or []
    return next((r for r in references if r.get("controller") and r["kind"] == "Job"), None)


def _uncounted(pod: Body) -> bool:
    return TRACKING in (pod["metadata"].get("finalizers") or [])


def _index(pod: Body) -> int:
    return int(pod["metadata"]["annotations"][INDEX])


def _ranges(indexes: list[int]) -> str:
    """0,2-4,6,7: as the real controller abbreviates."""
    ranges: list[list[int]] = []
    for index in indexes:
        if ranges and ranges[-1][-1] == index - 1:
            ranges[-1].append(index)
        else:
            ranges.append([index])
    return ",".join(f"{run[0]}-{run[-1]}" if len(run) > 2 else ",".join(map(str, run)) for run in ranges)


def _ready(pods: Pods) -> int:
    return sum(1 for pod in pods.active if pod["status"].get("phase") == "Running")


def _finished(status: Body) -> Body | None:
    for condition in status.get("conditions") or []:
        if condition["type"] in ("Complete", "Failed") and condition["status"] == "True":
            return dict(condition)
    return None


def _set(
    conditions: list[Body], type_: str, status: str, reason: str, message: str, *, only_change: bool = False
) -> bool:
    """Set a condition; whether that changed anything. `only_change`: not if it was never set."""
    new = {
        "type": type_,
        "status": status,
        "reason": reason,
        "message": message,
        "lastProbeTime": now(),
        "lastTransitionTime": now(),
    }
    for position, old in enumerate(conditions):
        if old["type"] == type_:
            if old["status"] == status:
                return False
            conditions[position] = new
            return True
    if only_change:
        return False
    conditions.append(new)
    return True


def _policy(policy: Body, pod: Body) -> tuple[str, str]:
    """What the first matching rule says about a failed pod, and why."""
    name = f"{pod['metadata']['namespace']}/{pod['metadata']['name']}"
    for position, rule in enumerate(policy.get("rules") or []):
        if on_codes := rule.get("onExitCodes"):
            for container in pod["status"].get("containerStatuses") or []:
                code = container["state"].get("terminated", {}).get("exitCode", 0)
                named = on_codes.get("containerName") in (None, container["name"])
                inside = code in on_codes["values"]
                if named and code and inside is (on_codes["operator"] == "In"):
                    why = f"Container {container['name']} for pod {name} failed with exit code {code} matching "
                    return rule["action"], f"{why}{rule['action']} rule at index {position}"
        for wanted in rule.get("onPodConditions") or []:
            for found in pod["status"].get("conditions") or []:
                if (found["type"], found["status"]) == (wanted["type"], wanted.get("status", "True")):
                    why = f"Pod {name} has condition {found['type']} matching "
                    return rule["action"], f"{why}{rule['action']} rule at index {position}"
    return "Count", ""
