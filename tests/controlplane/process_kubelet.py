"""A kubelet whose containers are processes of this machine.

What Jobs of the operator need is done as a kubelet does it: environment, volumes, init containers, exit codes,
termination messages, graceful deletion, eviction, logs. Every pod is treated as one with restartPolicy Never, and
a container runs its `command`: images are never pulled. Nothing is isolated: securityContext, resources and
read-only file systems are accepted and ignored, and mount paths are replaced as `pod_volumes` says. A pod that has its
service account's token is told so by KUBECONFIG; one with a subdomain knows its peers as `peer_names` says.

`python -m controlplane.process_kubelet KUBECONFIG FOLDER NODE...`, in tests/, runs one until it is interrupted.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from controlplane.client import UNAVAILABLE, Api, ApiError, Json
from controlplane.container_environment import NotConfigured, Sources, command, environment
from controlplane.kubelet import Kubelet, Node, Pods, now, until_interrupted
from controlplane.kubelet_port import KubeletPort
from controlplane.peer_names import peer_names
from controlplane.pod_status import MESSAGE_BYTES, Phase, pod_status, running, terminated, waiting
from controlplane.pod_volumes import Volumes
from controlplane.processes import start_child

RETRY_SECONDS = 0.3
"""Between attempts to configure a container. A kubelet takes its time; tests need not."""
LOG_MESSAGE_BYTES = 2048
"""Longest end of the log as termination message, with FallbackToLogsOnError."""
KILLED = 128 + signal.SIGKILL
CANNOT_START = 128
SERVICE_ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"


class ProcessRuntime:
    """Runs each pod in a thread and a folder of its own."""

    def __init__(self, pods: Pods, folder: Path, image_environment: Mapping[str, str]) -> None:
        self._pods = pods
        self.folder = folder
        self.image_environment = {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            **image_environment,
        }
        self._running: dict[str, ProcessPod] = {}

    def run(self, pod: Json) -> None:
        process = ProcessPod(pod, self._pods, self)
        self._running[pod["metadata"]["uid"]] = process
        process.start()

    def stop(self, pod: Json) -> None:
        self._running[pod["metadata"]["uid"]].stop(float(pod["metadata"].get("deletionGracePeriodSeconds", 30)))

    def forget(self, uid: str) -> None:
        if pod := self._running.pop(uid, None):
            pod.kill()

    def close(self) -> None:
        pods = list(self._running.values())
        for pod in pods:
            pod.kill()
        for pod in pods:
            pod.join()

    def log(self, namespace: str, pod: str, container: str) -> Path | None:
        """The log of the newest pod with that name."""
        logs = self.folder.glob(f"pods/{namespace}_{pod}_*/{container}.log")
        return max(logs, key=lambda log: log.stat().st_mtime, default=None)

    def writes(self, log: Path) -> bool:
        """Whether the container of that log may still write into it."""
        pod = self._running.get(log.parent.name.rpartition("_")[2])
        return pod is not None and pod.is_alive()


class ProcessPod(threading.Thread):
    """The life of one pod."""

    def __init__(self, pod: Json, pods: Pods, runtime: ProcessRuntime) -> None:
        meta = pod["metadata"]
        super().__init__(name=meta["name"], daemon=True)
        self._pod = pod
        self._pods = pods
        self._folder = runtime.folder / "pods" / f"{meta['namespace']}_{meta['name']}_{meta['uid']}"
        self._volumes = Volumes(pods.api, pod, self._folder, runtime.folder / "claims")
        self._image_environment = runtime.image_environment
        self._seen_at = pod.get("status", {}).get("startTime") or now()
        self._states: dict[str, Json] = {}
        self._environments: dict[str, dict[str, str]] = {}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._started_at: dict[str, str] = {}
        self._before: list[str] = []
        """Words before the command of each of its programs."""
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._deleted = False
        """Whether its deletion was asked for, and waits for it to end."""

    def run(self) -> None:
        if self._pod.get("status", {}).get("phase") == "Running":
            phase = self._lost()
        else:
            self._folder.mkdir(parents=True, exist_ok=True)
            with peer_names(self._pods.api, self._pod, self._folder / "hosts") as self._before:
                phase = self._live()
        self._report(phase)
        if self._deleted:
            self._pods.remove(self._pod)
        self._volumes.remove()

    def stop(self, grace: float) -> None:
        """SIGTERM, and SIGKILL after `grace` seconds; the pod is removed when it has ended."""
        with self._lock:
            self._deleted = True
            self._stopping.set()
            for process in self._processes.values():
                process.terminate()
        timer = threading.Timer(grace, self.kill)
        timer.daemon = True
        timer.start()

    def kill(self) -> None:
        with self._lock:
            self._stopping.set()
            for process in self._processes.values():
                if process.poll() is None:
                    _kill_group(process)

    def _lost(self) -> Phase:
        """It ran when this kubelet ended, and ended with it: what a kubelet finds after its machine restarted."""
        message = "The container could not be located when the pod was terminated"
        for container in self._pod["spec"]["containers"]:
            self._states[container["name"]] = terminated(KILLED, self._seen_at, message, "ContainerStatusUnknown")
        return "Failed"

    def _live(self) -> Phase:
        spec = self._pod["spec"]
        initial, containers = spec.get("initContainers", []), spec["containers"]
        if not self._configure([*initial, *containers]):
            return "Failed"
        for container in initial:
            self._start(container)
            if not self._succeeds(container):
                return "Failed"
        for container in containers:
            self._start(container)
        if self._processes.keys() & {container["name"] for container in containers}:
            self._report("Running")
        succeeded = [self._succeeds(container) for container in containers]
        return "Succeeded" if all(succeeded) else "Failed"

    def _configure(self, containers: Sequence[Json]) -> bool:
        """Wait until everything that the containers refer to is there; False if the pod is to end before."""
        reported = None
        while not self._stopping.is_set():
            sources = Sources(self._pods.api, self._pod["metadata"]["namespace"])
            missing = waiting("ContainerCreating")
            try:
                self._volumes.make(sources)
                for container in containers:
                    missing = waiting("CreateContainerConfigError")
                    self._environments[container["name"]] = environment(self._pod, container, sources)
                return True
            except NotConfigured as error:
                if missing["waiting"]["reason"] == "CreateContainerConfigError":
                    missing = waiting("CreateContainerConfigError", str(error))
                self._states = {container["name"]: missing for container in self._pod["spec"]["containers"]}
                if missing != reported:
                    self._report("Pending")
                    reported = missing
            except (ApiError, *UNAVAILABLE) as error:
                sys.stderr.write(f"{self.name}: {error}\n")
            self._stopping.wait(RETRY_SECONDS)
        return False

    def _start(self, container: Json) -> None:
        name = container["name"]
        with self._lock:
            if self._stopping.is_set():
                return
            self._started_at[name] = now()
            try:
                self._processes[name] = self._launch(container)
            except OSError as error:
                self._states[name] = terminated(CANNOT_START, self._started_at[name], str(error), "StartError")
            else:
                self._states[name] = running(self._started_at[name])

    def _launch(self, container: Json) -> "subprocess.Popen[bytes]":
        name = container["name"]
        message = self._message_file(container)
        message.write_bytes(b"")
        mounts = self._volumes.mounts(container).with_file(_message_path(container), message)
        variables = self._environments[name]
        words = mounts.in_command(command(container, variables))
        if not words:
            raise OSError("no command given, and there is no image that names one")
        scratch, account = mounts.get("/tmp"), mounts.get(SERVICE_ACCOUNT)
        variables = {
            "HOME": str(self._folder),
            "HOSTNAME": self._pod["spec"].get("hostname") or self._pod["metadata"]["name"],
            **({"TMPDIR": str(scratch)} if scratch else {}),
            **({"KUBECONFIG": str(self._kubeconfig(account))} if account else {}),
            **self._image_environment,
            **mounts.in_environment(variables),
        }
        program = shutil.which(words[0], path=variables["PATH"])
        if program is None:
            raise OSError(f'exec: "{words[0]}": executable file not found in $PATH')
        with self._log(container).open("ab") as log:
            return start_child(
                [*self._before, program, *words[1:]],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=variables,
                cwd=mounts.in_command([container["workingDir"]])[0] if "workingDir" in container else self._folder,
            )

    def _kubeconfig(self, account: Path) -> Path:
        """Clients look for the token of a pod at a path that they all know, and cannot be told where it is instead."""
        cluster = {"server": self._pods.api.url, "certificate-authority": str(account / "ca.crt")}
        configuration = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "pod",
            "clusters": [{"name": "pod", "cluster": cluster}],
            "users": [{"name": "pod", "user": {"tokenFile": str(account / "token")}}],
            "contexts": [{"name": "pod", "context": {"cluster": "pod", "user": "pod"}}],
        }
        file = self._folder / "kubeconfig"
        file.write_text(json.dumps(configuration))
        return file

    def _succeeds(self, container: Json) -> bool:
        """Wait for its end."""
        name = container["name"]
        process = self._processes.get(name)
        if process is None:
            return False
        code = process.wait()
        _kill_group(process)  # Nothing that it started outlives a container.
        exit_code = code if code >= 0 else 128 - code
        self._states[name] = terminated(exit_code, self._started_at[name], self._message(container, exit_code))
        return exit_code == 0

    def _message(self, container: Json, exit_code: int) -> str:
        message = self._message_file(container).read_bytes()[:MESSAGE_BYTES]
        if not message and exit_code and container.get("terminationMessagePolicy") == "FallbackToLogsOnError":
            message = self._log(container).read_bytes()[-LOG_MESSAGE_BYTES:]
        return message.decode(errors="replace")

    def _message_file(self, container: Json) -> Path:
        return self._folder / f"{container['name']}.message"

    def _log(self, container: Json) -> Path:
        return self._folder / f"{container['name']}.log"

    def _report(self, phase: Phase) -> None:
        self._pods.report(self._pod, pod_status(self._pod, phase, self._states, started=self._seen_at))


@contextmanager
def process_kubelet(
    kubeconfig: Path, folder: Path, nodes: Sequence[Node], image_environment: Mapping[str, str] | None = None
) -> Iterator[Kubelet]:
    """Nodes whose pods are processes, until the end of the block, when what runs on them is killed.

    `folder` keeps volumes and logs; `image_environment` are variables that every image is taken to set. Programs are
    found beside this Python first. The nodes stay registered: the next kubelet with their names takes them over.
    """
    pods = Pods(Api(kubeconfig))
    runtime = ProcessRuntime(pods, folder, image_environment or {})
    with KubeletPort(folder, runtime) as port:
        kubelet = Kubelet(pods, runtime, nodes, port.number)
        kubelet.start()
        try:
            yield kubelet
        finally:
            kubelet.close()


def _message_path(container: Json) -> str:
    path: str = container.get("terminationMessagePath", "/dev/termination-log")
    return path


def _kill_group(process: "subprocess.Popen[bytes]") -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def main(kubeconfig: str, folder: str, *names: str) -> None:
    with process_kubelet(Path(kubeconfig), Path(folder).resolve(), [Node(name) for name in names]):
        until_interrupted()


if __name__ == "__main__":
    main(*sys.argv[1:])
