"""What the workers of a run say: the pods of a stage, and their logs as they come."""

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from evolution.cluster.errors import ClusterError, NotFound
from evolution.cluster.kubectl import Kubectl, Object
from evolution.cluster.runs import ClusterRun

RUN_LABEL = "selfevolution.io/run"
STAGES = "selfevolution.io/stages"
"""Annotation of Jobs: ids of the stages that it does, separated by commas."""
JOB_LABEL = "batch.kubernetes.io/job-name"
JOBSET_LABEL = "jobset.sigs.k8s.io/jobset-name"
"""On the Job of a JobSet, and on its pods: a run knows them by that name."""
INDEX = "batch.kubernetes.io/job-completion-index"
CONTAINER = "worker"


@dataclass(frozen=True)
class WorkerPod:
    body: Object
    stages: tuple[str, ...]
    """Ids of the stages that its Job does."""

    @property
    def name(self) -> str:
        return str(self.body["metadata"]["name"])

    @property
    def job(self) -> str:
        return _job(self.body)

    @property
    def index(self) -> str:
        """Which shard of a stage it does, or on which of several nodes it is."""
        return str(self.body["metadata"].get("annotations", {}).get(INDEX, ""))

    @property
    def created(self) -> str:
        return str(self.body["metadata"]["creationTimestamp"])

    @property
    def begun(self) -> bool:
        """Whether it has said, or could have said, anything."""
        return str(self.body.get("status", {}).get("phase", "Pending")) != "Pending"

    @property
    def waiting_for(self) -> str:
        """Why it has not begun."""
        status = self.body.get("status", {})
        for container in status.get("containerStatuses", []):
            waiting = container.get("state", {}).get("waiting", {})
            if waiting.get("reason"):
                return ": ".join(filter(None, (waiting["reason"], waiting.get("message", ""))))
        for condition in status.get("conditions", []):
            if condition["type"] == "PodScheduled" and condition["status"] == "False":
                return f"{condition.get('reason', '')}: {condition.get('message', '')}"
        return "it is not scheduled yet"


def worker_pods(kubectl: Kubectl, run: ClusterRun, stage: str | None, *, previous: bool) -> list[WorkerPod]:
    """The newest pod of every shard of `stage`, or of the stages that are being done; `previous`: the one before it.

    Without a stage being done, those of the newest Job.

    Raises:
        NotFound: no pod is left, or none ever was; the message says what there is.
        ClusterError: see `Kubectl.run`.
    """
    jobs = _jobs(kubectl, run)
    chosen = _chosen_jobs(run, jobs, stage)
    pods = kubectl.object("get", "pods", f"--selector={RUN_LABEL}={run.name}")["items"]
    attempts: dict[tuple[str, str], list[WorkerPod]] = {}
    for body in pods:
        job = _job(body)
        if job in chosen:
            pod = WorkerPod(body, chosen[job])
            attempts.setdefault((job, pod.index), []).append(pod)
    found = []
    for _, pods_of_shard in sorted(attempts.items()):
        newest_first = sorted(pods_of_shard, key=lambda pod: (pod.created, pod.name), reverse=True)
        found += newest_first[1:2] if previous else newest_first[:1]
    if found:
        return found
    if previous and attempts:
        raise NotFound(f"{_spoken(chosen)} had no earlier attempt, or its pod is gone")
    raise NotFound(f"{_spoken(chosen)} has no pod{_why(run)}")


def _jobs(kubectl: Kubectl, run: ClusterRun) -> list[Object]:
    jobs: list[Object] = kubectl.object("get", "jobs.batch", f"--selector={RUN_LABEL}={run.name}")["items"]
    return sorted(jobs, key=lambda job: (job["metadata"]["creationTimestamp"], job["metadata"]["name"]))


