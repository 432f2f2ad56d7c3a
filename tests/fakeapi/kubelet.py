"""A kubelet without containers: pods "run" by committing their order with invented outputs."""

import asyncio
import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from simulated import Score, rising
from simulated_worker import commit_order, tally_of

from evolution.plan.order import Order
from evolution.plan.worker import OrderDone
from evolution.store.artifacts import Artifacts
from evolution.store.open import open_store
from fakeapi.kinds import PODS, Body
from fakeapi.storage import Change, Key, Storage, key_of, now
from fakeapi.writing import Writer

INDEX = "batch.kubernetes.io/job-completion-index"
NODE = "fake-node"
TERMINATED = 143

Worker = Callable[[Body], str]
"""Does what the pod's container would do, and gives its last words; runs in a thread."""


@dataclass(slots=True)
class Fate:
    """What shall happen to the next pods of matching Jobs, instead of success."""

    job: str = "*"
    """Glob over the names of Jobs."""
    namespace: str = "*"
    exit_code: int = 0
    message: str = ""
    """Termination message."""
    hang: bool = False
    """Runs until it is deleted."""
    evicted: bool = False
    """Evicted while it runs."""
    pending: str = ""
    """Never starts, for this reason: Unschedulable, or a container's waiting reason such as ImagePullBackOff."""
    seconds: float = 0.0
    """How long it runs before that."""
    commits: bool = False
    """Commits its order before that, as a worker that dies late."""
    times: int = 1
    """How many pods meet it."""

    def meets(self, pod: Body) -> bool:
        metadata = pod["metadata"]
        job = metadata.get("labels", {}).get("batch.kubernetes.io/job-name", "")
        return self.times > 0 and fnmatchcase(job, self.job) and fnmatchcase(metadata["namespace"], self.namespace)


def simulated_worker(pod: Body, score: Score = rising) -> str:
    """Commit the order in the pod's environment, as `evolution-worker` would; `score` is of an evaluation, by round."""
    container = pod["spec"]["containers"][0]
    environment = {entry["name"]: entry.get("value", "") for entry in container.get("env", [])}
    if "EVOLUTION_ORDER" not in environment:
        return ""
    order = Order.model_validate_json(environment["EVOLUTION_ORDER"].replace("$$", "$"))
    with tempfile.TemporaryDirectory() as cache:
        done = commit_order(order, Artifacts(open_store(order.store), Path(cache)), score)
    started = pod["status"]["containerStatuses"][0]["state"]["running"]["startedAt"]
    return OrderDone(tally=tally_of(pod["metadata"]["name"], started, done)).to_json().decode()


