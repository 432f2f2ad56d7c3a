"""The least that a controller can do, as a process: `python -m bench.controlplane.floor KUBECONFIG Pods|Jobs`."""

import sys
import threading
from pathlib import Path

from controlplane.client import Api, Changed, Json, Listed, object_path

from bench.controlplane.systems import NAMESPACE

RUNS = object_path("configmaps", namespace=NAMESPACE)


class Loop:
    """Makes the first object of every run that appears, and the next one whenever one is done."""

    def __init__(self, kubeconfig: Path, makes: str) -> None:
        self._api = Api(kubeconfig)
        self._jobs = makes == "Jobs"
        group = {"plural": "jobs", "group": "batch/v1"} if self._jobs else {"plural": "pods"}
        self._made = object_path(**group, namespace=NAMESPACE)
        self._steps: dict[str, int] = {}
        self._done: set[tuple[str, int]] = set()

    def run(self) -> None:
        threading.Thread(target=self._begin, daemon=True).start()
        for event in self._api.watch(self._made, labelSelector="run"):
            if not isinstance(event, Changed) or not self._ended(event.object):
                continue
            labels = event.object["metadata"]["labels"]
            run, step = labels["run"], int(labels["step"])
            if (run, step) in self._done:
                continue
            self._done.add((run, step))
            if step + 1 < self._steps[run]:
                self._make(run, step + 1)
            else:
                self._api.patch(f"{RUNS}/{run}", {"data": {"phase": "Succeeded"}})

    def _begin(self) -> None:
        for event in self._api.watch(RUNS, labelSelector="chain"):
            for run in event.objects if isinstance(event, Listed) else [event.object]:
                name = run["metadata"]["name"]
                if name not in self._steps:
                    self._steps[name] = int(run["data"]["steps"])
                    self._make(name, 0)

    def _ended(self, made: Json) -> bool:
        if self._jobs:
            return any(condition["type"] == "Complete" for condition in made["status"].get("conditions", []))
        return bool(made["status"].get("phase") == "Succeeded")

    def _make(self, run: str, step: int) -> None:
        container = {"name": "c", "image": "x", "command": ["true"], "resources": {"limits": {"cpu": "1"}}}
        pod = {"restartPolicy": "Never", "containers": [container]}
        metadata = {"name": f"{run}-{step}", "labels": {"run": run, "step": str(step)}}
        spec = {"template": {"metadata": {"labels": metadata["labels"]}, "spec": pod}} if self._jobs else pod
        self._api.create(self._made, {"metadata": metadata, "spec": spec})


if __name__ == "__main__":
    Loop(Path(sys.argv[1]), sys.argv[2]).run()
