"""A cluster on this machine to try the operator on, without containers: `make dev-cluster`.

A real control plane, MinIO, the operator as a local process, and a node with one GPU whose pods are local processes;
the quickstart's model and documents lie in the bucket `examples`. Everything ends with Ctrl-C; what was stored is kept.
"""

import argparse
import base64
import importlib.util
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import yaml
from controlplane.kubelet import Node
from controlplane.plane import ControlPlane, control_plane
from controlplane.process_kubelet import process_kubelet
from controlplane.processes import start_child
from minio.error import S3Error
from minio_server import MinioServer, minio_server
from tools.build import Unavailable, binary

EXAMPLES = Path(__file__).parents[1] / "examples"
VENV = Path(sys.executable).parent
STORE = "evolution"
"""Bucket of the operator's store."""
SOURCES = "examples"
"""Bucket of the examples' models and documents."""
SECRET = "store-credentials"


def main() -> None:
    parser = argparse.ArgumentParser(prog="make dev-cluster", description=__doc__.partition("\n")[0])
    parser.add_argument("--folder", type=Path, default=default_folder(), help="where its state is kept (%(default)s)")
    folder = parser.parse_args().folder.resolve()
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    try:
        programs = binary("minio"), binary("kubectl"), binary("kube-apiserver")
    except Unavailable as error:
        sys.exit(f"{error}")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "minio").mkdir(exist_ok=True)
    with minio_server(programs[0], folder / "minio") as minio, control_plane(folder / "control-plane") as plane:
        upload_examples(minio)
        equip(plane, minio, folder)
        nodes = [Node("gpu-0")]
        with (
            process_kubelet(plane.kubeconfig, folder / "node", nodes, {"OMP_NUM_THREADS": "2"}),
            operator(plane, minio, folder / "operator.log") as process,
        ):
            link(
                folder / "bin", {"kubectl": programs[1], **{name: VENV / name for name in ("evolve", "kubectl-evolve")}}
            )
            tell(plane, minio, folder, runs=process is not None)
            while not stopped.wait(1.0):
                if process is not None and process.poll() is not None:
                    tail = "".join((folder / "operator.log").read_text().splitlines(keepends=True)[-20:])
                    sys.stderr.write(f"The operator has ended with {process.returncode}:\n{tail}")
                    process = None


def default_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "evolution" / "dev-cluster"


def upload_examples(minio: MinioServer) -> None:
    for bucket in (STORE, SOURCES):
        if not minio.client.bucket_exists(bucket):
            minio.client.make_bucket(bucket)
    quickstart = EXAMPLES / "quickstart"
    files = [quickstart / "questions.jsonl", *(quickstart / "model").rglob("*"), *(quickstart / "documents").rglob("*")]
    for file in files:
        if file.is_file() and not uploaded(minio, name := file.relative_to(EXAMPLES).as_posix(), file):
            minio.client.fput_object(SOURCES, name, str(file))


def uploaded(minio: MinioServer, name: str, file: Path) -> bool:
    try:
        found = minio.client.stat_object(SOURCES, name)
    except S3Error as error:
        if error.code != "NoSuchKey":
            raise
        return False
    changed = found.last_modified is None or found.last_modified.timestamp() < file.stat().st_mtime
    return found.size == file.stat().st_size and not changed


def equip(plane: ControlPlane, minio: MinioServer, folder: Path) -> None:
    """Resource definitions, credentials of the store, and a runtime for everyone."""
    try:
        plane.install_crds()
    except FileNotFoundError as error:
        sys.exit(f"There are no resource definitions to install: {error}")
    credentials = {name: minio.environment[name] for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")}
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": SECRET, "namespace": "default"},
        "data": {name: base64.b64encode(value.encode()).decode() for name, value in credentials.items()},
    }
    small = {"cpu": "1", "memory": "1Gi"}
    runtime = {
        "apiVersion": "selfevolution.io/v1alpha1",
        "kind": "ClusterEvolutionRuntime",
        "metadata": {"name": "default"},
        "spec": {
            "image": "processes-of-this-machine",
            "storeSecretName": SECRET,
            "execution": "Stage",
            "resources": {**small, "gpus": 1},
            "stages": {"prepare": small, "publish": small},
            "cache": {"hostPath": str(folder / "cache")},
        },
    }
    for body in (secret, runtime):
        plane.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", input=yaml.safe_dump(body))


@contextmanager
def operator(plane: ControlPlane, minio: MinioServer, log: Path) -> Iterator["subprocess.Popen[bytes] | None"]:
    """The operator, as an administrator of the cluster; None if this checkout has none."""
    if importlib.util.find_spec("evolution_operator.__main__") is None:
        yield None
        return
    command = [sys.executable, "-m", "evolution_operator", "--store", f"s3://{STORE}", "--log-format", "plain"]
    environment = {**os.environ, **minio.environment, "KUBECONFIG": str(plane.kubeconfig)}
    with log.open("wb") as output:
        process = start_child(command, env=environment, stdout=output, stderr=subprocess.STDOUT)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()


def link(folder: Path, programs: Mapping[str, Path]) -> None:
    """So that one folder on the PATH has what the other terminal needs."""
    folder.mkdir(exist_ok=True)
    for name, program in programs.items():
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(program)


def tell(plane: ControlPlane, minio: MinioServer, folder: Path, *, runs: bool) -> None:
    lines = [
        "The cluster is ready. In another terminal:",
        "",
        f"  export PATH={folder / 'bin'}:$PATH",
        f"  export KUBECONFIG={plane.kubeconfig}",
        *(f"  export {name}={value}" for name, value in minio.environment.items()),
        "",
        "  kubectl apply -f examples/cluster/quickstart.yaml",
        "  kubectl get evolutionruns --watch",
        "  kubectl get pods",
        "",
        f"The operator writes to {folder / 'operator.log'}."
        if runs
        else "There is no operator in this checkout (evolution_operator has no __main__): runs stay as they are.",
        f"State is kept in {folder}. Ctrl-C ends everything.",
    ]
    sys.stdout.write("\n".join(lines) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