def _chosen_jobs(run: ClusterRun, jobs: Sequence[Object], stage: str | None) -> dict[str, tuple[str, ...]]:
    """Stages of each chosen Job by its name."""
    stages = {_job(job) or job["metadata"]["name"]: _stages(job) for job in jobs}
    if not stages:
        raise NotFound(f"run {run.name!r} has no Jobs{_why(run)}")
    if stage is None:
        current = {now.job for now in run.status.current} & stages.keys()
        names = current or {list(stages)[-1]}
        return {name: stages[name] for name in stages if name in names}
    doing = [name for name, ids in stages.items() if stage in ids]
    if not doing:
        known = ", ".join(dict.fromkeys(id_ for ids in stages.values() for id_ in ids))
        raise NotFound(f"no Job of run {run.name!r} does stage {stage!r}; the Jobs that are left do: {known}")
    return {doing[-1]: stages[doing[-1]]}


def _job(body: Object) -> str:
    """Name of the Job of a pod, or of the JobSet that a Job or pod belongs to; empty if there is none."""
    labels = body["metadata"].get("labels", {})
    return str(labels.get(JOBSET_LABEL) or labels.get(JOB_LABEL, ""))


def _stages(job: Object) -> tuple[str, ...]:
    listed = job["metadata"].get("annotations", {}).get(STAGES, "")
    return tuple(filter(None, listed.split(",")))


def _spoken(jobs: dict[str, tuple[str, ...]]) -> str:
    return ", ".join(f"Job {name} ({', '.join(stages)})" for name, stages in jobs.items())


def _why(run: ClusterRun) -> str:
    waits = [now.waiting_for for now in run.status.current if now.waiting_for]
    return f": {waits[0]}" if waits else "; `evolve status` says where the run stands"


def follow(kubectl: Kubectl, pod: WorkerPod, waiting: Callable[[str], None]) -> Iterator[str]:
    """Lines of a pod until it ends; `waiting` hears why it has not begun.

    Raises:
        ClusterError: see `Kubectl.lines`; the pod was deleted before it began.
    """
    if not pod.begun:
        _await_begin(kubectl, pod, waiting)
    yield from _lines(kubectl, pod, "--follow")


def written(kubectl: Kubectl, pod: WorkerPod) -> Iterator[str]:
    """Lines of a pod so far.

    Raises:
        ClusterError: see `Kubectl.lines`; the pod has not begun.
    """
    if not pod.begun:
        raise ClusterError(f"pod {pod.name} has not begun: {pod.waiting_for}")
    yield from _lines(kubectl, pod)


def together(sources: Sequence[tuple[str, Iterator[str]]]) -> Iterator[tuple[str, str]]:
    """(name, line) of several sources as they come.

    Raises:
        ClusterError: that of a source, once all have ended.
    """
    lines: queue.SimpleQueue[tuple[str, str] | ClusterError | None] = queue.SimpleQueue()

    def read(name: str, source: Iterator[str]) -> None:
        try:
            for line in source:
                lines.put((name, line))
        except ClusterError as error:
            lines.put(error)
        finally:
            lines.put(None)

    for name, source in sources:
        threading.Thread(target=read, args=(name, source), daemon=True).start()
    left, failed = len(sources), None
    while left:
        line = lines.get()
        if line is None:
            left -= 1
        elif isinstance(line, ClusterError):
            failed = line
        else:
            yield line
    if failed:
        raise failed


def _lines(kubectl: Kubectl, pod: WorkerPod, *options: str) -> Iterator[str]:
    with kubectl.lines("logs", pod.name, f"--container={CONTAINER}", *options) as lines:
        for line in lines:
            yield line.rstrip("\n")


def _await_begin(kubectl: Kubectl, pod: WorkerPod, waiting: Callable[[str], None]) -> None:
    said = ""
    while True:
        with kubectl.changes("pods", pod.name) as changes:
            for type_, body in changes:
                now = WorkerPod(body, pod.stages)
                if type_ == "DELETED":
                    raise NotFound(f"pod {pod.name} was deleted before it began")
                if now.begun:
                    return
                if now.waiting_for != said:
                    said = now.waiting_for
                    waiting(f"{pod.name}: {said}")
