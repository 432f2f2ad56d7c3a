"""A container of a pod, run by runc as a kubelet has it run: its user, no capability, a root that is read-only."""

import json
import os
import subprocess
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from buildah import Image
from controlplane.container_environment import expand

Body = Mapping[str, Any]


@dataclass(frozen=True)
class Container:
    """One that runs."""

    process: "subprocess.Popen[bytes]"
    folder: Path

    @property
    def last_word(self) -> bytes:
        """Its termination message."""
        return (self.folder / "termination-log").read_bytes()

    @property
    def said(self) -> str:
        return (self.folder / "log").read_text(errors="replace")


@contextmanager
def container(
    image: Image, pod: Body, folder: Path, volumes: Mapping[str, Path], environment: Mapping[str, str] | None = None
) -> Iterator[Container]:
    """The only container of the pod, on the network of this machine; killed at the end of the block.

    `volumes` has the folders for volumes of the pod by name, and for others by the absolute path at which they belong;
    an emptyDir gets a new one.
    """
    (spec,) = pod["containers"]
    user = pod["securityContext"]["runAsUser"]
    folder.mkdir()
    (folder / "termination-log").touch()
    os.chown(folder / "termination-log", user, user)
    mounts = [
        _mount(volume["mountPath"], _folder(pod, volume["name"], volumes, folder, user), volume.get("readOnly", False))
        for volume in spec["volumeMounts"]
    ]
    mounts += [_mount(path, place) for path, place in volumes.items() if path.startswith("/")]
    mounts.append(_mount("/dev/termination-log", folder / "termination-log"))
    (folder / "config.json").write_text(json.dumps(_config(image, pod, spec, mounts, environment or {})))
    name = f"test-{uuid.uuid4().hex[:12]}"
    with tempfile.TemporaryDirectory(prefix="runc-") as state, (folder / "log").open("wb") as log:
        runc = ["runc", "--root", state]
        command = [*runc, "run", "--bundle", str(folder), name]
        running = Container(
            subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT), folder
        )
        try:
            yield running
        except Exception as error:
            error.add_note(f"The container said:\n{running.said}")
            raise
        finally:
            if running.process.poll() is None:
                subprocess.run([*runc, "kill", name, "KILL"], check=True)
                running.process.wait(30)


def _config(image: Image, pod: Body, spec: Body, mounts: list[Body], environment: Mapping[str, str]) -> Body:
    given = dict(entry.split("=", 1) for entry in image.config["Env"])
    given |= {e["name"]: expand(e["value"], {}) for e in spec.get("env", ()) if "value" in e}
    given |= environment
    asked = spec["securityContext"]
    assert asked["capabilities"] == {"drop": ["ALL"]}
    return {
        "ociVersion": "1.0.2",
        "root": {"path": str(image.root), "readonly": asked["readOnlyRootFilesystem"]},
        "process": {
            "user": {"uid": pod["securityContext"]["runAsUser"], "gid": pod["securityContext"]["runAsGroup"]},
            "args": [*spec.get("command", image.config["Entrypoint"]), *spec.get("args", ())],
            "env": [f"{name}={value}" for name, value in given.items()],
            "cwd": image.config["WorkingDir"],
            "noNewPrivileges": not asked["allowPrivilegeEscalation"],
            "capabilities": {},
        },
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
            {"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": ["mode=1777", "size=64m"]},
            *mounts,
        ],
        "linux": {"namespaces": [{"type": kind} for kind in ("pid", "ipc", "uts", "mount")]},
    }


def _folder(pod: Body, name: str, volumes: Mapping[str, Path], folder: Path, user: int) -> Path:
    if name in volumes:
        return volumes[name]
    (volume,) = (volume for volume in pod["volumes"] if volume["name"] == name)
    assert "emptyDir" in volume, f"the test has no folder for the volume {name}"
    place = folder / name
    place.mkdir()
    os.chown(place, user, user)
    return place


def _mount(path: str, place: Path, read_only: bool = False) -> Body:
    options = ["rbind", "nosuid", "nodev", "ro" if read_only else "rw"]
    return {"destination": path, "type": "bind", "source": str(place), "options": options}
