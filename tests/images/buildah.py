"""Images built by buildah, which needs no daemon, in a storage of their own that leaves nothing behind."""

import json
import os
import shutil
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PROGRAMS = ("buildah", "runc", "debootstrap")
REPOSITORY = Path(__file__).parents[2]
BASE = "localhost/base:debian-12"
PYTHON = {"python_version": "3.11", "python_full_version": "3.11.2"}
"""Of Debian 12."""


@dataclass(frozen=True)
class Image:
    """An image, unpacked."""

    root: Path
    """Its files; nothing is to be written there."""
    config: Mapping[str, Any]
    """What it says of itself: Env, Entrypoint, User, Labels."""
    megabytes: float
    """Of its layers, not compressed, the base among them."""
    build_seconds: float

    @property
    def packages(self) -> dict[str, str]:
        """Versions of Python's packages, wherever in the image they lie; not of those that setuptools consists of."""
        folders = {str(info.parent) for part in ("opt", "usr", "root", "home") for info in _infos(self.root / part)}
        return {canonicalize_name(d.metadata["Name"]): d.version for d in distributions(path=sorted(folders))}


def locked(image: str) -> dict[str, str]:
    """Versions that the lock of an image has for the base's Python and this platform."""
    lines = (REPOSITORY / "images" / f"{image}.lock").read_text(encoding="utf-8").splitlines()
    wanted = [Requirement(line.removesuffix("\\")) for line in lines if line[0].isalnum()]
    here = [found for found in wanted if found.marker is None or found.marker.evaluate(PYTHON)]
    return {canonicalize_name(found.name): str(found.specifier).removeprefix("==") for found in here}


class Images:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        (folder / "tmp").mkdir()
        settings = folder / "storage.conf"
        graph, run = folder / "graph", folder / "run"
        settings.write_text(f'[storage]\ndriver = "overlay"\ngraphroot = "{graph}"\nrunroot = "{run}"\n')
        self._environment = {
            **os.environ,
            "CONTAINERS_STORAGE_CONF": str(settings),
            "BUILDAH_ISOLATION": "chroot",
            "TMPDIR": str(folder / "tmp"),
        }

    def load_base(self, archive: Path) -> None:
        """Make the image BASE of a root file system."""
        with tempfile.TemporaryDirectory(dir=self._folder) as context:
            shutil.copyfile(archive, Path(context, "root.tar"))
            Path(context, "Dockerfile").write_text("FROM scratch\nADD root.tar /\n")
            self._buildah("build", "--tag", BASE, context)

    def build(self, dockerfile: str, **arguments: str) -> Image:
        """The image of a Dockerfile of the repository, on BASE."""
        name = f"localhost/test-{uuid.uuid4().hex[:8]}"
        flags = [f"--build-arg={key}={value}" for key, value in {"BASE_IMAGE": BASE, **arguments}.items()]
        began = time.monotonic()
        self._buildah("build", "--file", str(REPOSITORY / dockerfile), "--tag", name, *flags, str(REPOSITORY))
        took = time.monotonic() - began
        said = json.loads(self._buildah("inspect", "--type", "image", name))
        container = self._buildah("from", "--pull-never", name)
        root = Path(self._buildah("mount", container))
        size = sum(layer["size"] for layer in json.loads(said["Manifest"])["layers"])
        return Image(root, said["OCIv1"]["config"], size / 1e6, took)

    def remove_all(self) -> None:
        """Containers, images, and what is mounted."""
        self._buildah("rm", "--all")
        self._buildah("rmi", "--all", "--force")

    def _buildah(self, *arguments: str) -> str:
        command = ["buildah", *arguments]
        done = subprocess.run(command, env=self._environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{' '.join(command)}:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
        return done.stdout.strip()


def _infos(folder: Path) -> Iterator[Path]:
    for pattern in ("*.dist-info", "*.egg-info"):
        yield from (found for found in folder.rglob(pattern) if found.parent.name != "_vendor")


@contextmanager
def images() -> Iterator[Images]:
    """Until the end of the block; up to 30 GB while the workers' image is built."""
    folder = Path(tempfile.mkdtemp(prefix="images-"))
    built = Images(folder)
    try:
        yield built
    finally:
        built.remove_all()
        shutil.rmtree(folder)