class Kubelet:
    """Runs every pod. Pods of one Indexed Job commit once: index 0 does, after the others."""

    def __init__(
        self, storage: Storage, writer: Writer, worker: Worker, *, start_seconds: float, seconds: float
    ) -> None:
        self.storage, self.writer, self.worker = storage, writer, worker
        self.start_seconds, self.seconds = start_seconds, seconds
        self.fates: list[Fate] = []
        """The first that meets a pod strikes it. Tests append."""
        self._running: dict[str, asyncio.Task[None]] = {}
        storage.listeners.append(self._seen)

    def evict(self, key: Key, reason: str) -> None:
        """Mark the pod as disrupted and end it gracefully. Raises: StatusError: 404."""
        pod = self.storage.get(PODS, key)
        condition = {
            "type": "DisruptionTarget",
            "status": "True",
            "reason": reason,
            "message": "Eviction API: evicting" if reason == "EvictionByEvictionAPI" else f"{reason}: evicted",
            "lastTransitionTime": now(),
        }
        status = {**pod["status"], "conditions": [*pod["status"].get("conditions", []), condition]}
        self.writer.set_status(PODS, pod, status)
        self.writer.delete(PODS, key)

    def stop(self) -> None:
        for task in self._running.values():
            task.cancel()

    def _seen(self, change: Change) -> None:
        pod = change.revision.body
        if change.revision.resource is not PODS:
            return
        uid, loop = pod["metadata"]["uid"], asyncio.get_running_loop()
        if change.type == "ADDED":
            task = self._running[uid] = loop.create_task(self._run(pod))
            task.add_done_callback(lambda _: self._running.pop(uid, None))
        elif pod["metadata"].get("deletionTimestamp") or change.type == "DELETED":
            if running := self._running.get(uid):
                running.cancel()
            if change.type != "DELETED" and not _ended(pod):
                loop.call_soon(self._terminate, key_of(pod), uid)
            elif change.type != "DELETED" and not pod["metadata"].get("finalizers"):
                loop.call_soon(self._forget, key_of(pod), uid)

    def _terminate(self, key: Key, uid: str) -> None:
        """SIGTERM has been answered: the pod has failed, and goes once nobody holds it."""
        pod = self.storage.find(PODS, key)
        if pod is not None and pod["metadata"]["uid"] == uid and not _ended(pod):
            self._end(pod, TERMINATED, "")

    def _forget(self, key: Key, uid: str) -> None:
        pod = self.storage.find(PODS, key)
        if pod is not None and pod["metadata"]["uid"] == uid and not pod["metadata"].get("finalizers"):
            self.storage.remove(PODS, pod)

    async def _run(self, pod: Body) -> None:
        key = key_of(pod)
        fate = next((fate for fate in self.fates if fate.meets(pod)), None)
        if fate is not None:
            fate.times -= 1
        if fate is not None and fate.pending:
            self._wait(pod, fate)
            return
        pod = self.storage.replace(PODS, pod, {**pod, "spec": {**pod["spec"], "nodeName": NODE}})
        await asyncio.sleep(self.start_seconds)
        pod = self._start(key)
        await asyncio.sleep(fate.seconds if fate else self.seconds)
        said = ""
        if fate is None or fate.commits:
            while self._others_run(pod):
                await self.storage.tables[PODS].pulse.wait()
            try:
                said = await asyncio.to_thread(self.worker, pod)
            except Exception as error:  # as a container's: seen in the pod, whatever it is
                fate = Fate(exit_code=1, message=f"{type(error).__name__}: {error}"[:4096])
        if fate is None:
            self._end(self.storage.get(PODS, key), 0, said)
        elif fate.evicted:
            self.evict(key, "EvictionByEvictionAPI")
        elif not fate.hang:
            self._end(self.storage.get(PODS, key), fate.exit_code, fate.message)

    def _wait(self, pod: Body, fate: Fate) -> None:
        if fate.pending == "Unschedulable":
            condition = {"type": "PodScheduled", "status": "False", "reason": fate.pending, "message": fate.message}
            self.writer.set_status(PODS, pod, {**pod["status"], "conditions": [condition]})
            return
        pod = self.storage.replace(PODS, pod, {**pod, "spec": {**pod["spec"], "nodeName": NODE}})
        state = {"waiting": {"reason": fate.pending, "message": fate.message}}
        self.writer.set_status(PODS, pod, {**pod["status"], "containerStatuses": [_container(pod, state)]})

    def _others_run(self, pod: Body) -> bool:
        metadata = pod["metadata"]
        if metadata.get("annotations", {}).get(INDEX) != "0":
            return False
        owner = metadata["ownerReferences"][0]["uid"]
        done = {
            other["metadata"]["annotations"][INDEX]
            for other in self.storage.all(PODS, metadata["namespace"])
            if other["status"].get("phase") == "Succeeded"
            and other["metadata"].get("ownerReferences", [{}])[0].get("uid") == owner
        }
        completions = int(metadata["annotations"].get("fake/completions", "1"))
        return len(done) < completions - 1

    def _start(self, key: Key) -> Body:
        pod = self.storage.get(PODS, key)
        status = {
            **pod["status"],
            "phase": "Running",
            "startTime": now(),
            "conditions": [*pod["status"].get("conditions", []), _true("PodScheduled"), _true("Ready")],
            "containerStatuses": [_container(pod, {"running": {"startedAt": now()}}, ready=True)],
        }
        return self.writer.set_status(PODS, pod, status)

    def _end(self, pod: Body, exit_code: int, message: str) -> None:
        statuses = pod["status"].get("containerStatuses") or [{}]
        started = (statuses[0].get("state") or {}).get("running", {}).get("startedAt", now())
        ended: dict[str, Any] = {
            "exitCode": exit_code,
            "reason": "Completed" if exit_code == 0 else "Error",
            "startedAt": started,
            "finishedAt": now(),
        }
        if message:
            ended["message"] = message
        kept = [c for c in pod["status"].get("conditions", []) if c["type"] != "Ready"]
        status = {
            **pod["status"],
            "phase": "Succeeded" if exit_code == 0 else "Failed",
            "conditions": kept,
            "containerStatuses": [_container(pod, {"terminated": ended})],
        }
        self.writer.set_status(PODS, pod, status)


def _container(pod: Body, state: Body, *, ready: bool = False) -> Body:
    container = pod["spec"]["containers"][0]
    return {
        "name": container["name"],
        "image": container.get("image", ""),
        "ready": ready,
        "restartCount": 0,
        "state": state,
    }


def _true(type_: str) -> Body:
    return {"type": type_, "status": "True", "lastTransitionTime": now()}


def _ended(pod: Body) -> bool:
    return pod["status"].get("phase") in ("Succeeded", "Failed")


def message_of_failure(stage: str, reason: str, message: str) -> str:
    """A termination message such as a worker leaves: its last `Failed` event."""
    return json.dumps({"event": "Failed", "stage": stage, "reason": reason, "message": message})
